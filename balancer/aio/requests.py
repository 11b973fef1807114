"""The requests of a call with a stream of them: where they come from, and what is sent again.

Under a retry policy requests are kept as bytes (`Kept`), read by one attempt after the other. Without one they pass by:
only the first is looked at, for a call that never had a connection goes elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TYPE_CHECKING, cast

import grpc
import grpc.aio

from balancer.aio.headers import Streaming
from balancer.aio.native import not_sent
from balancer.calls.replay import Replay
from balancer.calls.retry import HEADERS_SETTLE_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from balancer.aio.connection import Connection
    from balancer.aio.journey import Attempt, Common
    from balancer.aio.native import NativeCall, NativeWriter
    from balancer.calls.replay import Kept
    from balancer.channels.types import Arguments
    from balancer.policies.base import PickInfo

_SOON_S = 0.001
_OVER = "RPC already finished."
_HALF_CLOSED = 'RPC is half closed after calling "done_writing".'
_MIXED = "The iterator and read/write APIs may not be mixed on a single RPC."


class Source:
    """What the application iterates over, read by one attempt after the other. `keeps`: a policy may try again, so
    requests are `Kept` ones; otherwise they are the application's own."""

    def __init__(self, requests: AsyncIterable[object] | Iterable[object], replay: Replay, *, keeps: bool) -> None:
        self._requests = aiter(requests if isinstance(requests, AsyncIterable) else _in_turn(requests))
        self._replay = replay
        self.keeps = keeps
        self._reader: Reader | None = None
        self._taker: tuple[Reader, asyncio.Task[object] | None] | None = None
        self._taken = asyncio.Event()
        self._end: BaseException | None = None

    def reader(self) -> Reader:
        """All requests for the next attempt; the one before it gets no more."""
        self._reader = Reader(self)
        return self._reader

    def close(self) -> None:
        """The call is over: an attempt that had been replaced waits for nothing any more."""
        if self._taker is not None and self._taker[0] is not self._reader and self._taker[1] is not None:
            self._taker[1].cancel()

    async def next(self, reader: Reader) -> object:
        """The next request for a reader. One that was replaced while it waited leaves it to its successor."""
        while reader is self._reader:
            kept = self._replay.at(reader.position)
            if kept is not None:
                reader.position += 1
                if not self.keeps and self._replay.committed:
                    reader.passing = self._requests.__anext__
                return kept if self.keeps else kept.request
            if self._end is not None:
                raise self._end
            if self._taker is not None:
                await self._taken.wait()
            else:
                await self._take(reader)
        raise StopAsyncIteration

    async def _take(self, reader: Reader) -> None:
        """Into the replay; or notes how the source ended."""
        self._taker = reader, asyncio.current_task()
        self._taken.clear()
        try:
            self._replay.take(await anext(self._requests))
        except StopAsyncIteration:
            self._end = StopAsyncIteration()
        except Exception as error:  # of the application's: the attempt ends with it
            self._end = error
        finally:
            self._taker = None
            self._taken.set()


async def _in_turn(requests: Iterable[object]) -> AsyncIterator[object]:
    for request in requests:
        yield request


class Reader(AsyncIterator[object]):
    """The requests of a call for one attempt."""

    __slots__ = ("_source", "passing", "position")

    def __init__(self, source: Source) -> None:
        self._source = source
        self.position = 0
        self.passing: Callable[[], Awaitable[object]] | None = None
        """Set once nothing is kept any more: requests come straight from the application."""

    def __anext__(self) -> Awaitable[object]:
        if self.passing is not None:
            return self.passing()
        return self._after_the_server() if self._source.keeps else self._source.next(self)

    async def _after_the_server(self) -> object:
        # The server may have ended the call: what came of that is seen to first, for grpc.aio takes a message that it
        # cannot send any more for an error of its own, and the server's word is lost. The first turn of the loop
        # polls, the second does what was polled.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return await self._source.next(self)


