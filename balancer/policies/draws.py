"""CORE: drawing nodes at random by weight: what random, weighted_random and the two-choices policies are made of.

Inversion of the cumulative weights of the weight classes: one random number picks the class (by bisection) and the
node in it.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

    from balancer.policies.base import Change, Node
    from balancer.policies.weights import WeightClass, WeightClasses

_TOTAL = attrgetter("total")


class Draw:
    """Draws nodes in proportion to their weights. Immutable but for the generator."""

    __slots__ = ("_classes", "_list", "_only", "_random", "_size", "_starts", "_total", "rng")

    def __init__(self, classes: WeightClasses, rng: Random) -> None:
        self._classes = classes
        self.rng = rng
        self._random = rng.random
        self._list: list[WeightClass] = list(classes.by_weight.values())
        ends = list(accumulate(map(_TOTAL, self._list)))
        self._starts = [0.0, *ends[:-1]]
        self._total: float = ends[-1]
        self._only = self._list[0].nodes if len(self._list) == 1 else None
        self._size = self._list[0].size

    def one(self) -> Node:
        if self._only is not None:
            return self._only[int(self._random() * self._size)]
        point = self._random() * self._total
        at = bisect_right(self._starts, point) - 1
        item = self._list[at]
        # The last node's share may end a rounding error past its class.
        return item.nodes[min(int((point - self._starts[at]) / item.weight), item.size - 1)]

    def two(self) -> tuple[Node, Node]:
        """Two nodes, distinct when they weigh the same and there are two.

        The second index is drawn from one fewer and stepped over the first: uniform over the pairs, with no retry.
        With several weights the second is drawn anew once if it is the first, then taken as it is: no pick gets slow.
        """
        if self._only is None:
            one, other = self.one(), self.one()
            return one, (other if other is not one else self.one())
        if self._size == 1:
            return self._only[0], self._only[0]
        first = int(self._random() * self._size)
        second = int(self._random() * (self._size - 1))
        return self._only[first], self._only[second + (second >= first)]

    def revised(self, change: Change) -> Draw:
        return Draw(self._classes.revised(change), self.rng)

    def share(self, node: Node) -> float:
        """The part of all draws that falls on `node`."""
        return self._classes.weight_of[node] / self._total
