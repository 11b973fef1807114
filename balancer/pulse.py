"""CORE: finds out that this process stood still, so that no endpoint is blamed for it.

A process that was stopped (SIGSTOP, a debugger, a machine that was suspended or moved), starved, or busy with one thing
sees calls that took long, deadlines that went by and connections that broke. So while calls are under way the channel's
loop beats, and each beat says when the next one is due: one that comes late ended a standstill. Whoever counts what
became of a call looks, too, for after a standstill what waits in the sockets is read before timers ring.
"""

from __future__ import annotations

from math import inf

BEAT_S = 0.1
"""From one beat to the next while calls begin."""
REST_S = 1.0
"""The same while none begins, and some are still under way."""
SLIP_S = 0.1
"""A beat that is so late says that calls may have taken longer than their endpoints did; what is shorter than this
contains no such time."""
STILL_S = 0.5
"""One that is so late says that calls may have failed for it."""
RETURN_S = 5.0
"""For as long as it was, and no longer than this, failures are excused of calls that were under way in a standstill.
After one that took at least this long connections may have been given up at their other end: then all are excused."""
_KEPT = 8


class Pulse:
    """All times are of one monotonic clock, in seconds. May be asked from any thread: when two look at once, nothing is
    lost but a little sharpness.

    `asleep_s`: for how long the machine was suspended up to now, which that clock leaves out.
    """

    __slots__ = ("_asleep_s", "_back_by", "_beat_at", "_due", "_excused_until", "_spells", "_woke_at")

    def __init__(self, asleep_s: float = 0.0) -> None:
        self._asleep_s = asleep_s
        self._beat_at = -inf
        self._due = inf
        self._woke_at = self._excused_until = self._back_by = -inf
        self._spells: tuple[tuple[float, float], ...] = ()
        """The latest standstills: when each began at the earliest, and when it ended."""

    def beat(self, now: float, asleep_s: float = 0.0, due: float = inf) -> None:
        """The loop is attended to, and will be again by `due`; inf: when there are calls again."""
        self._look(self._due, now)
        self._slept(asleep_s, now)
        self._beat_at, self._due = now, due

    def rang(self, due: float, now: float) -> None:
        """A timer of the same loop, which has to do with something else and was due then, rings."""
        self._look(due, now)

    def excuses(self, began: float, now: float, asleep_s: float = 0.0) -> bool:
        """The failure, which is seen now, of a call that began then may be the fault of this process."""
        self._look(self._due, now)
        self._slept(asleep_s, now)
        was_under_way = began < self._woke_at - SLIP_S
        return now < (self._excused_until if was_under_way else self._back_by)

    def latency_s(self, began: float, now: float) -> float:
        """How long a call took that ends now, without the time in which nobody could have seen it end."""
        self._look(self._due, now)
        lost_s = sum(ended - max(since, began) for since, ended in self._spells if ended > began)
        return max(0.0, now - began - lost_s)

    def _look(self, due: float, now: float) -> None:
        late_s = now - due
        if late_s <= SLIP_S:
            return
        self._spells = (*self._spells[1 - _KEPT :], (self._beat_at, now))
        self._beat_at, self._due = now, max(self._due, now)
        self._excuse(late_s, now)

    def _slept(self, asleep_s: float, now: float) -> None:
        slept_s, self._asleep_s = asleep_s - self._asleep_s, asleep_s
        self._excuse(slept_s, now)

    def _excuse(self, stood_s: float, now: float) -> None:
        if stood_s > STILL_S:
            self._woke_at = now
            self._excused_until = max(self._excused_until, now + min(stood_s, RETURN_S))
        if stood_s >= RETURN_S:
            self._back_by = now + RETURN_S
