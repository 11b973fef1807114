"""The methods of registry.v1.Checks: the checks that instances get by their service, as an operator sets them."""

import bisect
from collections.abc import Iterable

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import fields
from registry_server.errors import InvalidField, LimitExceeded, NotFound
from registry_server.feed import Feed
from registry_server.health import book
from registry_server.health.door import NOT_RUN, Door
from registry_server.records import Key, Kind, Record
from registry_server.rights import EVERY, Rights
from registry_server.rpc import answers, needs, pages, validate
from registry_server.rpc.table import Caller, Service, Unary
from registry_server.writer import SettingWriter

NAME = pb.DESCRIPTOR.services_by_name["Checks"].full_name
MAX_RULES = 1_000
# A page ends with the namespace and the service of a rule, where that stands for every one.
_EVERY = "-"


class ChecksService:
    """One method for each RPC. They raise the errors of errors.py, and nothing else that is expected."""

    def __init__(self, writer: SettingWriter, feed: Feed, door: Door) -> None:
        self._writer = writer
        self._feed = feed
        self._settings = feed.catalog.settings
        self._door = door

    def service(self) -> Service:
        """What a table says of it."""
        return Service(
            NAME,
            {
                "Put": Unary(pb.ChecksPutRequest, self.put, needs.PUT_RULE),
                "Get": Unary(pb.ChecksGetRequest, self.get, needs.GET_RULE),
                "List": Unary(pb.ChecksListRequest, self.list, needs.READ_SOME),
                "Delete": Unary(pb.ChecksDeleteRequest, self.delete, needs.DELETE_RULE),
            },
        )

    async def put(self, request: pb.ChecksPutRequest, caller: Caller) -> bytes:
        """Put: see registry.proto, as for all of these."""
        if not self._door.runs:
            raise InvalidField("rule", NOT_RUN)
        if not request.HasField("rule"):
            raise InvalidField("rule", "is required")
        key = _key("rule.scope", request.rule.scope)
        checks = book.settled(request.rule.checks, self._door.custom, "rule.checks")
        if self._settings.get(key) is None and sum(1 for _ in self._rules()) >= MAX_RULES:
            raise LimitExceeded("rules", f"there are {MAX_RULES} already, which is the most")
        revision = await self._writer.set(key, book.value_of(checks))
        rule = pb.CheckRule(scope=_scope(key), checks=checks, revision=revision)
        return pb.ChecksPutResponse(header=self._header(revision), rule=rule).SerializeToString()

    async def get(self, request: pb.ChecksGetRequest, caller: Caller) -> bytes:
        """Get."""
        record = self._known(_key("scope", request.scope))
        return pb.ChecksGetResponse(header=self._header(), rule=_rule(record)).SerializeToString()

    async def list(self, request: pb.ChecksListRequest, caller: Caller) -> bytes:
        """List."""
        size = validate.page_size(request.page_size)
        found = sorted((it for it in self._rules() if _is_shown(it, caller.rights)), key=lambda it: it.key)
        after = _after(request.page_token)
        rest = found[bisect.bisect_right([record.key[:2] for record in found], after) if after else 0 :]
        page = pages.fitting([_rule(record) for record in rest[:size]], pb.CheckRule.ByteSize)
        token = _token(rest[len(page) - 1].key) if len(page) < len(rest) else ""
        return pb.ChecksListResponse(header=self._header(), rules=page, next_page_token=token).SerializeToString()

    async def delete(self, request: pb.ChecksDeleteRequest, caller: Caller) -> bytes:
        """Delete."""
        record = self._known(_key("scope", request.scope))
        revision = await self._writer.unset(record.key)
        return pb.ChecksDeleteResponse(header=self._header(revision)).SerializeToString()

    # ---- within

    def _rules(self) -> Iterable[Record]:
        """Those that have the name of a rule: what else somebody wrote there, nobody can ask for."""
        return (record for record in self._settings.of(Kind.CHECKS) if book.is_name(record.key))

    def _known(self, key: Key) -> Record:
        record = self._settings.get(key)
        if record is None:
            raise NotFound("rule", "/".join(name or "*" for name in key[:2]))
        return record

    def _header(self, revision: int | None = None) -> pb.ResponseHeader:
        catalog = self._feed.catalog
        return answers.header(catalog.epoch, catalog.revision if revision is None else revision, self._feed.stale_for_s)


def _is_shown(record: Record, rights: Rights) -> bool:
    return rights.may("read", record.key.namespace or EVERY, record.key.service or EVERY)


def _key(field: str, scope: pb.CheckScope) -> Key:
    if scope.all_namespaces and scope.namespace:
        raise InvalidField(f"{field}.namespace", "must be empty when all_namespaces is set")
    namespace = "" if scope.all_namespaces else fields.namespace(f"{field}.namespace", scope.namespace)
    return book.key_of(namespace, fields.name(f"{field}.service", scope.service) if scope.service else "")


def _scope(key: Key) -> pb.CheckScope:
    return pb.CheckScope(namespace=key.namespace, all_namespaces=not key.namespace, service=key.service)


def _rule(record: Record) -> pb.CheckRule:
    found = book.read(record)
    return pb.CheckRule(scope=_scope(record.key), checks=found.checks, revision=record.revision, flaw=found.flaw)


def _token(key: Key) -> str:
    return "/".join(name or _EVERY for name in key[:2])


def _after(token: str) -> tuple[str, ...]:
    """The namespace and the service after which a page begins; () for the first page."""
    names = token.split("/") if token else []
    if len(names) not in (0, 2):
        raise InvalidField("page_token", "is not one that this list gave out")
    return tuple("" if name == _EVERY else fields.name("page_token", name) for name in names)
