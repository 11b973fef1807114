"""What a single look says of real servers, good ones and bad ones."""

import asyncio
import contextlib
import socket
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import trustme

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.ask import Found, ask
from registry_checks.probes import ENTRY_POINTS, Failed, Probe, Probes, Reach, Target
from registry_checks.probes.aside import MOST
from registry_checks.rules import settle
from registry_checks.text import parse
from tests.support.probed import NOT_SERVING, OK, SERVING, SICK, HealthServer, WebServer, answer
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async, passed, until

HERE = Reach(loopback=True)
TIMEOUT_S = 0.3  # for those who do not answer
PATIENT_S = 20.0  # for those who do, on a machine however busy
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def look(
    check: pb.HealthCheck | str,
    port: int,
    timeout_s: float = PATIENT_S,
    *,
    reach: Reach = HERE,
    host: str = "127.0.0.1",
) -> Found:
    """One look."""
    asked = parse(check) if isinstance(check, str) else check
    settle(asked)
    probe = Probes(reach, {"even": _even}).of(Target(host, port), asked)
    assert probe is not None
    try:
        return await ask(probe, timeout_s)
    finally:
        await probe.aclose()


async def _even(host: str, port: int, settings: Any) -> str:
    if port % 2:
        raise ValueError(f"{port} is odd in {settings['base']}")
    return "even"


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    async with WebServer().running() as server:
        yield server


# ---- HTTP


@pytest.mark.parametrize(
    ("says", "found"),
    [
        (OK, Found(True, "200 OK: fine")),
        (SICK, Found(False, "503 Service Unavailable: no database")),
        (answer("302 Found", b"", headers="Location: http://127.0.0.1:1/\r\n"), Found(True, "302 Found")),
        (answer("404 Not Found", b"\x00\xff\n<b>"), Found(False, "404 Not Found: ?\ufffd <b>")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, Found(True, "200 OK: fine")),
        (b"", Found(False, "it hung up without an answer")),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Found(False, "no HTTP: ")),
        (answer(length=400), Found(False, "no HTTP: peer closed connection without sending complete message body")),
        (answer(length=2), Found(True, "200 OK: fi")),
        (answer(body=b"x" * 100_000), Found(True, "200 OK: " + "x" * 247 + "…")),
        (answer(headers="X: " + "y" * 40_000 + "\r\n"), Found(False, "no HTTP: Receive buffer too long")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, Found(False, "it answers with more than 131072 bytes")),
        (b"HTTP/1.1 101 No\r\nUpgrade: x\r\n\r\n", Found(False, "no HTTP: ")),
        (CHUNKED + b"1\r\nx\r\n" * 50_000, Found(False, "it answers with more than 131072 bytes")),
        (CHUNKED + b"1;" + b"y" * 40_000, Found(False, "no HTTP: Receive buffer too long")),
        (CHUNKED + b"0\r\n" + b"X: y\r\n" * 30_000, Found(False, "no HTTP: Receive buffer too long")),
        (answer(length=10**19), Found(False, "no HTTP: peer closed connection")),
        (answer(length=-1), Found(False, "no HTTP: bad Content-Length")),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000, Found(True, "200 OK: xxx")),
        (answer("999 \x1b[31mred"), Found(False, "999: fine")),
    ],
)
async def test_what_an_answer_says(web: WebServer, says: bytes, found: Found) -> None:
    web.says = says
    said = await look("http:/healthz", web.port)
    assert said.passed is found.passed
    assert said.output.startswith(found.output)


async def test_the_question_is_as_asked(web: WebServer) -> None:
    http = pb.HealthCheck.Http(path="/a?b=c", method="HEAD", host="game.example", headers={"Authorization": "x y"})
    web.says = answer(body=b"", length=4)  # as HEAD is answered
    assert (await look(pb.HealthCheck(http=http), web.port)).passed
    head, *lines = web.asked[0].decode().split("\r\n")
    assert head == "HEAD /a?b=c HTTP/1.1"
    assert {"Host: game.example", "Connection: close", "Authorization: x y"} <= set(lines)
    await look("http", web.port)
    assert f"\r\nHost: 127.0.0.1:{web.port}\r\n" in web.asked[1].decode()


