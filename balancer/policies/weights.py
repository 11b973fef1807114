"""CORE: nodes grouped by weight: fleets have few distinct weights, so choosing among the groups is cheap at any
size."""

from __future__ import annotations

from itertools import chain, count
from operator import attrgetter
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from balancer.policies.base import Change, Node

WeightOf: TypeAlias = "Callable[[Node], float]"

BY_WEIGHT: WeightOf = attrgetter("weight")
"""Each node by its effective weight."""
BY_RAMP: WeightOf = attrgetter("ramp")
"""All nodes alike, but for those that are in slow start."""


class WeightClass:
    """The nodes of one weight, immutable but for the turn counter."""

    __slots__ = ("members", "nodes", "size", "total", "turn", "weight")

    def __init__(self, weight: float, members: dict[Node, None], following: Node | None = None) -> None:
        self.weight = weight
        self.members = members
        self.nodes = tuple(members)
        self.size = len(self.nodes)
        self.total = weight * self.size
        start = 0 if following is None else self.nodes.index(following)
        self.turn: Callable[[], int] = count(start).__next__
        """Gives start, start + 1, …, atomically."""

    def take(self) -> Node:
        """The nodes in turn."""
        return self.nodes[self.turn() % self.size]

    def with_members(self, members: dict[Node, None]) -> WeightClass:
        """A class that goes on where this one is, or frequent changes would favour whoever comes first."""
        at = self.turn() % self.size
        following = (node for node in chain(self.nodes[at:], self.nodes[:at]) if node in members)
        return WeightClass(self.weight, members, next(following, None))


class WeightClasses:
    """All nodes by weight. Immutable: `revised` copies at C speed and does Python-level work for what changed only."""

    __slots__ = ("by_weight", "rule", "weight_of")

    def __init__(self, by_weight: dict[float, WeightClass], weight_of: dict[Node, float], rule: WeightOf) -> None:
        self.by_weight = by_weight
        self.weight_of = weight_of
        """As grouped here; a node may weigh something else by now."""
        self.rule = rule

    @classmethod
    def of(cls, nodes: Iterable[Node], rule: WeightOf = BY_WEIGHT) -> WeightClasses:
        groups: dict[float, dict[Node, None]] = {}
        for node in nodes:
            groups.setdefault(rule(node), {})[node] = None
        classes = {weight: WeightClass(weight, members) for weight, members in groups.items()}
        return cls(classes, {node: weight for weight, members in groups.items() for node in members}, rule)

    def revised(self, change: Change) -> WeightClasses:
        """The classes after `change`; those it did not touch are the same objects."""
        weight_of = self.weight_of.copy()
        touched: dict[float, dict[Node, None]] = {}
        for node in (*change.left, *change.reweighed):
            weight = weight_of.pop(node)
            del self._copied(touched, weight)[node]
        for node in (*change.joined, *change.reweighed):
            weight = weight_of[node] = self.rule(node)
            self._copied(touched, weight)[node] = None
        return WeightClasses(self._merged(touched), weight_of, self.rule)

    def replaced(self, before: WeightClasses, change: Change) -> list[WeightClass]:
        """The classes here that `change` touched on the way from `before`."""
        weights = {before.weight_of[node] for node in (*change.left, *change.reweighed)}
        weights |= {self.weight_of[node] for node in (*change.joined, *change.reweighed)}
        return [self.by_weight[weight] for weight in weights if weight in self.by_weight]

    def _copied(self, touched: dict[float, dict[Node, None]], weight: float) -> dict[Node, None]:
        if weight not in touched:
            old = self.by_weight.get(weight)
            touched[weight] = old.members.copy() if old else {}
        return touched[weight]

    def _merged(self, touched: dict[float, dict[Node, None]]) -> dict[float, WeightClass]:
        by_weight = self.by_weight.copy()
        for weight, members in touched.items():
            old = by_weight.pop(weight, None)
            if members:
                by_weight[weight] = old.with_members(members) if old else WeightClass(weight, members)
        return by_weight
