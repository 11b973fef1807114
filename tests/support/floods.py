"""Attacks by frames: each is a coroutine of address and seconds, and goes on as long as the server lets it."""

import asyncio
import contextlib
import gzip
import struct
import time
from collections.abc import Callable, Iterator

from tests.support.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frames,
    frame,
    head,
    literal,
    setting,
    streams,
)

REGISTRY = b"/registry.v1.Registry"
LIST = head(REGISTRY + b"/List")
CONNECTIONS = 4
OPENING = PREFACE + frame(SETTINGS)
CANCEL = struct.pack(">I", 8)
EMPTY = b"\0\0\0\0\0"
MANY = 1000
CROWD = 1000
BOMB_BYTES = 64 << 20


async def flooded(
    address: str,
    seconds: float,
    parts: Callable[[], Iterator[bytes]],
    *,
    deaf: bool = False,
    connections: int = CONNECTIONS,
) -> None:
    """Connections that say these parts without end, each anew when it is cut off."""

    async def one() -> None:
        while time.monotonic() < until:
            with contextlib.suppress(ConnectionError):
                async with Frames(address, deaf=deaf) as connection:
                    for part in parts():
                        await connection.say(part)
                        if time.monotonic() >= until:
                            return
            await asyncio.sleep(0.01)

    until = time.monotonic() + seconds
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # a server that reads no more does not hold us up
            await asyncio.gather(*(one() for _ in range(connections)))


def again(opening: bytes, part: bytes) -> Callable[[], Iterator[bytes]]:
    """The same again and again."""

    def parts() -> Iterator[bytes]:
        yield opening
        while True:
            yield part

    return parts


async def resets_without_data(address: str, seconds: float) -> None:
    """Streams that are opened and reset at once, with nothing in between."""

    def parts() -> Iterator[bytes]:
        yield OPENING
        for stream in streams():
            yield frame(HEADERS, END_HEADERS, stream, LIST) + frame(RST_STREAM, 0, stream, CANCEL)

    await flooded(address, seconds, parts)


async def continuations(address: str, seconds: float) -> None:
    """Headers that never end."""
    more = literal(b"name", b"x" * 16_000)
    await flooded(address, seconds, again(OPENING + frame(HEADERS, 0, 1, LIST), frame(CONTINUATION, 0, 1, more)))


async def headers_by_the_thousand(address: str, seconds: float) -> None:
    """Calls with very many small headers."""
    block = LIST + literal(b"n", b"") * 5_000

    def parts() -> Iterator[bytes]:
        yield OPENING
        for stream in streams():
            yield frame(HEADERS, 0, stream, block[:16_384]) + frame(CONTINUATION, END_HEADERS, stream, block[16_384:])

    await flooded(address, seconds, parts)


async def settings(address: str, seconds: float) -> None:
    """SETTINGS without end."""
    await flooded(address, seconds, again(OPENING, setting(INITIAL_WINDOW_SIZE, 65_535) * MANY))


async def pings(address: str, seconds: float) -> None:
    """PINGs without end."""
    await flooded(address, seconds, again(OPENING, frame(PING, payload=bytes(8)) * MANY))


async def pings_whose_answers_nobody_reads(address: str, seconds: float) -> None:
    """PINGs without end, and deaf."""
    await flooded(address, seconds, again(OPENING, frame(PING, payload=bytes(8)) * MANY), deaf=True)


async def data_without_data(address: str, seconds: float) -> None:
    """DATA frames with nothing in them, without end."""
    opening = OPENING + frame(HEADERS, END_HEADERS, 1, head(REGISTRY + b"/KeepAlive"))
    await flooded(address, seconds, again(opening, frame(DATA, 0, 1) * MANY))


async def windows_beyond_all_bounds(address: str, seconds: float) -> None:
    """WINDOW_UPDATEs that add up to more than there is."""
    opening = OPENING + frame(HEADERS, END_HEADERS, 1, head(REGISTRY + b"/KeepAlive"))
    more = frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", (1 << 31) - 1))
    await flooded(address, seconds, again(opening, more + frame(WINDOW_UPDATE, 0, 0, more[-4:])))


async def windows_that_never_open(address: str, seconds: float) -> None:
    """Calls without end whose answers may not be written."""

    def parts() -> Iterator[bytes]:
        yield PREFACE + setting(INITIAL_WINDOW_SIZE, 0)
        for stream in streams():
            yield frame(HEADERS, END_HEADERS, stream, LIST) + frame(DATA, END_STREAM, stream, EMPTY)

    await flooded(address, seconds, parts)


async def slow_prefaces(address: str, seconds: float) -> None:
    """Connections that say what they are a byte at a time, and never all."""
    await _slow(address, seconds, b"", PREFACE[:-1])


async def slow_headers(address: str, seconds: float) -> None:
    """Calls whose headers come a byte at a time."""
    await _slow(address, seconds, OPENING, frame(HEADERS, END_HEADERS, 1, LIST)[:-1])


async def idle_connections(address: str, seconds: float) -> None:
    """Connections by the thousand that ask for nothing."""
    await _slow(address, seconds, OPENING, b"", CROWD)


async def bombs(address: str, seconds: float) -> None:
    """Small messages that unpack to large ones."""
    packed = gzip.compress(bytes(BOMB_BYTES))
    message = b"\1" + struct.pack(">I", len(packed)) + packed
    block = head(REGISTRY + b"/List", (b"grpc-encoding", b"gzip"))

    def parts() -> Iterator[bytes]:
        yield OPENING
        for stream in streams():
            yield frame(HEADERS, END_HEADERS, stream, block)
            for start in range(0, len(message), 16_384):
                part = message[start : start + 16_384]
                yield frame(DATA, END_STREAM if start + len(part) == len(message) else 0, stream, part)

    await flooded(address, seconds, parts)


async def _slow(address: str, seconds: float, opening: bytes, rest: bytes, count: int = 300) -> None:
    def parts() -> Iterator[bytes]:
        yield opening
        for byte in rest:
            yield bytes((byte,))

    async def one() -> None:
        with contextlib.suppress(ConnectionError):
            async with Frames(address) as connection:
                for part in parts():
                    await connection.say(part)
                    await asyncio.sleep(0.05)
                await asyncio.sleep(seconds)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(one() for _ in range(count)))
