"""SHELL: from the store's events to all who are told: guard, catalog, listeners, in one synchronous step.

What is large takes several, so that others have their turn: renewals, say. Until the last of them the view is neither
what it was nor what it will be, so no round begins meanwhile, and who asks for instances waits.
"""

import asyncio
import contextlib
import logging
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from registry_server.catalog import Catalog, Flaw
from registry_server.changes import Change
from registry_server.guard import RemovalGuard
from registry_server.illness import Pulse
from registry_server.intake import AT_ONCE, SLICE, Intake
from registry_server.listeners import Listener
from registry_server.mending import Mending
from registry_server.observe.outages import OutageLog
from registry_server.records import (
    UNSAID,
    Author,
    Away,
    Back,
    Cause,
    Commit,
    Delta,
    Ill,
    Key,
    Progress,
    Snapshot,
    StoreEvent,
    size,
)
from registry_server.stores.base import Conflict, NoSuchLease, Refused, Store, StoreError

log = logging.getLogger(__name__)

# How many records that are no instances are named in one line of the log.
MAX_NAMED = 3
# How often the feed notes that it runs. When it did not, this process was stopped or starved, and passed on no renewal.
BEAT_S = 0.1
# A standstill puts the view in doubt when the store has not confirmed it for so long by the end of it.
DOUBT_S = 3.0
# How often the view is vouched for.
VOUCH_S = 2.0
# So many events may wait for one that is large. If there are more, all of them are taken in at once.
MOST_WAITING = 10_000
# The pause after a question or a mending write that the store could not take.
RETRY_S = 1.0


