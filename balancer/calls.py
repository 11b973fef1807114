"""The call objects of an asyncio channel: native calls whose connection is chosen late, and again when it must be.

The life of a call, from the point of view of its `_cython_call` (the attempt that grpcio's own methods work on):

    Unsent ──picked──> attempt on a node ──ended──> final
      ^  └─deadline, cancel, no endpoint──> final     │
      └──────────── never left, or retried ───────────┘

A call that finds a ready node begins on it at once; there is no task, no wrapper and no copy on that path.
`Unsent` stands in
while there is no attempt, so that done(), cancel(), code() and the rest of grpcio's methods need no second version.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from balancer import native
from balancer.native import EOF, deserialize, serialize
from balancer.pool import Fail, Node, PickInfo
from balancer.retry import marked, never_left, speaks_against

if TYPE_CHECKING:
    import grpc

    from balancer.channel import Method, Subchannel
    from balancer.retry import Retries

_NO_SAMPLE = float("nan")
"""Latency of a streaming call: it lasts as long as the application likes, so it says nothing about the endpoint."""


class Unsent:
    """Stands in for an attempt while a call has none; or, once it is `end`ed, for good."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._status: Any = None
        self._initial_metadata: tuple[Any, ...] | None = None
        self._locally_cancelled = False
        self._over: asyncio.Future[None] | None = None

    def end(self, code: StatusCode, details: str) -> None:
        """The call ends here, with no attempt to tell of."""
        if self._status is None:
            self._status = native.Status(code.value[0], details, (), details)
            self._initial_metadata = ()
            self.release()

    def end_as(self, attempt: Any) -> None:
        """The call ends as this attempt did."""
        self._status = attempt._status  # noqa: SLF001 - grpcio's own objects read it so too
        self._initial_metadata = ()
        self.release()

    def release(self) -> None:
        """An attempt takes this one's place: whoever waits here looks again."""
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    async def _wait(self) -> None:
        if self._status is None:
            if self._over is None:
                self._over = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._over})

    async def status(self) -> Any:
        await self._wait()
        return self._status

    async def initial_metadata(self) -> tuple[Any, ...] | None:
        await self._wait()
        return self._initial_metadata

    def done(self) -> bool:
        return self._status is not None

    def is_ok(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return self._status is not None and self._status.code() == StatusCode.CANCELLED.value[0]

    def is_locally_cancelled(self) -> bool:
        return self._locally_cancelled

    def cancel(self, details: str) -> bool:
        if self._status is not None:
            return False
        self._locally_cancelled = True
        self.end(StatusCode.CANCELLED, details)
        return True

    def set_internal_error(self, details: str) -> None:
        self.end(StatusCode.INTERNAL, details)

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.time())

    async def receive_serialized_message(self) -> Any:
        return EOF

    async def send_serialized_message(self, message: bytes) -> None:
        raise native.InternalError("the call has ended")

    async def send_receive_close(self) -> None:
        """Nothing was opened, nothing is left to close."""

    def __repr__(self) -> str:
        state = "waiting for a connection" if self._status is None else f"ended: {self._status.details()}"
        return f"<AioCall {state}>"


