"""The methods of registry.v1.Registry: from a request to the encoded response. Knows no transport."""

import asyncio
import bisect
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from registry_api.limits import DEFAULT_TTL_S, MAX_LEASE_IDS
from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import fields
from registry_server.errors import (
    Contended,
    InvalidField,
    NotFound,
    PermissionDenied,
    Unavailable,
    shortened,
    too_many_long,
)
from registry_server.feed import Feed
from registry_server.health import findings
from registry_server.health.door import NO_CHECKS, Door
from registry_server.hub import Hub, Reader, Sink
from registry_server.leases.seal import Opened, Seal
from registry_server.limits.owners import Owners
from registry_server.limits.peers import peer_of
from registry_server.model import CHECKSUM_MODULUS, Entry, Query
from registry_server.records import Key, Kind, Renewal
from registry_server.rights import EVERY, Rights
from registry_server.rpc import answers, needs, pages, validate
from registry_server.rpc.steps import Pieces
from registry_server.rpc.table import Broadcast, Caller, Conversation, Service, Unary
from registry_server.rpc.watch import WatchTopic, claim_of
from registry_server.turns import Turns
from registry_server.writer import Claimant, Left, Writer

NAME = pb.DESCRIPTOR.services_by_name["Registry"].full_name
# The longest wait for a revision that a reader asks for.
MAX_WAIT_S = 10.0
# How many blocks of instances (see rows.py) a filter looks through before others have their turn.
BLOCKS_AT_ONCE = 8
# So many lease ids are dealt with in one step.
STEP = 1_000

Item = TypeVar("Item")


def _new_id() -> str:
    return secrets.token_hex(8)


