"""The methods of registry.v1.Diagnosis: why an instance gets traffic or none.

Nothing that grows with the instances, the clients or the names is done in one step: others have their turn meanwhile.
"""

import asyncio
import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from heapq import nsmallest
from itertools import islice
from typing import NamedTuple, TypeVar

from registry_api.limits import DEFAULT_NAMESPACE
from registry_api.registry.v1 import registry_pb2, why_pb2
from registry_server import fields, wire
from registry_server.audience import Audience
from registry_server.errors import Contended, too_many_long
from registry_server.feed import Feed
from registry_server.limits.peers import peer_of
from registry_server.model import Entry, Query
from registry_server.policies import book
from registry_server.records import Key
from registry_server.rpc import answers, pages, validate
from registry_server.rpc.table import Caller, Name, Needs, Service, Unary
from registry_server.rules import seconds
from registry_server.turns import Turns
from registry_server.why import clients, reasons
from registry_server.why.past import LastLeft, Past
from registry_server.why.reasons import Circumstances, Holding
from registry_server.why.sharing import Shares
from registry_server.why.words import Likeness
from registry_server.xds.making import ControlPlane

NAME = why_pb2.DESCRIPTOR.services_by_name["Diagnosis"].full_name
# So many clients are shown.
MAX_CLIENTS = 100
# So many instances are counted, put together, or names compared, before others have their turn.
COUNTED_AT_ONCE, SHOWN_AT_ONCE, COMPARED_AT_ONCE = 1_000, 100, 100
# No more names are compared, and are shown that are like one.
MAX_COMPARED, MAX_SIMILAR = 10_000, 3
_INSTANCES = why_pb2.WhyResponse.INSTANCES_FIELD_NUMBER

Item = TypeVar("Item")


class _Told(NamedTuple):
    """Clients, how many there are, and what there is to say of that."""

    shown: Sequence[why_pb2.ToldClient]
    total: int
    reason: why_pb2.Reason


class Clocks(NamedTuple):
    """Seconds since 1970, and those of the hub."""

    wall: Callable[[], float]
    steady: Callable[[], float]


