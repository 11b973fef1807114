"""CORE: whether what a server finds speaks against what it looks at, or against itself.

When most of what was well fails at about the same time, it is rather the way there that fails. What counts is what was
seen since the trouble began: a look that succeeded before proves nothing.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Evidence(NamedTuple):
    """What one check last found: whether it passed and when it looked, whether it was well up to now, and since when it
    fails. Times are monotonic seconds."""

    passed: bool
    at: float
    was_well: bool
    failing_since: float


class Cutoff(NamedTuple):
    """When a server takes itself for cut off: so many checks fail that passed before, and more than that share."""

    share: float = 0.5
    least: int = 5


def is_cut_off(seen: Iterable[Evidence], cutoff: Cutoff, since: float) -> bool:
    """Whether it is likely that nothing can be told from here; `since` is when the trouble began."""
    failing = passing = 0
    for it in seen:
        if it.passed:
            passing += it.at >= since
        else:
            failing += it.was_well
    return failing >= cutoff.least and failing > cutoff.share * (failing + passing)