class Feed:
    """The one place where the catalog changes. Everything here runs in the event loop that `run` runs in.

    `listeners` are told what changed, in their order, and once the catalog shows it. `pulse_clock`: by which a
    standstill of this process is found out, where `clock` may be moved on by hand. `touched`: how many calls of the
    store failed up to now because it was away. `hold` is told when rounds must not go on, and when they may again.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        listeners: Sequence[Listener],
        clock: Callable[[], float],
        pulse_clock: Callable[[], float] | None = None,
        touched: Callable[[], int] = lambda: 0,
        hold: Callable[[bool], None] = lambda is_held: None,
    ) -> None:
        self.catalog = catalog
        self.guard = RemovalGuard(catalog.get)
        self.loaded = asyncio.Event()
        self._loaded_at = math.inf
        self._store = store
        self._listeners: tuple[Listener, ...] = tuple(listeners)
        self._clock = clock
        self._hold = hold
        # What is not taken in at once; there are turns for that while this runs.
        self._intake = Intake(self._taking_in)
        self._has_more = asyncio.Event()
        self._has_turns = False
        self._is_whole = asyncio.Event()
        self._is_whole.set()
        self._is_away = False
        self._outages = OutageLog(log.warning)
        self._touched = touched
        self._touched_before = 0
        self._pulse_clock = pulse_clock or clock
        self._pulse = Pulse(self._pulse_clock(), BEAT_S)
        self._is_open = False
        self._waiting: dict[asyncio.Future[bool], int] = {}
        self._mending = Mending(self.guard.excused_until)
        self._may_mend = asyncio.Event()
        self._hold_timer: asyncio.TimerHandle | None = None
        self._hold_until = math.inf
        # The view is in doubt until it has come to a revision that the store had when the doubt arose, or later.
        self._confirmed_at = clock()
        self._proven_from = math.inf
        self._doubts = 0
        self._is_late = False
        self._in_doubt = asyncio.Event()

    def tell_too(self, listener: Listener) -> None:
        """Tell one more, who could not be there before because it writes what it is told of. Before `run`."""
        self._listeners = (*self._listeners, listener)

    # ---- what readers and writers ask

    @property
    def stale_for_s(self) -> float | None:
        """For how long the store has not confirmed the view, in seconds; None while nothing speaks against it."""
        now = self._beat()
        return now - self._confirmed_at if self._is_doubtful else None

    @property
    def tells_late(self) -> bool:
        """Whether what listeners are told just now happened at a time that nobody here knows: while this server was not
        there, or could not reach the store."""
        return self._is_late or self._is_doubtful

    @property
    def is_in_parts(self) -> bool:
        """Whether the view shows something that is large in part."""
        return not self._is_whole.is_set()

    async def whole(self) -> None:
        """Wait while `is_in_parts`."""
        while self.is_in_parts:
            await self._is_whole.wait()

    async def reach(self, revision: int, timeout_s: float) -> bool:
        """Wait until the catalog has all of this revision, and say whether it has."""
        if self.catalog.revision >= revision and not self.is_in_parts:
            return True
        loop = asyncio.get_running_loop()
        reached: asyncio.Future[bool] = loop.create_future()
        self._waiting[reached] = revision
        timer = loop.call_later(timeout_s, _end, reached, False)  # a tenth of an asyncio.timeout: most writes wait here
        try:
            return await reached
        finally:
            timer.cancel()
            del self._waiting[reached]

    def count_of_lease(self, lease_id: str) -> int:
        """How many instances a lease keeps alive; those whose removal waits do not count."""
        return self.catalog.count_of_lease(lease_id) - self.guard.count_of_lease(lease_id)

    def renewal_failed(self) -> None:
        """Note that the store could not renew a lease: what expires now may be its fault."""
        self.guard.store_ill(self._clock())

    def renewal_dropped(self, asked_at: float) -> None:
        """Note that somebody stopped waiting for a renewal: for so long the store did not give it."""
        now = self.now()
        self.guard.store_ill(now, now - asked_at)

    def let_go(self, keys: Iterable[Key], cause: Cause, author: Author = UNSAID) -> None:
        """Remove instances whose removal waits: somebody asked for it."""
        self._changed(self.catalog.remove(self.guard.release(keys), cause, author))

    def now(self) -> float:
        """The monotonic time by which the feed goes."""
        return self._clock()

    def open(self) -> None:
        """Somebody is answered from here on, so that a standstill is worth a line: a start may take its time."""
        self._beat()
        self._is_open = True

    # ---- running

    async def run(self) -> None:
        """Follow the store until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take_turns())
            tasks.create_task(self._store.run(self.emit))
            tasks.create_task(self._beats())
            tasks.create_task(self._mend())
            tasks.create_task(self._resolve_doubts())
            tasks.create_task(self._vouch())

    def emit(self, event: StoreEvent) -> None:
        """Take in one event of the store: at once, unless it is large, or comes after one that is."""
        if self._has_turns and (self._intake.events or self._is_large(event)):
            self._put_off(event)
        else:
            self._take_in(event)

    def _put_off(self, event: StoreEvent) -> None:
        self._intake.add(event)
        self._has_more.set()
        if len(self._intake.events) > MOST_WAITING:
            while self._intake.events:
                self._intake.turn()

    def _is_large(self, event: StoreEvent) -> bool:
        if size(event) > AT_ONCE:
            return True
        return isinstance(event, Snapshot) and self.catalog.statistics().instances > AT_ONCE

    async def _take_turns(self) -> None:
        self._has_turns = True
        while True:
            await self._has_more.wait()
            self._has_more.clear()
            while self._intake.events:
                self._intake.turn()
                await asyncio.sleep(0)

    def _taking_in(self, event: StoreEvent) -> Iterator[None]:
        """Take in what was put off: what is large a slice at a time."""
        if not self._is_large(event):
            self._take_in(event)
            return
        now = self._begin(event)
        self._is_whole.clear()
        self._hold(True)
        if isinstance(event, Snapshot):
            yield from self._loading(event, now, SLICE)
        elif isinstance(event, Delta):
            yield from self._applying(event, now)
        self._is_whole.set()
        self._end(now)
        self._hold(False)
        self._may_mend.set()

    def _take_in(self, event: StoreEvent) -> None:
        now = self._begin(event)
        match event:
            case Delta():
                self._apply(event, now)
            case Progress(revision):
                self.catalog.progress(revision)
            case Snapshot():
                for _ in self._loading(event, now):
                    pass
            case Away(reason):
                self._away(reason, now)
            case Back():
                self._back(now)
            case Ill(reason, silence_s):
                self._outages.ill(reason, now)
                self.guard.store_ill(now, silence_s)
        self._end(now)

    def _begin(self, event: StoreEvent) -> float:
        now = self._beat()
        self._is_late = self._is_doubtful or isinstance(event, Snapshot)
        return now

    def _end(self, now: float) -> None:
        if settings := self.catalog.settings.take_changes():
            self._tell(lambda listener: listener.settings_changed(settings))
        if flaws := self.catalog.take_new_flaws():
            self._look_at(flaws, now)
        self._is_late = False
        self._advance(now)

    def _apply(self, delta: Delta, now: float) -> None:
        changes = self.catalog.apply(self.guard.filter_delta(delta, now))
        self._changed(changes, [it.key for it in delta.deletes] if delta.deletes else ())

    def _applying(self, delta: Delta, now: float) -> Iterator[None]:
        deleted = {it.key for it in delta.deletes}
        parts = (self.guard.filter_delta(part, now) for part in delta.parts(SLICE))
        for changes in self.catalog.applying(parts):
            self._changed(changes, deleted)
            yield

    def _loading(self, snapshot: Snapshot, now: float, at_once: int = sys.maxsize) -> Iterator[None]:
        self._back(now)
        is_new_order = not self.catalog.is_continued_by(snapshot)
        kept = set[Key]()
        for keys in self.guard.keeping(snapshot, list(self.catalog.keys()), now, at_once):
            kept.update(keys)
            yield
        for changes in self.catalog.loading(snapshot, kept, at_once):
            self._changed(changes)
            yield
        if is_new_order:
            self._tell(lambda listener: listener.refresh_all())
        # As told, it is as good as an answer; and what was asked of another order of changes means nothing in this one.
        self._loaded_at = self._proven_from = max(snapshot.revision, snapshot.through)
        self._doubts += 1

    def _away(self, reason: str, now: float) -> None:
        if not self._is_away:
            self._is_away = True
            self._touched_before = self._touched()
            self._outages.away(reason, now)
            self.guard.store_away()
            self._doubt()

    def _back(self, now: float) -> None:
        if self._is_away:
            self._is_away = False
            self._outages.back(now - self._confirmed_at, now, self._touched() - self._touched_before)
            self.guard.store_back(now)
            self._arm_hold()
            self._doubt()

    def _changed(self, changes: Sequence[Change], deleted: Collection[Key] = ()) -> None:
        if changes:
            self._tell(lambda listener: listener.changed(changes))
        if len(self.guard):
            # What only waits to be removed is not in the store, so it leaves no ghost there.
            replaced = [change.key for change in changes if change.cause is Cause.REPLACED]
            deleted = {*deleted, *self.guard.release(replaced)}
            self._arm_hold()
        if self._mending.note(changes, deleted, self._clock()):
            self._may_mend.set()

    def _tell(self, what: Callable[[Listener], None]) -> None:
        """What one listener raises takes nothing from the others, nor from the store's next events."""
        for listener in self._listeners:
            try:
                what(listener)
            except Exception:
                log.exception("%s failed at what changed", type(listener).__name__)

    def _look_at(self, flaws: Sequence[Flaw], now: float) -> None:
        log.warning("%s", _told_of(flaws))
        for flaw in flaws:
            if self._mending.note_flaw(flaw, self.catalog.get(flaw.key), now):
                self._may_mend.set()

    def _advance(self, now: float) -> None:
        """Look at what has been waiting for the revision that the view has now."""
        if self.is_in_parts:
            return
        revision = self.catalog.revision
        if not self._is_doubtful:
            self._confirmed_at = now
        if revision >= self._loaded_at:
            self._loaded_at = math.inf
            self.loaded.set()
        for reached, wanted in self._waiting.items():
            if wanted <= revision:
                _end(reached, True)

    # ---- removals that wait

    def _arm_hold(self) -> None:
        due = self.guard.next_due
        if due is None or due >= self._hold_until:
            return
        if self._hold_timer is not None:
            self._hold_timer.cancel()
        self._hold_until = due
        delay = max(0.0, due - self._clock())
        self._hold_timer = asyncio.get_running_loop().call_later(delay, self._end_hold)

    def _end_hold(self) -> None:
        self._hold_until = math.inf
        due = self.guard.due(self._beat())
        if due:
            log.info("%d instances leave, %s the first: nobody renewed them after the outage", len(due), due[0])
        self._changed(self.catalog.remove(due, Cause.EXPIRED))

    # ---- this process may stand still

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            self._outages.look(self._beat())

    def _beat(self) -> float:
        """Note that this process runs, and return the time.

        If it stood still, what expires now may be its own fault. Whoever looks at a clock to end something, or to call
        the view good, beats first: after a standstill timers fire before what waits in the sockets is read.
        """
        now = self._clock()
        stood_still_s = self._pulse.beat(self._pulse_clock())
        if stood_still_s:
            if self._is_open:
                self._outages.stood_still(stood_still_s, now)
            self.guard.store_ill(now, stood_still_s)
            if now - self._confirmed_at > DOUBT_S:
                self._doubt()
        return now

    # ---- whether the view is good

    @property
    def _is_doubtful(self) -> bool:
        return self._is_away or self.catalog.revision < self._proven_from

    def _doubt(self) -> None:
        """The view may be old. What the store tells next may be old as well, so it has to be asked."""
        self._proven_from = math.inf
        self._doubts += 1
        self._in_doubt.set()

    async def _resolve_doubts(self) -> None:
        while True:
            await self._in_doubt.wait()
            self._in_doubt.clear()
            while self._proven_from == math.inf and not self._is_away:
                await self._ask()

    async def _ask(self) -> None:
        """Ask the store for the revision that it has now; once the view has come so far, it is confirmed."""
        doubts = self._doubts
        try:
            revision = await self._store.commit(Commit())
        except StoreError:
            await asyncio.sleep(RETRY_S)
            return
        if doubts == self._doubts:
            self._proven_from = revision
            self._advance(self._clock())

    async def _vouch(self) -> None:
        """Tell the store, and by it every replica, that the view is whole as of what was told, while it is.

        Also when that is old: the store tells of what is written there, and so shows how far it is.
        """
        while True:
            await asyncio.sleep(VOUCH_S)
            if self.loaded.is_set() and not self._is_away and not len(self.guard) and not self._intake.events:
                with contextlib.suppress(StoreError):
                    await self._store.vouch()

    # ---- records that the store should not have, or not so

    async def _mend(self) -> None:
        while True:
            now = self._clock()
            must_wait = self._is_away or self.is_in_parts  # of what is large, the last word may come at the end
            commit = None if must_wait else self._mending.next(now)
            if commit is not None:
                await self._mend_by(commit)
                continue
            pause_s = RETRY_S if must_wait else self._mending.next_due - now
            self._may_mend.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if pause_s == math.inf else pause_s):
                    await self._may_mend.wait()

    async def _mend_by(self, commit: Commit) -> None:
        try:
            await self._store.commit(commit)
        except Conflict as conflict:
            self._mending.failed(commit, conflict.keys, self._clock())
        except (NoSuchLease, Refused):
            self._mending.failed(commit, (), self._clock())
        except StoreError:
            await asyncio.sleep(RETRY_S)
        else:
            # Clients bring ghosts about, and so many as they like; a stray is somebody's hand in the store.
            level = logging.DEBUG if commit.cause is Cause.REPLACED else logging.WARNING
            log.log(level, "mended: %s", commit_text(commit))
            self._mending.done(commit)


def _end(waiting: asyncio.Future[bool], outcome: bool) -> None:
    if not waiting.done():
        waiting.set_result(outcome)


def commit_text(commit: Commit) -> str:
    """What a mending write did, for the log."""
    if commit.puts:
        return f"{commit.puts[0].key} is back under its lease"
    why = "has no lease" if commit.cause is Cause.EXPIRED else "lost its address"
    more = f" and {len(commit.deletes) - 1} more" if len(commit.deletes) > 1 else ""
    return f"{commit.deletes[0].key}{more} is deleted: {why}"


def _told_of(flaws: Sequence[Flaw]) -> str:
    """One line, however many there are, and whatever their keys hold."""
    named = "; ".join(f"{str(flaw.key)[:200]!a}: {flaw.reason}" for flaw in flaws[:MAX_NAMED])
    more = f"; and {len(flaws) - MAX_NAMED} more" if len(flaws) > MAX_NAMED else ""
    return f"the store holds what is no instance, which is skipped: {named}{more}"
