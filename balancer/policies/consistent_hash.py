"""CORE: consistent_hash: calls with the same key go to the same node, and a node that comes or goes moves its own keys
alone.

A ring (see `ring`) or Maglev's table (see `maglev`), with bounded loads if asked for (see `hashing.Bound`). Nodes are
connected when the first call falls on them, as in gRFC A42's ring_hash.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from balancer.policies.base import Connect
from balancer.policies.checks import at_least
from balancer.policies.hashing import Bound, KeyChooser, as_bytes
from balancer.policies.maglev import SIZE, Maglev, is_prime
from balancer.policies.ring import VIRTUAL_NODES, Ring

if TYPE_CHECKING:
    from random import Random

    from balancer.policies.base import Chooser, NodeSet
    from balancer.policies.hashing import KeyReader, Table


class ConsistentHash:
    """Raises ValueError, naming the option, for a value that makes no sense."""

    name = "consistent_hash"
    connect = Connect.LAZY
    read: KeyReader = staticmethod(as_bytes)

    def __init__(
        self,
        *,
        table: str = "ring",
        virtual_nodes: int | str = VIRTUAL_NODES,
        load_factor: float | str | None = None,
        table_size: int | str = SIZE,
        hash_on: str = "address",
    ) -> None:
        """`table`: ring or maglev. `virtual_nodes`: points on the ring of a node of the usual weight.
        `table_size`: entries of Maglev's table, a prime of at least a hundred times the number of nodes.

        `load_factor`: at least 1, usually 1.25: no node gets more than so many times its share of the calls in flight.
        `hash_on`: address, or id for processes that keep their id when they move.
        """
        if table not in ("ring", "maglev"):
            raise ValueError(f"table: must be ring or maglev, is {table}")
        if hash_on not in ("address", "id"):
            raise ValueError(f"hash_on: must be address or id, is {hash_on}")
        self._table = table
        self._name_of = attrgetter(f"endpoint.{hash_on}")
        self._virtual_nodes = at_least(1, int, "virtual_nodes", virtual_nodes)
        self._table_size = at_least(2, int, "table_size", table_size)
        if not is_prime(self._table_size):
            raise ValueError(f"table_size: must be a prime, is {table_size}")
        self._load_factor = None if load_factor is None else at_least(1, float, "load_factor", load_factor)

    def chooser(self, nodes: NodeSet, rng: Random) -> Chooser:
        bound = Bound(nodes.usable, self._load_factor) if self._load_factor is not None else None
        return KeyChooser(self._build(nodes), self.read, rng, len(nodes.usable), bound)

    def _build(self, nodes: NodeSet) -> Table:
        if self._table == "maglev":
            return Maglev(nodes.usable, self._name_of, self._table_size)
        return Ring(nodes.usable, self._virtual_nodes, self._name_of)
