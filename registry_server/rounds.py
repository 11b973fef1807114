"""SHELL: runs the hub in the event loop: at the times it asks for, and when it is time to look for bookmarks."""

import asyncio
from collections.abc import Callable

from registry_server.hub import BOOKMARK_TICK_S, Hub


class Rounds:
    """A hub and the loop that it runs in, which is the one that this is made in. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.hub = Hub(clock, self._set)
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._alarm: asyncio.Handle | None = None

    async def run(self) -> None:
        """Look for bookmarks that are due, until cancelled."""
        while True:
            await asyncio.sleep(BOOKMARK_TICK_S)
            self.hub.bookmark()

    def _set(self, at: float) -> None:
        """The hub is to run at that time, and at no other that was set before."""
        if self._alarm is not None:
            self._alarm.cancel()
        delay, run = at - self._clock(), self.hub.run
        self._alarm = self._loop.call_later(delay, run) if delay > 0 else self._loop.call_soon(run)
