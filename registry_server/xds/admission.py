"""CORE: how many streams may begin at a time. When a server comes back, so do all of its clients, some of them without
any pause of their own: those who come are let in by a rate at which those who are there are still served."""

from registry_server.errors import Unavailable

# So many streams may begin at once, and in each second after that. Nobody waits for longer: clients that hear nothing
# take a server for a good one and wait, and would rather go to another one.
BURST, RATE_PER_S, LONGEST_S = 1_000, 2_000, 5.0


class Admission:
    """The times at which streams are let in."""

    def __init__(self, burst: int = BURST, rate_per_s: float = RATE_PER_S, longest_s: float = LONGEST_S) -> None:
        self._ahead_s = burst / rate_per_s
        self._step_s = 1 / rate_per_s
        self._longest_s = longest_s
        self._next = float("-inf")  # when the next one would begin if none ever began in a burst

    def enter(self, now: float) -> float:
        """Somebody comes; gives for how many seconds it has to wait. Raises Unavailable if that is too long."""
        begins = max(self._next, now)
        wait_s = max(0.0, begins - now - self._ahead_s)
        if wait_s > self._longest_s:
            raise Unavailable("too many xDS streams begin at once", retry_after_s=self._longest_s)
        self._next = begins + self._step_s
        return wait_s
