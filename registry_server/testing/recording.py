"""A store that runs, and a recorder that folds what it tells and checks the order of it."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from registry_server.records import (
    Away,
    Back,
    Commit,
    Delete,
    Deleted,
    Delta,
    Ill,
    Key,
    Kind,
    Progress,
    Put,
    Record,
    Snapshot,
    StoreEvent,
)
from registry_server.stores.base import Store

E = TypeVar("E", bound=StoreEvent)

WAIT_S = 20.0


class Recorder:
    """Takes the events of one `run`, folds them into a view, and notes whatever the contract does not allow."""

    def __init__(self) -> None:
        self.events: list[StoreEvent] = []
        self.times: list[float] = []
        self.view: dict[Key, Record] = {}
        self.revision = 0
        self.epoch = ""
        self.is_away = False
        self.mistakes: list[str] = []
        self._waiters: list[asyncio.Future[None]] = []

    def __call__(self, event: StoreEvent) -> None:
        """Is the `emit` of a store."""
        if not self.events:
            self._expect(isinstance(event, Snapshot), f"first of all came {event}")
        self.events.append(event)
        self.times.append(time.monotonic())
        self._fold(event)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def at(self, revision: int) -> Delta:
        """The one Delta of a revision."""
        (delta,) = [delta for delta in self.of(Delta) if delta.revision == revision]
        return delta

    def time_of(self, event: StoreEvent) -> float:
        """When it came, on the monotonic clock."""
        return self.times[next(index for index, seen in enumerate(self.events) if seen is event)]

    async def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait until events make the condition true. Raises AssertionError with the last events."""
        if not await self._comes_true(condition, timeout_s):
            raise AssertionError(f"not within {timeout_s:g} s: {what}; last events: {self.events[-5:]}")

    async def stays(self, condition: Callable[[], bool], for_s: float) -> None:
        """The condition holds now and for so long. Raises AssertionError with the last events."""
        if await self._comes_true(lambda: not condition(), for_s):
            raise AssertionError(f"did not stay so for {for_s:g} s; last events: {self.events[-5:]}")

    async def _comes_true(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.append(waiter)
                    await waiter
        except TimeoutError:
            return False
        return True

    async def wait_revision(self, revision: int) -> None:
        """Wait until everything up to a revision was told."""
        await self.wait(lambda: self.revision >= revision, f"told up to revision {revision}")

    async def wait_next(self, kind: type[E], after: int, timeout_s: float = WAIT_S) -> E:
        """The first event of a kind that is not among the first `after` events."""
        found: list[E] = []

        def look() -> bool:
            found[:] = [event for event in self.events[after:] if isinstance(event, kind)]
            return bool(found)

        await self.wait(look, f"{kind.__name__} after event {after}", timeout_s)
        return found[0]

    def check(self) -> None:
        """Raises AssertionError when something came that must not."""
        assert not self.mistakes, self.mistakes

    def _expect(self, holds: bool, mistake: str) -> None:
        if not holds:
            self.mistakes.append(mistake)

    def _fold(self, event: StoreEvent) -> None:
        match event:
            case Snapshot(epoch, revision, records):
                self._expect(event.fence > 0, "a snapshot without a fence")
                self._expect(len({record.key for record in records}) == len(records), "a snapshot names a key twice")
                self._expect(epoch != self.epoch or revision >= self.revision, f"went back to revision {revision}")
                self.epoch, self.revision, self.is_away = epoch, revision, False
                self.view = {record.key: record for record in records}
            case Delta():
                self._fold_delta(event)
            case Progress(revision):
                self._expect(not self.is_away, "progress while away")
                self._expect(revision >= self.revision, f"progress went back to {revision} from {self.revision}")
                self.revision = revision
            case Away(reason):
                self._expect(not self.is_away, "away twice")
                self._expect(bool(reason), "away for no reason")
                self.is_away = True
            case Back():
                self._expect(self.is_away, "back, but it was not away")
                self.is_away = False
            case Ill(reason, silence_s):
                self._expect(not self.is_away, "ill while away")
                self._expect(bool(reason) and silence_s > 0, "ill for no reason")

    def _fold_delta(self, delta: Delta) -> None:
        self._expect(not self.is_away, f"a delta while away: {delta}")
        self._expect(delta.revision > self.revision, f"revision {delta.revision} came after {self.revision}")
        self._expect(bool(delta.puts or delta.deletes), f"an empty delta: {delta}")
        self.revision = delta.revision
        for gone in delta.deletes:
            self._expect(self.view.pop(gone.key, None) is not None, f"{gone.key} was not there to be deleted")
        for record in delta.puts:
            before = self.view.get(record.key)
            created = before.create_revision if before else delta.revision
            self._expect(record.revision == delta.revision, f"{record} came at revision {delta.revision}")
            self._expect(record.create_revision == created, f"{record} was created at {created}")
            self.view[record.key] = record


# ---- a store that runs


@dataclass
class Running:
    """A store whose `run` is under way, and what it told."""

    store: Store
    seen: Recorder = field(init=False)
    task: "asyncio.Task[None]" = field(init=False)
    keys: "itertools.count[int]" = field(default_factory=itertools.count)

    def key(self, name: str = "") -> Key:
        """A key that nothing has used yet."""
        return Key("default", "player", name or f"instance-{next(self.keys)}")

    def setting(self, name: str = "", service: str = "player") -> Key:
        """The same of a setting."""
        return Key("default", service, name or f"setting-{next(self.keys)}", Kind.POLICY)

    async def put(self, key: Key, lease_id: str, value: bytes = b"value", expect: int | None = None) -> int:
        """Commit one record, by default over what the view has. Returns once it was told."""
        if expect is None:
            expect = self.seen.view[key].revision if key in self.seen.view else 0
        return await self.commit(Commit(puts=(Put(key, value, lease_id, expect),)))

    async def delete(self, *keys: Key) -> int:
        """Delete what the view has."""
        return await self.commit(Commit(deletes=tuple(Delete(key, self.seen.view[key].revision) for key in keys)))

    @property
    def deleted(self) -> list[Deleted]:
        """Everything that left so far, in order."""
        return [left for delta in self.seen.of(Delta) for left in delta.deletes]

    async def stop(self) -> None:
        """Cancel `run`, and check what it told."""
        assert not self.task.done(), f"run ended: {self.task}"
        await self.cancel()
        self.seen.check()

    async def cancel(self) -> None:
        """Cancel `run`, whatever it did."""
        self.task.cancel()
        await asyncio.wait([self.task])

    async def start(self, first_s: float = WAIT_S) -> None:
        """Run anew, up to the first Snapshot, with a new recorder. Raises what `run` raises."""
        self.seen = Recorder()
        self.task = asyncio.create_task(self.store.run(self.seen))
        waiting = asyncio.create_task(self.seen.wait(lambda: bool(self.seen.events), "a first event", first_s))
        await asyncio.wait([self.task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait([waiting])
        await (self.task if self.task.done() else waiting)

    async def commit(self, commit: Commit) -> int:
        """Commit, and wait until it was told."""
        revision = await self.store.commit(commit)
        await self.seen.wait_revision(revision)
        return revision


@contextlib.asynccontextmanager
async def running(store: Store, *, first_s: float = WAIT_S) -> AsyncIterator[Running]:
    """Runs a store until the block ends; the block starts with the first Snapshot."""
    run = Running(store)
    try:
        await run.start(first_s)
        yield run
        await run.stop()
    finally:
        await run.cancel()
        await store.aclose()
