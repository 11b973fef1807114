"""SHELL: those who write the same thing take turns, in the order in which they came.

Two writers of one record cannot both have their way in the same moment, and who loses plans anew. Among many that is
work for nothing, and somebody loses every time. So within one server they queue; writers on different servers still
meet in the store, but only one from each.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Iterable
from contextlib import suppress

from registry_server.errors import Contended

# How many may wait for one thing, and for how long: who waits longer has a client that has given up.
MAX_WAITING = 1_000
MAX_WAIT_S = 10.0

Name = tuple[str, ...]
"""What a turn is for."""


class Turns:
    """Who has a turn, and who waits for it. A name that nobody writes to costs nothing."""

    def __init__(self) -> None:
        self._waiting: dict[Name, deque[asyncio.Future[None]] | None] = {}

    def __len__(self) -> int:
        """How many names have a turn under way."""
        return len(self._waiting)

    def of(self, names: Iterable[Name]) -> "Turn":
        """The turns of all these names, while the block lasts. Raises Contended when too many wait, or for too long."""
        return Turn(self, dict.fromkeys(names))

    def take_free(self, names: Collection[Name]) -> bool:
        """Take the turns of all these names if nobody has any of them."""
        waiting = self._waiting
        for name in names:
            if name in waiting:
                return False
        for name in names:
            waiting[name] = None
        return True

    async def wait_for(self, name: Name) -> None:
        """Have the turn of a name that somebody else has. Raises Contended."""
        waiting = self._waiting[name]
        if waiting is None:
            waiting = self._waiting[name] = deque()
        if len(waiting) >= MAX_WAITING:
            raise Contended("/".join(name))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await turn
        except BaseException as reason:
            if turn.done() and not turn.cancelled():
                self.pass_on(name)  # it came in the same moment
            else:
                with suppress(ValueError):  # who went in the same moment has passed it over
                    waiting.remove(turn)
            if isinstance(reason, TimeoutError):
                raise Contended("/".join(name)) from None
            raise

    def pass_on(self, name: Name) -> None:
        """The turn of a name is over."""
        waiting = self._waiting[name]
        while waiting:  # is None as long as nobody has waited
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[name]


class Turn:
    """Turns that are waited for and had, by `async with`. (That of contextlib costs a write three times as much.)"""

    __slots__ = ("_had", "_names", "_turns")

    def __init__(self, turns: Turns, names: Collection[Name]) -> None:
        self._turns = turns
        self._names = names
        self._had: Collection[Name] = ()

    async def __aenter__(self) -> None:
        if self._turns.take_free(self._names):
            self._had = self._names
        else:
            await self._wait()

    async def __aexit__(self, *_: object) -> None:
        for name in self._had:
            self._turns.pass_on(name)

    async def _wait(self) -> None:
        """Everybody takes them in the same order, so nobody waits for somebody who waits for him."""
        had: list[Name] = []
        try:
            for name in sorted(self._names):
                if not self._turns.take_free((name,)):
                    await self._turns.wait_for(name)
                had.append(name)
        except BaseException:
            for name in had:
                self._turns.pass_on(name)
            raise
        self._had = had
