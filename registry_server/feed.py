"""SHELL. From the store's events to everybody who reads: guard, catalog, hub, in one synchronous step."""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Iterable, Sequence

from registry_server.catalog import Catalog, Change, Flaw, ghosts
from registry_server.guard import RemovalGuard
from registry_server.hub import Hub
from registry_server.observe.changes import tell
from registry_server.stores.base import (
    Away,
    Back,
    Cause,
    Commit,
    Delta,
    Ill,
    Key,
    Progress,
    Snapshot,
    Store,
    StoreError,
    StoreEvent,
)

log = logging.getLogger(__name__)

BOOKMARK_TICK_S = 1.0
MAX_GHOSTS = 1000
# How many records that are no instances are named in one line of the log.
MAX_NAMED = 3
# The feed notes so often that it runs.
BEAT_S = 0.25
# When it has not run for so much longer, this process was stopped or starved, and passed on no renewal meanwhile.
STALL_S = 1.0


class Feed:
    """The one place where the catalog changes. Everything here runs in the event loop that `run` runs in."""

    def __init__(self, store: Store, catalog: Catalog, hub: Hub, clock: Callable[[], float]) -> None:
        self.catalog = catalog
        self.guard = RemovalGuard(catalog.get)
        self.loaded = asyncio.Event()
        self._loaded_at = math.inf
        self._store = store
        self._hub = hub
        self._clock = clock
        self._away_since: float | None = None
        self._waiting: dict[asyncio.Future[None], int] = {}
        self._ghosts: asyncio.Queue[Commit] = asyncio.Queue(MAX_GHOSTS)
        self._hold_timer: asyncio.TimerHandle | None = None
        self._hold_until = math.inf
        self._beat_at = clock()

    # ---- what readers and writers ask

    @property
    def stale_for_s(self) -> float | None:
        """For how long the view has not been confirmed, in seconds; None while the store is reached."""
        return None if self._away_since is None else self._clock() - self._away_since

    async def reach(self, revision: int, timeout_s: float) -> bool:
        """Wait until the catalog has this revision, and say whether it has."""
        if self.catalog.revision >= revision:
            return True
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[reached] = revision
        try:
            async with asyncio.timeout(timeout_s):
                await reached
        except TimeoutError:
            return False
        finally:
            del self._waiting[reached]
        return True

    def renewal_failed(self) -> None:
        """Note that the store is reached but could not renew a lease: what expires now may be its fault."""
        self.guard.store_ill(self._clock())

    def let_go(self, keys: Iterable[Key], cause: Cause) -> None:
        """Remove instances whose removal waits: somebody asked for it."""
        self._changed(self.catalog.remove(self.guard.release(keys), cause))

    # ---- running

    async def run(self) -> None:
        """Follow the store until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._store.run(self.emit))
            tasks.create_task(self._bookmarks())
            tasks.create_task(self._beats())
            tasks.create_task(self._lay_ghosts())

    def emit(self, event: StoreEvent) -> None:
        """Take in one event of the store."""
        match event:
            case Delta():
                self._beat()
                deleted = [it.key for it in event.deletes]
                self._changed(self.catalog.apply(self.guard.filter_delta(event, self._clock())), deleted)
            case Progress(revision):
                self.catalog.progress(revision)
            case Snapshot():
                self._load(event)
            case Away(reason):
                self._away(reason)
            case Back():
                self._back()
            case Ill(reason):
                log.warning("the store was ill: %s", reason)
                self.guard.store_ill(self._clock())
        if self.catalog.revision >= self._loaded_at:
            self.loaded.set()
        if flaws := self.catalog.take_new_flaws():
            log.warning("%s", _told_of(flaws))
        if self._waiting:
            self._release_waiting()

    def _load(self, snapshot: Snapshot) -> None:
        self._back()
        is_new_order = not self.catalog.is_continued_by(snapshot)
        kept = self.guard.keep(snapshot, list(self.catalog.keys()), self._clock())
        self._changed(self.catalog.load(snapshot, kept))
        if is_new_order:
            self._hub.reset()
        self._loaded_at = max(snapshot.revision, snapshot.through)

    def _away(self, reason: str) -> None:
        if self._away_since is None:
            log.warning("the store is away: %s", reason)
            self._away_since = self._clock()
            self.guard.store_away()

    def _back(self) -> None:
        if self._away_since is not None:
            log.warning("the store is back after %.1f s", self.stale_for_s or 0.0)
            self.guard.store_back(self._clock())
            self._away_since = None

    def _changed(self, changes: Sequence[Change], deleted: Collection[Key] = ()) -> None:
        self._hub.changed(changes)
        tell(changes)
        if len(self.guard):
            self._arm_hold()
        if len(changes) > 1:
            self._find_ghosts(changes, deleted)

    def _release_waiting(self) -> None:
        for reached, revision in self._waiting.items():
            if revision <= self.catalog.revision and not reached.done():
                reached.set_result(None)

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
        self._changed(self.catalog.remove(self.guard.due(self._clock()), Cause.EXPIRED))

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            self._beat()

    def _beat(self) -> None:
        """Note that this process runs. If it did not for long, what expires now may be its own fault."""
        now = self._clock()
        if now - self._beat_at > BEAT_S + STALL_S:
            self.guard.store_ill(now)
        self._beat_at = now

    # ---- records that lost their address on another replica

    def _find_ghosts(self, changes: Sequence[Change], deleted: Collection[Key]) -> None:
        deletes = ghosts(changes, deleted)
        if deletes and not self._ghosts.full():
            self._ghosts.put_nowait(Commit(deletes=deletes, cause=Cause.REPLACED))

    async def _lay_ghosts(self) -> None:
        """Delete them from the store. Every replica tries; the first does it, and the others find it done."""
        while True:
            commit = await self._ghosts.get()
            try:
                await self._store.commit(commit)
            except StoreError:
                log.debug("not deleted, or deleted already: %s", commit.deletes)

    async def _bookmarks(self) -> None:
        while True:
            await asyncio.sleep(BOOKMARK_TICK_S)
            self._hub.bookmark()


def _told_of(flaws: Sequence[Flaw]) -> str:
    """One line, however many there are, and whatever their keys hold."""
    named = "; ".join(f"{str(flaw.key)[:200]!a}: {flaw.reason}" for flaw in flaws[:MAX_NAMED])
    more = f"; and {len(flaws) - MAX_NAMED} more" if len(flaws) > MAX_NAMED else ""
    return f"the store holds what is no instance, which is skipped: {named}{more}"
