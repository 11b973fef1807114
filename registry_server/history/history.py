"""CORE: the latest events, bounded by number, by age, and by the bytes that they hold.

When there are too many, those of the services that have the most are forgotten: a busy service never costs a quiet one
its history.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, takewhile
from typing import NamedTuple

from registry_server.changes import Name, level
from registry_server.history.events import Event

# All events together hold no more than so many bytes.
MAX_BYTES = 64 * 1024 * 1024
# So large a part is forgotten when there are too many, and no more than so many.
CUT_PART, CUT_MOST = 16, 500


class Floor(NamedTuple):
    """Up to where events are forgotten: the number of the last of them, its epoch and its revision. In the order of
    their numbers, so are revisions of one epoch."""

    number: int = 0
    epoch: str = ""
    revision: int = 0


GROUND = Floor()


class _Service:
    """The events of one service, the oldest first; `floor` is how far they are forgotten."""

    __slots__ = ("events", "floor")

    def __init__(self, floor: Floor) -> None:
        self.events: deque[Event] = deque()
        self.floor = floor


class History:
    """What is remembered. Times are seconds of the wall clock, ages seconds; `since_s` is when it began.

    How old an event is, is told by stamps of a clock that nobody sets; by its time, where it is given none.
    """

    def __init__(self, limit: int, max_age_s: float, since_s: float = 0.0, max_bytes: int = MAX_BYTES) -> None:
        self.limit = limit
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._bytes = 0
        # Ordered, because the first of a dict is searched for among all that were deleted before it.
        self._events: OrderedDict[int, Event] = OrderedDict()
        self._stamps: dict[int, float] = {}
        self._ages_at = -math.inf  # before that none is too old
        self._services: dict[Name, _Service] = {}
        # Of services of which nothing is remembered; and of all.
        self._floor = self._last_forgotten = GROUND
        self._since_s = since_s
        self._forgotten: list[int] | None = None

    def __len__(self) -> int:
        """How many events are remembered."""
        return len(self._events)

    @property
    def latest(self) -> int:
        """The number of the latest event; 0 for none."""
        return next(reversed(self._events), 0)

    @property
    def last(self) -> int:
        """The number of the latest event that there was, be it forgotten; 0 for none."""
        return max(self.latest, self._last_forgotten.number)

    # ---- writing

    def add(self, event: Event, stamp: float | None = None) -> None:
        """Remember it: its number is greater than any before."""
        if not self.limit:
            return
        stamp = event.at_s if stamp is None else stamp
        service = self._services.get(event.name)
        if service is None:
            service = self._services[event.name] = _Service(self._floor)
        self._events[event.number] = event
        self._stamps[event.number] = stamp
        service.events.append(event)
        self._bytes += event.size
        if stamp > self._ages_at:
            self.expire(stamp)
        if len(self._events) > self.limit or self._bytes > self._max_bytes:
            self._cut()

    def skip(self, names: Iterable[Name], floor: Floor) -> None:
        """Of these services something happened that is not remembered, all of it up to that."""
        for name in names:
            found = self._services.get(name)
            if found is not None:
                found.floor = max(found.floor, floor)
        self._floor = max(self._floor, floor)
        self._last_forgotten = max(self._last_forgotten, floor)

    def load(self, events: Iterable[Event], stamp_of: Callable[[Event], float | None] = lambda _: None) -> None:
        """Remember what was before all that is remembered, the oldest first."""
        newer, stamps = list(self._events.values()), self._stamps
        first = newer[0].number if newer else None
        self._stamps = {}
        self._events.clear()
        self._services.clear()
        self._bytes = 0
        older = takewhile(lambda event: first is None or event.number < first, events)
        for event in chain(older, newer):
            self._since_s = min(self._since_s, event.at_s)
            self.add(event, stamps[event.number] if event.number in stamps else stamp_of(event))

    def expire(self, now: float) -> None:
        """Forget what is too old, by the clock of the stamps."""
        while self._events:
            event = next(iter(self._events.values()))
            self._ages_at = self._stamps[event.number] + self._max_age_s
            if self._ages_at >= now:
                return
            self._forget(self._services[event.name])

    def take_forgotten(self) -> Sequence[int]:
        """The numbers of those that were forgotten since this was last asked; none the first time."""
        found, self._forgotten = self._forgotten, []
        return found or ()

    # ---- reading

    def of(self, namespace: str, service: str, id_: str = "") -> list[Event]:
        """What is remembered of a service, or of one instance of it, the latest first."""
        found = self._services.get((namespace, service))
        return [it for it in reversed(found.events) if id_ in ("", it.key.id)] if found else []

    def last_left(self, namespace: str, service: str, id_: str = "") -> Event | None:
        """How the last instance of a service left, or the instance with that id, the last time that it did."""
        found = self._services.get((namespace, service))
        leavings = (it for it in reversed(found.events) if it.has_left and id_ in ("", it.key.id)) if found else ()
        return next(iter(leavings), None)

    def backwards(self, service: Name | None, before: int | None = None) -> Iterator[Event]:
        """What is remembered of all, or of one service, the latest first; of those numbered before `before`. As of
        now: what comes or is forgotten meanwhile changes nothing."""
        if service is None:
            events = list(self._events.values())
        else:
            events = list(found.events) if (found := self._services.get(service)) else []
        return (event for event in reversed(events) if before is None or event.number < before)

    def get(self, number: int) -> Event | None:
        """The event of that number; None if it is forgotten."""
        return self._events.get(number)

    def numbers(self, service: Name | None, after: int) -> list[int]:
        """The numbers of what came after that one, of all or of one service, the oldest first."""
        if service is None:
            return list(takewhile(lambda number: number > after, reversed(self._events)))[::-1]
        return [event.number for event in self.since(service, after)]

    def since(self, service: Name | None, number: int) -> list[Event]:
        """What came after that number, of all or of one service, the oldest first."""
        if service is None:
            events: Iterator[Event] = reversed(self._events.values())
        else:
            events = reversed(found.events) if (found := self._services.get(service)) else iter(())
        return list(takewhile(lambda event: event.number > number, events))[::-1]

    def is_whole_since(self, service: Name | None, number: int) -> bool:
        """Whether all that came after that number is remembered, of all or of one service."""
        return number >= self._floor_of(service).number

    def is_of_another(self, number: int) -> bool:
        """Whether no event here has, or had, that number: who knows one by it was told so by another server. Of what
        was forgotten nobody knows any more, which numbers it had."""
        return number > self._last_forgotten.number and number not in self._events

    def is_whole_from(self, service: Name | None, epoch: str, revision: int) -> bool:
        """Whether all of that revision of an epoch and of later ones is remembered, of all or of one service."""
        floor = self._floor_of(service)
        return floor.epoch != epoch or floor.revision < revision

    def known_since(self, now: float) -> float:
        """Since when events are remembered: as long as this server is there, and no longer than they may be."""
        return max(self._since_s, now - self._max_age_s)

    # ---- within

    def _floor_of(self, service: Name | None) -> Floor:
        if service is None:
            return self._last_forgotten
        found = self._services.get(service)
        return found.floor if found else self._floor

    def _cut(self) -> None:
        """Cut the services that have the most back to one length, so that there is a little room again."""
        target = self.limit - min(self.limit // CUT_PART, CUT_MOST)
        while len(self._events) > self.limit or self._bytes > self._max_bytes:
            target = min(target, len(self._events) - 1)
            length = level(sorted(len(it.events) for it in self._services.values()), target)
            for service in [it for it in self._services.values() if len(it.events) > length]:
                while len(service.events) > length and len(self._events) > target:
                    self._forget(service)
            target -= max(1, min(target // CUT_PART, CUT_MOST))

    def _forget(self, service: _Service) -> None:
        """Forget the oldest event of a service."""
        event = service.events.popleft()
        number = event.number
        del self._events[number], self._stamps[number]
        self._bytes -= event.size
        floor = Floor(number, event.moment.epoch, event.revision)
        if number > service.floor.number:
            service.floor = floor
        if number > self._last_forgotten.number:
            self._last_forgotten = floor
        if self._forgotten is not None:
            self._forgotten.append(number)
        if not service.events:
            self._floor = max(self._floor, service.floor)
            del self._services[event.name]
