"""CORE: the hash ring: each node owns the arcs that end at its points (Karger et al., "Consistent Hashing and Random
Trees", 1997).

A point is one integer: the upper bits of a hash, and in the lower bits the slot of its node. The ring is cut into
arcs of equal length, each a small sorted array, so that a node comes or goes with work for its own points alone, at
any number of nodes.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, insort
from hashlib import shake_128
from itertools import chain, pairwise
from math import log2
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from balancer.policies.base import Change, Node, NodeSet

NameOf: TypeAlias = "Callable[[Node], str]"
"""What a node's points are hashed from."""

SLOT_BITS = 20
SLOT_MASK = (1 << SLOT_BITS) - 1
POINTS_PER_ARC = 32
VIRTUAL_NODES = 300
"""Points of a node of the usual weight: enough that of n nodes the one that leaves had at most 1.2/n of the keys.

The same at every size: a number that followed the size would move keys among the nodes that stay.
"""


def points_of(name: str, count: int) -> array[int]:
    """`count` 64-bit hashes; more points are the fewer ones plus others, so that a weight grows without moving the
    rest."""
    points = array("Q", shake_128(name.encode()).digest(8 * count))
    if sys.byteorder == "big":
        points.byteswap()
    return points


class Ring:
    """Immutable to its users. `revised` copies pointers at C speed and touches the points of the changed nodes only.

    How many points a node has follows from its weight relative to a reference (see `_reference`) that a single node
    coming, going or changing hardly ever moves: else one heavy node would change everybody's points.
    """

    __slots__ = (
        "_arcs",
        "_cut_for",
        "_free",
        "_name_of",
        "_nodes",
        "_shift",
        "_slots",
        "_virtual_nodes",
        "_weights",
    )

    def __init__(self, nodes: Iterable[Node], virtual_nodes: int, name_of: NameOf) -> None:
        self._virtual_nodes = virtual_nodes
        self._name_of = name_of
        # By slot. A free slot keeps its last node until another one takes it; no point leads there.
        self._nodes = list(nodes)
        self._slots = {node: slot for slot, node in enumerate(self._nodes)}
        self._weights = {node: node.endpoint.weight for node in self._slots}
        self._free: list[int] = []
        reference = _reference(self._weights)
        self._cut(sorted(chain.from_iterable(self._owned(node, reference) for node in self._slots)))

    def _cut(self, points: list[int]) -> None:
        self._cut_for = len(self._slots)
        bits = max((len(points) // POINTS_PER_ARC).bit_length(), 1)
        self._shift = 64 - bits
        ends = [bisect_left(points, (arc + 1) << self._shift) for arc in range(1 << bits)]
        self._arcs: list[array[int]] = [array("Q", points[start:end]) for start, end in pairwise((0, *ends))]

    def _owned(self, node: Node, reference: float) -> list[int]:
        count = round(self._virtual_nodes * self._weights[node] / reference)
        slot = self._slots[node]
        return [point & ~SLOT_MASK | slot for point in points_of(self._name_of(node), max(count, 1))]

    def node_at(self, point: int) -> Node:
        arc = self._arcs[point >> self._shift]
        # The slot bits are no part of the order: two clients may number the same nodes differently.
        index = bisect_left(arc, point & ~SLOT_MASK)
        if index < len(arc):
            return self._nodes[arc[index] & SLOT_MASK]
        return next(self.walk(point))

    def walk(self, point: int) -> Iterator[Node]:
        """The owners of the points from `point` on, clockwise, once around."""
        start = point >> self._shift
        split = bisect_left(self._arcs[start], point & ~SLOT_MASK)
        yield from self._owners(self._arcs[start][split:])
        for at in chain(range(start + 1, len(self._arcs)), range(start)):
            yield from self._owners(self._arcs[at])
        yield from self._owners(self._arcs[start][:split])

    def _owners(self, arc: array[int]) -> Iterator[Node]:
        return (self._nodes[point & SLOT_MASK] for point in arc)

    def revised(self, nodes: NodeSet, change: Change) -> Ring:
        heavier = [node for node in change.reweighed if node.endpoint.weight != self._weights[node]]
        left, joined = [*change.left, *heavier], [*change.joined, *heavier]
        if not left and not joined:
            return self
        if len(left) + len(joined) <= len(self._slots) // 4 and len(nodes.usable) <= 2 * self._cut_for:
            revised = self._copy()
            if revised.exchange(left, joined):
                return revised
        return Ring(nodes.usable, self._virtual_nodes, self._name_of)

    def _copy(self) -> Ring:
        other = object.__new__(Ring)
        other._virtual_nodes, other._name_of, other._shift = self._virtual_nodes, self._name_of, self._shift
        other._nodes, other._slots, other._arcs = self._nodes.copy(), self._slots.copy(), self._arcs.copy()
        other._weights = self._weights.copy()
        other._free, other._cut_for = self._free.copy(), self._cut_for
        return other

    def exchange(self, left: list[Node], joined: list[Node]) -> bool:
        """Changes a copy that nobody uses yet; False when that would not give what a new ring would."""
        reference = _reference(self._weights)
        for node in left:
            self._remove(node, reference)
        for node in joined:
            self._insert(node, reference)
        return bool(self._slots) and _reference(self._weights) == reference

    def _remove(self, node: Node, reference: float) -> None:
        for point in self._owned(node, reference):
            at = point >> self._shift
            arc = self._arcs[at] = self._arcs[at][:]
            del arc[bisect_left(arc, point)]
        self._free.append(self._slots.pop(node))
        del self._weights[node]

    def _insert(self, node: Node, reference: float) -> None:
        if not self._free:
            self._free.append(len(self._nodes))
            self._nodes.append(node)
        slot = self._slots[node] = self._free.pop()
        self._nodes[slot] = node
        self._weights[node] = node.endpoint.weight
        for point in self._owned(node, reference):
            at = point >> self._shift
            arc = self._arcs[at] = self._arcs[at][:]
            insort(arc, point)


def _reference(weights: dict[Node, int]) -> float:
    """The weight that gets `virtual_nodes` points: the median, rounded to a power of two so that it stays put.

    In very uneven fleets, where a few heavy nodes would get most of the points, it follows the mean instead: there are
    never more than about six times `virtual_nodes` points per node.
    """
    ordered = sorted(weights.values())
    median, mean = ordered[len(ordered) // 2], sum(ordered) / len(ordered)
    return max(_power_of_two(median), _power_of_two(mean) / 4)


def _power_of_two(value: float) -> float:
    return float(2 ** round(log2(value)))
