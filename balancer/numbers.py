"""What a channel or a balancer counts, for metrics: in all, since it was asked to count, and as it is at the moment."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from balancer.pool.statistics import PoolNumbers

BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds, in seconds, of the steps in which it is counted how long calls took."""

ENDPOINT, WAIT, FAIL = "endpoint", "wait", "fail"
SUCCEEDED, BROKEN, FORGOTTEN = "OK", "UNKNOWN", "CANCELLED"
RETRY, HEDGE, UNSEEN = "retry", "hedge", "unseen"


class Counts:
    """What became of the calls of one channel. From any thread; a call costs less than a microsecond."""

    __slots__ = ("_calls", "_lock", "_picks", "_retries", "_steps", "_sum_s")

    def __init__(self) -> None:
        self._lock = RLock()
        self._calls: Counter[str] = Counter()
        self._picks: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()
        self._steps = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def ended(self, code: str, seconds: float) -> None:
        """A call ended, so long after it began; NaN for one whose length says nothing."""
        with self._lock:
            self._calls[code] += 1
            if seconds >= 0.0:
                self._steps[bisect_left(BOUNDS_S, seconds)] += 1
                self._sum_s += seconds

    def picked(self, answer: str) -> None:
        """A call asked for an endpoint."""
        with self._lock:
            self._picks[answer] += 1

    def again(self, why: str) -> None:
        """A further attempt of a call began."""
        with self._lock:
            self._retries[why] += 1

    def read(self) -> Totals:
        """All of it, as it is now."""
        with self._lock:
            return Totals(dict(self._picks), dict(self._calls), dict(self._retries), tuple(self._steps), self._sum_s)


@dataclass(frozen=True, slots=True)
class Totals:
    """What was counted up to now."""

    picks: Mapping[str, int] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)
    retries: Mapping[str, int] = field(default_factory=dict)
    steps: tuple[int, ...] = (0,) * (len(BOUNDS_S) + 1)
    """How many calls took at most so long as BOUNDS_S has it, and longer than the bound before; the last: longer."""
    sum_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Numbers:
    """Both."""

    totals: Totals
    pool: PoolNumbers
    age_s: float = 0.0
    """For how many seconds nobody has confirmed that these are the endpoints."""
