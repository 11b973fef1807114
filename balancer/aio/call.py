"""What the application holds of a call: a call object of grpc.aio's own kind. What it asks goes to the attempt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from balancer.aio.journey import AioJourney
from balancer.aio.native import CANCELLED
from balancer.calls.plan import PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable


class Call(AioJourney, grpc.aio.Call):
    """What the four kinds of call share."""

    _channel = None
    """An older grpc.aio asks every call that some task is in for its channel when one of its own closes: it is none."""

    # grpc.aio.RpcContext, grpc.aio.Call

    def cancelled(self) -> bool:
        if self.attempt is not None:
            return self.attempt.native.cancelled()
        return self.over and self._code() is CANCELLED

    def done(self) -> bool:
        return self.over

    def time_remaining(self) -> float | None:
        if self.attempt is not None:
            return self.attempt.native.time_remaining()
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def add_done_callback(self, callback: Callable[[Call], None]) -> None:
        if self.over:
            self._call_back(callback)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    async def code(self) -> grpc.StatusCode:
        attempt = await self._decided()
        return self._code() if attempt is None else await attempt.native.code()

    async def details(self) -> str:
        attempt = await self._decided()
        if attempt is not None:
            return await attempt.native.details()
        ending = self._ending
        return (ending.details() or "") if isinstance(ending, grpc.aio.AioRpcError) else str(ending)

    async def debug_error_string(self) -> str | None:
        attempt = await self._decided()
        return None if attempt is None else await attempt.native.debug_error_string()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        attempt = await self._decided()
        return grpc.aio.Metadata() if attempt is None else await attempt.native.trailing_metadata()

    async def initial_metadata(self) -> grpc.aio.Metadata:
        while True:
            attempt = await (self._under_way() if self._plan is PLAIN else self._decided())
            if attempt is None:
                return grpc.aio.Metadata()
            metadata = await attempt.native.initial_metadata()
            if attempt is self.attempt and (self.over or not attempt.native.done() or await self.is_last(attempt)):
                return metadata

    async def wait_for_connection(self) -> None:
        while True:
            attempt = await self._under_way()
            if attempt is None:
                self._raise_ending()
            else:
                try:
                    await attempt.native.wait_for_connection()
                except grpc.RpcError:
                    if await self.is_last(attempt):
                        raise
                else:
                    return

    def __repr__(self) -> str:
        if self.attempt is not None:
            return repr(self.attempt.native)
        state = f"ended: {self._ending}" if self.over else "waiting for an endpoint"
        return f"<{type(self).__name__} {state}>"

    __str__ = __repr__
