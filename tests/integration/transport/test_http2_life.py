"""The life of connections on the HTTP/2 transport: who has to go, and when. Its seconds are short here."""

import asyncio
import contextlib
import os
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop

from registry_server.rpc.table import Table
from registry_server.transport.http2 import server as server_room
from registry_server.transport.http2.server import Http2Server
from registry_server.transport.limits import Limits
from registry_server.transport.status import Code
from registry_server.transport.streams import Streams
from registry_server.transport.tls import Certificates
from tests.support.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Frames,
    frame,
    head,
    literal,
)
from tests.support.http2 import Http2, framed
from tests.support.tls import LOCAL, Authority, certificates_of
from tests.support.transports import NAME, Everything, value
from tests.support.waiting import eventually_async, passed

TICK_S = 0.02
# Or gRPC takes up the connection of a channel before it, to a server that is gone since.
OWN = (("grpc.use_local_subchannel_pool", 1),)
PROTOCOL_ERROR = 1
OPENING = PREFACE + frame(SETTINGS)


@pytest.fixture(autouse=True)
def short_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_room, "TICK_S", TICK_S)


@contextlib.asynccontextmanager
async def serving(
    service: Everything, address: str = "127.0.0.1:0", tls: Certificates | None = None, **limits: Any
) -> AsyncIterator[str]:
    """A server of that service, with these limits; its address."""
    server = Http2Server(Table(service.service()), Streams(random.Random(1)), Limits(**limits), tls)
    (taken,) = await server.start(address)
    try:
        yield taken
    finally:
        service.may_end.set()
        await asyncio.wait_for(server.stop(), 10)


async def echoed(address: str, credentials: grpc.ChannelCredentials | None = None) -> bytes:
    """One call on a channel of its own, and a connection of its own."""
    make = grpc.aio.secure_channel if credentials else grpc.aio.insecure_channel
    async with make(address, *([credentials] if credentials else []), options=OWN) as channel:
        return await channel.unary_unary(f"/{NAME}/Echo")(value("x"), timeout=10)  # type: ignore[no-any-return]


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_who_has_gone_already_is_not_taken_for_this_machine(
    new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    """uvloop asks where somebody calls from when he may have hung up, and his calls can still be read."""

    def call(client: socket.socket, where: Any) -> None:
        client.connect(where)  # without a turn of the loop: it is let in later
        client.sendall(OPENING + frame(HEADERS, END_HEADERS, 1, head(f"/{NAME}/Echo".encode())))
        client.sendall(frame(DATA, END_STREAM, 1, framed(value("x"))))

    async def ask() -> None:
        async with serving(service) as tcp, serving(service, f"unix:{tmp_path / 's'}") as file:
            host, _, port = tcp.rpartition(":")
            for _ in range(10):
                with socket.socket() as client:
                    call(client, (host, int(port)))
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with socket.socket() as client:
                call(client, (host, int(port)))
                await eventually_async(lambda: bool(service.callers))
            with socket.socket(socket.AF_UNIX) as client:
                call(client, file.removeprefix("unix:"))
                await eventually_async(lambda: len(service.callers) > 1)
        assert [it.peer.partition(":")[0] for it in service.callers] == ["ipv4", "unix"]

    service = Everything()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(ask())


# ---- where it listens


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "0.0.0.0", "[::]"])
async def test_addresses(host: str) -> None:
    async with serving(Everything(), f"{host}:0") as address:
        port = address.rpartition(":")[2]
        reached = {"0.0.0.0": ["127.0.0.1", "[::1]"], "[::]": ["127.0.0.1", "[::1]"]}.get(host, [host])
        for each in reached:
            assert await echoed(f"{each}:{port}") == value("x")
        again = Http2Server(Table(), Streams(random.Random(1)))
        with pytest.raises(OSError, match="in use"):
            await again.start(address)


