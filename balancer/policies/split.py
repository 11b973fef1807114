"""CORE: traffic in parts: each part of the endpoints gets its share of the calls, and a policy chooses within it.

An endpoint is of the first part that fits it. A part of which no node is usable just now leaves its share to others.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from balancer.policies.base import Change, Connect, Explains, connect_of, policy_name
from balancer.policies.groups import Group, revised_group

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from random import Random

    from balancer.endpoints import Endpoint
    from balancer.policies.base import Chooser, Node, NodeSet, PickInfo, Policy

NOWHERE = -1
"""The part of an endpoint that none fits."""


class Marked(Protocol):
    """What says of which part it is: an endpoint, or what stands for one."""

    @property
    def version(self) -> str: ...

    @property
    def tags(self) -> Collection[str]: ...


@dataclass(frozen=True, slots=True)
class Part:
    """Which endpoints are meant, by version or by tag, and their share relative to the other parts. With neither: all
    that no part before it fits. Raises ValueError for a weight that is not above 0."""

    weight: int
    version: str = ""
    tag: str = ""

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"weight: must be above 0, is {self.weight}")

    def fits(self, endpoint: Marked) -> bool:
        """Whether an endpoint is of it, if it is of none before."""
        if self.version:
            return endpoint.version == self.version
        return not self.tag or self.tag in endpoint.tags


class Split:
    """`child` chooses within a part."""

    def __init__(self, parts: Sequence[Part], child: Policy) -> None:
        self.parts = tuple(parts)
        self.child = child
        self.name = f"{policy_name(child)} in {len(self.parts)} parts"
        # One connection in all, as pick_first would have it, would be one part's.
        self.connect: Connect = Connect.LAZY if connect_of(child) is Connect.LAZY else Connect.ALL

    def group_of(self, endpoint: Endpoint) -> int:
        """The number of the part that an endpoint is of."""
        return next((number for number, part in enumerate(self.parts) if part.fits(endpoint)), NOWHERE)

    def chooser(self, nodes: NodeSet, rng: Random) -> Chooser:
        return Shares(self, {}, rng).revised(nodes, Change(joined=nodes.usable))


class Shares:
    """Draws a part by its share, then lets that part's chooser choose."""

    __slots__ = ("_ends", "_groups", "_last", "_numbers", "_rng", "_split")

    def __init__(self, split: Split, groups: dict[int, Group], rng: Random) -> None:
        self._split = split
        self._groups = groups
        self._rng = rng
        self._numbers = sorted(number for number in groups if number != NOWHERE) or list(groups)
        self._ends = list(accumulate(split.parts[it].weight if it != NOWHERE else 1 for it in self._numbers))
        self._last: int | None = None

    def __call__(self, info: PickInfo, now: float) -> Node:
        ends, at = self._ends, 0
        if len(ends) > 1:
            at = min(bisect_right(ends, self._rng.random() * ends[-1]), len(ends) - 1)
        self._last = self._numbers[at]
        return self._groups[self._last].chooser(info, now)

    def revised(self, nodes: NodeSet, change: Change) -> Chooser:
        split, before = self._split, {node: it for it, group in self._groups.items() for node in group.nodes}
        after = {node: split.group_of(node.endpoint) for node in (*change.joined, *change.reweighed)}
        left = {node: before[node] for node in (*change.left, *change.reweighed)}
        groups: dict[int, Group] = {}
        for number in {*self._groups, *after.values()}:
            stay = {node for node in change.reweighed if after[node] == left[node] == number}
            part = Change(
                tuple(node for node, it in after.items() if it == number and node not in stay),
                tuple(node for node, it in left.items() if it == number and node not in stay),
                tuple(node for node in change.reweighed if node in stay),
            )
            group = self._groups.get(number)
            if group is None or part != Change():
                group = revised_group(group, part, split.child, self._rng)
            if group is not None:
                groups[number] = group
        return Shares(split, groups, self._rng)

    def explain(self) -> str:
        if self._last is None:
            return "nothing chosen yet"
        chooser = self._groups[self._last].chooser
        reason = chooser.explain() if isinstance(chooser, Explains) else "chosen"
        weights = [self._split.parts[it].weight if it != NOWHERE else 1 for it in self._numbers]
        share = weights[self._numbers.index(self._last)] / sum(weights)
        return f"part {self._last + 1}, which gets {share:.0%}: {reason}"
