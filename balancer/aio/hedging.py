"""Calls that race attempts at several endpoints."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from balancer.aio.call import NO_SAMPLE
from balancer.aio.unary import UnaryUnaryCall
from balancer.aio.unsent import Unsent
from balancer.native import EOF, deserialize, serialize
from balancer.policies.base import Node, PickInfo
from balancer.retry import marked, never_left, speaks_against

if TYPE_CHECKING:
    from balancer.aio.connection import Subchannel
    from balancer.aio.methods import Method


class HedgedCall(UnaryUnaryCall):
    """One request that may be under way at several endpoints at once (gRFC A6, hedging); the first good answer wins."""

    def __init__(self, method: Method, request: Any, *call: Any) -> None:
        assert method.hedging is not None  # noqa: S101 - that is why it is this class
        self._hedging = method.hedging
        super().__init__(method, request, *call)

    async def _invoke(self) -> Any:
        racers: dict[asyncio.Task[Any], _Racer] = {}
        try:
            return await self._race(serialize(self._request, self._request_serializer), racers)
        except asyncio.CancelledError:
            if not self.cancelled():
                self.cancel()
            return EOF
        finally:
            for racer in racers.values():
                self._retire(racer, NO_SAMPLE, None)
            self._leave(NO_SAMPLE, None)
            self._finish()
            self._let_go()

    async def _race(self, request: bytes, racers: dict[asyncio.Task[Any], _Racer]) -> Any:
        hedges = self._hedging.begin()
        if self._node is None and not await self._settle():
            return EOF
        while True:
            if self._node is not None:
                self._send(request, racers)
            pause_s = hedges.pause_s(time.monotonic())
            done, _ = await asyncio.wait(racers, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                racer = racers.pop(task)
                self._cython_call = racer.attempt
                rtt_s = time.monotonic() - racer.started
                if racer.attempt.is_ok():
                    self._retire(racer, rtt_s, ok=True)
                    hedges.succeeded()
                    return deserialize(task.result(), self._response_deserializer)
                status = racer.attempt._status  # noqa: SLF001
                refused = never_left(status.code(), status.details())
                self._retire(racer, rtt_s, None if refused else not speaks_against(status.code()))
                hedges.failed(status.code(), status.trailing_metadata(), refused=refused)
                if hedges.over:
                    return EOF
            if hedges.due(time.monotonic()) and not self._hedge(hedges.sent - 1):
                hedges.stop()
            if not racers and self._node is None:
                return EOF

    def _cancel(self, details: str) -> bool:
        if not self._final and self._cython_call.done():
            self._cython_call = Unsent(self._deadline)  # that attempt failed, but others are under way
        return super()._cancel(details)

    def _hedge(self, previous: int) -> bool:
        """Begins one more attempt at an endpoint that has none; False when there is no such endpoint."""
        pick = self._method.engine.pick(self._info)
        if pick.__class__ is not Node or pick in self._tried:
            return False
        self._metadata = marked(self._metadata, previous)
        self._begin_attempt(pick, time.monotonic())
        return True

    def _send(self, request: bytes, racers: dict[asyncio.Task[Any], _Racer]) -> None:
        """Sends the attempt just begun, and frees this call's place for another."""
        node, self._node = self._node, None
        assert node is not None  # noqa: S101 - begun by the caller
        racer = _Racer(self._cython_call, node, self._subchannel, self._started)
        self._tried = (*self._tried, node)
        self._info = PickInfo(self._info.key, self._tried, self._info.method, self._info.metadata)
        task = self._loop.create_task(racer.attempt.unary_unary(request, self._metadata, self._context))
        racers[task] = racer

    def _retire(self, racer: _Racer, rtt_s: float, ok: bool | None) -> None:
        """Takes an attempt out of the race, and ends it if it has not ended."""
        if not racer.attempt.done():
            racer.attempt.cancel("another attempt answered first")
        self._count_out(racer.node, racer.subchannel, rtt_s, ok)


@dataclass(frozen=True, slots=True)
class _Racer:
    """One attempt of a hedged call."""

    attempt: Any
    node: Node
    subchannel: Subchannel
    started: float
