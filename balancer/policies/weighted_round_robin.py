"""CORE: weighted_round_robin: each node as often as its weight says, evenly spread over the period (see `turns`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balancer.policies.base import Connect
from balancer.policies.turns import in_turn
from balancer.policies.weights import WeightClasses

if TYPE_CHECKING:
    from random import Random

    from balancer.policies.base import Chooser, NodeSet


class WeightedRoundRobin:
    """Exact over a period: with weights 1, 1 and 3 any five picks from its start are 1, 1 and 3."""

    name = "weighted_round_robin"
    connect = Connect.ALL

    def chooser(self, nodes: NodeSet, _rng: Random) -> Chooser:
        return in_turn(WeightClasses.of(nodes.usable))
