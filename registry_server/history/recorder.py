"""SHELL: remembers what changes as it is told of it, and keeps it where the store can. Who watches is woken by the hub,
as whoever watches instances is: what one hears of is what the other does."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError

from registry_api.registry.v1 import history_pb2 as pb
from registry_server.changes import Change
from registry_server.errors import InvalidField
from registry_server.feed import Feed
from registry_server.history.events import Event, Moment
from registry_server.history.history import Floor, History
from registry_server.settings import SettingChange
from registry_server.stores import Shelf, StoreAway, StoreError

log = logging.getLogger(__name__)

# How often it is saved, and so many events in one step.
SAVE_EVERY_S, STEP = 1.0, 100
# How long that may take in the end, and the reading at the start.
LAST_S, LOAD_S = 2.0, 10.0


class Recorder:
    """A Listener. `now` is wall-clock time in seconds; by `steady` events age: a clock that nobody sets."""

    def __init__(
        self,
        history: History,
        feed: Feed,
        now: Callable[[], float],
        shelf: Shelf | None = None,
        steady: Callable[[], float] | None = None,
    ) -> None:
        self.history = history
        # What is saved: all up to that number, but for what is to be deleted.
        self._shelf = shelf
        self._saved = 0
        self._deletes: list[int] = []
        self._feed = feed
        self._now = now
        self._steady = steady or now
        # Numbers go on growing over restarts, as far as clocks do.
        self._number = int(now() * 1e6)
        self._has_begun = False
        self.from_revision = 0

    def fresh(self) -> History:
        """What is remembered, without what has become too old."""
        self.history.expire(self._steady())
        return self.history

    def known_since(self) -> float:
        """Since when events are remembered, in seconds of the wall clock."""
        return self.history.known_since(self._now())

    # ---- what is kept over a restart

    async def load(self) -> None:
        """Remember what was kept, before anybody asks."""
        if self._shelf is None:
            return
        try:
            async with asyncio.timeout(LOAD_S):
                kept = await self._shelf.read()
        except Exception as error:  # whatever it is: a registry without a past is one all the same
            log.warning("what became of instances before this start is not remembered: %s", _said(error))
            self._shelf = None
            return
        events: list[Event] = []
        for count, (number, row) in enumerate(kept, 1):
            try:
                events.append(_read(number, row))
            except (DecodeError, ValueError, InvalidField):  # whatever somebody wrote there
                self._deletes.append(number)
            if count % STEP == 0:
                await asyncio.sleep(0)
        self._saved = max((event.number for event in events), default=0)
        self.history.take_forgotten()
        now, steady = self._now(), self._steady()
        self.history.load(events, lambda event: steady - max(0.0, now - event.at_s))
        self._number = max(self._number, self._saved)
        if events and events[0].moment.epoch == self._feed.catalog.epoch:
            self.from_revision = events[0].revision

    async def run(self) -> None:
        """Save what comes, until cancelled."""
        is_said = False
        while self._shelf is not None:
            await asyncio.sleep(SAVE_EVERY_S)
            try:
                await self.save()
            except StoreAway:  # the disk is full, say, which the store says: it is tried again
                continue
            except Exception as error:  # whatever it is: what people look at afterwards ends no registry
                if not is_said:
                    log.warning("what becomes of instances is not kept over a restart: %s", _said(error))
                is_said = True
            else:
                is_said = False

    async def save(self) -> None:
        """Save what is not saved yet. Raises StoreError."""
        if self._shelf is None:
            return
        self.fresh()
        self._deletes += [number for number in self.history.take_forgotten() if number <= self._saved]
        unsaved = self.history.since(None, self._saved)
        for start in range(0, len(unsaved) or 1, STEP):
            some = unsaved[start : start + STEP]
            if some or self._deletes:
                await self._write(self._shelf, some)

    async def _write(self, shelf: Shelf, some: Sequence[Event]) -> None:
        deletes = list(self._deletes)
        await shelf.write([(event.number, event.to_proto().SerializeToString()) for event in some], deletes)
        del self._deletes[: len(deletes)]
        self._saved = some[-1].number if some else self._saved

    async def aclose(self) -> None:
        """Save the last of it, if that can be done soon."""
        with contextlib.suppress(Exception):  # it was said when it first failed
            async with asyncio.timeout(LAST_S):
                await self.save()

    # ---- as a Listener

    def changed(self, changes: Sequence[Change]) -> None:
        """See Listener. What is there when the server comes is no event."""
        late = self._feed.tells_late
        if late and not self._has_begun:
            return
        moment, steady = Moment(self._now(), late, self._feed.catalog.epoch), self._steady()
        if len(changes) > self.history.limit:
            changes = self._skip(changes)
        for change in changes:
            self._number += 1
            self.history.add(Event(self._number, moment, change), steady)

    def _skip(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Of more than may be remembered the last, so that there is no need to look at the others."""
        rest = len(changes) - self.history.limit
        self._number += rest
        floor = Floor(self._number, self._feed.catalog.epoch, max(change.revision for change in changes[:rest]))
        self.history.skip({change.key[:2] for change in changes[:rest]}, floor)
        return changes[rest:]

    def settings_changed(self, changes: Sequence[SettingChange]) -> None:
        """See Listener. Nothing is remembered of settings."""

    def refresh_all(self) -> None:
        """See Listener."""
        self._has_begun = True
        self.from_revision = self._feed.catalog.revision


def _read(number: int, row: bytes) -> Event:
    """What is kept under that number. Raises DecodeError, ValueError or InvalidField for what is no event of ours."""
    event = Event.from_proto(pb.Event.FromString(row))
    if event.number != number:
        raise ValueError(f"is number {event.number}")
    return event


def _said(error: Exception) -> str:
    """For the log: what a store says of itself is known by its words, anything else by its kind as well."""
    return str(error) if isinstance(error, StoreError) else f"{type(error).__name__} {error}".strip()