async def test_statuses_and_body_are_as_expected(web: WebServer) -> None:
    web.says = SICK
    assert (await look(pb.HealthCheck(http=pb.HealthCheck.Http(statuses=[503])), web.port)).passed
    wants = pb.HealthCheck(http=pb.HealthCheck.Http(body=b"ready"))
    web.says = answer(body=b"not yet")
    assert await look(wants, web.port) == Found(False, "the body lacks b'ready': 200 OK: not yet")
    web.says = answer(body=b"x" * 60_000 + b"ready")
    assert (await look(wants, web.port)).passed
    web.says = answer(body=b"x" * 70_000 + b"ready")
    assert not (await look(wants, web.port)).passed, "so far it does not read"


@pytest.mark.parametrize("mood", ["hangs", "drips", "floods", "resets"])
async def test_who_does_not_answer_costs_no_more_than_the_time(web: WebServer, mood: str) -> None:
    web.mood = mood
    began = time.monotonic()
    found = await look("http", web.port, TIMEOUT_S)
    assert not found.passed
    assert time.monotonic() - began < PATIENT_S
    assert ("no answer within 0.3 s" in found.output) is (mood in ("hangs", "drips"))


# ---- TLS


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def test_certificates_are_looked_at(authority: trustme.CA, tmp_path: Path) -> None:
    trusting = Reach(loopback=True, ca=str(tmp_path / "ca.pem"))
    async with WebServer().running(server_context(authority, "game.example")) as web:
        named = pb.HealthCheck.Http(tls=True, host="game.example")
        assert await look(pb.HealthCheck(http=named), web.port, reach=trusting) == Found(True, "200 OK: fine")
        wrong = await look("https", web.port, reach=trusting)
        assert wrong.output.startswith("TLS: IP address mismatch")
        stranger = await look(pb.HealthCheck(http=named), web.port)
        assert stranger.output.startswith("TLS: unable to get local issuer")
        careless = pb.HealthCheck(http=pb.HealthCheck.Http(tls=True, insecure=True))
        assert (await look(careless, web.port)).passed
    async with WebServer().running() as plain:
        assert not (await look("https", plain.port, TIMEOUT_S)).passed


# ---- TCP, gRPC, custom


async def test_tcp(web: WebServer) -> None:
    assert await look("tcp", web.port) == Found(True, f"port {web.port} takes connections")
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert await look(f"tcp:{port}", web.port) == Found(False, f"Connect call failed ('127.0.0.1', {port})")


async def test_grpc() -> None:
    async with HealthServer("game.Logic").running() as server:
        assert await look("grpc:game.Logic", server.port) == Found(True, "SERVING")
        assert await look("grpc", server.port) == Found(False, "NOT_FOUND: no such service")
        server.status = NOT_SERVING
        assert await look("grpc:game.Logic", server.port) == Found(False, "NOT_SERVING")
        server.hangs = True
        assert await look("grpc:game.Logic", server.port, TIMEOUT_S) == Found(False, "no answer within 0.3 s")
    assert (await look("grpc", server.port)).output.startswith("UNAVAILABLE")


@pytest.mark.parametrize("mood", ["", "hangs", "drips", "floods", "resets"])
async def test_what_is_no_grpc_fails_in_time(web: WebServer, mood: str) -> None:
    web.mood = mood
    began = time.monotonic()
    for check in ("grpc", "https"):
        assert not (await look(check, web.port, TIMEOUT_S)).passed
    assert time.monotonic() - began < PATIENT_S


@contextlib.asynccontextmanager
async def looking(server: HealthServer) -> AsyncIterator[Callable[..., Awaitable[Found]]]:
    """Looks again and again by the same probe, while the block lasts."""
    check = pb.HealthCheck(grpc=pb.HealthCheck.Grpc())
    settle(check)
    probe = Probes(HERE, {}).of(Target("127.0.0.1", server.port), check)
    assert probe is not None
    try:
        yield lambda timeout_s=PATIENT_S: ask(probe, timeout_s)
    finally:
        await probe.aclose()