class RegistryService:
    """One method for each RPC. They raise the errors of errors.py, and nothing else that is expected.

    `seal`: by which lease ids are made and opened just now; raises Unavailable.
    """

    def __init__(
        self,
        writer: Writer,
        feed: Feed,
        hub: Hub,
        seal: Callable[[], Seal],
        new_id: Callable[[], str] = _new_id,
        door: Door = NO_CHECKS,
        ttl_s: float = DEFAULT_TTL_S,
        owners: Owners | None = None,
    ) -> None:
        self._writer = writer
        self._door = door
        self._ttl_s = ttl_s
        self._feed = feed
        self._catalog = feed.catalog
        self._owners = Owners(feed.catalog) if owners is None else owners
        self._hub = hub
        self._seal = seal
        self._new_id = new_id
        self._pieces = Pieces()
        # Who looks through very much does so once at a time; all others have a turn between two steps, and would wait
        # for one of each.
        self._looking = Turns()

    def service(self) -> Service:
        """What a table says of it."""
        return Service(
            NAME,
            {
                "Register": Unary(pb.RegisterRequest, self.register, needs.REGISTER),
                "Deregister": Unary(pb.DeregisterRequest, self.deregister, needs.DEREGISTER),
                "KeepAlive": Conversation(pb.KeepAliveRequest, self.keep_alive, needs=needs.KEEP_ALIVE),
                "Update": Unary(pb.UpdateRequest, self.update, needs.UPDATE),
                "Get": Unary(pb.GetRequest, self.get, needs.GET),
                "List": Unary(pb.ListRequest, self.list, needs.LIST),
                "ListServices": Unary(pb.ListServicesRequest, self.list_services, needs.LIST_SERVICES),
                "ListNamespaces": Unary(pb.ListNamespacesRequest, self.list_namespaces, needs.READ_SOME),
                "Watch": Broadcast(pb.WatchRequest, self.watch, needs.WATCH),
            },
        )

    async def register(self, request: pb.RegisterRequest, caller: Caller) -> bytes:
        """Register: see registry.proto, as for all of these."""
        if not request.HasField("instance"):
            raise InvalidField("instance", "is required")
        if request.lease_id:
            validate.lease_id("lease_id", request.lease_id)
        ttl_s = validate.ttl_s(request, self._ttl_s)
        wanted = validate.new_instance(request.instance, self._new_id)
        self._door.check(wanted)
        if self._feed.is_in_parts:  # another order of changes has other lease ids
            await self._feed.whole()
        seal = self._seal()
        lease_id = self._own(request.lease_id, caller) if request.lease_id else ""
        owner = self._owners.enter(caller.identity or peer_of(caller.peer), wanted, has_lease=bool(lease_id))
        by = _claimant(caller, if_absent=request.if_absent)
        try:
            entry, revision, lease = await self._writer.register(wanted, ttl_s, lease_id, by)
        except BaseException:
            self._owners.gave_up(owner)
            raise
        self._owners.has(owner, entry.key, lease.id)
        shown = request.lease_id or seal.close(lease.id, caller.identity)
        return answers.registered(self._header(revision), entry, lease._replace(id=shown))

    async def deregister(self, request: pb.DeregisterRequest, caller: Caller) -> bytes:
        """Deregister."""
        drain_s = validate.drain_s(request)
        generation = fields.generation("generation", request.generation)
        if generation and request.lease_id:
            raise InvalidField("generation", "goes with a key: a lease holds what is its own")
        if request.HasField("key") == bool(request.lease_id):
            raise InvalidField("key" if request.HasField("key") else "lease_id", "give either key or lease_id")
        if request.lease_id:
            validate.lease_id("lease_id", request.lease_id)
            removed, revision = await self._end_lease(request.lease_id, drain_s, caller)
        else:
            key = validate.key("key", request.key)
            removed, revision = await self._writer.deregister(key, generation, drain_s, _claimant(caller))
        return pb.DeregisterResponse(header=self._header(revision), removed=removed).SerializeToString()

    async def keep_alive(self, request: pb.KeepAliveRequest, caller: Caller) -> bytes:
        """One request on a KeepAlive stream."""
        lease_ids = request.lease_ids
        if len(lease_ids) > MAX_LEASE_IDS:
            raise InvalidField("lease_ids", f"must be at most {MAX_LEASE_IDS}, are {len(lease_ids)}")
        seal, own = self._seal(), dict[str, str]()
        for part in _parts(lease_ids):
            for lease_id in part:
                opened = seal.open(lease_id, caller.identity)
                if opened is not None and opened.is_own:
                    own[lease_id] = opened.lease_id
            await _let_others(len(lease_ids))
        renewals = {it.lease_id: it for it in await self._writer.keep_alive(list(own.values()))}
        answer = pb.KeepAliveResponse()
        for part in _parts(lease_ids):
            answer.renewals.extend(self._renewal(lease_id, renewals.get(own.get(lease_id, ""))) for lease_id in part)
            await _let_others(len(lease_ids))
        answer.header.CopyFrom(self._header())
        return answer.SerializeToString()

    async def update(self, request: pb.UpdateRequest, caller: Caller) -> bytes:
        """Update."""
        if not request.HasField("instance"):
            raise InvalidField("instance", "is required")
        wanted, paths = validate.changed_instance(request.instance, request.update_mask.paths)
        entry, revision = await self._writer.update(wanted, paths, _claimant(caller))
        return answers.instance(self._header(revision), entry)

    async def get(self, request: pb.GetRequest, caller: Caller) -> bytes:
        """Get."""
        if not request.HasField("key"):
            raise InvalidField("key", "is required")
        key = validate.key("key", request.key)
        if self._feed.is_in_parts:
            await self._feed.whole()
        return answers.instance(self._header(), self._known(key))

    async def list(self, request: pb.ListRequest, caller: Caller) -> bytes:
        """List."""
        namespace = validate.namespace(request)
        named = [request.service] if request.service else []
        query = _query(namespace, named, request.filter, "service", caller.rights)
        size = validate.page_size(request.page_size)
        after = pages.start(request.page_token, namespace, 2)
        await self._wait_for(request.min_revision)
        if query.takes_all:
            return await self._page(query, after, size)
        try:
            async with self._looking.of([(peer_of(caller.peer),)]):
                return await self._page(query, after, size)
        except Contended:
            raise too_many_long() from None

    async def _page(self, query: Query, after: tuple[str, ...], size: int) -> bytes:
        await self._feed.whole()  # something large may have come while this waited for its turn
        header, namespace = self._header(), query.namespace
        found, more, total = await self._found(query, after, size)
        page = pages.fitting(found, lambda entry: len(entry.encoded))
        token = pages.token(namespace, page[-1].key[:3]) if more or len(page) < len(found) else ""
        return answers.listed(header, page, token, total)

    async def _found(self, query: Query, after: tuple[str, ...], size: int) -> tuple[Sequence[Entry], bool, int]:
        """The first `size` instances that a query means after that name, whether there are more, and the checksum
        of all that it means. What is looked at does not change meanwhile, and others have their turns."""
        found: list[Entry] = []
        takes_all = query.takes_all
        total = self._catalog.checksum(query) if takes_all else 0
        for number, block in enumerate(self._catalog.blocks(query), 1):
            meant = block.entries if takes_all else list(filter(query.matches, block.entries))
            if not takes_all:
                total += sum(entry.digest for entry in meant)
                if number % BLOCKS_AT_ONCE == 0:
                    await asyncio.sleep(0)
            if meant and meant[-1].key[:3] > after and len(found) <= size:
                found += meant if meant[0].key[:3] > after else [entry for entry in meant if entry.key[:3] > after]
        return found[:size], len(found) > size, total % CHECKSUM_MODULUS

    async def list_services(self, request: pb.ListServicesRequest, caller: Caller) -> bytes:
        """ListServices."""
        namespace = validate.namespace(request)
        size = validate.page_size(request.page_size)
        after = pages.start(request.page_token, namespace, 1)
        await self._feed.whole()
        spaces = (namespace,) if namespace else self._catalog.namespaces()
        names = [(space, service) for space in spaces for service in await self._shown(space, caller.rights)]
        rest = names[bisect.bisect_right(names, after) :]
        page = pages.fitting([self._service(*name).SerializeToString() for name in rest[:size]], len)
        token = pages.token(namespace, rest[len(page) - 1]) if len(rest) > len(page) else ""
        return answers.services(self._header(), page, token, self._probers())

    async def list_namespaces(self, request: pb.ListNamespacesRequest, caller: Caller) -> bytes:
        """ListNamespaces."""
        size = validate.page_size(request.page_size)
        await self._feed.whole()
        names = [name for name in self._catalog.namespaces() if self._is_shown(name, caller.rights)]
        rest = names[bisect.bisect_right(names, "".join(pages.start(request.page_token, "", 0))) :]
        found = [(await self._namespace(name, caller.rights)).SerializeToString() for name in rest[:size]]
        page = pages.fitting(found, len)
        token = rest[len(page) - 1] if len(rest) > len(page) else ""
        return answers.namespaces(self._header(), page, token)

    def watch(self, request: pb.WatchRequest, caller: Caller, sink: Sink) -> Reader:
        """Watch: let the hub write to the sink from now on."""
        validate.services(request)
        query = _query(validate.namespace(request), request.services, request.filter, "services", caller.rights)
        claim = claim_of(request.resume_token, query)

        def make_topic() -> WatchTopic:
            return WatchTopic(self._catalog, query, lambda: self._feed.stale_for_s, self._pieces)

        return self._hub.join(query, make_topic, sink, claim, lane=caller.peer)

    # ---- leases

    def _opened(self, id_: str, caller: Caller) -> Opened:
        """The lease with that id. Raises NotFound if this registry did not give it out."""
        opened = self._seal().open(id_, caller.identity)
        if opened is None:
            raise NotFound.lease(id_)
        return opened

    def _own(self, id_: str, caller: Caller) -> str:
        """What the store calls the lease with that id. Raises NotFound, or PermissionDenied if it is another's."""
        opened = self._opened(id_, caller)
        if not opened.is_own:
            raise _anothers(id_, caller)
        return opened.lease_id

    async def _end_lease(self, id_: str, drain_s: float, caller: Caller) -> Left:
        """Of another identity's lease, who may operate all that it holds. Raises NotFound, PermissionDenied."""
        opened = self._opened(id_, caller)
        if not opened.is_own:
            for namespace, service in {key[:2] for key in self._catalog.of_lease(opened.lease_id)}:
                if not caller.rights.may("operate", namespace, service):
                    raise _anothers(id_, caller, f"{namespace}/{service}")
        try:
            return await self._writer.end_lease(opened.lease_id, drain_s, _claimant(caller).author)
        except NotFound:
            raise NotFound.lease(id_) from None

    def _renewal(self, id_: str, it: Renewal | None) -> pb.Renewal:
        if it is None:  # not one of ours, or not the caller's: no such lease for whoever asks
            return pb.Renewal(lease_id=id_, state=pb.Renewal.UNKNOWN)
        return answers.renewal(id_, it, self._writer.instances_of(it.lease_id))

    # ---- within

    def _header(self, revision: int | None = None) -> pb.ResponseHeader:
        shown = self._catalog.revision if revision is None else revision
        return answers.header(self._catalog.epoch, shown, self._feed.stale_for_s)

    def _service(self, namespace: str, service: str) -> pb.ServiceSummary:
        count = self._catalog.summary(namespace, service)
        return pb.ServiceSummary(namespace=namespace, service=service, **count._asdict())

    def _probers(self) -> Sequence[pb.Prober]:
        """The servers that run checks, in order."""
        records = filter(findings.is_replica, self._catalog.settings.of(Kind.REPLICA))
        found = [findings.prober(record) for record in records]
        return sorted(found, key=lambda it: it.name)

    async def _namespace(self, name: str, rights: Rights) -> pb.NamespaceSummary:
        if rights.may("read", name, EVERY):
            services, instances = self._catalog.size_of(name)
        else:
            counts = [self._catalog.count(name, it)[0] for it in await self._shown(name, rights)]
            services, instances = len(counts), sum(counts)
        return pb.NamespaceSummary(namespace=name, services=services, instances=instances)

    async def _shown(self, namespace: str, rights: Rights) -> Sequence[str]:
        """The services of a namespace that may be seen with these rights."""
        names = self._catalog.services(namespace)
        if rights.may("read", namespace, EVERY):
            return names
        shown: list[str] = []
        for some in _parts(names):
            shown += [name for name in some if rights.may("read", namespace, name)]
            await _let_others(len(names))
        return shown

    def _is_shown(self, namespace: str, rights: Rights) -> bool:
        """Whether any of its services may be seen."""
        if rights.may("read", namespace, EVERY):
            return True
        is_possible = rights.may_some("read", namespace, EVERY)
        return is_possible and any(rights.may("read", namespace, it) for it in self._catalog.services(namespace))

    def _known(self, key: Key) -> Entry:
        entry = self._catalog.get(key)
        if entry is None:
            raise NotFound("instance", str(key))
        return entry

    async def _wait_for(self, revision: int) -> None:
        if revision < 0:
            raise InvalidField("min_revision", f"must not be negative, is {revision}")
        if not await self._feed.reach(revision, MAX_WAIT_S):
            raise Unavailable(f"revision {revision} is not reached yet; the view is at {self._catalog.revision}")


def _query(namespace: str, services: Sequence[str], filter_: pb.Filter, field: str, rights: Rights) -> Query:
    validate.filter_(filter_)
    named = [fields.name(field, service) for service in services]
    return Query.of(namespace, named, filter_).within(rights)


def _claimant(caller: Caller, *, if_absent: bool = False) -> Claimant:
    return Claimant(caller.identity, caller.peer, partial(caller.rights.may, "operate"), if_absent)


def _anothers(id_: str, caller: Caller, name: str = "") -> PermissionDenied:
    """A lease of another identity, and of what it holds what the caller may not operate."""
    reason = f"lease {shortened(id_)} was given to another identity than {caller.identity or 'nobody'}"
    more = f", which has not the right `operate` on {name}" if name else ""
    return PermissionDenied(caller.identity, "operate", name or "*/*", reason + more)


def _parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """So many at a time as are dealt with in one step."""
    return (items[start : start + STEP] for start in range(0, len(items), STEP))


async def _let_others(count: int) -> None:
    """Between the steps of a request with `count` parts, other requests have their turn."""
    if count > STEP:
        await asyncio.sleep(0)
