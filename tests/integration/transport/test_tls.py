"""TLS on both transports: what is shown, who is let in, files that change, and what is said of what goes wrong."""

import asyncio
import contextlib
import logging
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from registry_server.rpc.table import Table
from registry_server.transport import tls
from registry_server.transport.http2 import handshake
from registry_server.transport.http2.server import Http2Server
from registry_server.transport.limits import Limits
from registry_server.transport.streams import Streams
from registry_server.transport.tls import Certificates, TLSFiles
from tests.integration.transport.conftest import failure
from tests.support.frames import END_HEADERS, HEADERS, PREFACE, SETTINGS, Frames, frame, head
from tests.support.http2 import framed
from tests.support.tls import LOCAL, Authority, Pair, certificates_of
from tests.support.transports import NAME, TRANSPORTS, Everything, serving, value
from tests.support.waiting import eventually_async

# Of its own for each channel, so that each shakes hands.
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost"))


async def echoed(address: str, credentials: grpc.ChannelCredentials | None) -> bytes:
    """One call on a channel of its own."""
    dial = (
        grpc.aio.secure_channel(address, credentials, options=OPTIONS)
        if credentials
        else grpc.aio.insecure_channel(address, options=OPTIONS)
    )
    async with dial as channel:
        return await channel.unary_unary(f"/{NAME}/Echo")(value("x"), timeout=10)  # type: ignore[no-any-return]


async def shown(address: str) -> str:
    """The certificate that is shown to somebody who comes now, in PEM."""
    host, _, port = address.rpartition(":")
    return await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


END = b"-----END CERTIFICATE-----\n"

# ---- files that change


class Files:
    """What a server shows, as files in a directory."""

    def __init__(self, directory: Path, *, asks_clients: bool = False) -> None:
        self.authority = Authority()
        self._directory = directory
        written = self.write(self.authority.pair(*LOCAL))
        self.client_ca = self.authority.write(directory, "client-ca")
        self.certificates = Certificates(
            TLSFiles(str(written[0]), str(written[1]), str(self.client_ca) if asks_clients else "")
        )

    def write(self, pair: Pair) -> tuple[Path, Path]:
        files = pair.write(self._directory)
        return files.cert, files.key

    def write_half(self, pair: Pair) -> None:
        """The certificate alone, as long as its key is on its way."""
        (self._directory / "server.pem").write_bytes(pair.cert)


async def test_another_certificate_is_shown_to_who_comes_then_and_no_stream_is_dropped(
    transport: str, tmp_path: Path
) -> None:
    files, service = Files(tmp_path), Everything()
    async with serving(transport, service.service(), tls=files.certificates) as (address, _):
        first = await shown(address)
        async with grpc.aio.secure_channel(address, files.authority.trusting(), options=OPTIONS) as channel:
            listening = channel.unary_stream(f"/{NAME}/Listen")(value(""))
            await service.heard_by(1)
            files.write(files.authority.pair(*LOCAL))
            files.certificates.look()
            assert await shown(address) != first
            service.tell(value("on"))
            assert await listening.read() == value("on")
            assert await channel.unary_unary(f"/{NAME}/Echo")(value("x"), timeout=10) == value("x")
            listening.cancel()
        assert await echoed(address, files.authority.trusting()) == value("x")


async def test_another_authority_of_clients_holds_for_who_comes_then(transport: str, tmp_path: Path) -> None:
    files, other, service = Files(tmp_path, asks_clients=True), Authority(), Everything()
    before = files.authority.trusting(files.authority.pair("before.example"))
    after = files.authority.trusting(other.pair("after.example"))
    async with serving(transport, service.service(), tls=files.certificates) as (address, _):
        assert await echoed(address, before) == value("x")
        assert (await failure(echoed(address, after))).code() is grpc.StatusCode.UNAVAILABLE
        files.client_ca.write_bytes(other.pem)
        files.certificates.look()
        assert await echoed(address, after) == value("x")
        assert (await failure(echoed(address, before))).code() is grpc.StatusCode.UNAVAILABLE


async def test_the_server_looks_at_its_files_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    files = Files(tmp_path)
    before = files.certificates.context
    watching = asyncio.create_task(files.certificates.watch())
    files.write(files.authority.pair(*LOCAL))
    await eventually_async(lambda: files.certificates.context is not before)
    assert "server.pem was read again" in caplog.text
    watching.cancel()