async def test_a_unix_socket_also_in_the_place_of_one_that_was_left(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    service = Everything()
    async with serving(service, address):
        assert await echoed(address) == value("x")
        assert service.callers[0].peer.startswith("unix:")
        with pytest.raises(OSError, match="in use"):
            await Http2Server(Table(), Streams(random.Random(1))).start(address)
    async with serving(Everything(), address):
        assert await echoed(address) == value("x")


def tls_of(authority: Authority) -> Certificates:
    return certificates_of(authority.pair(*LOCAL))


async def test_tls() -> None:
    authority = Authority()
    credentials = authority.trusting()
    service = Everything()
    async with serving(service, tls=tls_of(authority)) as address:
        assert await echoed(address, credentials) == value("x")
        async with grpc.aio.secure_channel(address, credentials) as channel:
            call = channel.unary_stream(f"/{NAME}/Listen")(value(""))
            await service.heard_by(1)
            service.tell(value("y" * 200_000))
            assert await call.read() == value("y" * 200_000)
            call.cancel()


# ---- what is no call, or not whole


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ((b"content-type", b"text/html"), b"415", Code.INVALID_ARGUMENT),
        ((b":method", b"GET"), b"405", Code.INVALID_ARGUMENT),
        ((b"grpc-timeout", b"soon"), b"200", Code.INTERNAL),
        ((b"grpc-encoding", b"br"), b"200", Code.UNIMPLEMENTED),
        ((b":path", b"/\xff"), b"200", Code.UNIMPLEMENTED),
    ],
)
async def test_what_is_no_call(changed: tuple[bytes, bytes], status: bytes, code: Code) -> None:
    async with serving(Everything()) as address, Http2(address) as client:
        fields = {
            b":method": b"POST",
            b":scheme": b"http",
            b":path": f"/{NAME}/Echo".encode(),
            b":authority": b"test",
            b"content-type": b"application/grpc",
        }
        stream = client.begin_with([*{**fields, changed[0]: changed[1]}.items()])
        await client.flush()
        await client.wait_ended([stream])
        assert (client.ended[stream][b":status"], client.statuses()) == (status, [code])


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (framed(b"") + framed(b""), Code.UNIMPLEMENTED),
        (b"", Code.UNIMPLEMENTED),
        (b"\0\0\0\0\5abc", Code.INTERNAL),
        (b"\7\0\0\0\0", Code.INTERNAL),
        (b"\1\0\0\0\0", Code.INTERNAL),
    ],
)
@pytest.mark.parametrize("method", ["Wait", "Listen"])
async def test_another_number_of_messages_than_one(sent: bytes, code: Code, method: str) -> None:
    async with serving(Everything()) as address, Http2(address) as client:
        stream = client.begin(f"/{NAME}/{method}")
        client.say(stream, sent, is_last=True) if sent else client.end(stream)
        await client.flush()
        await client.wait_ended([stream])
        assert client.statuses() == [code]


@pytest.mark.parametrize(("first", "last"), [(b"\0", framed(b"hello")), (framed(b"x"), framed(b"hello"))])
async def test_the_end_of_what_came_in_pieces_is_no_message_of_its_own(first: bytes, last: bytes) -> None:
    """Though it would be one by itself: after another one, or after a part of its prefix."""
    async with serving(Everything()) as address, Http2(address) as client:
        stream = client.begin(f"/{NAME}/Wait")
        client.say(stream, first)
        await client.flush()
        client.say(stream, last, is_last=True)
        await client.flush()
        await client.wait_ended([stream])
        assert client.statuses() == [Code.UNIMPLEMENTED]


@pytest.mark.parametrize("method", ["Echo", "Listen", "Chat", "Talk"])
async def test_a_message_that_is_never_whole_ends_its_call(method: str) -> None:
    async with serving(Everything(), request_s=3) as address, Http2(address) as client:
        stream = client.begin(f"/{NAME}/{method}")
        client.say(stream, b"\0\0\0\0\5abc")
        await client.flush()
        await client.wait_ended([stream])
        assert client.statuses() == [Code.DEADLINE_EXCEEDED]


async def test_an_open_stream_that_owes_nothing_stays() -> None:
    async with serving(Everything(), request_s=1) as address, Http2(address) as client:
        stream = client.begin(f"/{NAME}/Chat")
        for _ in range(3):
            client.say(stream, framed(value("x")))
            await client.flush()
            await client.wait_received([stream])
            await passed(2 * TICK_S)
        assert not client.ended


