"""The HTTP side: whether the server is well, who may ask, and what clients may cost."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import pytest
from aiohttp import ClientError, ClientSession, web
from multidict import CIMultiDict

from registry_server.access.identities import Access
from registry_server.access.warden import Warden
from registry_server.admin import lookout
from registry_server.admin import server as admin
from registry_server.admin.server import AdminServer, Route
from registry_server.config import Config, ConfigError
from registry_server.errors import Unavailable
from registry_server.rpc.table import OPEN, Caller, Needs
from registry_server.server import serve
from registry_server.transport.limits import Limits
from tests.support.access import granted, token
from tests.support.etcd import free_port
from tests.support.waiting import eventually_async

HOST = "127.0.0.1"


class Answer(NamedTuple):
    status: int
    text: str
    headers: Mapping[str, str]


async def hello(request: web.Request, caller: Caller) -> web.Response:
    return web.Response(text=f"hello {caller.identity}")


async def broken(request: web.Request, caller: Caller) -> web.Response:
    raise RuntimeError("a mistake")


LARGE = 16 * 1024 * 1024
ROUTES = [Route("/open", hello, OPEN), Route("/read", hello, Needs("read")), Route("/broken", broken, OPEN)]


@asynccontextmanager
async def running(*routes: Route, access: Access | None = None) -> AsyncIterator[str]:
    warden = Warden(access or granted(), b"k" * 32, lambda: 0.0, lambda: 0.0)
    server = AdminServer(routes or ROUTES, warden.known)
    try:
        yield await server.start(f"{HOST}:0")
    finally:
        await server.stop()
        await server.stop()


async def get(address: str, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
    async with ClientSession() as session, session.request(method, f"http://{address}{path}", headers=headers) as it:
        return Answer(it.status, await it.text(), it.headers)


def basic(secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"anybody:{secret}".encode()).decode()}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def test_who_may() -> None:
    async with running() as address:
        assert (await get(address, "/open"))[:2] == (200, "hello ")
        assert (await get(address, "/read", bearer(token("root"))))[:2] == (200, "hello root")
        assert (await get(address, "/read", basic(token("root"))))[:2] == (200, "hello root")


async def test_who_may_not() -> None:
    async with running() as address:
        nobody = await get(address, "/read")
        assert nobody.status == 401
        assert nobody.headers["WWW-Authenticate"].startswith("Basic ")
        assert (await get(address, "/read", bearer("rg_wrong"))).status == 401
        assert (await get(address, "/read", {"Authorization": "Basic ~"})).status == 401
        part = await get(address, "/read", bearer(token("reader")))
        assert part.status == 403
        assert "read" in part.text


async def test_who_shows_what_is_no_token_is_not_taken_for_one_who_shows_nothing() -> None:
    """As by gRPC, also where those may read who show nothing."""
    async with running(access=granted(anonymous=["read */*"])) as address:
        assert (await get(address, "/read"))[:2] == (200, "hello ")
        for said in (
            "Digest x",
            "Bearer",
            "Bearer ",
            "Bearer a b",
            "x",
            "Basic " + base64.b64encode(b"anybody:").decode(),
        ):
            assert (await get(address, "/read", {"Authorization": said})).status == 401, said


async def test_who_shows_two_different_tokens_is_nobody() -> None:
    """As by gRPC, in whatever order."""
    async with running() as address:
        (one,), (other,) = bearer(token("root")).items(), bearer(token("reader")).items()
        assert (await get(address, "/read", CIMultiDict([one, one])))[:2] == (200, "hello root")
        for both in ([one, other], [other, one]):
            assert (await get(address, "/read", CIMultiDict(both))).status == 401


async def test_a_page_of_somebody_else_gets_nothing() -> None:
    """DNS that leads a name of theirs here would have a browser send us what their page asks."""
    async with running() as address:
        for host in ("evil.example", "evil.example:7401", "", "[", "127.0.0.1.evil.example", "evil.example."):
            assert (await get(address, "/open", {"Host": host})).status in (400, 421), host
        for host in ("localhost", "LOCALHOST:1", "[::1]", "[::1]:7401", "10.0.0.1"):
            assert (await get(address, "/open", {"Host": host})).status == 200, host


async def test_names_under_localhost_are_of_this_machine() -> None:
    """Nobody else's DNS has these, by RFC 6761; a dot at the end of a name changes nothing."""
    async with running() as address:
        for host in ("localhost.", "localhost.:1", "registry.localhost", "A.B.localhost.:7401"):
            assert (await get(address, "/open", {"Host": host})).status == 200, host
        for host in ("notlocalhost", "localhost.evil.example", "localhost.."):
            assert (await get(address, "/open", {"Host": host})).status in (400, 421), host


