"""Calls with a stream of requests, of responses, or both."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from balancer import native
from balancer.aio.call import NO_SAMPLE, BalancedCall
from balancer.aio.unsent import Unsent
from balancer.native import EOF, deserialize, serialize
from balancer.retry import HEADERS_SETTLE_S

if TYPE_CHECKING:
    from balancer.aio.methods import Method
    from balancer.policies.base import Node


class _Streaming(BalancedCall):
    """A call with a stream in it: the attempt itself tells when it has its status, and it is decided there and then."""

    _received = False
    _headers: asyncio.Task[None] | None = None
    """Waits for the headers of the attempt under way, while they would end the retries."""

    def _begin_attempt(self, node: Node, now: float) -> None:
        super()._begin_attempt(node, now)
        attempt = self._cython_call
        attempt.add_done_callback(partial(self._on_status, attempt))
        if self._retries is not None:
            self._headers = self._loop.create_task(self._see_headers(attempt))

    async def _see_headers(self, attempt: Any) -> None:
        """Response headers commit a call (A6), also when they come before any message."""
        if not await attempt.initial_metadata():
            await asyncio.sleep(HEADERS_SETTLE_S)
        if attempt is self._cython_call and not attempt.done():
            self._commit()

    async def initial_metadata(self) -> Any:
        while True:
            metadata = await super().initial_metadata()
            headers = self._headers
            if headers is None or headers.done():
                return metadata
            await asyncio.wait({headers})

    def _finish(self) -> None:
        super()._finish()
        headers, self._headers = self._headers, None
        if headers is not None:
            headers.cancel()

    def _on_status(self, attempt: Any) -> None:
        if attempt is not self._cython_call or self._final:
            return
        if attempt.is_ok():
            self._succeeded(NO_SAMPLE)
            self._finish()
        elif self._failed(attempt, NO_SAMPLE, committed=self._received or bool(attempt._initial_metadata)):  # noqa: SLF001
            self._replaced()
        else:
            self._finish()

    def _replaced(self) -> None:
        """An attempt failed and another one is to take its place."""
        raise NotImplementedError

    def _commit(self) -> None:
        """No other attempt takes this one's place any more."""
        self._received = True


class _StreamResponse(_Streaming):
    _preparation: Any

    def _begin_reading(self) -> None:
        self._init_stream_response_mixin(self._loop.create_task(self._prepare()))

    async def _prepare(self) -> None:
        """Until an attempt is under way from which messages may be read, or the call has ended."""
        try:
            while not self._final:
                attempt = self._cython_call
                if attempt.__class__ is not Unsent:
                    await self._initiate(attempt)
                    if attempt is self._cython_call:
                        return
                elif not await self._settle():
                    return
        except asyncio.CancelledError:
            if not self.cancelled():
                self.cancel()
            raise
        except Exception:
            self._cancel("The request could not be sent.")
            raise

    async def _initiate(self, attempt: Any) -> None:
        """Sends what comes first, and waits for the server's initial metadata."""
        raise NotImplementedError

    def _replaced(self) -> None:
        if self._preparation.done():
            self._preparation = self._loop.create_task(self._prepare())

    async def _read(self) -> Any:
        while True:
            await self._preparation
            attempt = self._cython_call
            try:
                message = await attempt.receive_serialized_message()
            except asyncio.CancelledError:
                if not self.cancelled():
                    self.cancel()
                raise
            if message is not EOF:
                if not self._received:
                    self._commit()
                return deserialize(message, self._response_deserializer)
            await attempt.status()
            if attempt is self._cython_call:
                self._let_go()
                return EOF


