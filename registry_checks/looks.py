"""SHELL: looks at things again and again: each at its own pace, so many at once at the most, starts spread out."""

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable
from random import Random
from typing import Protocol

log = logging.getLogger(__name__)

REST_S = 0.01  # between two times of looking: those that are due by then are begun together, which costs less
FEW = 64  # of what is not looked at any more; when there is more of it than of what is, it is cleared away
MOVED_S = 1.0  # a look that comes so late by a clock that is moved by hand was jumped over


class Looked(Protocol):
    """What is looked at."""

    @property
    def interval_s(self) -> float:
        """From one look to the next, in seconds."""

    async def look(self) -> None:
        """Look once. Does not raise, and ends by itself."""


class Looks:
    """Everything that is looked at, in the loop that `run` runs in.

    `clock` gives monotonic seconds. No thing is looked at twice at the same time. Who comes late, because too much is
    under way, skips what it missed.

    `by_hand_s`: how often to look at a clock that is moved on by hand, in seconds of real time. Nothing is skipped
    then: what would have been looked at in that time is looked at, one after the other, each at its `now`.
    """

    def __init__(self, clock: Callable[[], float], rng: Random, most: int, by_hand_s: float | None = None) -> None:
        self._clock = clock
        self._rng = rng
        self._by_hand_s = by_hand_s
        self._behind: float | None = None
        self._free = asyncio.Semaphore(most)
        self._numbers = itertools.count()
        # Each thing has one valid entry on the heap: the one with its number.
        self._valid: dict[Looked, int] = {}
        self._due: list[tuple[float, int, Looked]] = []
        self._sooner = asyncio.Event()

    def __len__(self) -> int:
        """How many things are looked at."""
        return len(self._valid)

    def now(self) -> float:
        """The time by which looks go: that of the clock, or of the look with which they catch up with it."""
        return self._clock() if self._behind is None else self._behind

    def add(self, thing: Looked, delay_s: float = 0.0, spread_s: float | None = None) -> None:
        """Look at it from now on; first in `delay_s`, and up to `spread_s` more, which is its interval if not given."""
        spread_s = thing.interval_s if spread_s is None else spread_s
        self._put(thing, self._clock() + delay_s + self._rng.uniform(0.0, spread_s))

    def discard(self, thing: Looked) -> None:
        """Look at it no more. A look that is under way goes on to its end."""
        self._valid.pop(thing, None)
        if len(self._due) > FEW + 2 * len(self._valid):  # its time may be an hour away
            self._due = [entry for entry in self._due if self._valid.get(entry[2]) == entry[1]]
            heapq.heapify(self._due)

    def _put(self, thing: Looked, at: float) -> None:
        number = self._valid[thing] = next(self._numbers)
        heapq.heappush(self._due, (at, number, thing))
        if self._due[0][1] == number:
            self._sooner.set()

    async def run(self) -> None:
        """Look until cancelled; what is under way then is cancelled too."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._free.acquire()
                at, number, thing = await self._next()
                looking = tasks.create_task(self._look(at, number, thing))
                if self._by_hand_s is not None and self._clock() - at > MOVED_S:
                    self._behind = at
                    await asyncio.wait([looking])
                    self._behind = None

    async def _next(self) -> tuple[float, int, Looked]:
        while True:
            while self._due and self._valid.get(self._due[0][2]) != self._due[0][1]:
                heapq.heappop(self._due)  # discarded, or put anew
            pause_s = self._due[0][0] - self._clock() if self._due else None
            if pause_s is not None and pause_s <= 0:
                return heapq.heappop(self._due)
            if pause_s is not None and self._by_hand_s is not None:
                pause_s = min(pause_s, self._by_hand_s)
            if pause_s is not None:
                pause_s = max(pause_s, REST_S)
            self._sooner.clear()
            # Thousands of times a second: a timer that sets the event costs a third of a timeout around it.
            timer = None if pause_s is None else asyncio.get_running_loop().call_later(pause_s, self._sooner.set)
            await self._sooner.wait()
            if timer is not None:
                timer.cancel()

    async def _look(self, at: float, number: int, thing: Looked) -> None:
        try:
            if self._valid.get(thing) == number:  # or it was discarded just now, and what it needs is closed
                await thing.look()
        except Exception:
            log.exception("a look failed that never should")
        finally:
            self._free.release()
            if self._valid.get(thing) == number:
                next_s = at + thing.interval_s
                self._put(thing, max(next_s, self._clock()) if self._by_hand_s is None else next_s)
