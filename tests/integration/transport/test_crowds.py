"""More connections than there may be, or than take what they are sent: somebody has to go, and others come in."""

import asyncio
import contextlib
import random
import time
import zlib
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from registry_server.limits.refusals import Refusals
from registry_server.rpc.table import Caller, Service, Table, Unary
from registry_server.transport.http2 import server as server_room
from registry_server.transport.http2.server import Http2Server
from registry_server.transport.limits import Limits
from registry_server.transport.status import Code
from registry_server.transport.streams import Streams
from tests.support.frames import PREFACE, SETTINGS, Frames, frame
from tests.support.http2 import Http2
from tests.support.transports import NAME, Everything, text, value
from tests.support.waiting import eventually_async

TICK_S = 0.02


@pytest.fixture(autouse=True)
def short_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_room, "TICK_S", TICK_S)


class Stage:
    """A server with these limits, and what it refused."""

    def __init__(self, **limits: Any) -> None:
        self.service = Everything()
        self.said: list[str] = []
        self.refusals = Refusals(self.said.append)
        streams = Streams(random.Random(1))
        self.server = Http2Server(Table(self.service.service()), streams, Limits(**limits), refusals=self.refusals)
        self.address = ""

    async def echoed(self) -> str:
        """One call of a newcomer."""
        async with grpc.aio.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            answer: bytes = await channel.unary_unary(f"/{NAME}/Echo")(value("x"), timeout=10)
            return text(answer)


@contextlib.asynccontextmanager
async def serving(address: str = "127.0.0.1:0", **limits: Any) -> AsyncIterator[Stage]:
    stage = Stage(**limits)
    (stage.address,) = await stage.server.start(address)
    try:
        yield stage
    finally:
        stage.service.may_end.set()
        await asyncio.wait_for(stage.server.stop(), 20)


async def test_a_newcomer_gets_in_though_all_are_busy() -> None:
    """Twenty connections, each with a stream that does not end; one of them makes room, and is told why."""
    async with serving(max_connections=20) as stage, contextlib.AsyncExitStack() as stack:
        others = [await stack.enter_async_context(Http2(stage.address)) for _ in range(20)]
        for it in others:
            it.call(f"/{NAME}/Listen", value("x"))
            await it.flush()
        await stage.service.heard_by(20)
        for _ in range(5):
            assert await stage.echoed() == "x"
        await eventually_async(lambda: any(it.is_closed for it in others))
        gone = [it for it in others if it.is_closed]
        assert [it.statuses() for it in gone] == [[Code.UNAVAILABLE]] * len(gone)
        assert len(stage.service.listeners) == 20 - len(gone)
        assert stage.refusals.counts["max_connections"] >= 1
        assert "20 connections" in stage.said[0] or "21 connections" in stage.said[0]


async def test_a_newcomer_gets_in_through_a_flood_of_those_who_do_not_hang_up() -> None:
    """Deaf ones that go on coming: none of them takes a place for longer than it takes to see it."""
    async with serving(max_connections=20) as stage, contextlib.AsyncExitStack() as stack:
        for _ in range(150):
            flood = await stack.enter_async_context(Frames(stage.address, deaf=True))
            await flood.say(PREFACE + frame(SETTINGS))
        assert await stage.echoed() == "x"
        await eventually_async(lambda: len(stage.server._shared.connections) <= 31)
        assert len(stage.said) == 1


async def test_a_peer_has_too_many_connections() -> None:
    """It is told so by every call on those, and they are closed; those that it had go on."""
    async with serving(max_connections_per_peer=2) as stage, contextlib.AsyncExitStack() as stack:
        first = [await stack.enter_async_context(Http2(stage.address)) for _ in range(2)]
        for it in first:
            it.call(f"/{NAME}/Listen", value("x"))
            await it.flush()
        await stage.service.heard_by(2)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stage.echoed()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "max_connections_per_peer: one peer may have 2 connections" in (refused.value.details() or "")
        mute = await stack.enter_async_context(Http2(stage.address))
        await eventually_async(lambda: mute.is_closed)
        assert stage.refusals.counts == {"max_connections_per_peer": 2}
        assert len(stage.service.listeners) == 2
        await first[0].__aexit__(None, None, None)
        await eventually_async(lambda: len(stage.server._shared.connections) == 1)
        assert await stage.echoed() == "x"


async def test_a_peer_without_end_is_cut_off() -> None:
    async with serving(max_connections_per_peer=2) as stage, contextlib.AsyncExitStack() as stack:
        many = [await stack.enter_async_context(Frames(stage.address)) for _ in range(30)]
        await eventually_async(lambda: sum(it.is_closed for it in many) >= 26)
        assert stage.refusals.counts["max_connections_per_peer"] == 28
        assert len(stage.said) == 1