PASSES = Found(True, "SERVING")


async def test_what_is_said_between_two_looks_counts_with_the_next() -> None:
    async with HealthServer(watch=True).running() as server:
        async with looking(server) as look_again:
            for _ in range(3):
                assert await look_again() == PASSES
                await eventually_async(lambda: len(server.watchers) == 1)
            assert server.watches == 1
            for _ in range(2):
                server.says(NOT_SERVING, SERVING, NOT_SERVING, SERVING)
                await eventually_async(lambda: not server.watchers)  # what it says has been heard
                assert await look_again() == Found(False, "NOT_SERVING between two looks")
                await eventually_async(lambda: len(server.watchers) == 1)
            assert await look_again() == PASSES
            server.status = NOT_SERVING
            assert await look_again() == Found(False, "NOT_SERVING")
            await eventually_async(lambda: not server.watchers)
            server.status = SERVING
            assert await look_again() == PASSES
            await eventually_async(lambda: len(server.watchers) == 1)
        await eventually_async(lambda: not server.watchers)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "check-watch"]


async def test_watch_is_asked_for_once_where_it_is_not_offered() -> None:
    async with HealthServer().running() as server, looking(server) as look_again:
        assert await look_again() == PASSES
        await eventually_async(lambda: server.watches == 1)
        for _ in range(5):
            assert await look_again() == PASSES
        assert server.watches == 1


async def test_who_hangs_is_not_well_however_quiet_its_watch_is() -> None:
    async with HealthServer(watch=True).running() as server, looking(server) as look_again:
        assert await look_again() == PASSES
        await eventually_async(lambda: len(server.watchers) == 1)
        server.hangs = True
        assert await look_again(TIMEOUT_S) == Found(False, "no answer within 0.3 s")
        await eventually_async(lambda: not server.watchers)


async def test_who_takes_one_call_at_a_time_is_well() -> None:
    """A Watch takes its only place, which is found out once."""
    async with HealthServer(watch=True).running(most=1) as server, looking(server) as look_again:
        for _ in range(4):
            await look_again()
            await passed(0.02)
        for _ in range(5):
            assert await look_again() == PASSES
            await passed(0.02)


async def test_who_stops_does_not_wait_for_us() -> None:
    """A server that stops in order lets every call come to its end."""
    async with HealthServer(watch=True).running() as server, looking(server) as look_again:
        assert await look_again() == PASSES
        await eventually_async(lambda: len(server.watchers) == 1)
        stopping = asyncio.create_task(server.server.stop(60))
        assert not (await look_again()).passed
        await asyncio.wait_for(stopping, 5)


