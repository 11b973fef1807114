"""Calls with one request and one response."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from balancer import native
from balancer.aio.call import NO_SAMPLE, BalancedCall
from balancer.aio.unsent import Unsent
from balancer.native import EOF, deserialize, serialize

if TYPE_CHECKING:
    from balancer.aio.methods import Method


class UnaryUnaryCall(BalancedCall, native.UnaryUnaryCall):  # type: ignore[misc]
    """One request, one response. Its one task also decides which attempt is the last."""

    def __init__(self, method: Method, request: Any, *call: Any) -> None:
        self._begin_call(method, *call)
        self._request = request
        self._call_response = self._invocation_task = method.loop.create_task(self._invoke())

    async def _invoke(self) -> Any:
        try:
            request = serialize(self._request, self._request_serializer)
            while True:
                attempt = self._cython_call
                if attempt.__class__ is Unsent:
                    if not await self._settle():
                        return EOF
                    attempt = self._cython_call
                response = await attempt.unary_unary(request, self._metadata, self._context)
                rtt_s = time.monotonic() - self._started
                if attempt.is_ok():
                    self._succeeded(rtt_s)
                    return deserialize(response, self._response_deserializer)
                if not self._failed(attempt, rtt_s, committed=bool(attempt._initial_metadata)):  # noqa: SLF001
                    return EOF
        except asyncio.CancelledError:
            if not self.cancelled():
                self.cancel()
            return EOF
        finally:
            attempt = None  # an exception may keep this frame
            self._leave(NO_SAMPLE, None)
            self._finish()
            self._let_go()

    async def _decided(self) -> None:
        if not self._call_response.done():
            await asyncio.wait({self._call_response})

    async def initial_metadata(self) -> Any:
        await self._decided()
        return await super().initial_metadata()
