"""SHELL: writes pages into the log, and reads those of others. One of them keeps the chronicle of one session."""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

from registry_server.stores.backend import Changed, Check, ChecksFailed
from registry_server.stores.base import Refused, StoreAway, StoreError
from registry_server.stores.zookeeper import chronicle as chronicles
from registry_server.stores.zookeeper.archive import Archive
from registry_server.stores.zookeeper.chronicle import Chronicle, Proposal
from registry_server.stores.zookeeper.znodes import Multi, NodeExists, NoSuchNode, Znodes

# A page takes transactions until it has so many bytes; one alone may be as large as ZooKeeper takes.
PAGE = 1 << 18
LARGEST = 1_000_000
# So many pages are read at a time, at the most.
AT_A_TIME = 32
# So many transactions wait, or changes that nobody has taken, at the most.
MOST = 10_000
# After so many changes that were told, others have a turn.
TURN = 64
# After so many pages it is tried again to keep a checkpoint.
AGAIN = 256

LOST = "the connection to ZooKeeper is lost"

_log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """A transaction that somebody waits for."""

    checks: Sequence[Check]
    writes: chronicles.Transaction
    size: int
    answer: asyncio.Future[int]


class Clerk:
    """Keeps a chronicle up to date and takes transactions for it. What waits together goes into one page."""

    def __init__(self, znodes: Znodes, archive: Archive, chronicle: Chronicle) -> None:
        self.chronicle = chronicle
        self._znodes = znodes
        self._archive = archive
        self._asked: deque[Asked] = deque()
        self._wake = asyncio.Event()
        self._untold: list[Changed] = []
        self._told = asyncio.Event()  # something is to be told
        self._taken = asyncio.Event()  # nothing is
        self._watched = 0  # the page whose coming will be told
        self._is_over = False
        self._tells = True
        self._keeping: asyncio.Task[None] | None = None
        self._keep_at = 0  # no checkpoint before that page
        self._kept_size = 0

    # ---- for those who ask

    async def ask(self, checks: Sequence[Check], writes: chronicles.Transaction) -> int:
        """Its revision. Raises ChecksFailed, Refused or StoreAway."""
        size = chronicles.size_of(writes)
        if size > LARGEST:
            raise Refused(f"{size} bytes in one write, which are more than ZooKeeper takes")
        if self._is_over or len(self._asked) >= MOST:
            raise StoreAway("ZooKeeper cannot be reached" if self._is_over else "too much waits for ZooKeeper")
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._asked.append(Asked(checks, writes, size, answer))
        self._wake.set()
        return await answer

    async def changes(self) -> AsyncGenerator[Changed]:
        """What changes, until `run` is over."""
        while not self._is_over:
            await self._told.wait()
            self._told.clear()
            changes, self._untold = self._untold, []
            self._taken.set()
            for number, change in enumerate(changes, 1):
                yield change
                if number % TURN == 0:
                    await asyncio.sleep(0)

    # ---- the work

    async def catch_up(self) -> None:
        """Read all pages that there are before `run` begins. What changes until then is told to nobody."""
        self._tells = False
        await self._read_on()
        self._tells = True

    async def run(self) -> None:
        """Read and write until that fails. Raises StoreError."""
        self._znodes.lost.add_done_callback(self._be_awake)
        try:
            while True:
                self._wake.clear()
                if self._znodes.lost.done():
                    raise StoreAway(LOST)
                if self._asked:
                    await self._write()
                elif self._watched != self.chronicle.number + 1:
                    await self._read_on()
                else:
                    await self._wake.wait()
                await self._rest()
        finally:
            self._znodes.lost.remove_done_callback(self._be_awake)
            await self._end()

    async def _end(self) -> None:
        self._is_over = True
        self._told.set()
        self._fail(self._asked, StoreAway(LOST))
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])

    def _be_awake(self, _: object = None) -> None:
        self._wake.set()

    async def _rest(self) -> None:
        """While there is much that nobody has taken, no more is read."""
        while len(self._untold) > MOST:
            self._taken.clear()
            await self._taken.wait()

    def _take(self, data: bytes) -> None:
        changes = self.chronicle.take(data)
        if self._tells:
            self._untold += changes
            self._told.set()

    # ---- what others wrote

    async def _read_on(self) -> None:
        """Read all pages that there are; at the next one, this is awake."""
        at_a_time = 1
        while True:
            begin = self.chronicle.number + 1
            pages = await asyncio.gather(*(self._page(number) for number in range(begin, begin + at_a_time)))
            for page in pages:
                if page is None:
                    if await self._is_last(self.chronicle.number):
                        return
                    break
                self._take(page)
                await asyncio.sleep(0)
            at_a_time = min(2 * at_a_time, AT_A_TIME)
            await self._rest()

    async def _page(self, number: int) -> bytes | None:
        try:
            return (await self._znodes.get(self._archive.page(number))).data
        except NoSuchNode:
            return None

    async def _is_last(self, number: int) -> bool:
        def came() -> None:
            if self._watched == number + 1:
                self._watched = 0
            self._wake.set()

        self._watched = number + 1  # before it is asked: it may come before the answer
        if await self._znodes.exists(self._archive.page(number + 1), came):
            self._watched = 0
            return False
        return True

    # ---- what is written here

    async def _write(self) -> None:
        """Answer some of those who ask, or read on if there are pages that they do not know of."""
        proposal, batch = Proposal(self.chronicle), self._batch()
        outcomes = [proposal.add(asked.checks, asked.writes) for asked in batch]
        try:
            is_done = await (self._is_new() if proposal.is_empty else self._commit(proposal))
        except BaseException as error:
            self._fail(batch, StoreAway(str(error) or LOST))
            raise
        if not is_done:
            self._asked.extendleft(reversed(batch))
            await self._read_on()
            return
        for asked, outcome in zip(batch, outcomes, strict=True):
            if asked.answer.done():  # nobody waits for it any more
                continue
            if isinstance(outcome, int):
                asked.answer.set_result(outcome)
            else:
                asked.answer.set_exception(ChecksFailed(tuple(outcome), self.chronicle.revision))
        self._keep()

    def _batch(self) -> list[Asked]:
        """Those whose turn it is, without those who have gone."""
        batch: list[Asked] = []
        size = 0
        while self._asked and (not batch or size + self._asked[0].size <= PAGE):
            asked = self._asked.popleft()
            if not asked.answer.done():
                batch.append(asked)
                size += asked.size
        return batch

    async def _commit(self, proposal: Proposal) -> bool:
        """Write the page, unless there is another one of that number."""
        number, data = self.chronicle.number, proposal.page(secrets.randbits(64)).pack()

        def append(request: Multi) -> None:
            request.check(self._archive.page(number), -1)  # or else the log was emptied, or goes on far ahead
            request.create(self._archive.page(number + 1), data)

        try:
            await self._znodes.commit(append)
        except NodeExists:
            return False
        except NoSuchNode:
            raise StoreAway("the log in ZooKeeper does not go on from what is known of it") from None
        self._take(data)
        return True

    async def _is_new(self) -> bool:
        """Whether the chronicle is as new as what was answered before, by whichever server."""
        await self._znodes.sync(self._archive.home)
        return await self._page(self.chronicle.number + 1) is None

    def _fail(self, waiting: "deque[Asked] | list[Asked]", error: StoreError) -> None:
        for asked in waiting:
            if not asked.answer.done():
                asked.answer.set_exception(error)

    # ---- checkpoints

    def _keep(self) -> None:
        if self._keeping is not None and not self._keeping.done():
            return
        if self.chronicle.number >= self._keep_at and self.chronicle.is_long(self._kept_size):
            self._keep_at = self.chronicle.number + AGAIN
            self._keeping = asyncio.create_task(self._kept())

    async def _kept(self) -> None:
        try:
            self._kept_size = await self._archive.keep(self.chronicle)
        except StoreError as error:
            _log.debug("no checkpoint was kept: %s", error)