async def test_who_says_no_host_is_no_browser() -> None:
    """Some that look whether a server is well speak HTTP/1.0."""
    async with running() as address:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(b"GET /open HTTP/1.0\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"
        writer.close()


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"access": granted()}, 200),  # a page of somebody else has no token
        ({"access": granted(anonymous=["read */*"])}, 421),
        ({}, 421),
    ],
)
async def test_by_which_names_one_may_come(settings: dict[str, Any], status: int) -> None:
    address = f"{HOST}:{free_port()}"
    async with serve(Config(listen=f"{HOST}:0", admin=address, **settings)):
        asked = await get(address, "/metrics", {"Host": "registry:7401", **bearer(token("root"))})
        assert asked.status == status
        assert status == 200 or "--admin" in asked.text


async def test_bad_requests_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as address:
        assert (await get(address, "/nowhere")).status == 404
        posted = await get(address, "/open", method="POST")
        assert (posted.status, posted.headers["Allow"]) == (405, "GET,HEAD")
        assert (await get(address, "/open?" + "x" * admin.MAX_LINE_BYTES)).status == 400
        assert posted.headers["X-Content-Type-Options"] == "nosniff"
        assert (await get(address, "/broken"))[:2] == (500, "a mistake of this server: its log says more\n")
    assert "a mistake" in caplog.text


async def test_what_is_no_http_fills_no_log_and_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Nor is a token that is in it."""
    caplog.set_level("DEBUG")
    async with running() as address:
        for said in (
            "GET /open HTTP/1.1\r\nAuthorization: Bearer s3cret\1\r\n\r\n",
            "s3cret\r\n\r\n",
            "GET s3cret HTTP/9.9\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection(*address.split(":"))
            writer.write(said.encode())
            async with asyncio.timeout(10):
                assert b"200" not in await reader.read()
            writer.close()
    assert {it.levelname for it in caplog.records} <= {"DEBUG"}
    assert "s3cret" not in caplog.text


async def test_who_asks_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "ASK_S", 0.2)
    async with running() as address:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(b"GET /open HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


async def test_too_many_connections_let_go_of_none_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "MAX_CONNECTIONS", 3)
    async with running() as address, AsyncExitStack() as stack:
        session = await stack.enter_async_context(ClientSession())
        assert (await session.get(f"http://{address}/open")).status == 200
        more = [await asyncio.open_connection(*address.split(":")) for _ in range(4)]
        ended = [asyncio.create_task(reader.read()) for reader, _ in more]
        await eventually_async(lambda: sum(it.done() for it in ended) == 2)
        assert (await session.get(f"http://{address}/open")).status == 200
        for _, writer in more:
            writer.close()
        await asyncio.gather(*ended, return_exceptions=True)


@pytest.mark.parametrize("asks", [True, False], ids=["who asked once", "who asks nothing"])
async def test_who_keeps_all_connections_keeps_nobody_out(asks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever looks whether the server is well would take it for dead."""
    monkeypatch.setattr(admin, "MAX_CONNECTIONS", 3)
    async with running() as address, AsyncExitStack() as stack:
        for _ in range(9):
            reader, writer = await asyncio.open_connection(*address.split(":"))
            stack.callback(writer.close)
            if asks:
                writer.write(b"GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await reader.readline()).split()[1] == b"200"
        assert (await get(address, "/open")).status == 200


async def test_who_waits_for_an_answer_makes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "MAX_CONNECTIONS", 2)
    may_end, entered = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(request: web.Request, caller: Caller) -> web.Response:
        entered.release()
        await may_end.wait()
        return web.Response(text="at last")

    async with running(Route("/slow", slow, OPEN)) as address:
        waiting = [asyncio.create_task(get(address, "/slow")) for _ in range(2)]
        for _ in waiting:
            await entered.acquire()
        with pytest.raises(ClientError):
            await get(address, "/slow")
        may_end.set()
        assert {it.text for it in await asyncio.gather(*waiting)} == {"at last"}


async def test_a_stream_that_is_read_by_nobody_ends_with_the_server() -> None:
    begun = asyncio.Event()

    async def endless(request: web.Request, caller: Caller) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        begun.set()
        while True:
            await response.write(b"x" * 65_536)

    async with running(Route("/endless", endless, OPEN)) as address:
        _, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await begun.wait()
    writer.close()


