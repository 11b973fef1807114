"""CORE: taking turns, by weight: what round_robin and weighted_round_robin are made of.

Weighted turns are dealt out by earliest deadline first among the classes of equal weight, the k-th turn (from 0) of a
class with total weight W being due at (k + 1/2) / W. That is the Sainte-Laguë (Webster) divisor method of
apportionment: over one unit of virtual time, the sum of the weights, every class gets exactly W turns, and at no
moment is it far from its share. Weights 1:1:3 come out as `c a c b c`, as nginx's smooth weighted round robin has
them (nginx, src/http/ngx_http_upstream_round_robin.c), at O(log of the number of distinct weights) a pick instead of
O(nodes). Earliest deadline first over a heap is also Envoy's (source/common/upstream/edf_scheduler.h); gRFC A58 has
static strides.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from threading import RLock
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from balancer.policies.base import Change, Chooser, Node, NodeSet, PickInfo
    from balancer.policies.weights import WeightClass, WeightClasses

Turn: TypeAlias = "tuple[float, int, float, int, WeightClass]"
"""When it is due in virtual time, a number that settles ties, the phase p and the number k of the turn, the class:
turn k of a class of total weight W is due at (p + k) / W."""


class Rotation:
    """All nodes weigh the same: a counter and an index."""

    __slots__ = ("_classes", "_nodes", "_size", "_turn")

    def __init__(self, classes: WeightClasses, only: WeightClass) -> None:
        self._classes = classes
        self._nodes, self._size, self._turn = only.nodes, only.size, only.turn

    def __call__(self, _info: PickInfo, _now: float) -> Node:
        return self._nodes[self._turn() % self._size]

    def revised(self, _nodes: NodeSet, change: Change) -> Chooser:
        return in_turn(self._classes.revised(change))

    def explain(self) -> str:
        return f"next in turn of {self._size}"


class Schedule:
    """Several weights: a heap of turns, one per class.

    After a change the heap may hold turns of classes that are no more; they are dropped when they come up.
    """

    __slots__ = ("_classes", "_last", "_lock", "_order", "_turns")

    def __init__(self, classes: WeightClasses, turns: list[Turn], order: count[int]) -> None:
        self._classes = classes
        self._turns = turns
        self._order = order
        self._lock = RLock()
        self._last: WeightClass | None = None

    @classmethod
    def starting(cls, classes: WeightClasses) -> Schedule:
        order = count()
        turns = [_first_turn(0.0, item, order) for item in classes.by_weight.values()]
        heapify(turns)
        return cls(classes, turns, order)

    def __call__(self, _info: PickInfo, _now: float) -> Node:
        with self._lock:
            turns = self._turns
            while self._classes.by_weight.get(turns[0][4].weight) is not turns[0][4]:
                heappop(turns)
            _, order, phase, k, item = turns[0]
            # Not due + 1 / W: sums of rounded fractions drift, and over a period the count has to be exact.
            heapreplace(turns, ((phase + k + 1) / item.total, order, phase, k + 1, item))
            self._last = item
            return item.take()

    def revised(self, _nodes: NodeSet, change: Change) -> Chooser:
        classes = self._classes.revised(change)
        if len(classes.by_weight) == 1:
            return in_turn(classes)
        with self._lock:
            turns = self._turns.copy()
        begun = {turn[4].weight: turn for turn in turns if turn[4] is self._classes.by_weight.get(turn[4].weight)}
        if len(turns) > 2 * len(begun) + 16:
            turns = list(begun.values())
            heapify(turns)
        now = min(begun.values())[0]
        for item in classes.replaced(self._classes, change):
            heappush(turns, _next_turn(now, begun.get(item.weight), item, self._order))
        return Schedule(classes, turns, self._order)

    def explain(self) -> str:
        if self._last is None:
            return "nothing chosen yet"
        return f"weight {self._last.weight:g}, next in turn of {self._last.size} of that weight"


def _first_turn(now: float, item: WeightClass, order: count[int]) -> Turn:
    phase = now * item.total + 0.5
    return phase / item.total, next(order), phase, 0, item


def _next_turn(now: float, begun: Turn | None, item: WeightClass, order: count[int]) -> Turn:
    """The turn of a class that takes another's place: what that one had already waited counts, or frequent changes
    would put off the same classes for ever."""
    if begun is None:
        return _first_turn(now, item, order)
    due, _, _, _, before = begun
    phase = now * item.total + (due - now) * before.total
    return phase / item.total, next(order), phase, 0, item


def in_turn(classes: WeightClasses) -> Chooser:
    """Weighted turns over `classes`, by the cheapest means."""
    if len(classes.by_weight) == 1:
        return Rotation(classes, next(iter(classes.by_weight.values())))
    return Schedule.starting(classes)