class _StreamRequest(_Streaming):
    """Requests are written one after the other to whichever attempt is under way.

    What was written is kept while another attempt may still take this one's place (gRFC A6), and sent to that
    one first.
    """

    _done_writing_flag: bool
    _kept: list[bytes] | None = None
    _kept_bytes = 0
    _replaying: asyncio.Task[None] | None = None

    def _begin_writing(self, request_iterator: Any) -> None:
        if self._retries is not None:
            self._kept = []
        self._init_stream_request_mixin(request_iterator)

    def _sent(self, attempt: Any) -> None:
        """The attempt's metadata left: messages may follow. One that has ended wakes the writers too, so that
        they see it."""
        if attempt is not self._cython_call:
            return
        if (self._kept or self._done_writing_flag) and not attempt.done():
            self._replaying = self._loop.create_task(self._replay(attempt))
        else:
            self._metadata_sent.set()

    async def _replay(self, attempt: Any) -> None:
        try:
            for message in self._kept or ():
                await attempt.send_serialized_message(message)
            if self._done_writing_flag:
                await attempt.send_receive_close()
        except native.InternalError:
            return  # the attempt ended, and its status says why
        if attempt is self._cython_call:
            self._metadata_sent.set()

    def _replaced(self) -> None:
        self._metadata_sent.clear()

    def _finish(self) -> None:
        super()._finish()
        self._metadata_sent.set()

    def _commit(self) -> None:
        super()._commit()
        self._kept = None

    async def _write(self, request: Any) -> None:
        if self.done():
            raise asyncio.InvalidStateError("RPC already finished.")
        if self._done_writing_flag:
            raise asyncio.InvalidStateError('RPC is half closed after calling "done_writing".')
        message = serialize(request, self._request_serializer)
        try:
            while not await self._write_once(message):
                pass
        except asyncio.CancelledError:
            if not self.cancelled():
                self.cancel()
            raise

    async def _write_once(self, message: bytes) -> bool:
        """Writes to the attempt under way; False when another one took its place meanwhile."""
        await self._writable()
        attempt = self._cython_call
        try:
            if not self._final:
                await attempt.send_serialized_message(message)
                if self._kept is not None:
                    self._keep(message)
                return True
        except native.InternalError as error:
            if self._kept is None and not attempt.done():
                attempt.set_internal_error(str(error))
        await attempt.status()
        if attempt is self._cython_call:
            await self._raise_for_status()
        return False

    async def _writable(self) -> None:
        while not self._metadata_sent.is_set():
            await self._metadata_sent.wait()

    def _keep(self, message: bytes) -> None:
        self._kept_bytes += len(message)
        if self._kept_bytes > self._method.replay_limit:
            self._commit()
        elif self._kept is not None:
            self._kept.append(message)

    async def _done_writing(self) -> None:
        if self._final or self._done_writing_flag:
            return
        self._done_writing_flag = True
        attempt = self._cython_call
        if not self._metadata_sent.is_set() or attempt.done():
            return  # the stream is closed once the attempt that is to come has got everything
        try:
            await attempt.send_receive_close()
        except asyncio.CancelledError:
            if not self.cancelled():
                self.cancel()
            raise

    async def wait_for_connection(self) -> None:
        await self._writable()
        if self.done():
            await self._raise_for_status()


class UnaryStreamCall(_StreamResponse, native.UnaryStreamCall):  # type: ignore[misc]
    """One request, a stream of responses."""

    def __init__(self, method: Method, request: Any, *call: Any) -> None:
        self._begin_call(method, *call)
        self._request = request
        self._begin_reading()
        self._send_unary_request_task = self._preparation

    async def _initiate(self, attempt: Any) -> None:
        request = serialize(self._request, self._request_serializer)
        await attempt.initiate_unary_stream(request, self._metadata, self._context)

    async def wait_for_connection(self) -> None:
        await self._preparation
        if self.done():
            await self._raise_for_status()


class StreamUnaryCall(_StreamRequest, native.StreamUnaryCall):  # type: ignore[misc]
    """A stream of requests, one response."""

    def __init__(self, method: Method, request_iterator: Any, *call: Any) -> None:
        self._begin_call(method, *call)
        self._begin_writing(request_iterator)
        self._init_unary_response_mixin(method.loop.create_task(self._conduct_rpc()))

    async def _conduct_rpc(self) -> Any:
        try:
            while not self._final:
                attempt = self._cython_call
                if attempt.__class__ is Unsent:
                    await self._settle()
                    continue
                response = await attempt.stream_unary(self._metadata, partial(self._sent, attempt), self._context)
                if attempt.is_ok():
                    return deserialize(response, self._response_deserializer)
        except asyncio.CancelledError:
            if not self.cancelled():
                self.cancel()
            raise
        finally:
            attempt = None  # an exception may keep this frame
            self._let_go()
        return EOF


class StreamStreamCall(_StreamRequest, _StreamResponse, native.StreamStreamCall):  # type: ignore[misc]
    """A stream of requests, a stream of responses."""

    def __init__(self, method: Method, request_iterator: Any, *call: Any) -> None:
        self._begin_call(method, *call)
        self._begin_writing(request_iterator)
        self._begin_reading()
        self._initializer = self._preparation

    async def _initiate(self, attempt: Any) -> None:
        await attempt.initiate_stream_stream(self._metadata, partial(self._sent, attempt), self._context)

    def _replaced(self) -> None:
        _StreamRequest._replaced(self)  # noqa: SLF001 - both halves of this very object
        _StreamResponse._replaced(self)  # noqa: SLF001