class StreamRequest(Streaming):
    """A call with a stream of requests: iterated over, or written."""

    _source: Source | None = None
    _done_writing_flag = False
    """grpc.aio's interceptors look at it under this name."""
    _catching_up: asyncio.Task[None] | None = None
    _listening: asyncio.Task[None] | None = None

    def __init__(self, method: Common, request: object, arguments: Arguments, info: PickInfo) -> None:
        super().__init__(method, request, arguments, info)
        self._replay = Replay(method.replay_limit)
        if request is not None:
            keeps = method.replay_limit is not None
            self._source = Source(cast("Iterable[object]", request), self._replay, keeps=keeps)

    def _native(self, connection: Connection, arguments: Arguments, *, again: bool = False) -> NativeCall:
        timeout, metadata, credentials, _, compression = arguments
        requests = None if self._source is None else self._source.reader()
        return self._method.at(connection, again)(
            requests, timeout=timeout, metadata=metadata, credentials=credentials, compression=compression
        )

    @property
    def _committed(self) -> bool:
        return self._received or self._replay.committed

    def commit(self) -> None:
        super().commit()
        self._replay.commit()

    def _started(self, attempt: Attempt) -> None:
        super()._started(attempt)
        if self._source is None and (self._replay.taken or self._done_writing_flag):
            self._catching_up = self._engine.loop.create_task(self._catch_up(attempt))

    # What the server said, of an attempt that could not send a message any more

    def attempt_ended(self, attempt: Attempt) -> None:
        if not_sent(attempt.native) and not self.over and not attempt.is_out:
            self._listening = self._engine.loop.create_task(self._hear_out(attempt))
        else:
            super().attempt_ended(attempt)

    async def is_last(self, attempt: Attempt) -> bool:
        if not_sent(attempt.native) and not self.over:
            await self._hear_out(attempt)
        return await super().is_last(attempt)

    async def _hear_out(self, attempt: Attempt) -> None:
        until = time.monotonic() + HEADERS_SETTLE_S
        while not_sent(attempt.native) and time.monotonic() < until:  # noqa: ASYNC110 - grpc.aio tells nobody when
            await asyncio.sleep(_SOON_S)
        super().attempt_ended(attempt)

    async def _catch_up(self, attempt: Attempt) -> None:
        """Gives an attempt what was written to the ones before."""
        native = cast("NativeWriter", attempt.native)
        try:
            for position in range(self._replay.taken):
                await native.write(self._form(self._replay.at(position)))
            if self._done_writing_flag:
                await native.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the attempt ended, and its status says why

    def _form(self, kept: Kept | None) -> object:
        """A request as the native calls of this method take it."""
        return kept if kept is None or self._method.replay_limit is not None else kept.request

    def _finish(self) -> None:
        super()._finish()
        if self._source is not None:
            self._source.close()

    async def write(self, request: object) -> None:
        """Sends a request. Raises AioRpcError when the call has failed, InvalidStateError when it is over."""
        if self._source is not None:
            raise grpc.aio.UsageError(_MIXED)
        if self.over:
            raise asyncio.InvalidStateError(_OVER)
        if self._done_writing_flag:
            raise asyncio.InvalidStateError(_HALF_CLOSED)
        attempt = await self._writable()
        position = self._replay.taken
        self._replay.take(request)
        kept = self._replay.at(position)
        while attempt is not None:
            try:
                await cast("NativeWriter", attempt.native).write(self._form(kept))
            except (grpc.RpcError, asyncio.InvalidStateError):
                if await self.is_last(attempt) or self._replay.committed:
                    raise
            else:
                return
            before, attempt = attempt, await self._writable()
            if attempt is not None and attempt is not before:
                return  # it was given this one with the others
        self._raise_ending()

    async def _writable(self) -> Attempt | None:
        """The attempt under way, when it has got all that was written before; None when the call is over."""
        try:
            while True:
                attempt = await self._under_way()
                catching_up = self._catching_up
                if catching_up is None or catching_up.done():
                    return attempt
                await asyncio.wait({catching_up})
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def done_writing(self) -> None:
        """There are no more requests. Idempotent."""
        if self._source is not None:
            raise grpc.aio.UsageError(_MIXED)
        if self.over or self._done_writing_flag:
            return
        self._done_writing_flag = True
        attempt = self.attempt
        if attempt is not None and (self._catching_up is None or self._catching_up.done()):
            await cast("NativeWriter", attempt.native).done_writing()