@pytest.mark.parametrize("value", [b" x", b"x ", b"\tx"])
async def test_a_header_with_a_blank_at_an_end_resets_its_stream_alone(value: bytes) -> None:
    """RFC 9113, 8.2.1; docs/protocol.md."""
    async with serving(Everything()) as address, Http2(address) as client:
        wrong = client.call(f"/{NAME}/Echo", b"\x0a\x01x", headers=[(b"name", value)])
        right = client.call(f"/{NAME}/Echo", b"\x0a\x01x", headers=[(b"name", b"x x")])
        await client.flush()
        await eventually_async(lambda: wrong in client.reset and right in client.ended)
    assert client.reset[wrong] == PROTOCOL_ERROR
    assert client.ended[right][b"grpc-status"] == b"0"


async def test_a_stream_that_is_reset_at_once_joins_nothing() -> None:
    """To join takes much longer than to ask for it: whoever does both without end would hold up all others."""

    def asked(stream: int, text: str) -> bytes:
        block = frame(HEADERS, END_HEADERS, stream, head(f"/{NAME}/Listen".encode()))
        return block + frame(DATA, END_STREAM, stream, framed(value(text)))

    service, last = Everything(), 401
    cancel = struct.pack(">I", 8)
    flood = [asked(stream, "x") + frame(RST_STREAM, 0, stream, cancel) for stream in range(1, last, 2)]
    async with serving(service) as address, Frames(address) as attacker:
        await attacker.say(b"".join((OPENING, *flood, asked(last, "the last"))))
        await eventually_async(lambda: service.all and service.all[-1].asked == "the last", what="the last one")
    assert len(service.all) < len(flood) / 2


async def test_a_deadline_ends_a_call_whose_client_keeps_to_none() -> None:
    service = Everything()
    async with serving(service) as address, Http2(address) as client:
        stream = client.call(f"/{NAME}/Wait", value("x"), headers=[(b"grpc-timeout", b"50m")])
        await client.flush()
        await client.wait_ended([stream])
        assert client.statuses() == [Code.DEADLINE_EXCEEDED]
        await eventually_async(lambda: service.cancelled == 1)


# ---- what is held for others


async def test_who_holds_most_gives_it_up() -> None:
    """Half messages of one connection take no room from another one's."""
    async with (
        serving(Everything(), max_held_bytes=200_000) as address,
        Http2(address) as greedy,
        Http2(address) as other,
    ):
        halves = [greedy.begin(f"/{NAME}/Echo") for _ in range(4)]
        for stream in halves:
            greedy.say(stream, b"\0" + (100_000).to_bytes(4) + b"x" * 60_000)
        await greedy.flush()
        await greedy.wait_ended(halves)
        assert set(greedy.statuses()) == {Code.RESOURCE_EXHAUSTED}
        call = other.call(f"/{NAME}/Echo", value("y" * 60_000))
        await other.flush()
        await other.wait_ended([call])
        assert other.statuses() == [Code.OK]


async def test_answers_that_nobody_reads_are_bounded() -> None:
    async with serving(Everything(), max_unread_bytes=300_000) as address, Http2(address, window=0) as client:
        calls = [client.call(f"/{NAME}/Echo", value("x" * 60_000)) for _ in range(20)]
        await client.flush()
        await eventually_async(lambda: len(client.ended) >= 14)
        assert set(client.statuses()) == {Code.RESOURCE_EXHAUSTED}
        assert len(client.ended) < len(calls)


async def test_more_connections_than_there_may_be() -> None:
    """Those that are without a call make room."""
    service = Everything()
    async with serving(service, max_connections=10) as address, Http2(address) as busy:
        call = busy.call(f"/{NAME}/Wait", value("x"))
        await busy.flush()
        await eventually_async(lambda: service.entered == 1)
        async with contextlib.AsyncExitStack() as stack:
            idle = [await stack.enter_async_context(Frames(address)) for _ in range(15)]
            await eventually_async(lambda: sum(it.is_closed for it in idle) >= 6)
            assert await echoed(address) == value("x")
        service.may_end.set()
        await busy.wait_ended([call])
        assert busy.statuses() == [Code.OK]


# ---- who has to go


@pytest.mark.parametrize("opening", [b"", PREFACE[:10], PREFACE], ids=["nothing", "half", "no settings"])
async def test_who_does_not_say_what_it_is(opening: bytes) -> None:
    async with serving(Everything(), handshake_s=2) as address, Frames(address) as client:
        await client.say(opening)
        await eventually_async(lambda: client.is_closed)


