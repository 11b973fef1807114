"""CORE: what a client counts while it is open, and what of it is told, for metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Names of services that are written out for one watch.
MANY = 3


class Counts:
    """What became of what was asked. Only the loop of the client counts; what it has may be read in any thread."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        """By the name of gRPC's code; those that were tried again are one."""
        self.retries = 0
        self.renewals: Counter[str] = Counter()
        """Of leases, by what they were answered with."""
        self.streams = 0
        """Of watches, that were begun."""
        self.hits = self.misses = self.errors = 0
        """Of discoveries: answered from memory, or only after the registry was waited for; and what of that failed."""


@dataclass(frozen=True, slots=True)
class Followed:
    """One watch: what it is of, and for how many seconds nobody has confirmed what it shows."""

    services: str
    age_s: float


@dataclass(frozen=True, slots=True)
class ClientNumbers:
    """All that there is to tell of a client that is open, as it is now."""

    is_up: bool
    """Whether the registry answers what it is asked."""
    counts: Counts
    registrations: Mapping[str, int]
    """How many are in which state."""
    leases: int
    watches: tuple[Followed, ...]
    connections: int


def named(services: tuple[str, ...]) -> str:
    """What a watch of those is called."""
    if not services:
        return "*"
    return ",".join(services) if len(services) <= MANY else f"{','.join(services[:MANY])},… {len(services)} in all"
