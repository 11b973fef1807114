"""CORE: what follows from what a check finds: unknown, healthy, unhealthy, critical, removed.

One look says little, so a check moves after several in a row that say the same. The moves are a table: what is not in
it does not happen.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import NamedTuple

LATE_S = 0.5
"""What takes so much longer than it can: whoever looks stood still, and what is found then says nothing."""


class Rung(StrEnum):
    """Where a check stands. All but the last are named as `registry.v1.Health` names them."""

    UNKNOWN = "UNKNOWN"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    CRITICAL = "CRITICAL"
    REMOVED = "REMOVED"


class Sign(Enum):
    """What moves it."""

    PASSES = "it succeeded often enough in a row"
    FAILS = "it failed often enough in a row"
    LASTS = "it has been there for long enough"


LADDER: Mapping[tuple[Rung, Sign], Rung] = {
    (Rung.UNKNOWN, Sign.PASSES): Rung.HEALTHY,
    (Rung.UNKNOWN, Sign.FAILS): Rung.UNHEALTHY,
    (Rung.HEALTHY, Sign.FAILS): Rung.UNHEALTHY,
    (Rung.UNHEALTHY, Sign.PASSES): Rung.HEALTHY,
    (Rung.UNHEALTHY, Sign.LASTS): Rung.CRITICAL,
    (Rung.CRITICAL, Sign.PASSES): Rung.HEALTHY,
    (Rung.CRITICAL, Sign.LASTS): Rung.REMOVED,
}
# From the best to the worst.
ORDER = (Rung.HEALTHY, Rung.UNKNOWN, Rung.UNHEALTHY, Rung.CRITICAL, Rung.REMOVED)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much it takes: looks in a row, and seconds on a rung, of which 0 is never.

    Without `critical_after_s`, nothing is CRITICAL, and what is UNHEALTHY for `deregister_after_s` is removed.
    """

    failures: int = 3
    successes: int = 2
    critical_after_s: float = 0.0
    deregister_after_s: float = 0.0

    def patience_s(self, rung: Rung) -> float:
        """How long it may stand there."""
        if rung is Rung.UNHEALTHY:
            return self.critical_after_s or self.deregister_after_s or math.inf
        if rung is Rung.CRITICAL and self.deregister_after_s:
            return self.deregister_after_s if self.critical_after_s else 0.0
        return math.inf


class Standing(NamedTuple):
    """Where a check stands, since when (monotonic seconds), and what it found last, so often in a row."""

    rung: Rung
    since: float
    successes: int = 0
    failures: int = 0


def looked(before: Standing, passed: bool) -> Standing:
    """It has looked once more. Where it stands is another matter: see `settle`."""
    if passed:
        return before._replace(successes=before.successes + 1, failures=0)
    return before._replace(failures=before.failures + 1, successes=0)


def unseen(standing: Standing, took_s: float, at_most_s: float, now: float) -> Standing:
    """Something that ends now, a look or the pause before it, took so long, and should have taken no longer than that:
    the time in which nobody looked is none that it stood there."""
    lost_s = took_s - at_most_s
    return standing._replace(since=min(standing.since + lost_s, now)) if lost_s > LATE_S else standing


def settle(standing: Standing, limits: Limits, now: float) -> Standing:
    """Where it stands after all that it found."""
    while (rung := _next(standing, limits, now)) is not None:
        standing = standing._replace(rung=rung, since=now)
    return standing


def _next(standing: Standing, limits: Limits, now: float) -> Rung | None:
    for sign in _signs(standing, limits, now):
        if (standing.rung, sign) in LADDER:
            return LADDER[standing.rung, sign]
    return None


def _signs(standing: Standing, limits: Limits, now: float) -> Iterable[Sign]:
    if standing.successes >= limits.successes:
        yield Sign.PASSES
    if standing.failures >= limits.failures:
        yield Sign.FAILS
    if now - standing.since >= limits.patience_s(standing.rung):
        yield Sign.LASTS


def worst(rungs: Iterable[Rung]) -> Rung:
    """What several checks say together; UNKNOWN if there is none."""
    return max(rungs, key=ORDER.index, default=Rung.UNKNOWN)


def is_worse(after: Rung, before: Rung) -> bool:
    """Whether that is a step down."""
    return after in (Rung.UNHEALTHY, Rung.CRITICAL, Rung.REMOVED) and ORDER.index(after) > ORDER.index(before)
