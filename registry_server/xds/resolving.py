"""SHELL: looks up the hosts that are names, each in a thread that nobody waits for: an executor's would hold up the end
of the loop for as long as a name server does not answer."""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Collection

from registry_server.xds.hosts import PATIENCE_S, HostBook
from registry_server.xds.names import ServiceKey

log = logging.getLogger(__name__)

# Lookups that are under way at a time.
MAX_LOOKUPS = 32

Find = Callable[[str], Collection[str]]
"""The IP addresses of a name. Raises OSError where there is none. May take its time."""


class Resolving:
    """Keeps the names of a book looked up. `moved` is told of services whose endpoints are elsewhere then."""

    def __init__(
        self, book: HostBook, moved: Callable[[ServiceKey], None], clock: Callable[[], float], find: Find | None = None
    ) -> None:
        self._book = book
        self._moved = moved
        self._clock = clock
        self._find = find or addresses
        self._under_way = 0
        self._look = asyncio.Event()
        book.on_due = self._look.set

    async def run(self) -> None:
        """Look up what is due, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._look.clear()
            for name in self._book.due(self._clock(), MAX_LOOKUPS - self._under_way):
                self._begin(loop, name)
            for service in self._book.take_awaited():
                loop.call_later(PATIENCE_S, self._give_up, service)
            due = self._book.next_due()
            is_full = self._under_way >= MAX_LOOKUPS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None or is_full else max(0.0, due - self._clock())):
                    await self._look.wait()

    def _begin(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._under_way += 1

        def ask() -> None:
            found: Collection[str] = ()
            try:
                found = self._find(name)
            except (OSError, ValueError):  # of a name that is none
                pass
            except Exception:  # what nobody expected of one name takes nothing from the others
                log.exception("%r is not looked up", name)
            with contextlib.suppress(RuntimeError):  # the loop is gone
                loop.call_soon_threadsafe(self._told, name, found)

        try:
            threading.Thread(target=ask, name="xds-dns", daemon=True).start()
        except RuntimeError:  # the system gives no more threads now
            loop.call_soon(self._told, name, ())

    def _give_up(self, service: ServiceKey) -> None:
        if self._book.give_up(service):
            self._moved(service)

    def _told(self, name: str, found: Collection[str]) -> None:
        self._under_way -= 1
        services, is_lost = self._book.found(name, found, self._clock())
        if is_lost:
            log.warning("%s: no such host; xDS clients are told of no instance there that they were not told of", name)
        for service in services:
            self._moved(service)
        self._look.set()


def addresses(name: str) -> Collection[str]:
    """See Find."""
    return {str(it[4][0]) for it in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
