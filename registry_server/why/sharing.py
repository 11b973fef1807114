"""CORE: what a service's traffic policy does with each of its instances, and how many there are of each kind."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from registry_api.registry.v1 import policies_pb2
from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.model import Entry, Query
from registry_server.policies.parts import fits, name_of

WELL = (pb.UNKNOWN, pb.HEALTHY)
# What keeps an instance of a service from traffic, in the order in which it decides.
DRAINING, DOWN, UNHEALTHY, CRITICAL, WEIGHTLESS = "draining", "down", "unhealthy", "critical", "of weight 0"
LEFT_OUT, UNFITTING, SHARELESS = "left out by the filter", "in no part of the split", "in a part without a share"
LACKS = (DRAINING, DOWN, UNHEALTHY, CRITICAL, WEIGHTLESS, LEFT_OUT, UNFITTING, SHARELESS)


class _Kind(NamedTuple):
    """What is alike in instances: what they lack themselves, whether the filter means them, of which part they are."""

    lack: str
    is_meant: bool
    part: int | None


class Shares:
    """A service as its instances were counted, some at a time; then asked about each. `query`: what the client asks for
    that is asked about; `policy`: a good one."""

    def __init__(self, policy: policies_pb2.Policy | None, query: Query) -> None:
        self.policy = policy
        self.query = query
        self._parts = () if policy is None else tuple(policy.split)
        self._counts: Counter[_Kind] = Counter()
        self._shares: list[int] = []

    def look(self, entries: Iterable[Entry]) -> None:
        """Count these."""
        self._counts.update(map(self._kind, entries))
        taking = {kind.part for kind in self._counts if not kind.lack}
        shares = [part.weight if place in taking else 0 for place, part in enumerate(self._parts)]
        self._shares = shares if any(shares) else []  # none: the service is whole

    @property
    def total(self) -> int:
        """How many instances there are."""
        return self._counts.total()

    def lacks(self) -> dict[str, int]:
        """How many instances get no traffic, by what keeps it from them; by "" how many get some."""
        found: Counter[str] = Counter()
        for kind, number in self._counts.items():
            found[self._lack(kind)] += number
        return {lack: found[lack] for lack in ("", *LACKS) if found[lack]}

    def lack_of(self, entry: Entry) -> str:
        """What keeps traffic from that instance; empty if nothing does."""
        return self._lack(self._kind(entry))

    def part_of(self, entry: Entry) -> tuple[str, int, int] | None:
        """The name of the part that an instance is of, its share and that of all parts; None if the service is whole,
        or no part fits."""
        place = self._place(entry)
        if not self._shares or place is None:
            return None
        return name_of(self._parts[place]), self._shares[place], sum(self._shares)

    def _kind(self, entry: Entry) -> _Kind:
        return _Kind(_own_lack(entry), self.query.matches(entry), self._place(entry))

    def _place(self, entry: Entry) -> int | None:
        return next((place for place, part in enumerate(self._parts) if fits(part, entry)), None)

    def _lack(self, kind: _Kind) -> str:
        if kind.lack or not kind.is_meant:
            return kind.lack or LEFT_OUT
        if not self._shares:
            return ""
        if kind.part is None:
            return UNFITTING
        return "" if self._shares[kind.part] else SHARELESS


def _own_lack(entry: Entry) -> str:
    """What speaks against the instance itself."""
    if entry.routable:
        return ""
    status, health = entry.traits.status, entry.traits.health
    if status != pb.ACTIVE:
        return DRAINING if status == pb.DRAINING else DOWN
    if health not in WELL:
        return CRITICAL if health == pb.CRITICAL else UNHEALTHY
    return WEIGHTLESS