@pytest.mark.parametrize("flaw", ["half", "broken", "gone", "directory", "garbage authority"])
async def test_what_is_not_whole_is_not_taken_and_a_line_says_so(
    flaw: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = Files(tmp_path, asks_clients=True)
    good, before = files.authority.pair(*LOCAL), files.certificates.context
    cert, key = files.write(good)
    files.certificates.look()
    before = files.certificates.context
    caplog.clear()
    if flaw == "half":
        files.write_half(files.authority.pair(*LOCAL))
    elif flaw == "broken":
        cert.write_bytes(good.cert[:200])
    elif flaw == "garbage authority":
        files.client_ca.write_bytes(b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n")
    else:
        key.unlink()
        if flaw == "directory":
            key.mkdir()
    files.certificates.look()
    assert caplog.text == ""  # somebody may be writing it
    for _ in range(3):
        files.certificates.look()
    (line,) = caplog.messages
    assert "the one before is shown on" in line
    assert "\n" not in line
    assert files.certificates.context is before
    if flaw == "directory":
        key.rmdir()
    files.client_ca.write_bytes(files.authority.pem)
    files.write(files.authority.pair(*LOCAL))
    files.certificates.look()
    assert files.certificates.context is not before
    assert len(caplog.messages) == 1


def test_a_certificate_whose_time_it_is_not_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files, now = Files(tmp_path), time.time()
    paths = files.authority.pair(*LOCAL, expired=True).write(tmp_path)
    shown = Certificates(TLSFiles(str(paths.cert), str(paths.key)), lambda: now)
    shown.look_at_dates()
    shown.look()
    (line,) = caplog.messages
    assert line == f"{paths.cert}: has expired on 2020-01-01 at 00:00:00 UTC; clients will not connect"
    files.write(files.authority.pair(*LOCAL))
    shown.look()
    assert len(caplog.messages) == 1
    now = 0.0
    shown.look()
    assert caplog.messages[1].startswith(f"{paths.cert}: is not valid before 20")


async def test_a_server_says_by_itself_that_its_certificate_has_expired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = Authority().pair(*LOCAL, expired=True).write(tmp_path)
    watching = asyncio.create_task(Certificates(TLSFiles(str(paths.cert), str(paths.key))).watch())
    await eventually_async(lambda: "has expired on 2020-01-01" in caplog.text)
    watching.cancel()


async def test_a_disk_that_stands_still_keeps_no_server_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path)
    lookers, may_end = list[threading.Thread](), threading.Event()

    def stand_still(_: object) -> None:
        lookers.append(threading.current_thread())
        may_end.wait(30)

    monkeypatch.setattr(tls, "_read", stand_still)
    monkeypatch.setattr(tls, "LOOK_S", 0.01)
    watching = asyncio.create_task(files.certificates.watch())
    await eventually_async(lambda: bool(lookers))
    watching.cancel()
    await asyncio.wait([watching], timeout=5)
    assert watching.done()
    assert lookers[0].daemon  # nobody waits for it
    monkeypatch.undo()
    may_end.set()
    await eventually_async(lambda: not lookers[0].is_alive())


async def test_a_machine_without_a_thread_to_spare_ends_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = Files(tmp_path)
    before = files.certificates.context
    with monkeypatch.context() as scarce:
        scarce.setattr(tls, "LOOK_S", 0.01)
        scarce.setattr(threading.Thread, "start", no_thread)
        watching = asyncio.create_task(files.certificates.watch())
        await eventually_async(lambda: len(caplog.messages) > 1)
        files.write(files.authority.pair(*LOCAL))
        scarce.undo()
        await eventually_async(lambda: files.certificates.context is not before)
    watching.cancel()


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


# ---- who is let in, and what is said


async def test_the_names_of_a_client_come_with_its_calls(transport: str) -> None:
    authority, service = Authority(), Everything()
    names = ("game.example", "spiffe://example/ns/game/sa/player")
    certificates = certificates_of(authority.pair(*LOCAL), authority)
    async with serving(transport, service.service(), tls=certificates) as (address, _):
        for pair in (authority.pair(*names), authority.pair("other.example", "10.0.0.5")):
            assert await echoed(address, authority.trusting(pair)) == value("x")
    assert [caller.credentials.names for caller in service.callers] == [names, ("other.example",)]


DNS, URI = 0x82, 0x86


@pytest.mark.parametrize(
    "name",
    [
        (DNS, b"game.example\0.evil.example"),  # cut off at the zero byte it would be somebody else
        (URI, b"spiffe://example/game\0/x"),
        (DNS, b"g\xffme.example"),
        (URI, "spiffe://example/gäme".encode("latin-1")),
        (DNS, b"game.example\n"),
        (DNS, b"spiffe://example/game"),
        (URI, b"game.example"),
        (DNS, b""),
    ],
    ids=repr,
)
async def test_a_name_that_is_none_is_nobodys(transport: str, name: tuple[int, bytes]) -> None:
    authority, service = Authority(), Everything()
    certificates = certificates_of(authority.pair(*LOCAL), authority)
    pair = authority.pair_as_said(name, (DNS, b"good.example"))
    async with serving(transport, service.service(), tls=certificates) as (address, _):
        assert await echoed(address, authority.trusting(pair)) == value("x")
    assert [caller.credentials.names for caller in service.callers] == [("good.example",)]


async def test_of_several_authorities_in_a_row_the_nearest_is_enough(transport: str) -> None:
    above, service = Authority(), Everything()
    nearest = Authority(above)
    certificates = certificates_of(above.pair(*LOCAL), nearest)
    shown = nearest.pair("game.example")
    alone = Pair(shown.cert[: shown.cert.index(END) + len(END)], shown.key)
    async with serving(transport, service.service(), tls=certificates) as (address, _):
        for pair in (shown, alone):
            credentials = grpc.ssl_channel_credentials(above.pem, pair.key, pair.cert)
            assert await echoed(address, credentials) == value("x")
        sibling = Authority(above).pair("game.example")
        await failure(echoed(address, grpc.ssl_channel_credentials(above.pem, sibling.key, sibling.cert)))
    assert len(service.callers) == 2


async def test_files_that_an_editor_began_with_a_mark(transport: str) -> None:
    """Of UTF-8: OpenSSL passes over it, and gRPC's core does not."""
    authority, service, mark = Authority(), Everything(), b"\xef\xbb\xbf"
    authority.pem = mark + authority.pem
    pair, mine = authority.pair(*LOCAL), authority.pair("game.example")
    certificates = certificates_of(Pair(mark + pair.cert, mark + pair.key), authority)
    authority.pem = authority.pem.removeprefix(mark)
    async with serving(transport, service.service(), tls=certificates) as (address, _):
        assert await echoed(address, authority.trusting(mine)) == value("x")


async def test_who_need_not_show_a_certificate_has_no_names(transport: str) -> None:
    authority, service = Authority(), Everything()
    certificates = certificates_of(authority.pair(*LOCAL))
    async with serving(transport, service.service(), tls=certificates) as (address, _):
        assert await echoed(address, authority.trusting(authority.pair("game.example"))) == value("x")
    assert [caller.credentials.names for caller in service.callers] == [()]


@contextlib.asynccontextmanager
async def asking(
    transport: str, pair: Pair | None = None, client_ca: Authority | None = None
) -> AsyncIterator[tuple[str, Authority]]:
    """A server of a new authority, or of that pair."""
    authority = Authority()
    certificates = certificates_of(pair or authority.pair(*LOCAL), client_ca)
    async with serving(transport, Everything().service(), tls=certificates) as (address, _):
        yield address, authority


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        ("no tls", "speaks no TLS, which this port asks for"),
        ("other authority", handshake.HUNG_UP),
        ("expired", handshake.HUNG_UP),
        ("other name", "hung up when it had seen the certificate, which may be for another name"),
        ("no certificate", "shows no certificate, and clients need one here"),
        ("stranger", "shows a certificate that is not accepted: "),
        ("expired client", "shows a certificate that is not accepted: certificate has expired"),
    ],
)
async def test_what_goes_wrong_is_one_line_however_often(
    transport: str, mistake: str, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority()
    names = ("elsewhere.example",) if mistake == "other name" else LOCAL
    pair = authority.pair(*names, expired=mistake == "expired")
    clients = authority if mistake in ("no certificate", "stranger", "expired client") else None
    credentials = {
        "no tls": None,
        "other authority": Authority().trusting(),
        "stranger": authority.trusting(Authority().pair("game.example")),
        "expired client": authority.trusting(authority.pair("game.example", expired=True)),
    }.get(mistake, authority.trusting())
    async with asking(transport, pair, clients) as (address, _):
        for _ in range(2):
            error = await failure(echoed(address, credentials))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        if transport == "http2":  # gRPC's core tells nobody
            await eventually_async(lambda: line in caplog.text)
            assert len(caplog.messages) == 1
            assert caplog.messages[0].startswith("ipv4:127.0.0.1:")


def shake_hands(context: ssl.SSLContext, host: str, port: int, name: str) -> None:
    """As most clients do. Raises SSLError."""
    with socket.create_connection((host, port)) as plain, context.wrap_socket(plain, server_hostname=name):
        pass


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        ("other authority", "does not know the authority of this server's certificate"),
        ("expired", "does not accept this server's certificate: it has expired"),
        ("other name", "does not accept this server's certificate: it may be for another name"),
        ("web", "speaks no TLS, which this port asks for"),
    ],
)
async def test_what_a_client_says_is_told(mistake: str, line: str, caplog: pytest.LogCaptureFixture) -> None:
    """Others than gRPC's core and asyncio do say why they hang up."""
    authority = Authority()
    pair = authority.pair(*LOCAL, expired=mistake == "expired")
    trusted = Authority() if mistake == "other authority" else authority
    async with asking("http2", pair) as (address, _), Frames(address) as web:
        if mistake == "web":
            await web.say(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        else:
            host, _, port = address.rpartition(":")
            context = ssl.create_default_context(cadata=trusted.pem.decode())
            name = "elsewhere.example" if mistake == "other name" else host
            with pytest.raises(ssl.SSLError):
                await asyncio.to_thread(shake_hands, context, host, int(port), name)
        await eventually_async(lambda: line in caplog.text, what=line)


async def test_who_looks_whether_the_port_is_open_is_told_of_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with asking("http2") as (address, authority):
        for _ in range(3):
            async with Frames(address):
                pass
        assert await echoed(address, authority.trusting()) == value("x")
    assert caplog.text == ""


async def test_tls_to_a_port_without(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(transport, Everything().service()) as (address, _):
        for _ in range(2):
            error = await failure(echoed(address, Authority().trusting()))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert await echoed(address, None) == value("x")
    if transport == "http2":
        (line,) = caplog.messages
        assert "speaks TLS, which this port does not (--tls-cert)" in line


async def test_a_socket_file_is_for_this_machine_and_speaks_no_tls(transport: str, tmp_path: Path) -> None:
    service, authority = Everything(), Authority()
    server = TRANSPORTS[transport](
        Table(service.service()), Streams(random.Random(1)), tls=certificates_of(authority.pair(*LOCAL))
    )
    file, address = await server.start(f"unix:{tmp_path}/socket", "127.0.0.1:0")
    try:
        assert await echoed(file, None) == value("x")
        assert await echoed(address, authority.trusting()) == value("x")
    finally:
        await server.stop()


# ---- handshakes


async def test_no_more_handshakes_than_there_may_be_clients() -> None:
    """The one that has been at it for longest makes room, and who means it gets in."""
    authority = Authority()
    server = Http2Server(
        Table(Everything().service()),
        Streams(random.Random(1)),
        Limits(max_connections=5),
        certificates_of(authority.pair(*LOCAL)),
    )
    (address,) = await server.start("127.0.0.1:0")
    async with contextlib.AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(Frames(address)) for _ in range(12)]
        await eventually_async(lambda: sum(it.is_closed for it in idle) >= 7)
        assert await echoed(address, authority.trusting()) == value("x")
        await server.stop()
    assert all(it.is_closed for it in idle)


async def test_no_more_handshakes_of_one_peer_than_it_may_have_connections(caplog: pytest.LogCaptureFixture) -> None:
    """Each holds memory before anybody knows whose it is."""
    authority = Authority()
    limits = Limits(max_connections_per_peer=3)
    certificates = certificates_of(authority.pair(*LOCAL))
    server = Http2Server(Table(Everything().service()), Streams(random.Random(1)), limits, certificates)
    (address,) = await server.start("127.0.0.1:0")
    async with contextlib.AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(Frames(address)) for _ in range(12)]
        await eventually_async(lambda: sum(it.is_closed for it in idle) == 9)
        for _ in range(5):
            assert await echoed(address, authority.trusting()) == value("x")
        await server.stop()
    assert sum("too many TLS handshakes" in it for it in caplog.messages) == 1
    assert server._handshakes is not None
    assert not server._handshakes._under_way
    assert not server._handshakes._households


