"""The methods of registry.v1.History: what became of instances. Knows no transport."""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from operator import attrgetter
from typing import NamedTuple, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from registry_api.registry.v1 import history_pb2 as pb
from registry_api.registry.v1 import registry_pb2
from registry_server import fields
from registry_server.changes import Name
from registry_server.errors import InvalidField
from registry_server.feed import Feed
from registry_server.history.events import Event, Why
from registry_server.history.history import History
from registry_server.history.recorder import EVENTS, Recorder
from registry_server.hub import Chunks, Hub, Interest, Reader, Sink
from registry_server.rights import EVERY, UNRESTRICTED, Rights
from registry_server.rpc import answers, pages, validate
from registry_server.rpc.table import Broadcast, Caller, Needs, Service, Unary

NAME = pb.DESCRIPTOR.services_by_name["History"].full_name
# So many events are looked at in one step, and so many are told.
STEP, TOLD_STEP = 2_000, 128
# Of one message that tells those who watch: so many events, and about so many bytes.
MAX_PART, MAX_PART_BYTES = 128, 128 * 1024

_Asking = pb.HistoryListRequest | pb.HistoryWatchRequest


class Wanted(NamedTuple):
    """Which events somebody means. Equal questions are equal values. Times are seconds of the wall clock."""

    namespace: str  # empty for all
    service: str
    id: str
    whys: frozenset[Why]
    identity: str
    since_s: float | None
    until_s: float | None
    rights: Rights

    @classmethod
    def of(cls, it: pb.EventFilter, rights: Rights) -> "Wanted":
        """What a request means. Raises InvalidField."""
        (namespace, service) = _name(it)
        if it.id and not it.service:
            raise InvalidField("filter.id", "needs the service that it is of")
        whys = frozenset(_why(cause) for cause in it.causes)
        is_free = rights.may("read", namespace or EVERY, service or EVERY)
        return cls(
            namespace,
            service,
            fields.name("filter.id", it.id) if it.id else "",
            whys,
            it.identity,
            _seconds("filter.since", it.since) if it.HasField("since") else None,
            _seconds("filter.until", it.until) if it.HasField("until") else None,
            UNRESTRICTED if is_free else rights,
        )

    @property
    def within(self) -> Name | None:
        """The one service that is meant; None for several."""
        return (self.namespace, self.service) if self.namespace and self.service else None

    def matches(self, event: Event) -> bool:
        """Whether the event is meant."""
        namespace, service, id_, _ = event.key
        return (
            self.namespace in ("", namespace)
            and self.service in ("", service)
            and self.id in ("", id_)
            and (not self.whys or event.why in self.whys)
            and self.identity in ("", event.author.identity)
            and (self.since_s is None or event.at_s >= self.since_s)
            and (self.until_s is None or event.at_s <= self.until_s)
            and (self.rights is UNRESTRICTED or self.rights.may("read", namespace, service))
        )


class HistoryService:
    """One method for each RPC. They raise the errors of errors.py, and nothing else that is expected."""

    def __init__(self, recorder: Recorder, feed: Feed, hub: Hub) -> None:
        self._recorder = recorder
        self._feed = feed
        self._hub = hub

    def service(self) -> Service:
        """What a table says of it."""
        return Service(
            NAME,
            {
                "List": Unary(pb.HistoryListRequest, self.list, _READ),
                "Watch": Broadcast(pb.HistoryWatchRequest, self.watch, _READ),
            },
        )

    async def list(self, request: pb.HistoryListRequest, caller: Caller) -> bytes:
        """List: see history.proto, as for all of these."""
        wanted = Wanted.of(request.filter, caller.rights)
        size = validate.page_size(request.page_size)
        before = _page_start(request.page_token)
        found = await self._found(wanted, before, size)
        told, total = list[pb.Event](), 0
        for number, event in enumerate(found[:size], 1):
            told.append(event.to_proto())
            total += told[-1].ByteSize() + pages.FIELD_BYTES
            if total > pages.MAX_PAGE_BYTES and len(told) > 1:
                told.pop()
                break
            if number % TOLD_STEP == 0:
                await asyncio.sleep(0)
        answer = pb.HistoryListResponse(header=self.header(), events=told)
        if len(told) < len(found):
            answer.next_page_token = str(told[-1].number)
        answer.known_since.FromMicroseconds(round(self._recorder.known_since() * 1e6))
        return answer.SerializeToString()

    async def _found(self, wanted: Wanted, before: int | None, size: int) -> Sequence[Event]:
        """The first of those that are meant, and one more if there is one; others have their turns meanwhile."""
        found: list[Event] = []
        for number, event in enumerate(self._recorder.fresh().backwards(wanted.within, before), 1):
            if wanted.matches(event):
                found.append(event)
                if len(found) > size:
                    break
            if number % STEP == 0:
                await asyncio.sleep(0)
        return found

    def watch(self, request: pb.HistoryWatchRequest, caller: Caller, sink: Sink) -> Reader:
        """Watch: let the hub write to the sink from now on."""
        wanted = Wanted.of(request.filter, caller.rights)
        if request.from_revision < 0:
            raise InvalidField("from_revision", f"must not be negative, is {request.from_revision}")
        key = (EVENTS, wanted, request.from_revision)
        return self._hub.join(key, lambda: EventTopic(self, wanted, request.from_revision), sink, lane=caller.peer)

    # ---- what a topic asks

    def header(self) -> registry_pb2.ResponseHeader:
        """Of an answer that says how things are now."""
        catalog = self._feed.catalog
        return answers.header(catalog.epoch, catalog.revision, self._feed.stale_for_s)

    @property
    def from_revision(self) -> int:
        """What came after this one is known, but for what is forgotten."""
        return self._recorder.from_revision

    @property
    def history(self) -> History:
        """What is remembered."""
        return self._recorder.fresh()