async def test_who_is_far_away_is_well_if_the_look_has_time() -> None:
    """What comes first takes a quarter of a second on its way."""

    async def carry(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while said := await source.read(65_536):
                to.write(said)
        to.close()

    async def carried(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        await passed(0.25)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(carry(source, writer), carry(reader, to))

    async with HealthServer().running() as server, await asyncio.start_server(carried, "127.0.0.1", 0) as far:
        check = pb.HealthCheck(grpc=pb.HealthCheck.Grpc())
        settle(check)
        probe = Probes(HERE, {}).of(Target("127.0.0.1", far.sockets[0].getsockname()[1]), check)
        assert probe is not None
        try:
            assert await ask(probe, 10.0) == Found(True, "SERVING")
        finally:
            await probe.aclose()


async def test_who_hands_over_its_port_does_not_wait_for_us() -> None:
    async with (
        HealthServer(watch=True).running() as old,
        looking(old) as look_again,
        HealthServer(watch=True).running(port=old.port) as new,
    ):
        assert await look_again() == PASSES
        (old, new) = (old, new) if old.asked[""] else (new, old)
        await eventually_async(lambda: len(old.watchers) == 1)
        stopping = asyncio.create_task(old.server.stop(60))
        await passed(0.3)  # the connection is told to go
        assert await look_again() == PASSES
        assert new.asked[""] == 1
        await asyncio.wait_for(stopping, 5)


async def test_first_word_of_a_watch_proves_nothing() -> None:
    async with HealthServer(watch=True).running() as server, looking(server) as look_again:
        server.first = NOT_SERVING
        for number in range(1, 4):
            assert await look_again() == PASSES
            await eventually_async(lambda number=number: server.watches == number and not server.watchers)


async def test_who_talks_on_and_on_is_not_listened_to() -> None:
    async with HealthServer(watch=True).running() as server, looking(server) as look_again:
        assert await look_again() == PASSES
        await eventually_async(lambda: len(server.watchers) == 1)
        server.says(*[SERVING] * 500)
        await eventually_async(lambda: not server.watchers)
        assert await look_again() == PASSES


class HereByName:
    """Every name leads to this machine."""

    async def addresses(self, host: str) -> Sequence[str]:
        await asyncio.sleep(0)
        return ["127.0.0.1"]


async def test_a_probe_closed_in_the_middle_of_a_look_leaves_nothing() -> None:
    reach = Reach(loopback=True, names=HereByName())
    async with HealthServer(watch=True).running() as server:
        check = pb.HealthCheck(grpc=pb.HealthCheck.Grpc())
        settle(check)
        for turns in range(1, 40):
            probe = Probes(reach, {}).of(Target("game.example", server.port), check)
            assert probe is not None
            under_way = asyncio.create_task(ask(probe, TIMEOUT_S))
            for _ in range(turns):
                await asyncio.sleep(0)
            await probe.aclose()
            await asyncio.gather(under_way, return_exceptions=True)
        await eventually_async(lambda: not server.watchers)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "check-watch"]


async def test_grpc_over_tls(authority: trustme.CA, tmp_path: Path) -> None:
    cert = authority.issue_cert("game.example")
    check = pb.HealthCheck(grpc=pb.HealthCheck.Grpc(tls=True, authority="game.example"))
    async with HealthServer().running((cert.private_key_pem.bytes(), cert.cert_chain_pems[0].bytes())) as server:
        found = await look(check, server.port, reach=Reach(loopback=True, ca=str(tmp_path / "ca.pem")))
        assert found == Found(True, "SERVING")
        assert not (await look(check, server.port, TIMEOUT_S)).passed  # it is tried again and again


async def test_a_kind_of_somebody_else() -> None:
    assert await look("custom:even,base=10", 8) == Found(True, "even")
    assert await look("custom:even,base=10", 7) == Found(False, "ValueError: 7 is odd in 10")


async def test_a_kind_by_an_entry_point() -> None:
    known = {"own": EntryPoint("own", "tests.integration.health.test_probes:always", ENTRY_POINTS)}
    probe = Probes(HERE, known).of(Target("10.0.0.5", 1), parse("custom:own"))
    assert probe is not None
    assert await ask(probe, PATIENT_S) == Found(True, "it passes")
    await probe.aclose()
    gone = {"own": EntryPoint("own", "tests.no_such_module:always", ENTRY_POINTS)}
    with pytest.raises(Failed, match="the kind of check 'own' cannot be loaded"):
        Probes(HERE, gone).of(Target("10.0.0.5", 1), parse("custom:own"))


class Mood:
    """A kind of check of somebody who does not keep to the rules."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.ended = 0

    async def blocks(self, host: str, port: int, settings: Any) -> str:
        self.may_go.wait(30)
        self.ended += 1
        return "late"

    async def goes_on(self, host: str, port: int, settings: Any) -> str:
        while not self.may_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await passed(0.01)
        self.ended += 1
        return "late"

    async def exits(self, host: str, port: int, settings: Any) -> None:
        raise SystemExit(3)

    async def is_cancelled(self, host: str, port: int, settings: Any) -> None:
        raise asyncio.CancelledError

    async def cannot_say(self, host: str, port: int, settings: Any) -> None:
        raise Unspeakable

    async def says_nothing_known(self, host: str, port: int, settings: Any) -> Any:
        return Unspeakable()

    def is_plain(self, host: str, port: int, settings: Any) -> Any:
        return "fine"


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("mood", "output"),
    [
        ("blocks", "no answer within 0.3 s"),
        ("goes_on", "no answer within 0.3 s"),
        ("exits", "SystemExit: 3"),
        ("is_cancelled", "CancelledError"),
        ("cannot_say", "Unspeakable"),
        ("says_nothing_known", "ValueError: no words"),
        ("is_plain", "TypeError: "),
    ],
)
async def test_a_kind_that_keeps_no_rule_fails_and_holds_up_nobody(mood: str, output: str) -> None:
    somebody = Mood()
    probes = Probes(HERE, {"bad": getattr(somebody, mood)})
    probe = probes.of(Target("10.0.0.5", 1), parse("custom:bad"))
    assert probe is not None
    for _ in range(2):
        asked = asyncio.create_task(ask(probe, TIMEOUT_S))
        turns = 0
        while not asked.done():  # this loop goes on meanwhile
            await passed(0.01)
            turns += 1
        assert not asked.result().passed
        assert asked.result().output.startswith(output)
        assert turns > 1 or mood not in ("blocks", "goes_on")
    somebody.may_go.set()
    await eventually_async(lambda: somebody.ended >= 1 or mood not in ("blocks", "goes_on"))
    await probe.aclose()


async def test_too_many_that_block_are_not_begun() -> None:
    somebody = Mood()
    probes = Probes(HERE, {"bad": somebody.blocks})
    probe = probes.of(Target("10.0.0.5", 1), parse("custom:bad"))
    assert probe is not None
    found = await asyncio.gather(*(ask(probe, 0.05) for _ in range(MOST + 1)))
    assert {it.output for it in found if "keeps the others waiting" in it.output}
    somebody.may_go.set()
    await until(lambda: _passes(probe))
    assert somebody.ended < MOST, "what nobody waits for any more is not done"
    await probe.aclose()


async def _passes(probe: Probe) -> bool:
    return (await ask(probe, 5.0)).passed


@pytest.mark.parametrize("text", ["import sys; sys.exit(3)", "check = 5", "raise RuntimeError('no')"])
async def test_a_kind_that_cannot_be_loaded_is_no_more_than_that(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_kind_of_check.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_kind_of_check", raising=False)
    probes = Probes(HERE, {"own": EntryPoint("own", "own_kind_of_check:check", ENTRY_POINTS)})
    for _ in range(2):
        with pytest.raises(Failed, match="the kind of check 'own'"):
            probes.of(Target("10.0.0.5", 1), parse("custom:own"))


async def always(host: str, port: int, settings: Any) -> None:
    """A check that never fails."""


async def test_a_process_that_is_stopped(registry_server: RegistryServer) -> None:
    """It takes connections, by its kernel, and never answers."""
    port = registry_server.port
    assert (await look("grpc", port)).passed
    registry_server.pause()
    try:
        assert not (await look("grpc", port, TIMEOUT_S)).passed
    finally:
        registry_server.resume()


# ---- who may be looked at


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST.", "0.0.0.0"]
)
async def test_this_machine_is_not_looked_at(web: WebServer, host: str) -> None:
    assert "this machine itself" in Reach().refuses(host)
    with contextlib.suppress(OSError):
        found = await look("http", web.port, reach=Reach(), host=host)
        assert not found.passed
    assert web.asked == []


@pytest.mark.parametrize("host", ["169.254.169.254", "fe80::1", "::ffff:169.254.1.1"])
async def test_this_link_is_not_looked_at(host: str) -> None:
    assert "link-local" in HERE.refuses(host)
    assert not Reach(link_local=True).refuses(host)
    assert "link-local" in (await look("tcp", 80, host=host)).output


def test_everybody_else_may_be() -> None:
    assert not any(map(Reach().refuses, ("10.0.0.5", "2001:db8::1", "game.example", "8.8.8.8")))


async def test_a_name_that_leads_here_is_refused(web: WebServer) -> None:
    reach = Reach(names=HereByName())
    assert "this machine itself" in (await look("http", web.port, host="evil.example", reach=reach)).output
    assert web.asked == []
