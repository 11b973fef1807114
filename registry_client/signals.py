"""SHELL: what SIGTERM and SIGINT do: drain, then go."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterable
from types import FrameType
from typing import Any, TypeVar

from registry_client.errors import Misuse
from registry_client.place import FORKS

_T = TypeVar("_T")
Handler = Callable[[int, FrameType | None], Any] | int | None
Drain = Callable[[], Coroutine[Any, Any, None]]
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalDrains:
    """What is to be drained on the first SIGTERM or SIGINT: all of it at once, and then the signal does what it would
    have done; a second one does that at once. Handlers that were there before are called, not replaced; an ignored
    signal stays ignored.
    """

    def __init__(self) -> None:
        self._drains: dict[object, Drain] = {}
        self._before: dict[int, Handler] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._pid = 0  # of whom the handlers are

    def add(self, owner: object, drain: Drain, loop: asyncio.AbstractEventLoop) -> None:
        """`drain` is run in `loop`, unless `owner` is removed before. Raises Misuse outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            raise Misuse("drain_on_signals: only the main thread can handle signals")
        self._drains[owner], self._loop = drain, loop
        if not self._before:
            self._pid = os.getpid()
            for signum in SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._on_signal)

    def remove(self, owner: object) -> None:
        """Drain it no more. With the last one the former handlers are put back, if this is the main thread."""
        self._drains.pop(owner, None)
        if not self._drains and threading.current_thread() is threading.main_thread():
            self._release()

    def _release(self) -> None:
        before, self._before = self._before, {}
        for signum, handler in before.items():
            if signal.getsignal(signum) == self._on_signal:
                signal.signal(signum, handler)

    def _on_signal(self, signum: int, _: FrameType | None) -> None:
        self._release()
        if self._loop is None or self._loop.is_closed() or os.getpid() != self._pid:  # a child by fork has no such loop
            os.kill(os.getpid(), signum)
        else:
            self._loop.call_soon_threadsafe(self._begin, self._loop, signum)

    def _begin(self, loop: asyncio.AbstractEventLoop, signum: int) -> None:
        self._task = loop.create_task(self._drain_and_go(signum), name="registry-drain")

    async def _drain_and_go(self, signum: int) -> None:
        try:
            await asyncio.gather(*(drain() for drain in list(self._drains.values())), return_exceptions=True)
        finally:
            os.kill(os.getpid(), signum)


def run_until_signal(main: Coroutine[Any, Any, _T], signals: Iterable[int] = SIGNALS) -> _T | None:
    """`asyncio.run(main)` that a signal ends in order: the first one cancels `main`, so that registrations drain and
    deregister on the way out, a second one ends the process at once.

    Returns what `main` returns, or None when a signal ended it. Call it from the main thread and outside of any event
    loop; elsewhere it raises Misuse.
    """
    if threading.current_thread() is not threading.main_thread() or asyncio._get_running_loop():  # noqa: SLF001
        main.close()
        raise Misuse("run_until_signal: must be called from the main thread, and outside of any event loop")
    before = {signum: signal.getsignal(signum) for signum in signals}

    def in_child() -> None:
        """No loop runs there that would heed a signal, and what asyncio writes it to is the parent's."""
        signal.set_wakeup_fd(-1)
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    with FORKS.then(in_child):
        return asyncio.run(_until_signal(main, tuple(before)))


async def _until_signal(main: Coroutine[Any, Any, _T], signals: tuple[int, ...]) -> _T | None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main)
    signalled = False

    def on_signal() -> None:
        nonlocal signalled
        signalled = True
        for signum in signals:
            loop.remove_signal_handler(signum)
        task.cancel()

    for signum in signals:
        loop.add_signal_handler(signum, on_signal)
    try:
        return await task
    except asyncio.CancelledError:
        if signalled:
            return None
        raise
    finally:
        for signum in signals:
            loop.remove_signal_handler(signum)
