"""SHELL: hangs up on who asks by HTTP and does not read what is answered, or all of those together hold too much."""

import asyncio
from collections.abc import Callable, Iterable

from aiohttp import web

# An answer has so long to be taken, whole.
TAKE_S = 60.0
LOOK_S = 1.0
MAX_UNREAD_BYTES = 64 * 1024 * 1024


class Lookout:
    """`there` gives the connections that there are."""

    def __init__(self, there: Callable[[], Iterable[web.RequestHandler]]) -> None:
        self._there = there
        self._since: dict[web.RequestHandler, float] = {}

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look(asyncio.get_running_loop().time())

    def look(self, now: float) -> None:
        """Hang up on whom that has to be done. `now` is in seconds."""
        unread = {it: size for it in self._there() if (size := _unread(it))}
        self._since = {it: self._since.get(it, now) for it in unread}
        held = sum(unread.values())
        for it in sorted(unread, key=lambda it: unread[it], reverse=True):
            if now - self._since[it] >= TAKE_S or held > MAX_UNREAD_BYTES:
                held -= unread[it]
                _hang_up(it)


def _unread(handler: web.RequestHandler) -> int:
    return handler.transport.get_write_buffer_size() if handler.transport is not None else 0


def _hang_up(handler: web.RequestHandler) -> None:
    """At once: to close would wait until all is read."""
    if isinstance(handler.transport, asyncio.WriteTransport):
        handler.transport.abort()
