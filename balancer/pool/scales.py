"""CORE: what each node weighs: as configured, or as it reports, and less than that while it starts (slow start)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balancer.policies.base import Node
    from balancer.pool.options import SlowStart
    from balancer.pool.seats import Seats


class Scales:
    """Keeps `Node.weight` right and tells the seats when it changed."""

    def __init__(self, slow_start: SlowStart | None, seats: Seats, now: float) -> None:
        self._slow_start = slow_start
        self._seats = seats
        self._ramping: dict[Node, None] = {}
        self._grown = now

    def weigh(self, node: Node) -> None:
        """The configured or the reported weight of a node may be another one."""
        base = node.endpoint.weight if node.reported_weight is None else node.reported_weight
        weight = base * node.ramp
        # A node of weight 0 leaves the members: its last weight stays, and no chooser ever divides by 0.
        if weight > 0 and weight != node.weight:
            node.weight = weight
            self._seats.reweigh(node)

    def begin(self, node: Node, now: float) -> None:
        """A node becomes usable: slow start begins."""
        node.ready_since = now
        if self._slow_start is not None:
            node.ramp = self._slow_start.ramp(0.0)
            if not self._ramping:
                self._grown = now
            self._ramping[node] = None
        self.weigh(node)

    def drop(self, node: Node) -> None:
        """A node is no member any more."""
        self._ramping.pop(node, None)

    def grow(self, now: float) -> None:
        """Lets those that start take a step, if it is time for one."""
        if self._slow_start is None or not self._ramping or now < self._grown + self._slow_start.step_s:
            return
        self._grown = now
        for node in list(self._ramping):
            node.ramp = self._slow_start.ramp(now - (node.ready_since or 0.0))
            if node.ramp >= 1.0:
                del self._ramping[node]
            self.weigh(node)

    def next_step(self) -> float | None:
        """When `grow` next has something to do; None = nothing starts."""
        return self._grown + self._slow_start.step_s if self._slow_start is not None and self._ramping else None
