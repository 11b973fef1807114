"""SHELL: one backend of a mirror: reached again and again, read, and written in turn."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping

from registry_server.stores.backend import Backend, Changed, Check, ChecksFailed, Everything
from registry_server.stores.base import StoreAway, StoreError
from registry_server.stores.mirror.state import MIRROR, NOBODY, Contents, Held, Stand, held_of, take
from registry_server.stores.together import together

LOAD_S = 30.0
# A write that takes longer counts as lost. It is less than those who write to the mirror have patience.
ANSWER_S = 1.0
# So many writes may wait for a backend that is slower than others; then it is brought up to date anew.
MAX_BEHIND = 64
BACKOFF_S, BACKOFF_MAX_S = 0.1, 1.0

_log = logging.getLogger(__name__)


class Deposed(StoreAway):
    """Another server writes to the mirror."""


class Member:
    """What is known of one backend, and the way there. `on_news` is called when that changes.

    It *has arrived* when it has been read, and is *joined* when it has what the state of the mirror has; from there on
    it is told every write.
    """

    def __init__(self, name: str, backend: Backend, on_news: Callable[[], None], rng: random.Random) -> None:
        self.name = name
        self.most = backend.most
        self.stand = Stand()
        self.held: Held | None = None
        self.is_joined = False
        self.reason = "it has not answered yet"
        # When somebody else was last seen to write, on the clock of the loop.
        self.heard_at = float("-inf")
        self.ballot = NOBODY  # of the writer, once it has one
        self._backend = backend
        self._on_news = on_news
        self._rng = rng
        self._at = 0
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._lost: asyncio.Future[None] | None = None

    @property
    def has_arrived(self) -> bool:
        """Whether it is reached, and what it has is known."""
        return self._lost is not None and not self._lost.done()

    @property
    def state(self) -> Contents:
        """What it has."""
        return Contents(
            self.stand.version, {name: item for name, item in (self.held or {}).items() if item is not None}
        )

    async def run(self) -> None:
        """Reach it, and again whenever it is lost. Raises Deposed when it follows another server."""
        failures = 0
        while True:
            try:
                await self._serve()
            except Deposed:
                raise
            except (StoreError, OSError) as lost:
                self._leave(str(lost) or repr(lost))
            except Exception as unexpected:
                if repr(unexpected) != self.reason:
                    _log.exception("%s said what could not be taken in", self.name)
                self._leave(repr(unexpected))
            failures = failures + 1 if self.ballot == NOBODY else 0
            await asyncio.sleep(self._rng.uniform(0.5, 1) * min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(failures, 10)))

    async def _serve(self) -> None:
        async with contextlib.aclosing(self._backend.watch()) as changes:
            async with asyncio.timeout(LOAD_S):
                first = await anext(changes, None)
            if not isinstance(first, Everything):
                raise StoreAway("it told no full set")
            self._arrive(first)
            await together(self._follow(changes), self._until_lost(), least=StoreAway)

    def _arrive(self, everything: Everything) -> None:
        self.held, self.stand, self._at = held_of(everything.items)
        self._refuse_others()
        if self.stand.is_held:
            self.heard_at = asyncio.get_running_loop().time()
        self._lost = asyncio.get_running_loop().create_future()
        self.reason = ""
        self._on_news()

    def _refuse_others(self) -> None:
        if self.ballot != NOBODY and self.stand.promise > self.ballot:
            raise Deposed(f"another server writes to {self.name}")

    def _leave(self, reason: str) -> None:
        if self.is_joined or reason != self.reason:
            _log.warning("%s is away from the mirror: %s", self.name, reason)
        self.is_joined, self.held, self.reason = False, None, reason
        self.lose(reason)
        self._on_news()

    # ---- what it tells

    async def _follow(self, changes: AsyncGenerator[Everything | Changed]) -> None:
        async for change in changes:
            if not isinstance(change, Changed):
                raise StoreAway("it told a full set in between")
            self._heed(change)
        raise StoreAway("it ended the telling")

    def _heed(self, change: Changed) -> None:
        """What this server wrote is told, too; what anybody else writes is not the mirror's."""
        written = next((item for item in change.puts if item.name == MIRROR), None)
        if written is None:
            if change.puts or change.deletes:
                raise StoreAway("somebody writes there who is no server of this mirror")
            return
        stand = Stand.read(written.value)
        if self.ballot != NOBODY and stand.promise == self.ballot:
            return
        self.stand = stand
        self._refuse_others()
        if self.is_joined:
            raise StoreAway("somebody writes there who has no right to")
        self.heard_at = asyncio.get_running_loop().time()
        self._at = max(self._at, written.revision)
        if self.held is not None:
            take(self.held, {it.name: it.value for it in change.puts if it.name != MIRROR})
            take(self.held, dict.fromkeys(change.deletes))

    async def _until_lost(self) -> None:
        if self._lost is not None:
            await self._lost
        raise StoreAway(self.reason)

    def lose(self, reason: str) -> None:
        """It is of no use as it is: reach it anew."""
        if self._lost is not None and not self._lost.done():
            self.reason = reason
            self._lost.set_result(None)

    # ---- what is written to it

    async def write(self, writes: Mapping[str, bytes | None], stand: Stand) -> None:
        """Write, after all that was to be written before, if nobody else has written since. Raises StoreAway, and then
        it is reached anew."""
        lost = self._lost
        if lost is None or self._waiting > MAX_BEHIND:
            self.lose("it is slower than the others")
            raise StoreAway(self.reason)
        self._waiting += 1
        try:
            async with self._turn:
                if lost.done():
                    raise StoreAway(self.reason)
                await self._write(writes, stand)
        finally:
            self._waiting -= 1

    async def _write(self, writes: Mapping[str, bytes | None], stand: Stand) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                check = Check(MIRROR, self._at)
                self._at = await self._backend.transact([check], {**writes, MIRROR: stand.value})
        except ChecksFailed:
            self.lose("somebody else has written there")
        except (StoreError, OSError) as error:
            self.lose(str(error) or "no answer in time")
        except BaseException:
            self.lose("a write was given up")
            raise
        else:
            self.stand = stand
            if self.held is not None:
                take(self.held, writes)
            return
        raise StoreAway(self.reason)

    async def aclose(self) -> None:
        """Let go of it."""
        await self._backend.aclose()