async def test_who_takes_least_is_cut_off_when_too_much_waits_to_be_read() -> None:
    """Each has one stream, of which it takes nothing; another client reads, all the while, and stays."""
    async with serving(max_unread_bytes_in_all=400_000) as stage, contextlib.AsyncExitStack() as stack:
        reader = await stack.enter_async_context(Http2(stage.address))
        reading = reader.call(f"/{NAME}/Listen", value("on and on"))
        await reader.flush()
        await reader.wait_received([reading])
        deaf = [await stack.enter_async_context(Http2(stage.address, window=10)) for _ in range(20)]
        for it in deaf:
            it.call(f"/{NAME}/Listen", value("on and on"))
            await it.flush()
        await eventually_async(lambda: sum(it.is_closed for it in deaf) >= 10)
        await eventually_async(lambda: stage.server._shared.unread <= 400_000)
        assert stage.refusals.counts["max_unread_bytes_in_all"] >= 10
        before = reader.received[reading]
        await eventually_async(lambda: reader.received[reading] > before + 1_000_000)
        assert not reader.is_closed
        assert len([line for line in stage.said if "max_unread_bytes_in_all" in line]) == 1


async def test_a_mistake_at_one_connection_does_not_stop_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong while a second of one connection passes is that one's end; others still have their time-outs."""
    async with serving(handshake_s=3) as stage, Http2(stage.address) as first:
        first.call(f"/{NAME}/Listen", value("x"))
        await first.flush()
        await stage.service.heard_by(1)
        (broken,) = stage.server._shared.connections
        monkeypatch.setattr(broken, "tick", lambda: 1 / 0)
        await eventually_async(lambda: first.is_closed)
        async with Frames(stage.address) as silent:
            await eventually_async(lambda: silent.is_closed)


async def test_at_a_file_each_connection_is_a_peer(tmp_path: Any) -> None:
    address = f"unix:{tmp_path / 'registry.sock'}"
    async with serving(address) as stage:
        await stage.echoed()
        await stage.echoed()
        first, second = (caller.peer for caller in stage.service.callers)
        assert first != second
        assert first.startswith("unix:")


async def test_who_asks_one_thing_does_not_wait_for_thousands_of_others() -> None:
    """Calls that wait are begun in turns, one of each connection: counted in calls, and not in time."""
    order: list[str] = []

    async def work(request: StringValue, caller: Caller) -> bytes:
        until = time.thread_time() + 0.0005
        while time.thread_time() < until:
            pass
        order.append(request.value)
        return request.SerializeToString()

    server = Http2Server(Table(Service("test", {"Work": Unary(StringValue, work)})), Streams(random.Random(1)))
    (address,) = await server.start("127.0.0.1:0")
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(server.stop)
        crowd = [await stack.enter_async_context(Http2(address)) for _ in range(8)]
        one = await stack.enter_async_context(Http2(address))
        calls = [[it.call("/test/Work", value("x")) for _ in range(100)] for it in crowd]
        await asyncio.gather(*(it.flush() for it in crowd))
        await eventually_async(lambda: order)
        asked = one.call("/test/Work", value("one"))
        await one.flush()
        before = len(order)
        await one.wait_ended([asked])
        assert order.index("one") - before < 200
        for it, its in zip(crowd, calls, strict=True):
            await it.wait_ended(its)
    assert len(order) == 801


def too_large(client: Http2) -> list[int]:
    """Calls that break a limit of size: as it comes, unpacked, and in the metadata."""
    path, packed = f"/{NAME}/Echo", zlib.compress(bytes(100_000))
    gzip = client.begin(path, headers=[(b"grpc-encoding", b"deflate")])
    client.say(gzip, b"\1" + len(packed).to_bytes(4) + packed, is_last=True)
    return [
        client.call(path, value("x" * 20_000)),
        gzip,
        client.call(path, value("x"), headers=[(b"x-more", b"y" * 9_000)]),
    ]


def too_much(client: Http2) -> list[int]:
    """Half messages."""
    halves = [client.begin(f"/{NAME}/Echo") for _ in range(4)]
    for stream in halves:
        client.say(stream, b"\0" + (100_000).to_bytes(4) + b"x" * 60_000)
    return halves


def unread(client: Http2) -> list[int]:
    """Answers that are not taken, and then the calls that are refused."""
    calls = [client.call(f"/{NAME}/Echo", value("x" * 60_000)) for _ in range(20)]
    return calls[-10:]


@pytest.mark.parametrize(
    ("asks", "limits"),
    [
        (too_large, {"max_message_bytes": 10_000, "max_header_bytes": 8_000}),
        (too_much, {"max_held_bytes": 200_000}),
        (unread, {"max_unread_bytes": 300_000}),
    ],
)
async def test_every_limit_is_named_to_who_reaches_it_and_counted(
    asks: Callable[[Http2], list[int]], limits: dict[str, int]
) -> None:
    async with serving(**limits) as stage, Http2(stage.address, window=0 if asks is unread else 1 << 20) as client:
        streams = asks(client)
        await client.flush()
        await client.wait_ended(streams)
        for stream in streams:
            fields = dict(client.ended[stream])
            message = fields[b"grpc-message"].decode()
            limit = message.partition(":")[0]
            assert int(fields[b"grpc-status"]) == Code.RESOURCE_EXHAUSTED
            assert limit in limits
            details = fields[b"grpc-status-details-bin"]
            status = Status.FromString(b64decode(details + b"=" * (-len(details) % 4)))
            quota = error_details_pb2.QuotaFailure()
            assert status.details[0].Unpack(quota)
            assert quota.violations[0].subject == limit
        assert set(stage.refusals.counts) == set(limits)
        assert sum(stage.refusals.counts.values()) >= len(streams)
        assert len(stage.said) == len(limits)
