"""SHELL: a registry inside of somebody else's process: on a loopback port, in a task or a thread of its own."""

import asyncio
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress

from registry_server.config import GUEST_LIMITS, Config
from registry_server.server import serve

log = logging.getLogger(__name__)

ANY_PORT = "127.0.0.1:0"


class Clock:
    """Monotonic seconds that can be moved on, from any thread: what takes a minute takes no time in a test."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return time.monotonic() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Let so much time have passed. Raises ValueError for less than none, TypeError for what is no number."""
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"seconds: must be a number, is {seconds!r:.60}")
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds: must be 0 or more, is {seconds!r}")
        self._ahead_s += seconds


class Embedded:
    """A server that runs from `start` to `aclose`, which may be called in different tasks of one event loop.

    Raises ConfigError for a URL with a mistake.
    """

    def __init__(self, url: str) -> None:
        self._config = Config(listen=ANY_PORT, store=url, admin="off", limits=GUEST_LIMITS)
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._address: asyncio.Future[str] | None = None

    async def start(self) -> str:
        """Its address, HOST:PORT, once it answers. Raises what a server that cannot start raises."""
        address = self._address = asyncio.get_running_loop().create_future()
        task = self._task = asyncio.create_task(self._run(address), name="embedded-registry")
        await asyncio.wait([task, address], return_when=asyncio.FIRST_COMPLETED)
        return await (address if address.done() else self._failed(task))

    async def _run(self, address: asyncio.Future[str]) -> None:
        try:
            async with serve(self._config) as listening:
                address.set_result(listening)
                await self._leave.wait()
        except Exception:
            if address.done():
                log.exception("the registry in this process has ended")
            raise

    async def _failed(self, task: asyncio.Task[None]) -> str:
        """The one thing that went wrong, as far as it is one."""
        try:
            await task
        except ExceptionGroup as group:
            raise _leaf(group) from None
        raise asyncio.CancelledError

    async def aclose(self) -> None:
        """End it, in order unless it has not started yet. May be called more than once."""
        if self._task is None or self._address is None:
            return
        self._leave.set()
        if not self._address.done():
            self._task.cancel()
        await asyncio.wait([self._task])


def _leaf(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


@contextmanager
def in_thread(clock: Callable[[], float]) -> Iterator[str]:
    """A server in a thread with an event loop of its own; gives its address. Leases and checks go by `clock`,
    in seconds."""
    started: Future[tuple[str, Callable[[], None]]] = Future()
    thread = threading.Thread(target=_main, args=(started, clock), name="embedded-registry", daemon=True)
    if sys.is_finalizing():
        raise RuntimeError("the interpreter is ending, and runs no threads any more")
    try:
        thread.start()
        yield started.result()[0]
    finally:
        if not sys.is_finalizing() and thread.is_alive():  # as the interpreter ends, the thread is gone
            started.add_done_callback(_end)  # as soon as it can, where it is interrupted as it starts
            thread.join()


def _main(started: Future[tuple[str, Callable[[], None]]], clock: Callable[[], float]) -> None:
    async def run() -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        async with serve(Config(listen=ANY_PORT, admin="off", limits=GUEST_LIMITS), clock) as address:
            started.set_result((address, lambda: _leave(loop, over)))
            await over.wait()

    try:
        asyncio.run(run())
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)


def _end(started: Future[tuple[str, Callable[[], None]]]) -> None:
    if started.exception() is None:
        started.result()[1]()


def _leave(loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
    with suppress(RuntimeError):  # it has ended already
        loop.call_soon_threadsafe(over.set)
