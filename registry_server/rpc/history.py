"""The methods of registry.v1.History: what became of instances. Knows no transport."""

import asyncio
import bisect
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from registry_api.registry.v1 import history_pb2 as pb
from registry_api.registry.v1 import registry_pb2
from registry_server import fields, wire
from registry_server.changes import Name
from registry_server.errors import Contended, InvalidField, too_many_long
from registry_server.feed import Feed
from registry_server.history.events import Event, Why
from registry_server.history.history import History
from registry_server.history.places import Place, Search
from registry_server.history.recorder import Recorder
from registry_server.hub import ALL, Chunks, Hub, Interest, Reader, Sink
from registry_server.limits.peers import peer_of
from registry_server.rights import EVERY, UNRESTRICTED, Rights
from registry_server.rpc import answers, pages, validate
from registry_server.rpc.table import Broadcast, Caller, Needs, Service, Unary
from registry_server.turns import Turns

NAME = pb.DESCRIPTOR.services_by_name["History"].full_name
# So many events are looked at in one step, and so many are told.
STEP, TOLD_STEP = 2_000, 128
# Of one message that tells those who watch: so many events, and about so many bytes.
MAX_PART, MAX_PART_BYTES = 128, 128 * 1024
# So many messages of a step are kept for the next reader who is to have them.
MAX_MADE = 4
_EVENTS = pb.HistoryListResponse.EVENTS_FIELD_NUMBER

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
        if len(it.causes) > len(Why):
            raise InvalidField("filter.causes", f"must be at most {len(Why)}, are {len(it.causes)}")
        whys = frozenset(_why(cause) for cause in it.causes)
        is_free = rights.may("read", namespace or EVERY, service or EVERY)
        return cls(
            namespace,
            service,
            fields.name("filter.id", it.id) if it.id else "",
            whys,
            fields.name("filter.identity", it.identity) if it.identity else "",
            _seconds("filter.since", it.since) if it.HasField("since") else None,
            _seconds("filter.until", it.until) if it.HasField("until") else None,
            UNRESTRICTED if is_free else rights,
        )

    @property
    def within(self) -> Name | None:
        """The one service that is meant; None for several."""
        return (self.namespace, self.service) if self.namespace and self.service else None

    @property
    def interest(self) -> Interest:
        """By what changes there may be an event that is meant."""
        if not self.namespace:
            return ALL
        return (self.namespace, self.service) if self.service else (self.namespace,)

    def matches(self, event: Event) -> bool:
        """Whether the event is meant."""
        namespace, service, id_, _ = event.key
        return (
            self.namespace in ("", namespace)
            and self.service in ("", service)
            and self.id in ("", id_)
            and (not self.whys or event.told.why in self.whys)
            and (not self.identity or self.identity == event.told.author.identity)
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
        self._looking = Turns()  # of one peer one at a time, as this may take long

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
        last = Place.read(request.page_token) if request.page_token else None
        try:
            async with self._looking.of([(peer_of(caller.peer),)]):
                before = None if last is None else await self._before(wanted, last)
                return await self._listed(wanted, before, size)
        except Contended:
            raise too_many_long() from None

    async def _listed(self, wanted: Wanted, before: int | None, size: int) -> bytes:
        """One page. Its header is of when it began: what comes meanwhile is later than that."""
        header = self.header()
        found = await self._found(wanted, before, size)
        told, total = list[bytes](), 0
        for number, event in enumerate(found[:size], 1):
            encoded = wire.message_field(_EVENTS, event.to_proto().SerializeToString())
            total += len(encoded)
            if total > pages.MAX_PAGE_BYTES and told:
                break
            told.append(encoded)
            if number % TOLD_STEP == 0:
                await asyncio.sleep(0)
        answer = pb.HistoryListResponse(header=header)
        if len(told) < len(found):
            answer.next_page_token = Place.of(found[len(told) - 1]).token
        answer.known_since.FromMicroseconds(round(self._recorder.known_since() * 1e6))
        return answer.SerializeToString() + b"".join(told)

    async def _before(self, wanted: Wanted, last: Place) -> int:
        """The number before which the events are that follow a place, as they are numbered here."""
        history = self._recorder.fresh()
        same = history.get(last.number)
        if same is not None and Place.of(same) == last:
            return last.number
        search = Search(last)
        for number, event in enumerate(history.backwards(wanted.within), 1):
            if search.look(event):
                break
            if number % STEP == 0:
                await asyncio.sleep(0)
        return search.before

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
        first = First(wanted.since_s, request.from_revision)
        topic = wanted._replace(since_s=None)  # which is for what is told first alone: what comes is later
        return self._hub.join((NAME, topic), lambda: EventTopic(self, topic), sink, first, lane=caller.peer)

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


class First(NamedTuple):
    """What a reader is told first: what is remembered since a time, or of a revision and later ones of `epoch`, which
    is the present one; nothing, if it asks for neither."""

    since_s: float | None
    from_revision: int
    epoch: str = ""

    @property
    def is_nothing(self) -> bool:
        """Whether there is no such thing."""
        return self.since_s is None and not self.from_revision

    def takes(self, event: Event) -> bool:
        """Whether an event that is meant is told."""
        is_as_old = self.since_s is None or event.at_s >= self.since_s
        return is_as_old and (not self.from_revision or self._follows(event))

    def _follows(self, event: Event) -> bool:
        return event.moment.epoch == self.epoch and event.revision >= self.from_revision


NEWS = First(None, 0)


class EventTopic:
    """The events of one question: a hub.Topic whose version is the number of the last of them."""

    def __init__(self, service: Remembers, wanted: Wanted) -> None:
        self._service = service
        self._wanted = wanted
        self._first = NEWS
        self.version = self._seen = service.history.latest
        self.interests: Collection[Interest] = [wanted.interest]

    def advance(self) -> bool:
        """See hub.Topic."""
        history = self._service.history
        some = list(islice(history.since(self._wanted.within, self._seen), STEP))
        for event in some:
            self._seen = event.number
            if self._wanted.matches(event):
                self.version = event.number
        return len(some) < STEP

    def expect(self, claim: First) -> None:
        """It takes no preparation."""

    def known(self, claim: First) -> None:
        """Nobody who comes knows anything; the step that follows begins as that one asks."""
        self._first = claim

    def step(self, since: int | None) -> "EventStep | None":
        """See hub.Topic."""
        if since == self.version:
            return None
        history, within = self._service.history, self._wanted.within
        if since is not None:
            is_whole = history.is_whole_since(within, since)
            return self._step(history.numbers(within, since), NEWS, lost=not is_whole)
        first, self._first = self._first._replace(epoch=self._service.header().epoch), NEWS
        numbers = [] if first.is_nothing else history.numbers(within, 0)
        return self._step(numbers, first, lost=self._is_lost(first))

    def _step(self, numbers: Sequence[int], first: First, *, lost: bool) -> "EventStep":
        service = self._service
        meant = numbers[: bisect.bisect_right(numbers, self.version)]  # of those after it, none is
        return EventStep(self.version, service.header(), Backlog(service.history, self._wanted, first, meant), lost)

    def _is_lost(self, first: First) -> bool:
        """Whether some of what was asked for is forgotten, or was never seen here."""
        service, since = self._service, first.from_revision
        is_whole = service.history.is_whole_from(self._wanted.within, first.epoch, since)
        return bool(since) and (since < service.from_revision or not is_whole)

    def bookmark(self) -> bytes:
        """Nothing happened that is meant, up to that revision: who goes on elsewhere does so from there."""
        return pb.HistoryWatchResponse(header=self._service.header()).SerializeToString()


class Backlog(NamedTuple):
    """What is to be told of the events with these numbers, which are looked at as it is told: who reads slowly holds
    none of them, and misses what is forgotten meanwhile."""

    history: History
    wanted: Wanted
    first: First
    numbers: Sequence[int]

    def some(self, place: int) -> tuple[Sequence[Event], int | None, bool]:
        """Some of them from a place on, the place after these (None after the last), and whether some are forgotten."""
        told, size, lost = list[Event](), 0, False
        following = place
        for number in self.numbers[place : place + STEP]:
            event = self.history.get(number)
            lost = lost or event is None
            if event is not None and self.wanted.matches(event) and self.first.takes(event):
                size += event.size + pages.FIELD_BYTES
                if told and (size > MAX_PART_BYTES or len(told) == MAX_PART):
                    break
                told.append(event)
            following += 1
        return told, following if following < len(self.numbers) else None, lost


class EventStep:
    """Events in messages: a hub.Step whose places are those of their numbers."""

    def __init__(self, version: int, header: registry_pb2.ResponseHeader, backlog: Backlog, lost: bool) -> None:
        self.version = version
        self._header = header
        self._backlog = backlog
        self._lost = lost
        self._made: OrderedDict[int, tuple[Chunks | None, int | None]] = OrderedDict()

    def part(self, place: int) -> tuple[Chunks | None, int | None]:
        """See hub.Step."""
        if place not in self._made:
            self._made[place] = self._make(place)
            if len(self._made) > MAX_MADE:
                self._made.popitem(last=False)
        return self._made[place]

    def _make(self, place: int) -> tuple[Chunks | None, int | None]:
        events, following, lost = self._backlog.some(place)
        lost = lost or (self._lost and not place)
        if not events and not lost and following is not None:
            return None, following  # none of these were meant
        told = [event.to_proto() for event in events]
        message = pb.HistoryWatchResponse(header=self._header, events=told, lost=lost)
        return (message.SerializeToString(),), following


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


def _asked(request: _Asking) -> Iterable[Name]:
    namespace, service = _name(request.filter)
    return ((namespace or EVERY, service or EVERY),)


_READ = Needs("read", _asked, is_some=True)
