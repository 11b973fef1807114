"""CORE: response_time: the node that is expected to answer soonest, of two drawn.

Peak EWMA with two choices, after Finagle's P2CPeakEwma: the latency estimate (see `balancer.load`) times the calls
that would be in flight. The peak makes a node that turns slow lose its traffic with the first slow answer; the decay
lets it come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from balancer.policies.base import Connect
from balancer.policies.draws import Draw
from balancer.policies.two_choices import TwoChoices
from balancer.policies.weights import WeightClasses

if TYPE_CHECKING:
    from random import Random

    from balancer.policies.base import Chooser, Node, NodeSet

UNPROVEN_S = 1e6
"""What a node without any answer yet counts as while calls are in flight there: one probe and no flood (Finagle's
penalty)."""


def expected_s(node: Node, now: float) -> float:
    """Seconds until a call that starts now is answered, per unit of weight."""
    load = node.load
    if load.peak_s is None:
        return UNPROVEN_S * load.in_flight
    return load.latency_s(now) * (load.in_flight + 1) / node.weight


class ResponseTime:
    """Slow and failing nodes get little without being declared ill."""

    name = "response_time"
    connect = Connect.ALL

    def chooser(self, nodes: NodeSet, rng: Random) -> Chooser:
        return TwoChoices(Draw(WeightClasses.of(nodes.usable), rng), expected_s, "s expected")
