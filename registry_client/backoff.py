"""CORE: how long to wait before trying again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry_client import checks

if TYPE_CHECKING:
    from random import Random

_MOST_FACTOR = 1_000.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with jitter: a pure function of the attempt, so that callers may share one.

    `base_s`, `cap_s`: the longest first delay, and the longest delay of all, in seconds. `jitter`: the part of the
    delay that is left to chance; 1 is "full jitter" (M. Brooker, Exponential Backoff And Jitter, AWS 2015), which
    spreads a crowd best. Raises InvalidArgument for settings that make no sense.
    """

    base_s: float = 0.1
    cap_s: float = 3.0
    factor: float = 2.0
    jitter: float = 1.0

    def __post_init__(self) -> None:
        cap_s = checks.seconds("cap_s", self.cap_s, 0.0, checks.MAX_TIMEOUT_S)
        if not checks.seconds("base_s", self.base_s, 0.0, cap_s) > 0:
            raise checks.wrong("base_s", f"must be above 0 and at most cap_s ({cap_s:g} seconds)", self.base_s)
        checks.number("factor", self.factor, 1.0, _MOST_FACTOR)
        checks.number("jitter", self.jitter, 0.0, 1.0)

    def delay(self, attempt: int, rng: Random) -> float:
        """Seconds to wait after `attempt` failures before this one, in a row; 0 is the first."""
        return self.ceiling(attempt) * (1 - self.jitter * rng.random())

    def ceiling(self, attempt: int) -> float:
        """The longest that `delay` can return for this attempt, in seconds."""
        try:
            return min(self.cap_s, self.base_s * self.factor**attempt)
        except OverflowError:
            return self.cap_s

    def capped(self, cap_s: float) -> Backoff:
        """The same, but never waiting longer than `cap_s` seconds."""
        cap_s = min(self.cap_s, cap_s)
        return Backoff(min(self.base_s, cap_s), cap_s, self.factor, self.jitter)

    def longer(self, times: float) -> Backoff:
        """The same with pauses so many times as long."""
        cap_s = min(self.cap_s * times, checks.MAX_TIMEOUT_S)
        return Backoff(min(self.base_s * times, cap_s), cap_s, self.factor, self.jitter)
