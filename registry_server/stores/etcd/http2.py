"""SHELL: calls to etcd over asyncio and libnghttp2.

An `EtcdChannel` (api.py), for less than half of what grpc.aio costs: what is asked in one turn of the loop leaves in
one write, and what comes in one read is taken in one go.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import ClassVar, Generic
from urllib.parse import unquote

import grpc
import grpc.aio
import ngh2
from ngh2 import events

from registry_server.http2 import Http2End, Note
from registry_server.stores.etcd.api import Metadata, Q, R, StreamMethod

Headers = Iterable[tuple[bytes, bytes]]

PREFIX = 5  # of a message: whether it is packed, which we never ask for, and its length
WINDOW = 1024 * 1024
ALL_WINDOWS = 16 * WINDOW
# A stream that has so many messages unread gets no more until they are read.
MAX_UNREAD = 64
# After so many ticks of silence etcd is asked whether it is there, and has so many to answer. It hangs up on those who
# ask more often than every 5 s, or without a call.
TICK_S = 1.0
PING_AFTER = 10
PING_TIMEOUT = 3

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_CONFIGURATION = ngh2.Configuration(auto_window_update=False)


class Http2Channel:
    """A connection to `address` (HOST:PORT), made when it is needed; with TLS if there is a context."""

    def __init__(self, address: str, tls: ssl.SSLContext | None) -> None:
        self._address = address
        self._tls = tls
        # The last one takes calls; those before it, which etcd has said farewell to, may have calls under way.
        self._connections: list[Http2Connection] = []
        self._connecting = asyncio.Lock()
        self._is_closed = False

    def unary_unary(
        self, method: str, request_serializer: Callable[[Q], bytes], response_deserializer: Callable[[bytes], R]
    ) -> "Http2Unary[Q, R]":
        """See EtcdChannel, as for all of these."""
        return Http2Unary(self, self._head(method), request_serializer, response_deserializer)

    def stream_stream(
        self, method: str, request_serializer: Callable[[Q], bytes], response_deserializer: Callable[[bytes], R]
    ) -> StreamMethod[Q]:
        """See EtcdChannel."""
        head = self._head(method)

        def opens(*, metadata: Metadata = ()) -> "Http2Stream[Q, R]":
            return Http2Stream(self, (*head, *_encoded(metadata)), request_serializer, response_deserializer)

        return opens

    async def close(self) -> None:
        """See EtcdChannel."""
        self._is_closed = True
        for connection in self._connections:
            connection.close()

    @property
    def connection(self) -> "Http2Connection | None":
        """The connection, if there is one that takes calls."""
        return self._connections[-1] if self._connections and self._connections[-1].is_open else None

    async def connect(self) -> "Http2Connection":
        """The connection, a new one if need be. Raises AioRpcError."""
        async with self._connecting:
            if self._is_closed:
                raise failure(grpc.StatusCode.CANCELLED, "the channel is closed")
            if (connection := self.connection) is not None:
                return connection
            connection = await self._connected()
            self._connections = [*(it for it in self._connections if it.is_there), connection]
            return connection

    async def _connected(self) -> "Http2Connection":
        host, _, port = self._address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Http2Connection, host, int(port), ssl=self._tls)
        except OSError as error:
            raise failure(grpc.StatusCode.UNAVAILABLE, f"failed to connect: {error}") from error
        if self._is_closed:
            connection.close()
        return connection

    def _head(self, path: str) -> tuple[tuple[bytes, bytes], ...]:
        """What every request of a method begins with."""
        return (
            (b":method", b"POST"),
            (b":scheme", b"https" if self._tls else b"http"),
            (b":path", path.encode()),
            (b":authority", self._address.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"grpc-registry"),
        )


class Http2Connection(Http2End, asyncio.Protocol):
    """The client's end of a connection, written to once a turn of the loop."""

    def __init__(self) -> None:
        super().__init__(ngh2.Role.CLIENT, _CONFIGURATION)
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, Http2Call] = {}
        self._is_leaving = self._has_heard = self._over_tls = False
        self._ticking: asyncio.TimerHandle | None = None

    @property
    def is_there(self) -> bool:
        """Whether it is connected."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_open(self) -> bool:
        """Whether it takes new calls."""
        return self.is_there and not self._is_leaving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say our settings."""
        self._over_tls = transport.get_extra_info("sslcontext") is not None
        self.open(transport, {ngh2.Setting.INITIAL_WINDOW_SIZE: WINDOW, ngh2.Setting.ENABLE_PUSH: 0}, ALL_WINDOWS)
        self._ticking = self._loop.call_later(TICK_S, self._tick)

    def connection_lost(self, exc: Exception | None) -> None:
        """All calls have failed."""
        self._transport = None
        if self._ticking is not None:
            self._ticking.cancel()
        self._fail_all(f"the connection was lost: {exc}" if exc else self._closed())

    def _closed(self) -> str:
        """Why it was closed without a word, as far as that can be told."""
        if self._has_heard:
            return "the connection was closed"
        hint = "ask for another certificate (cert, key)" if self._over_tls else "speak TLS (ca, or tls=true)"
        return f"the connection was closed before anything was said: does it {hint}?"

    def data_received(self, data: bytes) -> None:
        """Take in what came."""
        self._has_heard = True
        if self.take_in(data):
            self._touch()

    def close(self) -> None:
        """Close at once; all calls have failed."""
        self.abort()

    # ---- what calls do

    def begin(self, call: "Http2Call", head: Headers) -> None:
        """Begin a call. Raises AioRpcError."""
        if not self.is_there:
            raise failure(grpc.StatusCode.UNAVAILABLE, "the connection was closed")
        try:
            call.stream = self._h2.send_request(head)
        except ngh2.NGH2Error as error:
            raise failure(grpc.StatusCode.UNAVAILABLE, f"no new call: {error}") from error
        self._calls[call.stream] = call
        self._touch()

    def send(self, call: "Http2Call", message: bytes, *, is_last: bool = False) -> None:
        """Send a message."""
        try:
            self._h2.send_data(call.stream, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=is_last)
        except ngh2.NGH2Error as error:
            self._end(call.stream, grpc.StatusCode.UNAVAILABLE, str(error))
        self._touch()

    def cancel(self, call: "Http2Call") -> None:
        """Nobody waits for its answer any more."""
        if self._calls.pop(call.stream, None) is not None:
            self._do(partial(self._h2.reset_stream, call.stream))

    def taken(self, call: "Http2Call", count: int) -> None:
        """So many bytes of what came were taken."""
        self._do(partial(self._h2.acknowledge_received_data, count, call.stream))

    # ---- what the library tells

    def _note_headers(self, event: events.ResponseReceived | events.TrailersReceived) -> None:
        headers = dict(event.headers)
        if (code := headers.get(b"grpc-status")) is not None:
            self._end(event.stream_id, _code(code), unquote(_text(headers.get(b"grpc-message", b""))))
        elif (status := headers.get(b":status", b"200")) != b"200":
            self._end(event.stream_id, grpc.StatusCode.UNAVAILABLE, f"HTTP status {_text(status)}")

    def _note_data(self, event: events.DataReceived) -> None:
        call = self._calls.get(event.stream_id)
        if call is not None:
            call.data(event.data)
        elif event.data:
            self._do(partial(self._h2.acknowledge_received_data, len(event.data), event.stream_id))

    def _note_closed(self, event: events.StreamClosed) -> None:
        self._end(event.stream_id, grpc.StatusCode.UNAVAILABLE, f"the stream was closed with code {event.error_code}")

    def _note_leaving(self, event: events.GoAwayReceived) -> None:
        self._is_leaving = True

    def _note_end(self, event: events.ConnectionClosed) -> None:
        self.close()

    _NOTES: ClassVar[Mapping[type[events.Event], Note]] = {
        events.ResponseReceived: _note_headers,
        events.TrailersReceived: _note_headers,
        events.DataReceived: _note_data,
        events.StreamClosed: _note_closed,
        events.GoAwayReceived: _note_leaving,
        events.ConnectionClosed: _note_end,
    }

    # ---- within

    def _end(self, stream: int, code: grpc.StatusCode, details: str) -> None:
        if (call := self._calls.pop(stream, None)) is not None:
            call.end(code, details)

    def _fail_all(self, why: str) -> None:
        for stream in list(self._calls):
            self._end(stream, grpc.StatusCode.UNAVAILABLE, why)

    def _give_up(self, why: str) -> None:
        self._fail_all(f"the connection is given up: {why}")
        self.abort()

    def _tick(self) -> None:
        self._ticking = self._loop.call_later(TICK_S, self._tick)
        if self._calls:
            self._listen(PING_AFTER, PING_TIMEOUT)
        else:
            self._silence = 0

    def _wait_for_end_of_turn(self) -> None:
        self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_touched = False
        self.flush()


