"""How the response of a call is had: one to wait for, or a stream to read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

import grpc
import grpc.aio

from balancer.aio.call import Call
from balancer.aio.headers import Streaming
from balancer.aio.journey import Attempt, LooseAttempt, LooseWaiter

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from balancer.aio.engine import Waiter
    from balancer.aio.native import NativeReader, NativeUnary


class UnaryResponse(Call):
    """A call with one response."""

    def __await__(self) -> Generator[object, None, object]:
        while True:
            attempt = self.attempt
            if attempt is None or (not self.over and self._plan.hedging is not None):
                yield from self._settled().__await__()
                attempt = self.attempt
                if attempt is None:
                    self._raise_ending()
                    continue
            native = cast("NativeUnary", attempt.native)
            try:
                return (yield from native.__await__())
            except grpc.RpcError:
                if (yield from self.is_last(attempt).__await__()):
                    raise
            except Exception as error:
                self._break(error)
                raise

    async def _settled(self) -> None:
        """Waits for an attempt to wait for, or the end. Whoever is cancelled here cancels the call."""
        hedged = self._plan.hedging is not None
        try:
            await (self._decided() if hedged else self._under_way())
        except asyncio.CancelledError:
            self.cancel()
            raise


class StreamResponse(Streaming):
    """A call with a stream of responses. It ends when nobody holds it any more."""

    attempt_type: type[Attempt] = LooseAttempt
    _loose: LooseWaiter | None = None

    @property
    def _waiter(self) -> Waiter:
        if self._loose is None:
            self._loose = LooseWaiter(self)
        return self._loose

    def __del__(self) -> None:
        attempt = self.attempt
        if self.over:
            return
        if attempt is not None:
            attempt.native.cancel()
        elif self._loose is not None and not self._engine.loop.is_closed():
            self._engine.soon(self.cancel)  # not here, which may be any thread: it lives on until then

    def __aiter__(self) -> AsyncIterator[object]:
        return Responses(self)

    async def read(self) -> object:
        """The next response, EOF after the last. Raises AioRpcError as the call does."""
        while True:
            attempt = await self._readable()
            try:
                response = await cast("NativeReader", attempt.native).read()
            except grpc.RpcError:
                if await self.is_last(attempt):
                    raise
            else:
                if response is not grpc.aio.EOF:
                    self.commit()
                return response

    async def first(self) -> tuple[object, Callable[[], Coroutine[None, None, object]]]:
        """The next response, and what gives the one after that. Raises StopAsyncIteration after the last."""
        while True:
            attempt = await self._readable()
            step = cast("NativeReader", attempt.native).__aiter__().__anext__
            try:
                response = await step()
            except grpc.RpcError:
                if await self.is_last(attempt):
                    raise
            else:
                self.commit()
                return response, cast("Callable[[], Coroutine[None, None, object]]", step)

    async def _readable(self) -> Attempt:
        try:
            attempt = await self._under_way()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if attempt is None:
            self._raise_ending()
        assert attempt is not None  # noqa: S101 - it would have raised
        return attempt


class Responses(AsyncIterator[object]):
    """The responses of one call. From the second on they come straight from the attempt, whose place no other takes."""

    __slots__ = ("_call", "_next")

    def __init__(self, call: StreamResponse) -> None:
        self._call = call
        self._next: Callable[[], Coroutine[None, None, object]] | None = None

    def __aiter__(self) -> Responses:
        return self

    def __anext__(self) -> Coroutine[None, None, object]:
        return self._first() if self._next is None else self._next()

    async def _first(self) -> object:
        response, self._next = await self._call.first()
        return response

    async def aclose(self) -> None:
        """As with grpc.aio's own, an iterator that is closed says nothing of its call."""
