"""SHELL: a clock that stands still while this process does, and a patience that its standstill does not use up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")

BEAT_S = 0.5
STEP_S = 0.25  # the longest wait that is counted as a whole


class Pulse:
    """Counts the time in which the loop of its holders was attended to, in beats of half a second.

    What lies between two beats counts as one beat at most. So a process that was stopped (SIGSTOP, a suspended
    machine), or whose loop was kept busy, does not take its own standstill for the silence of others: what came
    meanwhile waits in its sockets, and its deadlines leave the time to read it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock  # steady, in seconds
        self._counted_s = 0.0
        self._lost_s = 0.0
        self._beat_at_s = 0.0
        self._holders = 0
        self._timer: asyncio.TimerHandle | None = None

    def hold(self) -> None:
        """Let it beat, in the running loop, until `release` was called as often as this."""
        self._holders += 1
        if self._holders == 1:
            self._beat_at_s = self._clock()
            self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def release(self) -> None:
        """One holder less."""
        self._holders -= 1
        if self._holders == 0 and self._timer is not None:
            self._count()
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        self._count()
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def _count(self) -> None:
        self._counted_s, self._lost_s = self.read()
        self._beat_at_s = self._clock()

    def read(self) -> tuple[float, float]:
        """The seconds that were attended to so far, and those that were not. Neither grows while nobody holds it."""
        since_s = self._clock() - self._beat_at_s if self._holders else 0.0
        attended_s = min(since_s, BEAT_S)
        return self._counted_s + attended_s, self._lost_s + since_s - attended_s


async def within(work: Coroutine[Any, Any, _T], seconds: float) -> _T:
    """What `work` returns, if it does so within so many seconds. Raises TimeoutError.

    Only the time counts in which this process ran: what came while it stood still (SIGSTOP, a busy loop) waits in its
    sockets, and is read before the wait may end.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    left_s = seconds
    try:
        while not task.done():
            if left_s <= 0:
                raise TimeoutError
            step_s, begun = min(left_s, STEP_S), loop.time()
            await asyncio.wait([task], timeout=step_s)
            if loop.time() - begun <= 2 * step_s + STEP_S:
                left_s -= step_s
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
