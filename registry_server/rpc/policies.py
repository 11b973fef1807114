"""The methods of registry.v1.Policies: how the traffic of services is to be treated, as operators say."""

import bisect
import logging
from collections.abc import Callable, Collection, Iterable, Sequence

from registry_api.registry.v1 import policies_pb2 as pb
from registry_api.registry.v1 import registry_pb2
from registry_server import fields
from registry_server.changes import Change
from registry_server.errors import InvalidField, LimitExceeded, NotFound
from registry_server.feed import Feed
from registry_server.hub import Chunks, Hub, Interest, Reader, Sink
from registry_server.policies import book, explain
from registry_server.policies.rules import settled
from registry_server.records import Key, Kind
from registry_server.rights import EVERY, UNRESTRICTED, Rights
from registry_server.rpc import answers, pages, validate
from registry_server.rpc.table import Broadcast, Caller, Name, Needs, Service, Unary
from registry_server.settings import SettingChange
from registry_server.writer import SettingWriter

log = logging.getLogger(__name__)

NAME = pb.DESCRIPTOR.services_by_name["Policies"].full_name
MAX_POLICIES = 10_000
# Of one message that tells those who watch.
MAX_PART_BYTES = 128 * 1024
# What a topic looks at when it changes: ("policy", namespace, service), where no service is all of a namespace. Nobody
# else's have three parts that begin so.
_POLICY = "policy"

_One = pb.PoliciesGetRequest | pb.PoliciesDeleteRequest | pb.PoliciesExplainRequest


class PoliciesService:
    """One method for each RPC. They raise the errors of errors.py, and nothing else that is expected.

    It is a Listener: those who watch are told of what changed.
    """

    def __init__(self, writer: SettingWriter, feed: Feed, hub: Hub, policies: book.PolicyBook) -> None:
        self._writer = writer
        self._feed = feed
        self._hub = hub
        self._policies = policies

    def service(self) -> Service:
        """What a table says of it."""
        return Service(
            NAME,
            {
                "Put": Unary(pb.PoliciesPutRequest, self.put, _PUT),
                "Get": Unary(pb.PoliciesGetRequest, self.get, _READ),
                "List": Unary(pb.PoliciesListRequest, self.list, _LIST),
                "Delete": Unary(pb.PoliciesDeleteRequest, self.delete, _DELETE),
                "Watch": Broadcast(pb.PoliciesWatchRequest, self.watch, _WATCH),
                "Explain": Unary(pb.PoliciesExplainRequest, self.explain, _READ),
            },
        )

    async def put(self, request: pb.PoliciesPutRequest, caller: Caller) -> bytes:
        """Put: see policies.proto, as for all of these."""
        if not request.HasField("policy"):
            raise InvalidField("policy", "is required")
        policy = settled(request.policy)
        key = book.key_of(policy.namespace, policy.service)
        if self._policies.get(key) is None and sum(1 for _ in self._policies.places()) >= MAX_POLICIES:
            raise LimitExceeded("policies", f"there are {MAX_POLICIES} already, which is the most")
        policy.revision = await self._writer.set(key, book.value_of(policy))
        return pb.PoliciesPutResponse(header=self._header(policy.revision), policy=policy).SerializeToString()

    async def get(self, request: pb.PoliciesGetRequest, caller: Caller) -> bytes:
        """Get."""
        policy = self._known(_key(request.namespace, request.service))
        return pb.PoliciesGetResponse(header=self._header(), policy=policy).SerializeToString()

    async def list(self, request: pb.PoliciesListRequest, caller: Caller) -> bytes:
        """List."""
        namespace = validate.namespace(request)
        size = validate.page_size(request.page_size)
        after = pages.start(request.page_token, namespace, 1)
        keys = sorted(it for it in self._policies.places(namespace or None) if caller.rights.may("read", *it[:2]))
        rest = keys[bisect.bisect_right([key[:2] for key in keys], after) if after else 0 :]
        page = pages.fitting(self._at(rest[:size]), pb.Policy.ByteSize)
        token = pages.token(namespace, rest[len(page) - 1][:2]) if len(page) < len(rest) else ""
        return pb.PoliciesListResponse(header=self._header(), policies=page, next_page_token=token).SerializeToString()

    async def delete(self, request: pb.PoliciesDeleteRequest, caller: Caller) -> bytes:
        """Delete."""
        key = _key(request.namespace, request.service)
        self._known(key)
        revision = await self._writer.unset(key)
        return pb.PoliciesDeleteResponse(header=self._header(revision)).SerializeToString()

    def watch(self, request: pb.PoliciesWatchRequest, caller: Caller, sink: Sink) -> Reader:
        """Watch: let the hub write to the sink from now on."""
        validate.services(request)
        namespace = fields.namespace("namespace", request.namespace)
        services = tuple(sorted({fields.name("services", service) for service in request.services}))
        is_all = caller.rights.may("read", namespace, EVERY)
        rights = UNRESTRICTED if services or is_all else caller.rights
        key = (_POLICY, namespace, services, rights)
        return self._hub.join(key, lambda: PolicyTopic(self, namespace, services, rights), sink, lane=caller.peer)

    async def explain(self, request: pb.PoliciesExplainRequest, caller: Caller) -> bytes:
        """Explain."""
        policy = self._known(_key(request.namespace, request.service))
        explained = () if policy.flaw else explain.of(policy)
        answer = pb.PoliciesExplainResponse(header=self._header(), policy=policy, explanations=explained)
        return answer.SerializeToString()

    # ---- as a Listener

    def changed(self, changes: Sequence[Change]) -> None:
        """See Listener. What instances do changes no policy."""

    def settings_changed(self, changes: Sequence[SettingChange]) -> None:
        """See Listener."""
        for change in changes:
            key = change.key
            if key.kind is Kind.POLICY:
                self._hub.wake((_POLICY, key.namespace, key.service))
                self._hub.wake((_POLICY, key.namespace, ""))
                self._complain(key, change.after is not None)

    def refresh_all(self) -> None:
        """See Listener. The hub lets every topic look."""

    def _complain(self, key: Key, is_there: bool) -> None:
        policy = self._policies.get(key) if book.is_name(key) else None
        flaw = "its key is not that of a policy" if policy is None else policy.flaw
        if is_there and flaw:
            log.warning("%a is no policy, and not followed: %s", str(key)[:200], flaw)

    # ---- within

    def all_of(self, namespace: str, services: Sequence[str], rights: Rights) -> Sequence[pb.Policy]:
        """The policies of some services, or if none are named all of a namespace that may be read; in their order."""
        if services:
            return self._at([book.key_of(namespace, service) for service in services])
        return self._at(sorted(it for it in self._policies.places(namespace) if rights.may("read", *it[:2])))

    def header(self) -> registry_pb2.ResponseHeader:
        """Of an answer that says how things are now."""
        return self._header()

    def _at(self, keys: Sequence[Key]) -> Sequence[pb.Policy]:
        return [policy for key in keys if (policy := self._policies.get(key)) is not None]

    def _known(self, key: Key) -> pb.Policy:
        policy = self._policies.get(key)
        if policy is None:
            raise NotFound("policy", "/".join(key[:2]))
        return policy

    def _header(self, revision: int | None = None) -> registry_pb2.ResponseHeader:
        catalog = self._feed.catalog
        return answers.header(catalog.epoch, catalog.revision if revision is None else revision, self._feed.stale_for_s)


