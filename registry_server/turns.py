"""SHELL: those who write the same thing take turns, in the order in which they came.

Two writers of one record cannot both have their way in the same moment, and who loses plans anew. Among many that is
work for nothing, and somebody loses every time. So within one server they queue; writers on different servers still
meet in the store, but only one from each.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from registry_server.errors import Contended

# How many may wait for one thing, and for how long: who waits longer has a client that has given up.
MAX_WAITING = 1_000
MAX_WAIT_S = 10.0

Name = tuple[str, ...]
"""What a turn is for."""


class Turns:
    """Who has a turn, and who waits for it. A name that nobody writes to costs nothing."""

    def __init__(self) -> None:
        self._waiting: dict[Name, deque[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        """How many names have a turn under way."""
        return len(self._waiting)

    @asynccontextmanager
    async def of(self, names: Iterable[Name]) -> AsyncIterator[None]:
        """Have the turns of all these names. Raises Contended when too many wait, or for too long.

        Everybody takes them in the same order, so nobody waits for somebody who waits for him.
        """
        had: list[Name] = []
        try:
            for name in sorted(set(names)):
                await self._take(name)
                had.append(name)
            yield
        finally:
            for name in had:
                self._pass_on(name)

    async def _take(self, name: Name) -> None:
        waiting = self._waiting.get(name)
        if waiting is None:
            self._waiting[name] = deque()
            return
        if len(waiting) >= MAX_WAITING:
            raise Contended("/".join(name))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await turn
        except BaseException as reason:
            if turn.done() and not turn.cancelled():
                self._pass_on(name)  # it came in the same moment
            else:
                waiting.remove(turn)
            if isinstance(reason, TimeoutError):
                raise Contended("/".join(name)) from None
            raise

    def _pass_on(self, name: Name) -> None:
        waiting = self._waiting[name]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[name]
