"""CORE: random: each call is drawn anew, every node alike (Envoy's `RANDOM`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balancer.policies.base import Connect
from balancer.policies.draws import Draw
from balancer.policies.weighted_random import Drawn
from balancer.policies.weights import BY_RAMP, WeightClasses

if TYPE_CHECKING:
    from random import Random

    from balancer.policies.base import Chooser, NodeSet


class RandomChoice:
    """Weights are ignored, slow start is not."""

    name = "random"
    connect = Connect.ALL

    def chooser(self, nodes: NodeSet, rng: Random) -> Chooser:
        return Drawn(Draw(WeightClasses.of(nodes.usable, BY_RAMP), rng))
