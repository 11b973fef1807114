"""HTTP/2 frames written by hand, for clients that keep to no rule at all."""

import asyncio
import contextlib
import struct
from collections.abc import Iterable
from types import TracebackType
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4
INITIAL_WINDOW_SIZE = 4
READ_BYTES = 1 << 16


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def setting(name: int, value: int) -> bytes:
    return frame(SETTINGS, payload=struct.pack(">HI", name, value))


def literal(name: bytes, value: bytes) -> bytes:
    """A header field that no table knows."""
    return b"\0" + _length(name) + name + _length(value) + value


def head(path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """The header block of a gRPC call."""
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"test"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
    return b"".join(literal(name, value) for name, value in (*fields, *more))


def streams() -> Iterable[int]:
    """The numbers of a client's streams."""
    return range(1, 1 << 31, 2)


class Frames:
    """One connection, with `async with`. What the server says is thrown away, and not read at all by who is `deaf`."""

    def __init__(self, address: str, *, deaf: bool = False) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._deaf = deaf
        self.is_closed = False

    async def say(self, data: bytes) -> None:
        """Write, as fast as it is taken. Raises ConnectionError when the server has cut it off."""
        if self.is_closed:
            raise ConnectionResetError
        self._writer.write(data)
        await self._writer.drain()

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))
        self._task = None if self._deaf else asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._writer.transport.abort()

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(READ_BYTES):
                pass
        self.is_closed = True


def _length(of: bytes) -> bytes:
    """A length as HPACK has it, in seven bits or more."""
    count = len(of)
    if count < 127:
        return bytes((count,))
    count -= 127
    out = bytearray((127,))
    while count >= 128:
        out.append(count & 127 | 128)
        count >>= 7
    return bytes((*out, count))
