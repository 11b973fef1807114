"""A gRPC client that need not behave: HTTP/2 frame by frame, for tests that play one with a fault or with ill will."""

import asyncio
import contextlib
import struct
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from google.protobuf.message import Message
from h2 import events, settings
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError

from tests.support.waiting import eventually_async

Header = tuple[bytes, bytes]

LARGE_WINDOW = 2**31 - 1
READ_BYTES = 1 << 18


def framed(message: Message | bytes) -> bytes:
    """One gRPC message on the wire."""
    encoded = message if isinstance(message, bytes) else message.SerializeToString()
    return struct.pack(">BI", 0, len(encoded)) + encoded


class Http2:
    """One connection, with `async with`. `window` is how much of each stream the server may send unasked.

    Nothing is hidden: calls stay open until they are ended, reset or cut off, and what the server sends is read only
    while `is_reading` is set.
    """

    def __init__(self, address: str, *, window: int = LARGE_WINDOW) -> None:
        self.is_closed = False
        self.ended: dict[int, dict[bytes, bytes]] = {}
        self.reset: dict[int, int] = {}
        self.received: dict[int, int] = {}
        self._host, _, self._port = address.rpartition(":")
        self._window = window
        self._may_read = asyncio.Event()
        self._may_read.set()
        config = H2Configuration(
            header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self._h2 = H2Connection(config)
        self._is_set_up = False

    @property
    def max_streams(self) -> int:
        """How many streams the server allows at a time."""
        return self._h2.remote_settings.max_concurrent_streams

    def ignore_limit(self) -> None:
        """Open more streams than the server allows."""
        self._h2.remote_settings[settings.SettingCodes.MAX_CONCURRENT_STREAMS] = LARGE_WINDOW
        self._h2.remote_settings.acknowledge()

    def pause(self) -> None:
        """Read nothing any more."""
        self._may_read.clear()

    def resume(self) -> None:
        """Read again."""
        self._may_read.set()

    # ---- calls

    def begin(self, path: str, *, headers: Iterable[Header] = ()) -> int:
        """The headers of a call; the number of its stream."""
        stream = self._h2.get_next_available_stream_id()
        sent: list[Header] = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", b"test"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            *headers,
        ]
        self._h2.send_headers(stream, sent)
        return stream

    def begin_with(self, headers: Sequence[Header]) -> int:
        """A stream with these headers and no others; its number."""
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, headers)
        return stream

    def end(self, stream: int) -> None:
        """Say that this was all."""
        self._h2.end_stream(stream)

    def say(self, stream: int, data: bytes, *, is_last: bool = False) -> int:
        """As much of the data as the server's windows let through; how much that was."""
        taken = min(len(data), self._h2.local_flow_control_window(stream))
        for start in range(0, taken, self._h2.max_outbound_frame_size):
            part = data[start : min(taken, start + self._h2.max_outbound_frame_size)]
            self._h2.send_data(stream, part, end_stream=is_last and start + len(part) == len(data))
        return taken

    def call(self, path: str, message: Message | bytes, *, headers: Iterable[Header] = ()) -> int:
        """A whole unary call, or the start of a server stream."""
        stream = self.begin(path, headers=headers)
        self.say(stream, framed(message), is_last=True)
        return stream

    async def open_window(self, stream: int, by: int) -> None:
        """Let the server send so much more of a stream."""
        self._h2.increment_flow_control_window(by, stream)
        await self.flush()

    def cancel(self, stream: int) -> None:
        """RST_STREAM."""
        with contextlib.suppress(ProtocolError):
            self._h2.reset_stream(stream, 8)

    async def flush(self) -> None:
        """Write what was said so far."""
        if data := self._h2.data_to_send():
            self._writer.write(data)
        await self._writer.drain()

    async def wait_ended(self, streams: Sequence[int], timeout_s: float = 20.0) -> None:
        """Wait until the server has ended all of these, by trailers or by a reset."""
        await eventually_async(
            lambda: all(it in self.ended or it in self.reset for it in streams),
            timeout_s=timeout_s,
            what="all calls to end",
        )

    async def wait_received(self, streams: Sequence[int], timeout_s: float = 20.0) -> None:
        """Wait until the server has written something on all of these, or ended them."""
        await eventually_async(
            lambda: all(it in self.received or it in self.ended or it in self.reset for it in streams),
            timeout_s=timeout_s,
            what="an answer to all calls",
        )

    def statuses(self) -> list[int]:
        """The gRPC status of each call that was ended by trailers."""
        return [int(trailers.get(b"grpc-status", b"-1")) for trailers in self.ended.values()]

    # ---- its life

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host.strip("[]"), int(self._port))
        self._h2.initiate_connection()
        self._h2.update_settings({settings.SettingCodes.INITIAL_WINDOW_SIZE: self._window})
        self._h2.increment_flow_control_window(LARGE_WINDOW - 65_535)
        await self.flush()
        self._task = asyncio.create_task(self._read())
        await eventually_async(lambda: self._is_set_up or self.is_closed, what="the server's settings")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._writer.transport.abort()

    async def _read(self) -> None:
        try:
            while data := await self._chunk():
                for event in self._h2.receive_data(data):
                    self._note(event)
                await self.flush()
        except (ConnectionError, ProtocolError):
            pass
        finally:
            self.is_closed = True

    async def _chunk(self) -> bytes:
        await self._may_read.wait()
        return await self._reader.read(READ_BYTES)

    def _note(self, event: events.Event) -> None:
        match event:
            case events.RemoteSettingsChanged():
                self._is_set_up = True
            case events.DataReceived(stream_id=stream, flow_controlled_length=length):
                self.received[stream] = self.received.get(stream, 0) + (length or 0)
            case events.TrailersReceived(stream_id=stream, headers=headers):
                self.ended[stream] = dict(headers or ())
            case events.ResponseReceived(stream_id=stream, headers=headers) if event.stream_ended is not None:
                self.ended[stream] = dict(headers or ())
            case events.StreamReset(stream_id=stream, error_code=code):
                self.reset[stream] = int(code or 0)
            case events.ConnectionTerminated():
                self.is_closed = True
            case _:
                pass
