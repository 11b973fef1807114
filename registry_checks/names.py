"""SHELL: where names lead to, asked for in threads of their own: a name server that does not answer holds up names
alone, and no end of the process. The threads of an executor, which a whole process shares, are few, and waited for.
"""

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Protocol

# So many names are asked for at a time; the others wait for their turn.
MOST = 32

Find = Callable[[str], Sequence[str]]
"""The IP addresses of a name. Raises OSError where there is none. May take its time."""


class Names(Protocol):
    """Who knows where names lead to."""

    async def addresses(self, host: str) -> Sequence[str]:
        """The IP addresses of a host. Raises OSError for a name that nobody knows."""


@dataclass(eq=False, slots=True)
class _Asked:
    """One name that is asked for, by however many: it is looked up once for all of them."""

    found: Future[Sequence[str]] = field(default_factory=Future)
    waiting: int = 0


class Lookups:
    """Asks the system, in at most `most` threads, which end when there is nothing to ask. May be used by any loop."""

    def __init__(self, most: int = MOST, find: Find | None = None) -> None:
        self._most = most
        self._find = find or _addresses
        self._lock = threading.Lock()
        self._asked: dict[str, _Asked] = {}
        self._queue: deque[str] = deque()
        self._threads = 0

    async def addresses(self, host: str) -> Sequence[str]:
        """See Names."""
        if _is_address(host):
            return (host,)
        asked = self._ask(host)
        try:
            return await asyncio.wrap_future(asked.found)
        finally:
            with self._lock:
                asked.waiting -= 1

    def _ask(self, host: str) -> _Asked:
        with self._lock:
            asked = self._asked.get(host)
            if asked is None:
                asked = self._asked[host] = _Asked()
                asked.found.set_running_or_notify_cancel()  # who waits no more takes it from nobody else
                self._queue.append(host)
            asked.waiting += 1
            begins = bool(self._queue) and self._threads < self._most
            self._threads += begins
        if begins:
            self._begin()
        return asked

    def _begin(self) -> None:
        try:
            threading.Thread(target=self._work, name="registry-names", daemon=True).start()
        except RuntimeError:  # the system gives no more threads now: those that there are will do
            with self._lock:
                self._threads -= 1

    def _work(self) -> None:
        while (asked := self._next()) is not None:
            host, it = asked
            try:
                found, error = self._find(host), None
            except OSError as raised:
                found, error = (), raised
            except Exception:  # a UnicodeError, say, of a name that is none
                found, error = (), OSError("no such host")
            with self._lock:
                del self._asked[host]
            if error is not None:
                it.found.set_exception(error)
            else:
                it.found.set_result(found)

    def _next(self) -> tuple[str, _Asked] | None:
        """What is to be looked up now; None when the thread may end. Names for which nobody waits any more are left."""
        with self._lock:
            while self._queue:
                host = self._queue.popleft()
                if self._asked[host].waiting:
                    return host, self._asked[host]
                del self._asked[host]
            self._threads -= 1
            return None


def _is_address(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False


def _addresses(host: str) -> Sequence[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))
