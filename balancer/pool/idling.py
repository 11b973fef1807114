"""CORE: when connections without calls close: all at once when nothing is called, or one by one when they are lazy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balancer.policies.base import ConnectivityState

if TYPE_CHECKING:
    from collections.abc import Collection

    from balancer.load import LoadBook
    from balancer.policies.base import Node

SWEEPS = 4
"""How often within the idle timeout single idle connections are looked for."""


class Idling:
    """Watches for idleness. `one_by_one`: single connections close, rather than all when no call is left anywhere."""

    def __init__(self, book: LoadBook, timeout_s: float | None, now: float, *, one_by_one: bool) -> None:
        self._book = book
        self._timeout_s = timeout_s
        self.one_by_one = one_by_one
        self._used = now
        self._swept = now

    def woken(self, now: float) -> None:
        """Connections are asked for again."""
        self._used = now

    def idle(self, nodes: Collection[Node], now: float) -> list[Node]:
        """Those of the connected `nodes` whose connections are to close now."""
        if self._timeout_s is None or not nodes:
            return []
        if self.one_by_one:
            return self._unused(nodes, now, self._timeout_s)
        over = self._book.in_flight == 0 and now >= self._last_use() + self._timeout_s
        return list(nodes) if over else []

    def next_look(self, now: float) -> float | None:
        """When `idle` next has something to say, while there are connections."""
        if self._timeout_s is None:
            return None
        if self.one_by_one:
            return self._swept + self._timeout_s / SWEEPS
        due = self._last_use() + self._timeout_s
        return due if due > now or not self._book.in_flight else now + self._timeout_s

    def _last_use(self) -> float:
        return max(self._used, self._book.last_used or self._used)

    def _unused(self, nodes: Collection[Node], now: float, timeout_s: float) -> list[Node]:
        if now < self._swept + timeout_s / SWEEPS:
            return []
        self._swept = now
        return [node for node in nodes if _unused_for(node, now) >= timeout_s]


def _unused_for(node: Node, now: float) -> float:
    """Seconds since a ready node without calls was last used; 0 for any other."""
    if node.state is not ConnectivityState.READY or node.load.in_flight:
        return 0.0
    return now - max(node.ready_since or 0.0, node.load.last_used or 0.0)
