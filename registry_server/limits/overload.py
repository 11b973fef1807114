"""CORE: how much work is refused so that the rest gets done: by how long others wait for their turn, and by memory.

Renewals are never refused: a registry that is busy must not let leases run out. Then reads go first, then writes; new
streams, which are work for as long as they last, go last.
"""

import math
from enum import IntEnum

from registry_server.limits.quotas import Quotas

# The average is of about so many seconds: one long step is no overload.
AVERAGE_S = 2.0
MOST_S = 10.0
MEBIBYTE = 1 << 20


class Work(IntEnum):
    """What is asked for. At a level of overload, what has this number or a lower one is refused; there are three."""

    TALK = 5  # on a stream that is there
    RENEWAL = 4  # or leaving, which makes less work
    READ = 3
    WRITE = 2
    STREAM = 1


# From which part of the memory on, and from how many times the allowed lag on, there is overload of each level.
MEMORY_PARTS = (0.85, 0.92, 0.97)
LAG_TIMES = (1.0, 2.0, 4.0)


class Overload:
    """`memory_limit`: how many bytes this process may have, None where that is not known."""

    def __init__(self, quotas: Quotas, memory_limit: int | None) -> None:
        self._max_lag_s = quotas.max_lag_ms / 1000
        self._memory_limit = quotas.max_memory_mib * MEBIBYTE or memory_limit
        self._lag_s = 0.0
        self._memory_level = 0
        self._lag_level = 0
        self.level = 0  # 0 while nothing is refused

    @property
    def lag_s(self) -> float:
        """How long others wait for their turn, on average."""
        return self._lag_s

    @property
    def reason(self) -> str:
        """Why work is refused; empty while none is."""
        if self._memory_level > self._lag_level:
            return "this server has little memory left"
        return "this server has more to do than it can" if self._lag_level else ""

    def refuses(self, work: Work) -> bool:
        """Whether work of that kind is refused."""
        return self.level >= work

    def waited(self, late_s: float, busy_s: float, after_s: float) -> None:
        """A beat was so late, `after_s` after the last one, and this process worked for so long meanwhile: it does not
        count as lag that the process was stopped, or did not get its turn on a busy machine."""
        lag_s = min(max(0.0, late_s), busy_s, MOST_S)
        self._lag_s += (lag_s - self._lag_s) * (1 - math.exp(-min(after_s, MOST_S) / AVERAGE_S))
        self._lag_level = _level(self._lag_s, [times * self._max_lag_s for times in LAG_TIMES])
        self.level = max(self._lag_level, self._memory_level)

    def takes(self, memory_bytes: int) -> None:
        """This process has so much of the memory."""
        if self._memory_limit:
            self._memory_level = _level(memory_bytes, [part * self._memory_limit for part in MEMORY_PARTS])
            self.level = max(self._lag_level, self._memory_level)


def _level(value: float, steps: list[float]) -> int:
    return sum(value >= step for step in steps)
