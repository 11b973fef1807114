"""CORE: a plain function as a policy: it is given the endpoints and the key of the call, and gives one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from balancer.endpoints import Endpoint
from balancer.policies.base import Connect

if TYPE_CHECKING:
    from random import Random

    from balancer.policies.base import Chooser, Node, NodeSet, PickInfo

Choice: TypeAlias = Callable[[Sequence[Endpoint], str | bytes | None], Endpoint]


class FromFunction:
    """Asks the function for every call."""

    connect = Connect.ALL

    def __init__(self, function: Choice) -> None:
        self.name = str(getattr(function, "__name__", type(function).__name__))
        self._function = function

    def chooser(self, nodes: NodeSet, _rng: Random, /) -> Chooser:
        by_endpoint = {node.endpoint: node for node in nodes.usable}
        endpoints = tuple(by_endpoint)

        def choose(info: PickInfo, _now: float) -> Node:
            chosen = self._function(endpoints, info.key)
            node = by_endpoint.get(chosen)
            if node is None:
                raise ValueError(f"policy {self.name}: {chosen!r} is none of the endpoints that it was given")
            return node

        return choose
