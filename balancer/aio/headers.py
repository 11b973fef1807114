"""Calls with a stream in them, whose response headers may come long before anything else, and commit them (A6)."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING

import grpc.aio

from balancer.aio.call import Call
from balancer.calls.retry import HEADERS_SETTLE_S

if TYPE_CHECKING:
    from balancer.aio.journey import Attempt
    from balancer.policies.base import Node


class Streaming(Call):
    """What calls with a stream in them share. Under a retry policy the headers of each attempt are waited for."""

    is_unary = False
    _received = False
    _headers: asyncio.Task[None] | None = None

    def begin_on(self, node: Node, now: float) -> None:
        super().begin_on(node, now)
        if self.attempt is not None and self._course is None and self._plan.retrying is not None:
            self._watch_headers(self.attempt)

    def _started(self, attempt: Attempt) -> None:
        super()._started(attempt)
        if self._plan.retrying is not None:
            self._watch_headers(attempt)

    def _watch_headers(self, attempt: Attempt) -> None:
        if self._headers is not None:
            self._headers.cancel()
        self._headers = self._engine.loop.create_task(_see_headers(weakref.ref(self), attempt))

    @property
    def _committed(self) -> bool:
        return self._received

    def commit(self) -> None:
        """Part of the response has come: no other attempt takes this one's place any more."""
        self._received = True

    def _finish(self) -> None:
        super()._finish()
        if self._headers is not None:
            self._headers.cancel()

    async def initial_metadata(self) -> grpc.aio.Metadata:
        if self._plan.retrying is None:
            return await super().initial_metadata()
        while True:
            attempt = await self._under_way()
            if attempt is None:
                return grpc.aio.Metadata()
            metadata = await attempt.native.initial_metadata()
            if self._headers is not None and not self._headers.done():
                await asyncio.wait({self._headers})
            if attempt is self.attempt and (self.over or not attempt.native.done() or await self.is_last(attempt)):
                return metadata


async def _see_headers(owner: weakref.ref[Streaming], attempt: Attempt) -> None:
    """Commits the call when headers came by themselves; empty ones may be part of a failure that comes with them."""
    if not await attempt.native.initial_metadata():
        await asyncio.sleep(HEADERS_SETTLE_S)
        await asyncio.sleep(0)  # a loop that was held up polls now, and does what was polled in the turn after
        await asyncio.sleep(0)
    call = owner()
    if call is not None and attempt is call.attempt and not attempt.native.done():
        call.commit()