async def test_who_takes_nothing_of_what_is_answered_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether that is much, for a while, or too much together."""
    monkeypatch.setattr(lookout, "LOOK_S", 0.05)
    monkeypatch.setattr(lookout, "TAKE_S", 0.2)

    asked: list[asyncio.BaseTransport] = []

    async def large(request: web.Request, caller: Caller) -> web.Response:
        assert request.transport is not None
        asked.append(request.transport)
        return web.Response(body=b"x" * LARGE)

    async with running(Route("/large", large, OPEN), *ROUTES) as address:
        assert await _taken(address, asked) < LARGE
        monkeypatch.setattr(lookout, "TAKE_S", 1e9)
        assert (await get(address, "/large")).text == "x" * LARGE
        monkeypatch.setattr(lookout, "MAX_UNREAD_BYTES", 1024)
        assert await _taken(address, asked) < LARGE
        assert (await get(address, "/open")).status == 200


async def _taken(address: str, asked: list[asyncio.BaseTransport]) -> int:
    """How many bytes somebody gets who begins to read when the server has hung up."""
    reader, writer = await asyncio.open_connection(*address.split(":"), limit=1024)
    asked.clear()
    writer.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await eventually_async(lambda: bool(asked) and asked[0].is_closing(), what="it is cut off")
    taken = len(await reader.read())
    writer.close()
    return taken


async def test_the_limits_of_grpc_hold_here_too() -> None:
    """But for who asks whether the server is well."""
    address, limits = f"{HOST}:{free_port()}", Limits(max_requests_per_s_per_peer=1)
    async with serve(Config(listen=f"{HOST}:0", admin=address, limits=limits)), ClientSession() as session:
        asked = [await session.get(f"http://{address}/metrics") for _ in range(3)]
        assert [it.status for it in asked] == [200, 200, 429]
        assert "max_requests_per_s_per_peer" in await asked[-1].text()
        assert asked[-1].headers["Retry-After"] == "1"
        assert (await session.get(f"http://{address}/healthz")).status == 200
        other = await get(address, "/metrics")  # by another connection
    assert 'registry_refused_total{limit="max_requests_per_s_per_peer"} 1.0' in other.text


async def test_a_server_with_too_much_to_do_says_so() -> None:
    @contextmanager
    def refused(caller: Caller) -> Iterator[None]:
        raise Unavailable("too much to do", 1.5)
        yield

    server = AdminServer(ROUTES, lambda it: it, within=refused)
    address = await server.start(f"{HOST}:0")
    try:
        answer = await get(address, "/read")
        assert (answer.status, answer.text, answer.headers["Retry-After"]) == (503, "too much to do\n", "2")
        assert (await get(address, "/open")).status == 200
    finally:
        await server.stop()


# ---- of a server


async def test_a_server_says_that_it_is_well() -> None:
    address = f"{HOST}:{free_port()}"
    async with serve(Config(listen=f"{HOST}:0", admin=address)):
        assert (await get(address, "/healthz"))[:2] == (200, "ok\n")
        assert (await get(address, "/readyz"))[:2] == (200, "ok\n")
    with pytest.raises(OSError, match="onnect"):
        await get(address, "/healthz")


async def test_an_address_that_was_asked_for_and_is_taken_ends_the_start() -> None:
    address = f"{HOST}:{free_port()}"
    async with serve(Config(listen=f"{HOST}:0", admin=address)):
        with pytest.raises(ExceptionGroup) as raised:
            async with serve(Config(listen=f"{HOST}:0", admin=address)):
                raise AssertionError("it serves")
    assert raised.group_contains(ConfigError, match=f"admin: cannot listen on {address}: ")


async def test_two_servers_on_one_machine(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry_server.config.values.AUTO_ADMIN", f"{HOST}:{free_port()}")
    caplog.set_level("INFO")
    async with serve(Config(listen=f"{HOST}:0")), serve(Config(listen=f"{HOST}:0")):
        assert caplog.text.count("no HTTP side: somebody else has") == 1


async def test_an_address_that_nobody_asked_for_and_cannot_be_had_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry_server.config.values.AUTO_ADMIN", "192.0.2.1:7401")  # as where there is no IPv4
    caplog.set_level("INFO")
    async with serve(Config(listen=f"{HOST}:0", insecure=True)):
        assert "no HTTP side: 192.0.2.1:7401: " in caplog.text


@pytest.mark.parametrize("admin", ["x", "unix:/tmp/x", "127.0.0.1", "127.0.0.1:70000", "", "on"])
def test_addresses_that_are_none(admin: str) -> None:
    with pytest.raises(ConfigError, match="admin: must be HOST:PORT"):
        Config(admin=admin)


def test_beyond_this_machine_somebody_says_who_may() -> None:
    assert "admin: 0.0.0.0:7401 is open" in str(Config(admin=":7401").unguarded())
    assert Config(admin=":7401", access=granted()).unguarded() is None
    assert Config(admin=":7401", insecure=True).unguarded() is None
