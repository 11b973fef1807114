"""CORE: the better of two nodes drawn at random.

Two choices instead of one take the longest queue from log n / log log n to log log n (Mitzenmacher, "The Power of Two
Choices in Randomized Load Balancing", 1996), and unlike the best of all they do not send every client to the same
node at once. Finagle's P2C and Envoy's LEAST_REQUEST do the same; what is compared, the metric, is an argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.policies.base import Change, Chooser, Node, NodeSet, PickInfo
    from balancer.policies.draws import Draw

Metric: TypeAlias = "Callable[[Node, float], float]"
"""From a node and `now` to how loaded it is: less is better."""


class TwoChoices:
    """Nodes are drawn by weight, so that equally loaded ones share in proportion to it."""

    __slots__ = ("_last", "_metric", "_two", "_unit", "draw")

    def __init__(self, draw: Draw, metric: Metric, unit: str) -> None:
        self.draw = draw
        self._two = draw.two
        self._metric = metric
        self._unit = unit
        self._last: tuple[float, Node, float] | None = None

    def __call__(self, _info: PickInfo, now: float) -> Node:
        one, other = self._two()
        cost, other_cost = self._metric(one, now), self._metric(other, now)
        if other_cost < cost:
            one, other, cost, other_cost = other, one, other_cost, cost
        self._last = cost, other, other_cost
        return one

    def revised(self, _nodes: NodeSet, change: Change) -> Chooser:
        return TwoChoices(self.draw.revised(change), self._metric, self._unit)

    def explain(self) -> str:
        if self._last is None:
            return "nothing chosen yet"
        cost, other, other_cost = self._last
        return f"{cost:.6g} against {other_cost:.6g} {self._unit} at {other.endpoint.address}"
