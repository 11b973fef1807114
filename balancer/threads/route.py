"""Where a call goes: the next node, waiting if it must, and what follows when an attempt failed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc

from balancer import native
from balancer.policies.base import Node, PickInfo
from balancer.pool.picker import Fail
from balancer.retry import never_left, speaks_against

if TYPE_CHECKING:
    from balancer.retry import Retries
    from balancer.threads.connection import Subchannel
    from balancer.threads.engine import Engine
    from balancer.threads.methods import Method


class Route:
    """Where one call goes: which nodes it was tried on, until when, and what the next may be."""

    __slots__ = ("_engine", "_refused", "deadline", "info", "last", "retries", "wait_for_ready")

    def __init__(self, method: Method, info: PickInfo, deadline: float | None, *, wait_for_ready: bool | None) -> None:
        self._engine: Engine = method.engine
        self.info = info
        self.deadline = deadline
        """On the monotonic clock."""
        self.wait_for_ready = wait_for_ready
        self.retries: Retries | None = None if method.retrying is None else method.retrying.begin()
        self._refused: tuple[Node, ...] = ()
        self.last: Any = None

    def left_s(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def look(self) -> Node | Any | None:
        """A node, or the error the call ends with, or None: wait for the next picker."""
        if self._engine.closed:
            return native.ended_error(grpc.StatusCode.CANCELLED, "Channel closed!")
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return native.ended_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        pick = self._engine.pick(self.info)
        if isinstance(pick, Node):
            if pick not in self._refused and pick.subchannel is not None:
                return pick
            return None if self.wait_for_ready or pick.subchannel is None else self._out()
        return self._out(pick.reason) if isinstance(pick, Fail) and not self.wait_for_ready else None

    def _out(self, reason: str = "no endpoint is ready") -> Any:
        return self.last or native.ended_error(grpc.StatusCode.UNAVAILABLE, reason)

    def another_picker(self) -> None:
        """What was refused by the last picker's word may be asked again by this one's."""
        self._refused = ()

    def wait(self) -> tuple[Node, Subchannel]:
        """Blocks until there is a node and its connection; raises the RpcError that the call ends with."""
        while True:
            seen = self._engine.generation
            found = self.look()
            if isinstance(found, Node):
                subchannel = found.subchannel
                if subchannel is not None:
                    return found, subchannel
            elif found is not None:
                raise found
            if self._engine.wait_for_picker(seen, self.left_s()):
                self.another_picker()

    def pause_after(self, node: Node, error: Any, rtt_s: float, *, committed: bool) -> float | None:
        """An attempt on `node` failed: counts it, and gives the pause before the next in seconds, or None if
        it was the last."""
        code = error.code()
        number = code.value[0]
        if code is grpc.StatusCode.CANCELLED and error.cancelled():
            node.load.abandoned()
            return None
        if never_left(number, error.details()):
            node.load.abandoned()
            self._engine.connection_failed(node)
            self._refused = (*self._refused, node)
            self.last = error
            self.exclude(node)
            return 0.0
        self._engine.ended(node, rtt_s, ok=not speaks_against(number))
        if self.retries is None:
            return None
        pause_s = self.retries.pause_after(number, error.trailing_metadata(), self._engine.rng, committed=committed)
        if pause_s is not None:
            self.last = None
            self.exclude(node)
        return pause_s

    def exclude(self, node: Node) -> None:
        """The next attempt goes elsewhere if it can."""
        info = self.info
        self.info = PickInfo(info.key, (*info.exclude, node), info.method, info.metadata)

    def marked(self, metadata: Any) -> Any:
        """The metadata of the next attempt."""
        return metadata if self.retries is None else self.retries.marked(tuple(metadata or ()))
