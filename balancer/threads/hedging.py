"""Calls that race attempts at several endpoints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc

from balancer import native
from balancer.policies.base import Node
from balancer.retry import marked, never_left, speaks_against
from balancer.threads.call import BalancedCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.retry import Hedges
    from balancer.threads.connection import Subchannel
    from balancer.threads.route import Route
    from balancer.threads.streams import Requests


class HedgedCall(BalancedCall):
    """A future that may be under way at several endpoints at once (gRFC A6, hedging); the first good answer wins."""

    def __init__(
        self,
        route: Route,
        begin: Callable[[Subchannel, float | None, Any], Any],
        metadata: Any,
        requests: Requests | None,
        hedges: Hedges,
    ) -> None:
        super().__init__(route, begin, metadata, requests)
        self._hedges = hedges
        self._racers: dict[Any, tuple[Node, float]] = {}

    def _begin_on(self, node: Node) -> None:
        now = time.monotonic()
        node.load.started(now)
        try:
            attempt = self._begin(node.subchannel, self._route.left_s(), self._metadata)
        except BaseException:
            node.load.abandoned()
            raise
        self._route.exclude(node)
        with self._lock:
            self._racers[attempt] = (node, now)
            pause_s = self._hedges.pause_s(now)
            unwanted = self._final
        if unwanted:
            attempt.cancel()
        elif pause_s is not None:
            self._engine.later(pause_s, self._hedge)
        attempt.add_done_callback(self._racer_ended)

    def _hedge(self) -> None:
        """In the private loop: begins one more attempt, if one is due and there is an endpoint without any."""
        with self._lock:
            if self._final or not self._hedges.due(time.monotonic()):
                return
            self._metadata = marked(tuple(self._metadata or ()), self._hedges.sent - 1)
        found = self._route.look()
        if isinstance(found, Node) and found not in self._route.info.exclude:
            self._begin_on(found)
            return
        with self._lock:
            self._hedges.stop()
            nobody = not self._racers
        if nobody:
            self._end(self._route.last or native.ended_error(grpc.StatusCode.UNAVAILABLE, "no endpoint is left"))

    def _racer_ended(self, attempt: Any) -> None:
        with self._lock:
            node, started = self._racers.pop(attempt)
        code = attempt.code()
        number = code.value[0]
        refused = never_left(number, attempt.details())
        if self._final or attempt.cancelled() or refused:
            node.load.abandoned()
        else:
            self._engine.ended(node, time.monotonic() - started, ok=not speaks_against(number))
        if refused:
            self._engine.connection_failed(node)
        if not self._final:
            self._judge(attempt, number, refused=refused)

    def _judge(self, attempt: Any, number: int, *, refused: bool) -> None:
        hedges = self._hedges
        with self._lock:
            if number == 0:
                hedges.succeeded()
            else:
                hedges.failed(number, attempt.trailing_metadata(), refused=refused)
                self._route.last = attempt
            last = number == 0 or hedges.over or self._cancelled
            pause_s = None if last else hedges.pause_s(time.monotonic())
            alone = not self._racers
        if last or (alone and pause_s is None):
            self._end(attempt)
        elif pause_s is not None:
            self._engine.later(pause_s, self._hedge)

    def _end(self, outcome: Any) -> None:
        super()._end(outcome)
        with self._lock:
            others = list(self._racers)
        for other in others:
            other.cancel()

    def cancel(self) -> bool:
        with self._lock:
            if self._final:
                return False
            self._cancelled = True
        self._end(native.ended_error(grpc.StatusCode.CANCELLED, "Locally cancelled by application!"))
        return True
