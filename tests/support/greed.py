"""Clients that ask for nothing wrong, and for far too much of it: each is a coroutine of address and seconds."""

import asyncio
import contextlib
import itertools
import secrets
import struct
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2

from registry_api.registry.v1 import registry_pb2 as pb
from tests.support.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PREFACE,
    READ_BYTES,
    RST_STREAM,
    WINDOW_UPDATE,
    frame,
    head,
    setting,
)
from tests.support.http2 import LARGE_WINDOW, Http2, framed

REGISTRY = "/registry.v1.Registry"
HEALTH = "/grpc.health.v1.Health"
CONNECTIONS = 4
AT_A_TIME = 200
SHORT = Duration(seconds=2)
OPENING = (
    PREFACE
    + setting(INITIAL_WINDOW_SIZE, LARGE_WINDOW)
    + frame(WINDOW_UPDATE, payload=struct.pack(">I", LARGE_WINDOW - 65_535))
)
Call = tuple[bytes, bytes]
"""The headers of a call, encoded, and its message, framed."""


class Greedy:
    """One connection that asks as fast as it is answered, which costs it little: its frames are made by hand."""

    def __init__(self, address: str) -> None:
        self.answered = 0
        self._host, _, self._port = address.rpartition(":")
        self._streams = itertools.count(1, 2)
        self._open: set[int] = set()

    async def __aenter__(self) -> "Greedy":
        self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))
        self._writer.write(OPENING)
        await self._frame()  # its settings, and then what it lets in
        return self

    async def __aexit__(self, *error: object) -> None:
        self._writer.transport.abort()

    async def ask(self, calls: Iterable[Call]) -> None:
        """All of these at once, and wait until they are answered. Raises ConnectionError."""
        frames = []
        for block, message in calls:
            stream = next(self._streams)
            self._open.add(stream)
            frames += [frame(HEADERS, END_HEADERS, stream, block), frame(DATA, END_STREAM, stream, message)]
        self._writer.write(b"".join(frames))
        while self._open:
            await self._frame()

    async def begin(self, calls: Iterable[Call]) -> None:
        """Streams that are told something without end; what that is, is not read."""
        for block, message in calls:
            stream = next(self._streams)
            self._writer.write(frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, message))
        await self._writer.drain()

    async def read_on(self) -> None:
        """Read what comes, until it is cut off."""
        while await self._reader.read(READ_BYTES):
            pass

    async def _frame(self) -> None:
        try:
            start = await self._reader.readexactly(9)
            await self._reader.readexactly(int.from_bytes(start[:3]))
        except asyncio.IncompleteReadError:
            raise ConnectionResetError from None
        kind, flags, stream = start[3], start[4], int.from_bytes(start[5:])
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self._open.discard(stream)
            self.answered += 1


def call(path: str, message: bytes, *more: tuple[bytes, bytes]) -> Call:
    return head(path.encode(), *more), framed(message)


async def asked(address: str, seconds: float, calls: Iterator[Call], connections: int = CONNECTIONS) -> int:
    """So many connections ask that without end; how often they were answered."""
    until, answered = time.monotonic() + seconds, 0

    async def one() -> None:
        nonlocal answered
        while time.monotonic() < until:
            with contextlib.suppress(ConnectionError):
                async with Greedy(address) as connection:
                    while time.monotonic() < until:
                        await connection.ask(itertools.islice(calls, AT_A_TIME))
                        answered += AT_A_TIME

    await asyncio.gather(*(one() for _ in range(connections)))
    return answered


def registering(services: int) -> Iterator[Call]:
    """Instances without number, of so many services."""
    block = head(f"{REGISTRY}/Register".encode())
    for number in itertools.count():
        port, host = 1 + number % 65_000, f"10.{number // 65_000}.0.9"
        instance = pb.Instance(service=f"greed-{number % services}", id=f"i{number}", host=host, port=port)
        yield block, framed(pb.RegisterRequest(instance=instance, ttl=SHORT))


async def registrations(address: str, seconds: float) -> int:
    """Instances without end."""
    return await asked(address, seconds, registering(3))


async def names(address: str, seconds: float) -> int:
    """A name that nobody has heard of with every call."""

    def calls() -> Iterator[Call]:
        registers = registering(1 << 30)
        for number in itertools.count():
            name = f"name-{number}-{'x' * 100}"
            key = pb.InstanceKey(namespace=name, service=name, id=name)
            yield call(f"{REGISTRY}/Get", pb.GetRequest(key=key).SerializeToString())
            yield call(f"{REGISTRY}/List", pb.ListRequest(service=name).SerializeToString())
            yield call(f"{HEALTH}/Check", health_pb2.HealthCheckRequest(service=name).SerializeToString())
            yield next(registers)

    return await asked(address, seconds, calls())


