"""SHELL: the backend on a file of SQLite's. What waits goes to the disk together, by a thread of its own."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from registry_server.stores.backend import Changed, Check, ChecksFailed, Everything
from registry_server.stores.base import StoreAway, StoreError
from registry_server.stores.sqlite.database import BadShelf, Database, DiskFull
from registry_server.stores.sqlite.hand import Hand
from registry_server.stores.sqlite.ledger import EMPTY, Flush, Ledger

# So many transactions may wait, and so many go to the disk together, with about so many values.
MAX_WAITING = 10_000
TOGETHER = 500
VALUES_TOGETHER = 2_000
# So many things beside these may wait.
MAX_ERRANDS = 2

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Waiting:
    checks: Sequence[Check]
    writes: Mapping[str, bytes | None]
    outcome: asyncio.Future[int]

    def fails(self, error: StoreError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)


@dataclass(slots=True)
class _Errand:
    """What is to be done beside the transactions, when their turn is over."""

    work: Callable[[Database], object]
    outcome: "asyncio.Future[object]"


class SqliteShelf:
    """What happened, in a table of its own."""

    def __init__(self, run: "Callable[[Callable[[Database], object]], Awaitable[object]]") -> None:
        self._run = run

    async def read(self) -> Sequence[tuple[int, bytes]]:
        """See Shelf, as for all of these."""
        found = await self._run(Database.events)
        return found if isinstance(found, list) else ()

    async def write(self, puts: Sequence[tuple[int, bytes]], deletes: Sequence[int]) -> None:
        """See Shelf."""
        await self._run(lambda database: database.write_events(puts, deletes))


class SqliteBackend:
    """Values in one file, of which this is the only user.

    What comes while the disk is at work waits, and then goes together: so a write costs a part of a flush of the disk.
    """

    most = 1_000

    def __init__(self, path: Path) -> None:
        self._path = path
        # It outlives the connection: what only moved on is known nowhere else.
        self._ledger: Ledger | None = None
        self._identity: object = None
        self._hand: Hand | None = None  # the last one
        self._waiting: deque[_Waiting] = deque()
        # What needs no flush, such as the grant of a lease: it goes first, and does not wait for others' flush.
        self._light: deque[_Waiting] = deque()
        self._errands: deque[_Errand] = deque()
        self.shelf = SqliteShelf(self._errand)
        self._some = asyncio.Event()
        self._is_open = self._is_full = False

    async def watch(self) -> AsyncGenerator[Everything | Changed]:
        """See Backend. Raises BadFile or StoreAway."""
        if self._hand is not None and self._hand.is_at_work:  # another thread would only stand there, too
            raise StoreAway(f"{self._path}: the disk stands still")
        hand = self._hand = Hand(self._path)
        try:
            ledger = self._ledger = self._known(await hand.opened, await hand.do(Database.begin_at))
            everything = Everything(ledger.revision, ledger.load(await hand.do(Database.rows)))
            told: asyncio.Queue[Changed | StoreError] = asyncio.Queue(TOGETHER)
            carrying = asyncio.create_task(self._carry(ledger, hand, told))
            try:
                self._is_open = True
                yield everything
                while isinstance(change := await told.get(), Changed):
                    yield change
                raise change
            finally:
                self._is_open = False
                carrying.cancel()
                await asyncio.wait([carrying])
                for queue in (self._light, self._waiting):
                    self._fail(queue, f"{self._path} was closed")
                    queue.clear()
                for errand in self._errands:
                    _end(errand, StoreAway(f"{self._path} was closed"))
                self._errands.clear()
        finally:
            remains = self._ledger.remains if self._ledger else EMPTY
            await hand.leave(partial(_write, remains) if remains != EMPTY else None)

    def _known(self, identity: object, ceiling: int) -> Ledger:
        """What is known of a file that has just been opened. Raises StoreAway when it is not the one of before."""
        former = self._ledger
        if former is None:
            self._identity = identity
            return Ledger(ceiling)
        if identity != self._identity or ceiling < former.ceiling:
            raise StoreAway(f"{self._path}: was replaced while it was in use; start the server anew")
        former.raise_to(ceiling)
        return former

    async def transact(self, checks: Sequence[Check], writes: Mapping[str, bytes | None]) -> int:
        """See Backend. Raises StoreAway while the file is not open; a writer who goes takes his transaction with him,
        if it is not on its way."""
        if not self._is_open:
            raise StoreAway(f"{self._path} is not open")
        if len(self._waiting) + len(self._light) >= MAX_WAITING:
            raise StoreAway("too many writes wait for the disk")
        waiting = _Waiting(checks, writes, asyncio.get_running_loop().create_future())
        is_light = all(value is not None and not value for value in writes.values())
        (self._light if is_light else self._waiting).append(waiting)
        self._some.set()
        return await waiting.outcome

    async def aclose(self) -> None:
        """See Backend. What is open belongs to `watch`, which closes it."""

    # ---- what waits

    async def _carry(self, ledger: Ledger, hand: Hand, told: "asyncio.Queue[Changed | StoreError]") -> None:
        try:
            while True:
                await self._some.wait()
                if not self._light and not self._waiting and not self._errands:
                    self._some.clear()
                    continue
                if lot := self._take():
                    for change in await self._carry_out(lot, ledger, hand):
                        await told.put(change)
                if self._errands:
                    await self._do(self._errands.popleft(), hand)
                await asyncio.sleep(0)  # who was answered may have more that goes with the next flush
        except StoreError as lost:
            await told.put(lost)

    async def _errand(self, work: Callable[[Database], object]) -> object:
        """Do it in between. Raises StoreError; there is no room for many."""
        if not self._is_open:
            raise StoreAway(f"{self._path} is not open")
        if len(self._errands) >= MAX_ERRANDS:
            raise StoreAway("too much waits for the disk")
        errand = _Errand(work, asyncio.get_running_loop().create_future())
        self._errands.append(errand)
        self._some.set()
        return await errand.outcome

    async def _do(self, errand: _Errand, hand: Hand) -> None:
        """Raises StoreError when the file has to be opened anew."""
        try:
            result = await hand.do(errand.work)
        except (DiskFull, BadShelf) as error:
            _end(errand, error)
        except BaseException as error:
            _end(errand, error if isinstance(error, StoreError) else StoreAway(f"{self._path} was closed"))
            raise
        else:
            if not errand.outcome.done():
                errand.outcome.set_result(result)

    def _take(self) -> list[_Waiting]:
        lot: list[_Waiting] = []
        queue, values = self._light or self._waiting, 0
        while queue and len(lot) < TOGETHER and values < VALUES_TOGETHER:
            waiting = queue.popleft()
            if not waiting.outcome.done():  # its writer is still there
                lot.append(waiting)
                values += len(waiting.writes)
        return lot

    async def _carry_out(self, lot: Sequence[_Waiting], ledger: Ledger, hand: Hand) -> list[Changed]:
        """What all of it changes. Raises StoreError when the file has to be opened anew."""
        outcomes = [_outcome(ledger, waiting) for waiting in lot]
        try:
            if (flush := ledger.flush) != EMPTY:
                await hand.do(partial(_write, flush))
        except BaseException as error:
            ledger.undo()
            self._fail(lot, str(error) if isinstance(error, StoreError) else f"{self._path} was closed")
            if isinstance(error, DiskFull):
                self._say(str(error))
                return []
            raise
        ledger.keep(flush)
        if flush != EMPTY:
            self._say("")
        for waiting, outcome in zip(lot, outcomes, strict=True):
            if isinstance(outcome, ChecksFailed):
                waiting.fails(outcome)
            elif not waiting.outcome.done():
                waiting.outcome.set_result(outcome.revision)
        return [outcome for outcome in outcomes if isinstance(outcome, Changed)]

    def _say(self, trouble: str) -> None:
        """Once that there is no room, and once that there is again."""
        if trouble and not self._is_full:
            _log.warning("writes are refused: %s", trouble)
        elif self._is_full and not trouble:
            _log.warning("%s: there is room again", self._path)
        self._is_full = bool(trouble)

    def _fail(self, lot: Iterable[_Waiting], reason: str) -> None:
        for waiting in lot:
            waiting.fails(StoreAway(reason))


def _end(errand: _Errand, error: StoreError) -> None:
    if not errand.outcome.done():
        errand.outcome.set_exception(error)


def _write(flush: Flush, database: Database) -> None:
    database.write(flush)


def _outcome(ledger: Ledger, waiting: _Waiting) -> Changed | ChecksFailed:
    try:
        return ledger.transact(waiting.checks, waiting.writes)
    except ChecksFailed as failed:
        return failed