class PolicyTopic:
    """The policies of one question: a hub.Topic whose version grows when one of them changes."""

    def __init__(
        self, service: PoliciesService, namespace: str, services: Sequence[str], rights: Rights = UNRESTRICTED
    ) -> None:
        self.version = 0
        self._all: Callable[[], Sequence[pb.Policy]] = lambda: service.all_of(namespace, services, rights)
        self._header = service.header
        self._policies = self._all()
        self.interests: Collection[Interest] = [(_POLICY, namespace, it) for it in services or ("",)]

    def advance(self) -> bool:
        """See hub.Topic."""
        policies = self._all()
        if policies != self._policies:
            self._policies = policies
            self.version += 1
        return True

    def expect(self, claim: object) -> None:
        """Nobody who comes knows anything."""

    def known(self, claim: object) -> None:
        """Nobody who comes knows anything."""

    def step(self, since: int | None) -> "PolicyStep | None":
        """See hub.Topic."""
        return None if since == self.version else PolicyStep(self.version, self._header(), self._policies)

    def bookmark(self) -> None:
        """There is none."""


class PolicyStep:
    """All policies of a question, in messages: a hub.Step whose places are how many went before."""

    def __init__(self, version: int, header: registry_pb2.ResponseHeader, policies: Sequence[pb.Policy]) -> None:
        self.version = version
        self._header = header
        self._policies = policies
        self._made: dict[int, tuple[Chunks, int | None]] = {}

    def part(self, place: int) -> tuple[Chunks, int | None]:
        """See hub.Step."""
        if place not in self._made:
            some = pages.fitting(self._policies[place:], pb.Policy.ByteSize, MAX_PART_BYTES)
            following = place + len(some) if place + len(some) < len(self._policies) else None
            message = pb.PoliciesWatchResponse(header=self._header, policies=some, more=following is not None)
            self._made[place] = (message.SerializeToString(),), following
        return self._made[place]


def _key(namespace: str, service: str) -> Key:
    return book.key_of(fields.namespace("namespace", namespace), fields.name("service", service))


def _names(request: _One) -> Iterable[Name]:
    return (_key(request.namespace, request.service)[:2],)


def _put(request: pb.PoliciesPutRequest) -> Iterable[Name]:
    it = request.policy
    return ((fields.namespace("policy.namespace", it.namespace), fields.name("policy.service", it.service)),)


def _listed(request: pb.PoliciesListRequest) -> Iterable[Name]:
    return ((validate.namespace(request) or EVERY, EVERY),)


def _watched(request: pb.PoliciesWatchRequest) -> Iterable[Name]:
    validate.services(request)
    namespace = fields.namespace("namespace", request.namespace)
    named = [fields.name("services", it) for it in request.services]
    return ((namespace, service) for service in named or (EVERY,))


_PUT, _DELETE, _READ = Needs("admin", _put), Needs("admin", _names), Needs("read", _names)
_LIST, _WATCH = Needs("read", _listed, is_some=True), Needs("read", _watched, is_some=True)
