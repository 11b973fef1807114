"""CORE: weighted_random: each call is drawn anew, in proportion to the weights (see `draws`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balancer.policies.base import Connect
from balancer.policies.draws import Draw
from balancer.policies.weights import WeightClasses

if TYPE_CHECKING:
    from random import Random

    from balancer.policies.base import Change, Chooser, Node, NodeSet, PickInfo


class Drawn:
    """One draw per call."""

    __slots__ = ("_draw", "_last", "_one")

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._one = draw.one
        self._last: Node | None = None

    def __call__(self, _info: PickInfo, _now: float) -> Node:
        node = self._last = self._one()
        return node

    def revised(self, _nodes: NodeSet, change: Change) -> Chooser:
        return Drawn(self._draw.revised(change))

    def explain(self) -> str:
        return f"drawn with chance {self._draw.share(self._last):.2%}" if self._last else "nothing chosen yet"


class WeightedRandom:
    """Independent draws: no two clients fall into step."""

    name = "weighted_random"
    connect = Connect.ALL

    def chooser(self, nodes: NodeSet, rng: Random) -> Chooser:
        return Drawn(Draw(WeightClasses.of(nodes.usable), rng))
