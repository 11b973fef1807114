"""CORE: Maglev's lookup table: one index per pick, and shares that differ by at most one entry per turn.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4; weights as in
Envoy (source/extensions/load_balancing_policies/maglev): a node takes part in as many turns as its weight relative to
the heaviest. A change fills the whole table anew, so its cost is the table's size and not the number of nodes: for
sets of up to a hundredth of the table. The ring is the table for large sets.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, cast

from balancer.policies.hashing import hash64

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from balancer.policies.base import Change, Node, NodeSet
    from balancer.policies.ring import NameOf

SIZE = 65537
"""Maglev's own choice: a prime, so that every step visits every entry."""


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))


class Maglev:
    """Immutable."""

    __slots__ = ("_entries", "_name_of", "_size", "_weights")

    def __init__(self, nodes: Sequence[Node], name_of: NameOf, size: int) -> None:
        self._name_of = name_of
        self._size = size
        self._weights = {node: node.endpoint.weight for node in nodes}
        # Sorted by name: the table must not depend on the order in which this client heard of the nodes.
        self._entries = _filled(sorted(nodes, key=name_of), name_of, size)

    def node_at(self, point: int) -> Node:
        return self._entries[point % self._size]

    def walk(self, point: int) -> Iterator[Node]:
        at = point % self._size
        yield from self._entries[at:]
        yield from self._entries[:at]

    def revised(self, nodes: NodeSet, change: Change) -> Maglev:
        heavier = any(node.endpoint.weight != self._weights[node] for node in change.reweighed)
        changed = change.joined or change.left or heavier
        return Maglev(nodes.usable, self._name_of, self._size) if changed else self


def _filled(nodes: list[Node], name_of: NameOf, size: int) -> list[Node]:
    """The table: the nodes take turns in claiming the next entry of their own permutation that is still free."""
    heaviest = max(node.endpoint.weight for node in nodes)
    entries: list[Node | None] = [None] * size
    claimants = [_Claimant(node, name_of(node), size) for node in nodes]
    free, turn = size, 0
    while free:
        turn += 1
        for claimant in claimants:
            if claimant.turns * heaviest < turn * claimant.node.endpoint.weight:
                claimant.claim(entries)
                free -= 1
                if not free:
                    break
    return cast("list[Node]", entries)


class _Claimant:
    """A node's permutation of the entries: `at`, and `step` further each time."""

    __slots__ = ("at", "node", "size", "step", "turns")

    def __init__(self, node: Node, name: str, size: int) -> None:
        self.node = node
        self.size = size
        self.at = hash64(name.encode()) % size
        self.step = hash64(b"step:" + name.encode()) % (size - 1) + 1
        self.turns = 0

    def claim(self, entries: list[Node | None]) -> None:
        at, step, size = self.at, self.step, self.size
        while entries[at] is not None:
            at = (at + step) % size
        entries[at] = self.node
        self.at = at
        self.turns += 1
