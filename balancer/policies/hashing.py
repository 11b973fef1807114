"""CORE: where keys go: the hash, the walk over candidates that consistent_hash and ip_hash share, and bounded loads.

The hash is BLAKE2b, cut to 64 bits: the same in every process and on every machine, at C speed, and nobody can craft
keys that all fall on one node faster than by trying.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import islice
from math import fsum
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol, TypeAlias

from balancer.policies.base import ConnectivityState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from random import Random

    from balancer.policies.base import Change, Chooser, Node, NodeSet, PickInfo

KeyReader: TypeAlias = "Callable[[str | bytes], bytes]"
"""From the key of a call to the bytes that are hashed."""


_WEIGHT = attrgetter("weight")
LOOKED_AT = 4096
"""How far a call without a key looks for a connection that is ready."""


def hash64(key: bytes) -> int:
    """64 uniform bits."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def as_bytes(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key


class Table(Protocol):
    """Where hashes fall. Depends on the set of nodes alone, never on its history: clients agree without talking."""

    def node_at(self, point: int) -> Node:
        """The node that the 64-bit hash `point` falls on."""
        ...

    def walk(self, point: int) -> Iterator[Node]:
        """That node, then the ones to try in its stead, in the table's order, once around; nodes may come up
        repeatedly."""
        ...

    def revised(self, nodes: NodeSet, change: Change) -> Table: ...


class KeyChooser:
    """The node of the call's key; a call without a key is drawn at random (gRFC A42).

    A node that the call was tried on before, or that is over its bound, is passed over for the next of the table's
    walk. A call without a key waits for no connection: it goes to the next that is ready, and the one that was drawn is
    connected meanwhile (gRFC A76).
    """

    __slots__ = ("_bound", "_last", "_read", "_rng", "_size", "_table")

    def __init__(self, table: Table, read: KeyReader, rng: Random, size: int, bound: Bound | None) -> None:
        self._table = table
        self._read = read
        self._rng = rng
        self._size = size
        self._bound = bound
        self._last: tuple[int, bool] | None = None

    def __call__(self, info: PickInfo, _now: float) -> Node:
        key = info.key
        point = self._rng.getrandbits(64) if key is None else hash64(self._read(key))
        self._last = point, key is not None
        node = self._table.node_at(point)
        if key is None and node.state is not ConnectivityState.READY:
            node = self._ready(info, point, node)
        if not info.exclude and (self._bound is None or self._bound.has_room(node)):
            return node
        return self._passing_over(info, point, node)

    def _ready(self, info: PickInfo, point: int, drawn: Node) -> Node:
        """The next node that is ready; the one drawn if there is none."""
        for node in islice(self._table.walk(point), LOOKED_AT):
            if node.state is ConnectivityState.READY and node not in info.exclude:
                if drawn.state is ConnectivityState.IDLE:
                    drawn.load.book.wanted = drawn
                return node
        return drawn

    def _passing_over(self, info: PickInfo, point: int, first: Node) -> Node:
        bound, seen = self._bound, set[object]()
        for node in self._table.walk(point):
            if node not in info.exclude and (bound is None or bound.has_room(node)):
                return node
            seen.add(node)
            if len(seen) == self._size:
                break
        return first

    def revised(self, nodes: NodeSet, change: Change) -> Chooser:
        bound = self._bound.revised(nodes) if self._bound else None
        return KeyChooser(self._table.revised(nodes, change), self._read, self._rng, len(nodes.usable), bound)

    def explain(self) -> str:
        if self._last is None:
            return "nothing chosen yet"
        point, keyed = self._last
        home = self._table.node_at(point).endpoint.address
        return f"{'hash of the key' if keyed else 'no key, random hash'} {point:016x}, at home at {home}"


class Bound:
    """Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2017; Envoy's hash_balance_factor).

    No node gets more than `factor` times its fair share of the calls in flight, this one included, rounded up.
    """

    __slots__ = ("_factor", "_weight")

    def __init__(self, nodes: Iterable[Node], factor: float) -> None:
        self._factor = factor
        self._weight = fsum(map(_WEIGHT, nodes))

    def has_room(self, node: Node) -> bool:
        # For a whole number of calls, being below the bound and below the bound rounded up are the same.
        load = node.load
        return load.in_flight * self._weight < self._factor * (load.book.in_flight + 1) * node.weight

    def revised(self, nodes: NodeSet) -> Bound:
        return Bound(nodes.usable, self._factor)
