"""CORE: what a pick is answered with, and the immutable pickers that answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from balancer.policies.base import ConnectivityState, Explains, Node

if TYPE_CHECKING:
    from balancer.load import LoadBook
    from balancer.policies.base import Chooser, PickInfo


@dataclass(frozen=True, slots=True)
class Wait:
    """No node yet, but one may come without any doing: wait for the next picker."""


@dataclass(frozen=True, slots=True)
class Fail:
    """No node, and none in sight: UNAVAILABLE with this reason, unless the call waits for ready."""

    reason: str
    node: Node | None = None
    """One that could not be connected to: a call that is sent there is told why, in gRPC's own words."""
    drop: bool = False
    """The call is over, whatever it would wait for: one more would be too much."""


@dataclass(frozen=True, slots=True)
class Open:
    """These nodes are idle and one of them is needed: connect (idempotent), then wait for the next picker."""

    nodes: tuple[Node, ...]


Pick: TypeAlias = Node | Open | Wait | Fail


class Picker:
    """Answers picks until the pool swaps it for another. Safe from many threads; never blocks.

    This one always gives the same answer: there is nothing to choose from.
    """

    __slots__ = ("_answer",)

    def __init__(self, answer: Pick) -> None:
        self._answer = answer

    def pick(self, info: PickInfo, now: float) -> Pick:
        """The node for a call, or what to do to get one. A node of `info.exclude` only if there is no other."""
        return self._answer

    def explain(self) -> str:
        """Why the last pick went where it went; empty before the first."""
        return ""


class Choosing(Picker):
    """A picker over usable nodes: the policy's chooser, and what is the same for all policies."""

    __slots__ = ("_choose", "_last", "_nodes")

    def __init__(self, choose: Chooser, nodes: tuple[Node, ...]) -> None:
        self._choose = choose
        self._nodes = nodes
        self._last: Node | None = None

    def pick(self, info: PickInfo, now: float) -> Pick:
        node = self._choose(info, now)
        if info.exclude and node in info.exclude:
            node = self._another(node, info, now)
        self._last = node
        return node if node.state is ConnectivityState.READY else _not_ready(node)

    def _another(self, node: Node, info: PickInfo, now: float) -> Node:
        """Asks the policy a few times more, then takes any that was not tried; the one given if all were."""
        for _ in range(4):
            other = self._choose(info, now)
            if other not in info.exclude:
                return other
        start = self._nodes.index(node) if node in self._nodes else 0
        untried = (other for other in (*self._nodes[start:], *self._nodes[:start]) if other not in info.exclude)
        return next(untried, node)

    def explain(self) -> str:
        last = self._last
        if last is None:
            return ""
        reason = self._choose.explain() if isinstance(self._choose, Explains) else "chosen by the policy"
        return f"{last.endpoint.address}: {reason}"


class Limited(Choosing):
    """The same, while no more calls are in flight than may be (a circuit breaker, as in gRFC A32)."""

    __slots__ = ("_book",)

    def __init__(self, choose: Chooser, nodes: tuple[Node, ...], book: LoadBook) -> None:
        super().__init__(choose, nodes)
        self._book = book

    def pick(self, info: PickInfo, now: float) -> Pick:
        book = self._book
        if book.most is not None and book.in_flight >= book.most:
            return Fail(f"circuit breaker: {book.most} calls are in flight, which is the most", drop=True)
        return super().pick(info, now)


def _not_ready(node: Node) -> Pick:
    # Also reached when a node has just lost its connection and the next picker is on its way.
    return Open((node,)) if node.state is ConnectivityState.IDLE else Wait()