class DiagnosisService:
    """One method for the RPC. It raises the errors of errors.py, and nothing else that is expected."""

    def __init__(
        self, feed: Feed, audience: Audience, policies: book.PolicyBook, xds: ControlPlane, past: Past, clocks: Clocks
    ) -> None:
        self._feed = feed
        self._catalog = feed.catalog
        self._audience = audience
        self._policies = policies
        self._xds = xds
        self._past = past
        self._clocks = clocks
        self._looking = Turns()  # of one peer one at a time, as this may take long

    def service(self) -> Service:
        """What a table says of it."""
        return Service(NAME, {"Why": Unary(why_pb2.WhyRequest, self.why, Needs("read", _names))})

    async def why(self, request: why_pb2.WhyRequest, caller: Caller) -> bytes:
        """Why: see why.proto."""
        ((namespace, service),) = _names(request)
        id_ = fields.name("id", request.id) if request.id else ""
        validate.filter_(request.filter)
        size = validate.page_size(request.page_size)
        after = "".join(pages.start(request.page_token, namespace, 1)[1:])
        query = Query.of(namespace, [service], request.filter)
        try:
            async with self._looking.of([(peer_of(caller.peer),)]):
                await self._feed.whole()
                if id_:
                    return await self._of_instance(Key(namespace, service, id_), query, caller)
                return await self._of_service((namespace, service), query, caller, after, size)
        except Contended:
            raise too_many_long() from None

    # ---- what was asked for

    async def _of_instance(self, key: Key, query: Query, caller: Caller) -> bytes:
        by = await self._circumstances(key[:2], query)
        entry = self._catalog.get(key)
        if entry is None:
            return (await self._of_nothing(key, by, caller)).SerializeToString()
        it = entry.parse()
        found = reasons.of_instance(it, entry, by, partial(self._past.turned, entry))
        told = await self._clients(clients.About(key[:2], entry, self._changed(key)), caller)
        answer = self._answer(by, told)
        answer.gets_traffic = not by.shares.lack_of(entry)
        answer.verdict = f"{_shown(key)} {reasons.verdict(found)}"
        answer.reasons.extend([*found, told.reason])
        answer.instances.append(self._verdict(entry, by))
        return answer.SerializeToString()

    async def _of_service(self, name: Name, query: Query, caller: Caller, after: str, size: int) -> bytes:
        entries = self._catalog.of_service(*name)
        by = await self._circumstances(name, query)
        if not entries:
            return (await self._of_nothing(Key(*name, ""), by, caller)).SerializeToString()
        told = await self._clients(clients.About(name), caller)
        answer = self._answer(by, told if not after else told._replace(shown=()))
        answer.gets_traffic = bool(by.shares.lacks().get(""))
        answer.verdict = f"{_shown(name)} {reasons.service_verdict(by)}"
        answer.reasons.extend([*reasons.of_service(by), told.reason])
        first = bisect.bisect_right(entries, after, key=lambda it: it.key.id) if after else 0
        shown, last = await self._shown(entries[first : first + size], by)
        if first + len(shown) < len(entries):
            answer.next_page_token = pages.token(name[0], (name[0], last))
        return answer.SerializeToString() + b"".join(shown)

    async def _of_nothing(self, key: Key, by: Circumstances, caller: Caller) -> why_pb2.WhyResponse:
        """Of something that is not there."""
        told = await self._clients(clients.About(key[:2]), caller)
        answer, lack = self._answer(by, told), self._lack(key)
        if (left := self._past.last_left(*key[:3])) is not None:
            answer.left.CopyFrom(_leaving(left))
        if not lack:
            nor = f", nor was any other {key.service}" if key.id and not self._catalog.is_known(*key[:2]) else ""
            lack = f"it was never registered{nor}, as far as this server remembers"
            answer.similar.extend(await self._similar(key, caller))
        guess = f"; did you mean {', '.join(answer.similar)}?" if answer.similar else ""
        answer.verdict = f"{_shown(key)} gets none because {lack}{guess}"
        answer.reasons.extend(reasons.of_store(by.stale_for_s))
        answer.reasons.append(why_pb2.Reason(about="registered", effect=reasons.STOPS, text=lack))
        answer.reasons.append(told.reason)
        return answer

    def _lack(self, key: Key) -> str:
        """Why something is not there, after "because"; empty if nothing is known of it."""
        if (flaw := self._catalog.flaw(key)) is not None:
            return f"what the store has under its name is no instance: {flaw.reason}"
        left = self._past.last_left(*key[:3])
        if key.id and left is None:
            is_remembered = self._catalog.last_owner(key) is not None
            return "it has left, and how is not known any more" if is_remembered else ""
        if left is None:
            is_remembered = self._catalog.is_known(*key[:2])
            return "no instance is registered any more, and how the last one left is not known" if is_remembered else ""
        how = f"{reasons.how_it_left(left)}, at revision {left.revision}"
        return f"it {how}" if key.id else f"no instance is registered: the last one, {left.key.id}, {how}"

    # ---- parts of an answer

    def _answer(self, by: Circumstances, told: _Told) -> why_pb2.WhyResponse:
        catalog = self._catalog
        return why_pb2.WhyResponse(
            header=answers.header(catalog.epoch, catalog.revision, by.stale_for_s),
            clients=told.shown,
            client_count=told.total,
            instance_count=by.shares.total,
            serving_count=by.shares.lacks().get("", 0),
        )

    async def _circumstances(self, name: Name, query: Query) -> Circumstances:
        policy = self._policies.get(book.key_of(*name))
        flaw = policy.flaw if policy is not None else ""
        shares = Shares(None if flaw else policy, query)
        for some in in_steps(self._catalog.of_service(*name), COUNTED_AT_ONCE):
            shares.look(some)
            await asyncio.sleep(0)
        unreachable = self._xds.hosts.trouble
        return Circumstances(self._clocks.wall(), self._feed.stale_for_s, shares, flaw, self._holding, unreachable)

    def _holding(self, entry: Entry) -> Holding:
        guard, now = self._feed.guard, self._feed.now()
        until = guard.promised(entry.lease_id)
        shown_for_s = guard.shown_until(entry) - now if entry.key in guard else None
        return Holding(None if until is None else until - now, shown_for_s)

    async def _shown(self, entries: Sequence[Entry], by: Circumstances) -> tuple[list[bytes], str]:
        """As many as one message takes, encoded, and the id of the last."""
        shown: list[bytes] = []
        total = 0
        for some in in_steps(entries, SHOWN_AT_ONCE):
            for entry in some:
                encoded = wire.message_field(_INSTANCES, self._verdict(entry, by).SerializeToString())
                total += len(encoded)
                if total > pages.MAX_PAGE_BYTES and shown:
                    return shown, entries[len(shown) - 1].key.id
                shown.append(encoded)
            await asyncio.sleep(0)
        return shown, entries[len(shown) - 1].key.id if shown else ""

    def _verdict(self, entry: Entry, by: Circumstances) -> why_pb2.InstanceVerdict:
        it, left_s = entry.parse(), by.holding(entry).left_s
        stops = reasons.of_instance(it, entry, by) if by.shares.lack_of(entry) else ()
        found = why_pb2.InstanceVerdict(instance=it, gets_traffic=not stops, verdict=reasons.verdict(stops))
        if left_s is not None and left_s > 0:  # else it is renewed by another server, if at all
            found.lease_left.CopyFrom(seconds(left_s))
            found.renewed_at.CopyFrom(clients.time(by.now_s + left_s - entry.traits.ttl_s))
        return found

    # ---- who was told

    async def _clients(self, asked: clients.About, caller: Caller) -> _Told:
        """Those that do not have the present state first, and then those that were told last."""
        shown: list[why_pb2.ToldClient] = []
        total = behind = trouble = 0
        for some in in_steps(self._told(asked), SHOWN_AT_ONCE):
            total += len(some)
            behind += sum(not it.current and not it.leaves_out for it in some)
            trouble += sum(bool(it.trouble) for it in some)
            shown = nsmallest(MAX_CLIENTS, [*shown, *some], key=_by_need)
            await asyncio.sleep(0)
        if not caller.rights.may("operate", *asked.key):
            shown = []
        return _Told(shown, total, reasons.of_clients(total, behind, trouble))

    def _told(self, asked: clients.About) -> Iterator[why_pb2.ToldClient]:
        watching = clients.Watching(self._clocks.steady(), self._clocks.wall())
        for it in tuple(self._audience.open()):
            if it.reader is not None and clients.is_told(it.reader, asked.key):
                yield watching.told(it, it.reader, asked)
        streams = self._xds.streams
        is_news = streams.has_news_of(asked.key)
        is_reachable = asked.entry is None or not self._xds.hosts.trouble(asked.entry.address[0])
        for stream in streams.streams_of(asked.key):
            yield clients.told_by_xds(stream, asked, is_news=is_news, is_reachable=is_reachable)

    def _changed(self, key: Key) -> int:
        """The number of the latest change of an instance that is known."""
        log = self._catalog.log_of(*key[:2])
        return next((change.seq for change in reversed(log) if change.key == key), 0)

    # ---- names that are like another one

    async def _similar(self, key: Key, caller: Caller) -> list[str]:
        """Of an id that is not there, others of its service; of a service, others that the caller may read."""
        is_id = bool(key.id and self._catalog.count(*key[:2])[0])
        likeness = Likeness(key.id if is_id else key.service)
        names = self._ids_beside(key) if is_id else self._services_beside(key, caller)
        for some in in_steps(islice(names, MAX_COMPARED), COMPARED_AT_ONCE):
            likeness.look(some)
            await asyncio.sleep(0)
        return [*(() if is_id else self._elsewhere(key, caller)), *likeness.best()][:MAX_SIMILAR]

    def _elsewhere(self, key: Key, caller: Caller) -> Iterator[str]:
        """The same service in other namespaces."""
        for namespace in self._catalog.namespaces():
            if self._catalog.count(namespace, key.service)[0] and caller.rights.may("read", namespace, key.service):
                yield f"{namespace}/{key.service}"

    def _ids_beside(self, key: Key) -> Iterator[tuple[str, str]]:
        """Names, and how they are shown. Who asks for an address means the instance that has it."""
        for it in self._catalog.of_service(*key[:2]):
            is_there = key.id == f"{it.address[0]}:{it.address[1]}"
            yield key.id if is_there else it.key.id, it.key.id

    def _services_beside(self, key: Key, caller: Caller) -> Iterator[tuple[str, str]]:
        for service in self._catalog.services(key.namespace):
            if caller.rights.may("read", key.namespace, service):
                yield service, service


def in_steps(items: Iterable[Item], at_once: int) -> Iterator[list[Item]]:
    """So many at a time."""
    rest = iter(items)
    while some := list(islice(rest, at_once)):
        yield some


def _by_need(it: why_pb2.ToldClient) -> tuple[bool, int, int]:
    return it.current or it.leaves_out, -it.told_at.seconds, -it.told_at.nanos


def _names(request: why_pb2.WhyRequest) -> Sequence[Name]:
    return ((fields.namespace("namespace", request.namespace), fields.name("service", request.service)),)


def _shown(name: Sequence[str]) -> str:
    """The service, or the instance, as people write it: without the default namespace."""
    return "/".join(part for part in name[name[0] == DEFAULT_NAMESPACE : 3] if part)


def _leaving(it: LastLeft) -> why_pb2.Leaving:
    key = registry_pb2.InstanceKey(namespace=it.key.namespace, service=it.key.service, id=it.key.id)
    found = why_pb2.Leaving(key=key, cause=answers.CAUSES[it.cause], detail=it.detail, revision=it.revision)
    found.identity, found.peer, found.late = it.by.identity, it.by.peer, it.late
    if it.at_s is not None:
        found.at.CopyFrom(clients.time(it.at_s))
    return found
