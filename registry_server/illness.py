"""CORE: times in which renewals may have been lost, and for which leases that matters.

An owner renews every third of its time to live, so a lease outlives a short spell in which nobody passes renewals on. A
spell matters to leases that are at most so many times as long as itself: those of them that end less than one time to
live after it may have ended by the fault of the store or of this process. A lease that was granted or renewed after the
spell cannot end before that, so it costs the living nothing to note one too many.

Owners who were refused or not answered for seconds come back in seconds, however short their lives are: so much they
are given at least.
"""

import math

# A spell matters to leases of up to so many times its length: half of the time between two renewals.
PARTS = 6.0
# After a spell owners have at least so long, or as long as it was, to come back.
RETURN_S = 5.0
# When a timer rings so much later than it should, this process stood still.
STALL_S = 0.2
# Lengths are rounded up to powers of two, from an eighth of a second to more than the longest time to live needs.
_SHORTEST, _LONGEST = -3, 10


def whole_s(ttl_s: float, spell_s: float) -> float:
    """How long after a spell of that length an owner may take to come back, in seconds: its time to live at least."""
    return max(ttl_s, min(RETURN_S, spell_s))


class Illness:
    """When the latest spell of each length ended. All times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._ended: dict[int, float] = {}
        self._returned: dict[int, float] = {}

    def note(self, now: float, length_s: float = math.inf, *, was_felt: bool = True) -> None:
        """A spell of that length ended just now; of unknown length, it matters to all.

        Unless owners felt it they need no time to come back.
        """
        rank = _rank(length_s)
        self._ended[rank] = now
        if was_felt:
            self._returned[rank] = max(now + whole_s(0.0, length_s), self._returned.get(rank, now))

    def excused_until(self, ttl_s: float) -> float:
        """What of that time to live ends before this may have ended by the fault of others; minus infinity if not."""
        least = _rank(ttl_s / PARTS)
        ended = max((at for rank, at in self._ended.items() if rank >= least), default=-math.inf)
        returned = max((at for rank, at in self._returned.items() if rank >= least), default=-math.inf)
        return max(ended + ttl_s, returned)


class Pulse:
    """Finds out that this process stood still: stopped, starved, or busy with one thing.

    Whoever runs it beats at least every `every_s` seconds. A gap that is longer by `late_s` was a standstill.
    """

    def __init__(self, now: float, every_s: float, late_s: float = STALL_S) -> None:
        self._beat_at = now
        self._every_s = every_s
        self._late_s = late_s

    def beat(self, now: float) -> float:
        """For how long it stood still since the last beat, in seconds; 0 if it did not."""
        gap_s, self._beat_at = now - self._beat_at, now
        return gap_s - self._every_s if gap_s > self._every_s + self._late_s else 0.0


def _rank(length_s: float) -> int:
    """The power of two, rounded up, within the bounds."""
    if length_s >= 2.0**_LONGEST:
        return _LONGEST
    return max(_SHORTEST, math.ceil(math.log2(length_s))) if length_s > 0 else _SHORTEST