async def test_who_has_no_end_of_shaking_hands() -> None:
    async with serving(Everything(), tls=tls_of(Authority()), handshake_s=1) as address, Frames(address) as client:
        await client.say(b"\x16\x03\x01")
        await eventually_async(lambda: client.is_closed)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"], ids=["nothing", "half"])
async def test_who_is_still_shaking_hands_when_it_stops(said: bytes) -> None:
    """Is sent away as all others: what only the handshake knows is not left behind for half a minute."""
    async with contextlib.AsyncExitStack() as stack:
        async with serving(Everything(), tls=tls_of(Authority()), handshake_s=600) as address:
            clients = [await stack.enter_async_context(Frames(address)) for _ in range(3)]
            for client in clients:
                await client.say(said)
            await passed(0.1)
        await eventually_async(lambda: all(client.is_closed for client in clients))
        assert not [task for task in asyncio.all_tasks() if "_accept" in repr(task.get_coro())]


async def test_who_does_not_hang_up_by_tls_when_it_stops() -> None:
    """It is cut off all the same, and its socket is not left behind."""
    authority = Authority()
    trusting = ssl.create_default_context(cadata=authority.pem.decode())
    trusting.set_alpn_protocols(["h2"])
    with contextlib.ExitStack() as stack:
        async with serving(Everything(), tls=tls_of(authority)) as address:
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))))
            client = await asyncio.to_thread(trusting.wrap_socket, plain, server_hostname="localhost")
            stack.enter_context(client)
            client.sendall(OPENING)
            below = stack.enter_context(socket.socket(fileno=os.dup(client.fileno())))
            await passed(0.1)
        below.settimeout(10)
        with contextlib.suppress(ConnectionError):
            while await asyncio.to_thread(below.recv, 4096):
                pass


async def test_no_http_2_at_all() -> None:
    async with serving(Everything()) as address, Frames(address) as client:
        await client.say(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await eventually_async(lambda: client.is_closed)


async def test_who_answers_no_ping() -> None:
    async with (
        serving(Everything(), keepalive_s=2, keepalive_timeout_s=2) as address,
        Frames(address) as mute,
        Http2(address) as alive,
    ):
        await mute.say(OPENING)
        await eventually_async(lambda: mute.is_closed)
        assert not alive.is_closed


@pytest.mark.parametrize("limit", ["max_idle_s", "max_age_s"])
async def test_a_client_that_is_sent_away_notices_nothing(limit: str) -> None:
    service = Everything()
    async with serving(service, **{limit: 2}) as address, grpc.aio.insecure_channel(address) as channel:
        for _ in range(6):
            assert await channel.unary_unary(f"/{NAME}/Echo")(value("x"), timeout=10) == value("x")
            await passed(3 * TICK_S)
    assert len({caller.peer for caller in service.callers}) > 1


@pytest.mark.parametrize(("leaving_s", "code"), [(200, grpc.StatusCode.OK), (3, grpc.StatusCode.UNAVAILABLE)])
async def test_a_call_on_a_connection_that_is_too_old_has_its_time(leaving_s: int, code: grpc.StatusCode) -> None:
    service = Everything()
    async with (
        serving(service, max_age_s=2, leaving_s=leaving_s) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        call = channel.unary_unary(f"/{NAME}/Wait")(value("x"), timeout=10)
        await eventually_async(lambda: service.entered == 1)

        async def is_elsewhere() -> bool:
            await channel.unary_unary(f"/{NAME}/Echo")(value("x"), timeout=10)
            return service.callers[-1].peer != service.callers[0].peer

        await eventually_async(is_elsewhere)
        if code is grpc.StatusCode.OK:
            service.may_end.set()
        assert await call.code() is code


async def test_headers_far_beyond_the_limit_end_the_connection() -> None:
    async with serving(Everything()) as address, Frames(address) as client:
        block = head(f"/{NAME}/Echo".encode()) + literal(b"n", b"x" * 7_000) * 2
        await client.say(OPENING + frame(HEADERS, END_HEADERS, 1, block))
        assert await echoed(address) == value("x")
        assert not client.is_closed
        await client.say(frame(HEADERS, 0, 3, block) + frame(9, 0, 3, block[-14_000:]) * 5)
        await eventually_async(lambda: client.is_closed)
