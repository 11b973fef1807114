"""CORE: round_robin: every node in turn (grpc/doc/load-balancing.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balancer.policies.base import Connect
from balancer.policies.turns import in_turn
from balancer.policies.weights import BY_RAMP, WeightClasses

if TYPE_CHECKING:
    from random import Random

    from balancer.policies.base import Chooser, NodeSet


class RoundRobin:
    """Weights are ignored, slow start is not."""

    name = "round_robin"
    connect = Connect.ALL

    def chooser(self, nodes: NodeSet, _rng: Random) -> Chooser:
        return in_turn(WeightClasses.of(nodes.usable, BY_RAMP))