class Remembers(Protocol):
    """What a topic asks."""

    @property
    def history(self) -> History:
        """What is remembered."""

    @property
    def from_revision(self) -> int:
        """What came after this one is known, but for what is forgotten."""

    def header(self) -> registry_pb2.ResponseHeader:
        """Of an answer that says how things are now."""


class EventTopic:
    """The events of one question: a hub.Topic whose version is the number of the last of them."""

    def __init__(self, service: Remembers, wanted: Wanted, from_revision: int) -> None:
        self._service = service
        self._wanted = wanted
        self._from_revision = from_revision
        self.version = self._seen = service.history.latest
        self.interests: Collection[Interest] = [(EVENTS, wanted.namespace, wanted.service if wanted.namespace else "")]

    def advance(self) -> bool:
        """See hub.Topic."""
        history = self._service.history
        some = list(islice(history.since(self._wanted.within, self._seen), STEP))
        for event in some:
            self._seen = event.number
            if self._wanted.matches(event):
                self.version = event.number
        return len(some) < STEP

    def expect(self, claim: object) -> None:
        """Nobody who comes knows anything."""

    def known(self, claim: object) -> None:
        """Nobody who comes knows anything."""

    def step(self, since: int | None) -> "EventStep | None":
        """See hub.Topic."""
        if since == self.version:
            return None
        history, wanted = self._service.history, self._wanted
        if since is None:
            return EventStep(self.version, self._service.header(), *self._remembered(history))
        events = [it for it in history.since(wanted.within, since) if wanted.matches(it)]
        return EventStep(self.version, self._service.header(), events, not history.is_whole_since(wanted.within, since))

    def _remembered(self, history: History) -> tuple[Sequence[Event], bool]:
        """What is told first, and whether some of what was asked for is forgotten."""
        wanted = self._wanted
        if wanted.since_s is None and not self._from_revision:
            return (), False
        known = history.since(wanted.within, 0)
        events = [it for it in known if it.revision >= self._from_revision and wanted.matches(it)]
        is_whole = history.is_whole_since(wanted.within, 0) or bool(known and known[0].revision < self._from_revision)
        return events, bool(self._from_revision) and (self._from_revision < self._service.from_revision or not is_whole)

    def bookmark(self) -> None:
        """There is none."""


class EventStep:
    """Events in messages: a hub.Step whose places are how many went before."""

    def __init__(self, version: int, header: registry_pb2.ResponseHeader, events: Sequence[Event], lost: bool) -> None:
        self.version = version
        self._header = header
        self._events = events
        self._lost = lost
        self._made: dict[int, tuple[Chunks, int | None]] = {}

    def part(self, place: int) -> tuple[Chunks, int | None]:
        """See hub.Step."""
        if place not in self._made:
            size = attrgetter("size")  # nothing is made that does not fit
            some = pages.fitting(self._events[place : place + MAX_PART], size, MAX_PART_BYTES)
            following = place + len(some) if place + len(some) < len(self._events) else None
            told = [event.to_proto() for event in some]
            message = pb.HistoryWatchResponse(header=self._header, events=told, lost=self._lost and not place)
            self._made[place] = (message.SerializeToString(),), following
        return self._made[place]


def _name(it: pb.EventFilter) -> Name:
    """Namespace and service, empty for all of them."""
    if it.all_namespaces and it.namespace:
        raise InvalidField("filter.namespace", "must be empty when all_namespaces is set")
    namespace = "" if it.all_namespaces else fields.namespace("filter.namespace", it.namespace)
    return namespace, fields.name("filter.service", it.service) if it.service else ""


def _why(cause: int) -> Why:
    known = pb.Event.Cause.DESCRIPTOR.values_by_number.get(cause)
    if known is None:
        raise InvalidField("filter.causes", f"has no value {cause}")
    return Why(known.name)


def _seconds(field: str, at: Timestamp) -> float:
    fields.timestamp(field, at)
    return at.ToMicroseconds() / 1e6


def _page_start(token: str) -> int | None:
    """Before which number a page begins."""
    if not token:
        return None
    if not (token.isascii() and token.isdigit() and len(token) < 20):
        raise InvalidField("page_token", "is none that this registry gave")
    return int(token)


def _asked(request: _Asking) -> Iterable[Name]:
    namespace, service = _name(request.filter)
    return ((namespace or EVERY, service or EVERY),)


_READ = Needs("read", _asked, is_some=True)
