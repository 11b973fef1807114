"""CORE: locality-aware balancing: near and preferred endpoints first, and over to the next only what they cannot carry.

Endpoints form levels: by priority, and within a priority by distance (own zone, own region, elsewhere). Levels share
the traffic as Envoy's priorities do (docs: arch_overview/upstream/load_balancing/priority): a level of which the part
h is well can carry 1.4 h of all traffic, so nothing spills over while at least 72 % of it is well, and beyond that it
spills over in proportion. Within a level another policy chooses.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

from balancer.endpoints import ANYWHERE, Locality
from balancer.policies.base import Change, Connect, Explains, NodeSet, connect_of, policy_name
from balancer.policies.checks import at_least
from balancer.policies.groups import Group, revised_group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from balancer.policies.base import Chooser, Node, PickInfo, Policy

OVERPROVISIONING = 1.4

Rank: TypeAlias = tuple[int, int]
"""Priority, distance."""


def shares(well: Sequence[float], overprovisioning: float = OVERPROVISIONING) -> list[float]:
    """The part of the traffic for each level, best first, from the part of it that is well. They add up to 1.

    When all levels together cannot carry everything, each gets in proportion to what it can.
    """
    able = [min(1.0, overprovisioning * part) for part in well]
    total = min(1.0, sum(able))
    left, result = 1.0, list[float]()
    for part in able:
        share = min(left, part / total) if total else 0.0
        result.append(share)
        left -= share
    return result


class Levels:
    """Draws a level by its share, then lets that level's chooser choose."""

    __slots__ = ("_choosers", "_ends", "_last", "_levels", "_policy", "_rank_of", "_rng")

    def __init__(
        self, policy: LocalityAware, levels: dict[Rank, Group], rank_of: dict[Node, Rank], nodes: NodeSet, rng: Random
    ) -> None:
        self._policy = policy
        self._rng = rng
        self._levels = dict(sorted(levels.items()))
        self._rank_of = rank_of
        self._choosers = [level.chooser for level in self._levels.values()]
        unwell = Counter(map(policy.rank, nodes.unwell))
        well = [len(level.nodes) / (len(level.nodes) + unwell[rank]) for rank, level in self._levels.items()]
        self._ends = list(accumulate(shares(well, policy.overprovisioning)))
        self._last: int | None = None

    def __call__(self, info: PickInfo, now: float) -> Node:
        at = 0
        if self._ends[0] < 1.0:
            at = min(bisect_right(self._ends, self._rng.random()), len(self._choosers) - 1)
        self._last = at
        return self._choosers[at](info, now)

    def revised(self, nodes: NodeSet, change: Change) -> Chooser:
        levels, rank_of = self._levels.copy(), self._rank_of.copy()
        for rank, part in self._by_rank(change, rank_of).items():
            level = revised_group(levels.pop(rank, None), part, self._policy.child, self._rng)
            if level is not None:
                levels[rank] = level
        return Levels(self._policy, levels, rank_of, nodes, self._rng)

    def _by_rank(self, change: Change, rank_of: dict[Node, Rank]) -> dict[Rank, Change]:
        """The change of each level; a node whose rank changed leaves one and joins another. Brings `rank_of` up to
        date."""
        parts: defaultdict[Rank, tuple[list[Node], list[Node], list[Node]]] = defaultdict(lambda: ([], [], []))
        for node in change.joined:
            rank_of[node] = self._policy.rank(node)
            parts[rank_of[node]][0].append(node)
        for node in change.left:
            parts[rank_of.pop(node)][1].append(node)
        for node in change.reweighed:
            before, after = rank_of[node], self._policy.rank(node)
            if before == after:
                parts[before][2].append(node)
            else:
                rank_of[node] = after
                parts[before][1].append(node)
                parts[after][0].append(node)
        return {rank: Change(tuple(joined), tuple(left), tuple(rest)) for rank, (joined, left, rest) in parts.items()}

    def explain(self) -> str:
        if self._last is None:
            return "nothing chosen yet"
        (priority, distance), level = list(self._levels.items())[self._last]
        share = self._ends[self._last] - (self._ends[self._last - 1] if self._last else 0.0)
        where = ("own zone", "own region", "elsewhere")[distance]
        reason = level.chooser.explain() if isinstance(level.chooser, Explains) else "chosen"
        return f"priority {priority}, {where}, which gets {share:.0%}: {reason}"


class LocalityAware:
    """`child` chooses within a level; `own` is where the caller runs: unknown, only priorities count.

    Raises ValueError when `overprovisioning` is below 1.
    """

    def __init__(self, child: Policy, own: Locality = ANYWHERE, *, overprovisioning: float = OVERPROVISIONING) -> None:
        if overprovisioning < 1:
            raise ValueError(f"overprovisioning: must be at least 1, is {overprovisioning}")
        self.child = child
        self.own = own
        self.overprovisioning = overprovisioning
        self.name = f"{policy_name(child)} by locality"
        self.connect: Connect = connect_of(child)

    def rank(self, node: Node) -> Rank:
        return node.endpoint.priority, self.own.distance(node.endpoint.locality)

    def chooser(self, nodes: NodeSet, rng: Random) -> Chooser:
        return Levels(self, {}, {}, NodeSet(()), rng).revised(nodes, Change(joined=nodes.usable))


def locality_aware(
    *,
    child: str | Policy = "weighted_round_robin",
    region: str = "",
    zone: str = "",
    overprovisioning: float | str = OVERPROVISIONING,
    make: Callable[[str | Policy], Policy],
) -> LocalityAware:
    """The policy by name: `locality_aware?child=random&region=eu&zone=a`. `make` turns a name into a policy."""
    factor = at_least(1, float, "overprovisioning", overprovisioning)
    return LocalityAware(make(child), Locality(region, zone), overprovisioning=factor)