async def test_who_is_given_up_before_it_has_a_socket_keeps_none() -> None:
    certificates = certificates_of(Authority().pair(*LOCAL))
    server = Http2Server(Table(Everything().service()), Streams(random.Random(1)), Limits(), certificates)
    (address,) = await server.start("127.0.0.1:0")
    handshakes = server._handshakes
    assert handshakes is not None
    begin = handshakes._context

    def given_up_at_once() -> ssl.SSLContext:
        asyncio.get_running_loop().call_soon(handshakes.give_up)
        return begin()

    handshakes._context = given_up_at_once
    async with Frames(address) as idle:
        await eventually_async(lambda: idle.is_closed)
    await server.stop()


async def test_a_crowd_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many say hello in one moment, others have their turn after a few of them."""
    turns: list[int] = []
    go_on = handshake.Handshakes._go_on

    def counted(self: handshake.Handshakes) -> None:
        before = len(self._due)
        go_on(self)
        turns.append(before - len(self._due))

    monkeypatch.setattr(handshake.Handshakes, "_go_on", counted)
    authority = Authority()
    context = ssl.create_default_context(cadata=authority.pem.decode())
    async with asking("http2", authority.pair(*LOCAL)) as (address, _):
        host, _, port = address.rpartition(":")
        made = await asyncio.gather(*(asyncio.open_connection(host, int(port), ssl=context) for _ in range(40)))
        for _, writer in made:
            writer.transport.abort()
    assert sum(turns) >= 40
    assert max(turns) <= handshake.AT_ONCE


async def test_what_comes_with_the_end_of_the_handshake_is_not_lost() -> None:
    """A client that says all it has to say in one go with the last of the handshake, which is more than is read at a
    time."""
    authority = Authority()
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.set_alpn_protocols(["h2"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    said = PREFACE + frame(SETTINGS)
    for stream in (1, 3):
        said += frame(HEADERS, END_HEADERS, stream, head(f"/{NAME}/Echo".encode()))
        message = framed(value("x" * 30_000))
        for start in range(0, len(message), 16_000):
            last = start + 16_000 >= len(message)
            said += frame(0, int(last), stream, message[start : start + 16_000])
    async with asking("http2", authority.pair(*LOCAL)) as (address, _):
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await asyncio.wait_for(reader.read(65536), 10))
        tls.write(said)
        writer.write(outgoing.read())
        heard = b""
        while heard.count(b"x" * 10_000) < 4:
            try:
                heard += tls.read(65536)
            except ssl.SSLWantReadError:
                data = await asyncio.wait_for(reader.read(65536), 10)
                assert data, "it hung up"
                incoming.write(data)
        writer.transport.abort()


@pytest.mark.parametrize("flaw", ["garbage", "endless hello"])
async def test_who_goes_wrong_over_tls_harms_itself_alone(flaw: str) -> None:
    async with asking("http2") as (address, authority), Frames(address) as client:
        if flaw == "garbage":
            host, _, port = address.rpartition(":")
            context = ssl.create_default_context(cadata=authority.pem.decode())
            _, writer = await asyncio.open_connection(host, int(port), ssl=context)
            below = writer.get_extra_info("socket")
            os.write(below.fileno(), b"\x17\x03\x03\x00\x20" + b"x" * 32)  # a record that nobody can decrypt
            writer.transport.abort()
        else:
            with contextlib.suppress(ConnectionError):
                for _ in range(20):
                    await client.say(b"\x16\x03\x01\x40\x00" + b"\x01\x00\x3f\xfc" + b"x" * 16_380)
            await eventually_async(lambda: client.is_closed)
        assert await echoed(address, authority.trusting()) == value("x")