class Http2Call:
    """One stream: the messages that came and were not read, and how it ended."""

    def __init__(self, connection: Http2Connection, head: Headers) -> None:
        self.stream = 0
        self.messages: deque[bytes] = deque()
        self.status: tuple[grpc.StatusCode, str] | None = None
        self._connection = connection
        self._rest = bytearray()
        self._owed = 0
        self._waiter: asyncio.Future[None] | None = None
        connection.begin(self, head)

    def send(self, message: bytes, *, is_last: bool = False) -> None:
        """Send a message."""
        self._connection.send(self, message, is_last=is_last)

    async def changes(self) -> None:
        """Wait until something comes."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def next(self) -> bytes:
        """The next message, which is read by that."""
        message = self.messages.popleft()
        if self._owed and len(self.messages) < MAX_UNREAD:
            owed, self._owed = self._owed, 0
            self._connection.taken(self, owed)
        return message

    def cancel(self) -> None:
        """Nobody waits for an answer any more."""
        self._give_up(grpc.StatusCode.CANCELLED, "cancelled here")

    def late(self, timeout_s: float) -> None:
        """It has taken so long, and that was all the time it had."""
        self._give_up(grpc.StatusCode.DEADLINE_EXCEEDED, _late(timeout_s))

    def _give_up(self, code: grpc.StatusCode, why: str) -> None:
        if self.status is None:
            self._connection.cancel(self)
            self.end(code, why)

    # ---- what the connection tells

    def data(self, data: bytes) -> None:
        """Take in some bytes."""
        if len(self.messages) < MAX_UNREAD:
            self._connection.taken(self, len(data))
        else:
            self._owed += len(data)
        rest = self._rest
        rest += data
        at = 0
        while len(rest) - at >= PREFIX and len(rest) - at >= (end := PREFIX + _length(rest, at)):
            self.messages.append(bytes(rest[at + PREFIX : at + end]))
            at += end
        del rest[:at]
        self._wake()

    def end(self, code: grpc.StatusCode, details: str) -> None:
        """It is over."""
        if self.status is None:
            self.status = code, details
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Http2Unary(Generic[Q, R]):
    """A method that is answered once."""

    def __init__(
        self,
        channel: Http2Channel,
        head: tuple[tuple[bytes, bytes], ...],
        serialize: Callable[[Q], bytes],
        parse: Callable[[bytes], R],
    ) -> None:
        self._channel = channel
        self._head = head
        self._serialize = serialize
        self._parse = parse

    async def __call__(self, request: Q, *, timeout: float, metadata: Metadata = ()) -> R:
        """Call it. Raises AioRpcError."""
        connection = self._channel.connection or await self._connected(timeout)
        deadline = (b"grpc-timeout", b"%dm" % (timeout * 1e3))
        call = Http2Call(connection, (*self._head, deadline, *_encoded(metadata)))
        call.send(self._serialize(request), is_last=True)
        timer = asyncio.get_running_loop().call_later(timeout, call.late, timeout)
        try:
            while call.status is None:
                await call.changes()
        finally:
            timer.cancel()
            call.cancel()
        code, details = call.status
        if code is not grpc.StatusCode.OK:
            raise failure(code, details)
        if not call.messages:
            raise failure(grpc.StatusCode.INTERNAL, "no answer came")
        return self._parse(call.messages[0])

    async def _connected(self, timeout_s: float) -> Http2Connection:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._channel.connect()
        except TimeoutError:
            raise failure(grpc.StatusCode.DEADLINE_EXCEEDED, _late(timeout_s)) from None


class Http2Stream(Generic[Q, R]):
    """A call of a method with messages both ways."""

    def __init__(
        self, channel: Http2Channel, head: Headers, serialize: Callable[[Q], bytes], parse: Callable[[bytes], R]
    ) -> None:
        self._channel = channel
        self._head = head
        self._serialize = serialize
        self._parse = parse
        self._call: Http2Call | None = None
        self._is_cancelled = False

    async def write(self, request: Q) -> None:
        """Send a message. Raises AioRpcError when the call has ended."""
        call = self._call or await self._begun()
        if call.status is not None:
            raise failure(*call.status)
        call.send(self._serialize(request))

    async def read(self) -> object:
        """The next message, or that there is none any more. Raises AioRpcError when the call failed."""
        call = self._call or await self._begun()
        while not call.messages:
            if call.status is None:
                await call.changes()
            elif call.status[0] is grpc.StatusCode.OK:
                return grpc.aio.EOF
            else:
                raise failure(*call.status)
        return self._parse(call.next())

    def cancel(self) -> bool:
        """End it."""
        self._is_cancelled = True
        if self._call is not None:
            self._call.cancel()
        return True

    async def code(self) -> grpc.StatusCode:
        """How it ended; of a call that has."""
        return self._status[0]

    async def details(self) -> str:
        """How it ended, in words; of a call that has."""
        return self._status[1]

    @property
    def _status(self) -> tuple[grpc.StatusCode, str]:
        return (self._call.status if self._call else None) or (grpc.StatusCode.CANCELLED, "cancelled here")

    async def _begun(self) -> Http2Call:
        connection = self._channel.connection or await self._channel.connect()
        if self._is_cancelled:
            raise failure(*self._status)
        if self._call is None:
            self._call = Http2Call(connection, self._head)
        return self._call


def failure(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    """What grpc.aio raises when a call fails."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


def _late(timeout_s: float) -> str:
    return f"no answer for {timeout_s:g} s"


def _length(data: bytearray, at: int) -> int:
    return int.from_bytes(data[at + 1 : at + PREFIX], "big")


def _code(value: bytes) -> grpc.StatusCode:
    return _CODES.get(int(value), grpc.StatusCode.UNKNOWN) if value.isdigit() else grpc.StatusCode.UNKNOWN


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace")


def _encoded(metadata: Metadata) -> Headers:
    return [(name.encode(), value.encode()) for name, value in metadata]