async def streams_on_many(address: str, seconds: float, connections: int = 20, streams: int = 250) -> int:
    """Watches, as many as a connection carries, on many: of one service, of all, of names that nobody has."""
    questions = [call(f"{REGISTRY}/Watch", pb.WatchRequest(services=["player"]).SerializeToString())]
    questions.append(call(f"{REGISTRY}/Watch", b""))
    questions += [
        call(f"{HEALTH}/Watch", health_pb2.HealthCheckRequest(service=f"s{number}").SerializeToString())
        for number in range(100)
    ]
    async with contextlib.AsyncExitStack() as stack:
        for number in range(connections):
            connection = await stack.enter_async_context(Greedy(address))
            calls = itertools.islice(itertools.cycle(questions[number % 7 :]), streams)
            await connection.begin(calls)
            task = asyncio.create_task(connection.read_on())
            stack.callback(task.cancel)
        await asyncio.sleep(seconds)
    return connections * streams


async def renewals(address: str, seconds: float, ids: int = 10_000, streams: int = 20) -> int:
    """Messages of ten thousand leases, on many streams; and one of a hundred thousand, over and over."""
    many = framed(pb.KeepAliveRequest(lease_ids=[f"{secrets.token_hex(8)}.{'x' * 32}" for _ in range(ids)]))
    too_many = framed(pb.KeepAliveRequest(lease_ids=["x"] * 100_000))
    until, answered = time.monotonic() + seconds, 0

    async def one(message: bytes) -> None:
        nonlocal answered
        with contextlib.suppress(ConnectionError):
            async with Http2(address) as connection:
                unsent = {connection.begin(f"{REGISTRY}/KeepAlive"): message for _ in range(streams)}
                while time.monotonic() < until and not connection.is_closed:
                    for stream in [it for it in unsent if it not in connection.ended and it not in connection.reset]:
                        unsent[stream] = unsent[stream][connection.say(stream, unsent[stream]) :] or message
                    await connection.flush()
                    await asyncio.sleep(0.01)
                answered += sum(connection.received.values())

    await asyncio.gather(*(one(message) for message in (many, many, too_many)))
    return answered


async def slow_readers(address: str, seconds: float, connections: int = 200) -> int:
    """Hundreds that watch everything, and read nothing of it."""
    watch = pb.WatchRequest().SerializeToString()
    async with contextlib.AsyncExitStack() as stack:
        for number in range(connections):
            connection = await stack.enter_async_context(_deaf(address))
            filter_ = pb.Filter(metadata={"k": f"{number}"})
            await connection.begin([call(f"{REGISTRY}/Watch", watch)] * 10)
            await connection.begin([call(f"{REGISTRY}/Watch", pb.WatchRequest(filter=filter_).SerializeToString())])
        await asyncio.sleep(seconds)
    return connections


@asynccontextmanager
async def _deaf(address: str) -> AsyncIterator[Greedy]:
    """One whose socket nobody reads; when it is cut off it does not matter."""
    with contextlib.suppress(ConnectionError):
        async with Greedy(address) as connection:
            yield connection


async def tokens(address: str, seconds: float) -> int:
    """Tokens of nobody, another one with every call."""

    def calls() -> Iterator[Call]:
        message = pb.ListRequest(service="player").SerializeToString()
        while True:
            yield call(f"{REGISTRY}/List", message, (b"authorization", b"Bearer " + secrets.token_hex(16).encode()))

    return await asked(address, seconds, calls())


async def forgeries(address: str, seconds: float) -> int:
    """Resume tokens and lease ids that nobody gave out."""

    def calls() -> Iterator[Call]:
        epoch = secrets.token_hex(8)
        for number in itertools.count():
            lease = f"{secrets.token_hex(8)}.{secrets.token_urlsafe(24)}"
            instance = pb.Instance(service="forged", id=f"i{number}", host="10.0.0.9", port=1 + number % 65_000)
            register = pb.RegisterRequest(instance=instance, lease_id=lease)
            yield call(f"{REGISTRY}/Register", register.SerializeToString())
            yield call(f"{REGISTRY}/Deregister", pb.DeregisterRequest(lease_id=lease).SerializeToString())
            yield call(f"{REGISTRY}/KeepAlive", pb.KeepAliveRequest(lease_ids=[lease] * 10).SerializeToString())
            token = f"{epoch}/{number}/{secrets.token_hex(4)}/{secrets.token_hex(8)}"
            yield call(f"{REGISTRY}/Watch", pb.WatchRequest(resume_token=token).SerializeToString())

    return await asked(address, seconds, calls())


GREED = {it.__name__: it for it in (registrations, names, streams_on_many, renewals, slow_readers, tokens, forgeries)}
