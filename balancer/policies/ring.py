"""The hash ring: each node owns the arcs that end at its points (Karger et al., "Consistent Hashing and Random
Trees", 1997).

A point is one integer: the upper bits of a hash, and in the lower bits the slot of its node. The ring is cut into
arcs of equal length, each a small sorted array, so that a node comes or goes with work for its own points alone, at
any number of nodes.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, insort
from collections import Counter
from hashlib import shake_128
from itertools import chain, pairwise
from typing import TYPE_CHECKING, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from balancer.policies.base import Change, Node, NodeSet

NameOf: TypeAlias = "Callable[[Node], str]"
"""What a node's points are hashed from."""

SLOT_BITS = 20
SLOT_MASK = (1 << SLOT_BITS) - 1
POINTS_PER_ARC = 32
MOST_SHARES = 64
"""A node gets at most so many times the points of the usual weight."""


def points_of(name: str, count: int) -> array[int]:
    """`count` 64-bit hashes; more points are the fewer ones plus others, so that a weight grows without moving the
    rest."""
    points = array("Q", shake_128(name.encode()).digest(8 * count))
    if sys.byteorder == "big":
        points.byteswap()
    return points


class Ring:
    """Immutable to its users. `revised` copies pointers at C speed and touches the points of the changed nodes only.

    How many points a node has follows from its weight relative to the usual one, the weight most nodes have: a single
    heavy node then changes nobody else's points, as a share of the sum or of the maximum would.
    """

    __slots__ = (
        "_arcs",
        "_census",
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
        self._nodes: list[Node | None] = list(nodes)
        self._slots = {node: slot for slot, node in enumerate(self._nodes) if node is not None}
        self._weights = {node: node.endpoint.weight for node in self._slots}
        self._census = Counter(self._weights.values())
        self._free: list[int] = []
        usual = _usual(self._census)
        self._cut(sorted(chain.from_iterable(self._owned(node, usual) for node in self._slots)))

    def _cut(self, points: list[int]) -> None:
        self._cut_for = len(self._slots)
        bits = max((len(points) // POINTS_PER_ARC).bit_length(), 1)
        self._shift = 64 - bits
        ends = [bisect_left(points, (arc + 1) << self._shift) for arc in range(1 << bits)]
        self._arcs: list[array[int]] = [array("Q", points[start:end]) for start, end in pairwise((0, *ends))]

    def _owned(self, node: Node, usual: int) -> list[int]:
        count = round(self._virtual_nodes * min(self._weights[node] / usual, MOST_SHARES))
        slot = self._slots[node]
        return [point & ~SLOT_MASK | slot for point in points_of(self._name_of(node), max(count, 1))]

    def node_at(self, point: int) -> Node:
        arc = self._arcs[point >> self._shift]
        # The slot bits are no part of the order: two clients may number the same nodes differently.
        index = bisect_left(arc, point & ~SLOT_MASK)
        if index < len(arc):
            return cast("Node", self._nodes[arc[index] & SLOT_MASK])
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
        return (cast("Node", self._nodes[point & SLOT_MASK]) for point in arc)

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
        other._weights, other._census = self._weights.copy(), self._census.copy()
        other._free, other._cut_for = self._free.copy(), self._cut_for
        return other

    def exchange(self, left: list[Node], joined: list[Node]) -> bool:
        """Changes a copy that nobody uses yet; False when that would not give what a new ring would."""
        usual = _usual(self._census)
        for node in left:
            self._remove(node, usual)
        for node in joined:
            self._insert(node, usual)
        return bool(self._slots) and _usual(self._census) == usual

    def _remove(self, node: Node, usual: int) -> None:
        for point in self._owned(node, usual):
            at = point >> self._shift
            arc = self._arcs[at] = self._arcs[at][:]
            del arc[bisect_left(arc, point)]
        self._free.append(self._slots.pop(node))
        self._census[self._weights.pop(node)] -= 1

    def _insert(self, node: Node, usual: int) -> None:
        if not self._free:
            self._free.append(len(self._nodes))
            self._nodes.append(node)
        slot = self._slots[node] = self._free.pop()
        self._nodes[slot] = node
        weight = self._weights[node] = node.endpoint.weight
        self._census[weight] += 1
        for point in self._owned(node, usual):
            at = point >> self._shift
            arc = self._arcs[at] = self._arcs[at][:]
            insort(arc, point)


def _usual(census: Counter[int]) -> int:
    """The most frequent weight, the smallest of several."""
    return max(census, key=lambda weight: (census[weight], -weight))
