"""CORE: pick_first: the first endpoint of the list that connects takes all calls (gRFC A62;
grpc/doc/load-balancing.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balancer.policies.base import Connect

if TYPE_CHECKING:
    from random import Random

    from balancer.policies.base import Chooser, Node, NodeSet, PickInfo


class OneForAll:
    """Sticks to one node. The pool keeps nodes in the order in which they became usable."""

    __slots__ = ("_node",)

    def __init__(self, node: Node) -> None:
        self._node = node

    def __call__(self, _info: PickInfo, _now: float) -> Node:
        return self._node

    def explain(self) -> str:
        return "the first of the list that connected"


class PickFirst:
    """`shuffle`: each pool tries the list in an order of its own (A62's shuffleAddressList)."""

    name = "pick_first"
    connect = Connect.FIRST

    def __init__(self, *, shuffle: bool = False) -> None:
        self.shuffle = shuffle

    def chooser(self, nodes: NodeSet, _rng: Random) -> Chooser:
        return OneForAll(nodes.usable[0])
