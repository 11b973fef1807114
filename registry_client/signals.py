"""SHELL: what SIGTERM and SIGINT do: drain, then go."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterable
from types import FrameType
from typing import Any, TypeVar

_T = TypeVar("_T")
Handler = Callable[[int, FrameType | None], Any] | int | None
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalDrain:
    """On the first SIGTERM or SIGINT, drains, and then lets the signal do what it would have done; a second one does
    that at once. Handlers that were there before are called, not replaced; an ignored signal stays ignored.

    `drain` runs in `loop`. Signal handlers belong to the main thread, so making one raises RuntimeError elsewhere.
    """

    def __init__(self, drain: Callable[[], Coroutine[Any, Any, None]], loop: asyncio.AbstractEventLoop) -> None:
        self._drain = drain
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._before: dict[int, Handler] = {}
        try:
            for signum in SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._on_signal)
        except ValueError:
            raise RuntimeError("drain_on_signals: only the main thread can handle signals") from None

    def _on_signal(self, signum: int, _: FrameType | None) -> None:
        self.release()
        self._loop.call_soon_threadsafe(self._begin, signum)

    def _begin(self, signum: int) -> None:
        self._task = self._loop.create_task(self._drain_and_go(signum), name="registry-drain")

    async def _drain_and_go(self, signum: int) -> None:
        try:
            await self._drain()
        finally:
            os.kill(os.getpid(), signum)

    def release(self) -> None:
        """Put the former handlers back."""
        before, self._before = self._before, {}
        for signum, handler in before.items():
            if signal.getsignal(signum) == self._on_signal:
                signal.signal(signum, handler)


def run_until_signal(main: Coroutine[Any, Any, _T], signals: Iterable[int] = SIGNALS) -> _T | None:
    """`asyncio.run(main)` that a signal ends in order: the first one cancels `main`, so that registrations drain and
    deregister on the way out, a second one ends the process at once.

    Returns what `main` returns, or None when a signal ended it. Call it from the main thread.
    """
    return asyncio.run(_until_signal(main, tuple(signals)))


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