class _Balanced(native.Call):  # type: ignore[misc]
    """What the four kinds of call share: where the call goes, and what is reported of how it went."""

    _cython_call: Any
    """The attempt that grpcio's methods work on; `Unsent` when there is none."""
    _final = False
    _callbacks: list[Any] | None = None
    _node: Node | None = None
    """Where the attempt under way is counted; None when there is none."""
    _last: Any = None
    """The last attempt that was refused: its status is the call's when no other node is left."""
    _tried: tuple[Node, ...] = ()
    """Nodes of earlier attempts: the next goes elsewhere if it can."""
    _refused: tuple[Node, ...] = ()
    """Nodes that could not be connected to although the picker offered them: not again before the next picker."""
    _retries: Retries | None = None
    _not_before = 0.0
    """When the next attempt may begin."""

    def _begin_call(
        self,
        method: Method,
        timeout: float | None,
        metadata: tuple[Any, ...],
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
    ) -> None:
        self._method = method
        self._loop = method.loop
        self._metadata = metadata
        self._request_serializer = method.serializer
        self._response_deserializer = method.deserializer
        self._context = native.build_census_context()
        self._deadline = None if timeout is None else time.time() + timeout
        self._credentials = credentials
        self._wait_for_ready = wait_for_ready
        if method.retrying is not None:
            self._retries = method.retrying.begin()
        self._info = method.info(metadata)
        now = time.monotonic()
        node = method.engine.picker.pick(self._info, now)
        if node.__class__ is Node:
            self._begin_attempt(node, now)
        else:
            self._cython_call = Unsent(self._deadline)
        method.calls.add(self)

    def _begin_attempt(self, node: Node, now: float) -> None:
        subchannel: Subchannel = node.subchannel
        method = self._method
        # Never wait-for-ready: should the back end not be ready after all, another is asked rather than waited
        # for this one.
        self._cython_call = subchannel.call(
            method.path,
            self._deadline,
            self._credentials,
            False,
            subchannel.handle(method.path) if method.registered else 0,
        )
        self._node = node
        self._subchannel = subchannel
        self._started = now
        subchannel.active += 1
        node.load.started(now)

    async def _settle(self) -> bool:
        """Waits, while there is no attempt, until one begins (True) or the call ends without (False)."""
        unsent = self._cython_call
        await self._back_off(unsent)
        engine = self._method.engine
        while not unsent.done():
            pick = engine.pick(self._info)
            node = pick if pick.__class__ is Node else None
            if node is not None and node not in self._refused:
                self._begin_attempt(node, time.monotonic())
                unsent.release()
                return True
            if not self._wait_for_ready and (node is not None or pick.__class__ is Fail):
                self._give_up(unsent, pick)
            elif await engine.swapped(unsent.time_remaining()):
                self._refused = ()
            else:
                unsent.end(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        self._finish()
        return False

    async def _back_off(self, unsent: Unsent) -> None:
        pause_s = self._not_before - time.monotonic()
        if pause_s <= 0:
            return
        left_s = unsent.time_remaining()
        await asyncio.sleep(pause_s if left_s is None else min(pause_s, left_s))
        if left_s is not None and left_s <= pause_s:
            unsent.end(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def _give_up(self, unsent: Unsent, pick: Any) -> None:
        if self._last is None:
            unsent.end(StatusCode.UNAVAILABLE, pick.reason if isinstance(pick, Fail) else "no endpoint is ready")
        else:
            unsent.end_as(self._last)

    def _leave(self, rtt_s: float, ok: bool | None) -> None:
        """The attempt ended: `ok` False speaks against its node, None says nothing. Counts it once."""
        node, self._node = self._node, None
        if node is not None:
            self._count_out(node, self._subchannel, rtt_s, ok)

    def _count_out(self, node: Node, subchannel: Subchannel, rtt_s: float, ok: bool | None) -> None:
        subchannel.active -= 1
        if subchannel.draining and not subchannel.active:
            subchannel.close_soon()
        if ok is None:
            node.load.abandoned()
        elif node.load.finished(time.monotonic(), rtt_s, ok):
            self._method.engine.look_at_loads()

    def _succeeded(self, rtt_s: float) -> None:
        self._leave(rtt_s, ok=True)
        if self._retries is not None:
            self._retries.succeeded()

    def _failed(self, attempt: Any, rtt_s: float, *, committed: bool) -> bool:
        """Counts a failed attempt; True when another one is to take its place: then there is none (`Unsent`) by now."""
        node = self._node
        status = attempt._status  # noqa: SLF001 - the public way to it is a coroutine
        if attempt.is_locally_cancelled() or node is None:
            self._leave(rtt_s, None)
            return False
        refused = never_left(status.code(), status.details())
        self._leave(rtt_s, None if refused else not speaks_against(status.code()))
        if not self._another(status, refused=refused, committed=committed):
            return False
        if refused and self._method.engine.connection_failed(node, status.details()):
            self._refused = (*self._refused, node)
        self._last = attempt if refused else None
        self._tried = (*self._tried, node)
        self._info = PickInfo(self._info.key, self._tried, self._info.method, self._info.metadata)
        self._cython_call = Unsent(self._deadline)
        return True

    def _another(self, status: Any, *, refused: bool, committed: bool) -> bool:
        if refused:
            return (
                True  # nobody saw the call, so nothing is done twice: gRFC A6's transparent retry, no policy is asked
            )
        if self._retries is None:
            return False
        pause_s = self._retries.pause_after(
            status.code(), status.trailing_metadata(), self._method.engine.rng, committed=committed
        )
        if pause_s is None:
            return False
        self._not_before = time.monotonic() + pause_s
        self._metadata = self._retries.marked(self._metadata)
        return True

    def _finish(self) -> None:
        """The call has its final status: tells those who asked to be told. Idempotent."""
        if self._final:
            return
        self._final = True
        self._method.calls.discard(self)
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            callback(self)

    def _cancel(self, details: str) -> bool:
        attempt = self._cython_call
        if self._final or attempt.done():
            return False
        attempt.cancel(details)
        self._leave(_NO_SAMPLE, None)
        self._finish()
        return True

    def done(self) -> bool:
        return self._final

    def add_done_callback(self, callback: Any) -> None:
        if self._final:
            callback(self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    async def _decided(self) -> None:
        """Waits until the attempt that ended was the last."""
        while True:
            attempt = self._cython_call
            await attempt.status()
            if attempt is self._cython_call:
                return

    async def initial_metadata(self) -> Any:
        while True:
            attempt = self._cython_call
            await attempt.initial_metadata()
            if attempt is self._cython_call:
                return await super().initial_metadata()

    async def trailing_metadata(self) -> Any:
        await self._decided()
        return await super().trailing_metadata()

    async def code(self) -> Any:
        await self._decided()
        return await super().code()

    async def details(self) -> Any:
        await self._decided()
        return await super().details()

    async def debug_error_string(self) -> Any:
        await self._decided()
        return await super().debug_error_string()


class UnaryUnaryCall(_Balanced, native.UnaryUnaryCall):  # type: ignore[misc]
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
            self._leave(_NO_SAMPLE, None)
            self._finish()

    async def _decided(self) -> None:
        if not self._call_response.done():
            await asyncio.wait({self._call_response})

    async def initial_metadata(self) -> Any:
        await self._decided()
        return await super().initial_metadata()


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
                self._retire(racer, _NO_SAMPLE, None)
            self._leave(_NO_SAMPLE, None)
            self._finish()

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


class _Streaming(_Balanced):
    """A call with a stream in it: the attempt itself tells when it has its status, and it is decided there and then."""

    _received = False

    def _begin_attempt(self, node: Node, now: float) -> None:
        super()._begin_attempt(node, now)
        attempt = self._cython_call
        attempt.add_done_callback(partial(self._on_status, attempt))

    def _on_status(self, attempt: Any) -> None:
        if attempt is not self._cython_call or self._final:
            return
        if attempt.is_ok():
            self._succeeded(_NO_SAMPLE)
            self._finish()
        elif self._failed(attempt, _NO_SAMPLE, committed=self._received or bool(attempt._initial_metadata)):  # noqa: SLF001
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
