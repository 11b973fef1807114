"""CORE: least_connections: the node with the fewest calls in flight for its weight, of all, or of two drawn in a large
fleet.

All is Envoy's FULL_SCAN and nginx's least_conn, two choices are Finagle's P2C with LeastLoaded and Envoy's
LEAST_REQUEST. Of two drawn from ten the only idle node is one in a fifth of the picks, so small fleets are compared in
full; from some dozens on that would cost more than it brings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from balancer.policies.base import Connect
from balancer.policies.draws import Draw
from balancer.policies.two_choices import TwoChoices
from balancer.policies.weights import WeightClasses

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from balancer.policies.base import Change, Chooser, Node, NodeSet, PickInfo

FULL_UP_TO = 32
"""How many nodes are compared in full unless asked otherwise."""
_UNIT = "calls in flight per weight"


def in_flight(node: Node, _now: float) -> float:
    """Calls in flight per unit of weight. Not counting the one to come: idle nodes tie and share by weight."""
    return node.load.in_flight / node.weight


class FullScan:
    """The least loaded of all nodes; a tie is drawn by weight. O(nodes) a pick.

    A node in slow start takes part in as many picks as its ramp says: it is idle, so it would win nearly all.
    """

    __slots__ = ("_last", "_nodes", "_ramping", "_rng")

    def __init__(self, nodes: Sequence[Node], rng: Random) -> None:
        self._nodes = nodes
        self._ramping = any(node.ramp < 1.0 for node in nodes)
        self._rng = rng
        self._last: tuple[float, int] | None = None

    def __call__(self, _info: PickInfo, _now: float) -> Node:
        nodes = self._taking_part() if self._ramping else self._nodes
        loads = [node.load.in_flight / node.weight for node in nodes]
        least = min(loads)
        ties = [node for node, load in zip(nodes, loads, strict=True) if load == least]
        self._last = least, len(ties)
        return ties[0] if len(ties) == 1 else self._rng.choices(ties, [node.weight for node in ties])[0]

    def _taking_part(self) -> Sequence[Node]:
        random = self._rng.random
        return [node for node in self._nodes if node.ramp >= 1.0 or random() < node.ramp] or self._nodes

    def explain(self) -> str:
        if self._last is None:
            return "nothing chosen yet"
        return f"{self._last[0]:.6g} calls in flight per weight, the least of all, at {self._last[1]} nodes"


class OfMany(TwoChoices):
    """Two choices, for as long as there are too many nodes to look at them all."""

    __slots__ = ()

    def revised(self, nodes: NodeSet, change: Change) -> Chooser:
        if len(nodes.usable) <= FULL_UP_TO:
            return FullScan(nodes.usable, self.draw.rng)
        return OfMany(self.draw.revised(change), in_flight, _UNIT)


class LeastConnections:
    """`choices`: 2, "full", or "auto": full up to 32 nodes, 2 above. Raises ValueError for anything else.

    A node that fails at once is never busy, so it draws calls: have outlier detection beside this policy.
    """

    name = "least_connections"
    connect = Connect.ALL

    def __init__(self, *, choices: int | str = "auto") -> None:
        if choices not in (2, "2", "full", "auto"):
            raise ValueError(f"choices: must be 2, full or auto, is {choices}")
        self._full = choices == "full"
        self._two = TwoChoices if choices in (2, "2") else OfMany

    def chooser(self, nodes: NodeSet, rng: Random) -> Chooser:
        if self._full or (self._two is OfMany and len(nodes.usable) <= FULL_UP_TO):
            return FullScan(nodes.usable, rng)
        return self._two(Draw(WeightClasses.of(nodes.usable), rng), in_flight, _UNIT)
