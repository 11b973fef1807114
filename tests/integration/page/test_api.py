"""What the page's script asks for, without a browser: who may, what it costs, and how it ends."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, ClientTimeout, CookieJar

import registry_client
from registry_client import Instance
from registry_server.admin import logins
from registry_server.config import Config
from registry_server.config.sources import read_access_of
from registry_server.page import live, making
from registry_server.page.numbers import Numbers
from registry_server.server import serve
from tests.support.access import IDENTITIES, file_of, granted, token
from tests.support.etcd import free_port
from tests.support.source import ROOT
from tests.support.waiting import eventually_async

HOST = "127.0.0.1"
STATIC = ROOT / "registry_server" / "page" / "static"
JSON = {"Content-Type": "application/json"}


class Site:
    """A server, and a browser's worth of cookies."""

    def __init__(self, address: str, page: str, session: ClientSession) -> None:
        self.address = address
        self.page = page
        self.session = session

    async def get(self, path: str, **more: Any) -> tuple[int, str]:
        async with self.session.get(self.page + path, **more) as it:
            return it.status, await it.text()

    async def ask(self, path: str, **more: Any) -> Any:
        status, text = await self.get(path, **more)
        assert status == 200, text
        return json.loads(text)

    async def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> ClientResponse:
        said = body if isinstance(body, str | bytes) else json.dumps(body)
        async with self.session.post(self.page + path, data=said, headers=headers or JSON) as it:
            await it.read()
            return it

    async def login(self, name: str) -> None:
        assert (await self.post("/api/login", {"token": token(name)})).status == 204

    async def register(self, service: str, id_: str, who: str = "") -> None:
        shown = {"token": token(who), "plaintext_token": True} if who else {}
        async with registry_client.connect(self.address, **shown) as registry:
            await registry.register_once(Instance(service, HOST, 8000 + int(id_[1:]), id=id_), ttl=60)


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Site]:
    admin = f"{HOST}:{free_port()}"
    jar = CookieJar(unsafe=True)  # which keeps those of addresses, as browsers do
    async with (
        serve(Config(listen=f"{HOST}:0", admin=admin, **settings)) as address,
        ClientSession(cookie_jar=jar, timeout=ClientTimeout(30)) as session,
    ):
        yield Site(address, f"http://{admin}", session)


async def told(stream: ClientResponse, event: str, holds: str = "") -> Any:
    """The next message of that event in which that stands."""
    name = ""
    async for line in stream.content:
        field, _, said = line.decode().rstrip("\n").partition(": ")
        name = said if field == "event" else name
        if field == "data" and name == event and holds in said:
            return json.loads(said)
    raise AssertionError(f"the stream ended without {event} {holds}")


# ---- files


async def test_all_that_a_browser_loads_comes_from_here() -> None:
    """Each file is there, with its type; nothing is loaded from elsewhere, nor stands in the page what should not."""
    async with running() as site:
        for path in sorted(STATIC.iterdir()):
            name = "/" if path.name == "index.html" else f"/page/{path.name}"
            async with site.session.get(site.page + name) as it:
                assert (it.status, await it.read()) == (200, path.read_bytes())
                assert it.headers["Content-Security-Policy"].startswith("default-src 'self'; ")
                assert it.headers["X-Content-Type-Options"] == "nosniff"
        assert (await site.get("/page/../making.py"))[0] == 404
        assert (await site.get("/page/%2e%2e%2fmaking.py"))[0] == 404


@pytest.mark.parametrize("path", sorted(STATIC.iterdir()), ids=lambda path: path.name)
def test_no_markup_is_made_of_text(path: Any) -> None:
    """Nor anything of another's loaded, nor a policy asked to look away."""
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|DOMParser", text) == []
    assert re.findall(r"https?://|@import|url\(", text) == []
    assert re.findall(r"<script(?! type=\"module\" src)|\son[a-z]+=|style=|<style", text) == []


# ---- who may


async def test_a_token_becomes_a_cookie_and_the_cookie_is_no_token() -> None:
    async with running(access=granted()) as site:
        assert (await site.get("/api/me"))[0] == 401
        login = await site.post("/api/login", {"token": token("reader")})
        cookie = login.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert token("reader") not in cookie
        assert re.match(rf"grpc-registry-{site.page.rpartition(':')[2]}=", cookie)
        me = await site.ask("/api/me")
        assert me == {"identity": "reader", "grants": ["read default/player"], "access": True}
        secret = cookie.partition("=")[2].partition(";")[0]
        assert (await site.get("/api/me", headers={"Authorization": f"Bearer {secret}"}))[0] == 401
        assert (await site.post("/api/logout", {})).status == 204
        assert (await site.get("/api/me"))[0] == 401
        name = cookie.partition("=")[0]
        assert (await site.get("/api/me", headers={"Cookie": f"{name}={secret}"}))[0] == 401


async def test_a_page_of_somebody_else_cannot_log_in_or_out() -> None:
    async with running(access=granted()) as site:
        good = {"token": token("reader")}
        foreign = {**JSON, "Sec-Fetch-Site": "same-site"}  # another port of this machine
        assert (await site.post("/api/login", good, foreign)).status == 400
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            assert (await site.post("/api/login", good, {"Content-Type": kind})).status == 400
        async with site.session.options(site.page + "/api/login") as it:
            assert it.status == 405
        await site.login("reader")
        assert (await site.post("/api/logout", {}, foreign)).status == 400
        assert (await site.get("/api/me"))[0] == 200


NO_LOGINS = ("", "{", "[]", "1", '"x"', "{}", '{"token": 1}', '{"token": ""}', '{"token": " "}', b"\xff", "[" * 9_999)


async def test_who_logs_out_does_so_in_every_tab() -> None:
    """As well who logs in as somebody else."""
    async with running(access=granted()) as site:
        for end in ("/api/logout", "/api/login"):
            await site.login("reader")
            async with site.session.get(site.page + "/api/live") as other:
                assert (await told(other, "server"))["identity"] == "reader"
                assert (await site.post(end, {"token": token("operator")})).status == 204
                async with asyncio.timeout(20):
                    await other.read()  # to its end


async def test_two_servers_behind_mapped_ports_have_cookies_of_their_own() -> None:
    """By the port that the browser knows. One without any is the server's own."""
    async with running(access=granted()) as site:
        own = site.page.rpartition(":")[2]
        for host, port in [("10.0.0.1:8401", "8401"), ("10.0.0.1:8402", "8402"), ("10.0.0.1", own), ("[::1]:9", "9")]:
            answer = await site.post("/api/login", {"token": token("reader")}, {**JSON, "Host": host})
            assert answer.headers["Set-Cookie"].startswith(f"grpc-registry-{port}=")


@pytest.mark.parametrize("path", ["/api/live", "/api/me", "/api/search?q=a"])
async def test_a_page_of_somebody_else_holds_nothing_open(path: str) -> None:
    async with running() as site:
        for elsewhere in ("cross-site", "same-site"):
            assert (await site.get(path, headers={"Sec-Fetch-Site": elsewhere}))[0] == 400
        async with site.session.get(site.page + path, headers={"Sec-Fetch-Site": "same-origin"}) as it:
            assert it.status == 200


@pytest.mark.parametrize("body", NO_LOGINS)
async def test_logins_that_are_none(body: str | bytes) -> None:
    async with running(access=granted()) as site:
        refused = await site.post("/api/login", body)
        assert (refused.status, refused.headers.get("Set-Cookie")) == (400, None)
        strange = await site.post("/api/login", body, {"Content-Type": "application/json; charset=nonsense"})
        assert strange.status == 400


async def test_wrong_and_large_logins() -> None:
    async with running(access=granted()) as site:
        assert (await site.post("/api/login", {"token": "rg_nobody"})).status == 401
        assert (await site.post("/api/login", {"token": "x" * 100_000})).status == 413


async def test_who_logs_in_slowly_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "MAX_AT_ONCE", 2)
    monkeypatch.setattr(logins, "BODY_S", 1.0)
    head = b"POST /api/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    async with running(access=granted()) as site:
        slow = [await asyncio.open_connection(*site.page.removeprefix("http://").split(":")) for _ in range(3)]
        for _, writer in slow:
            writer.write(head)
        answers = [int((await reader.readline()).split()[1]) for reader, _ in slow]
        assert sorted(answers) == [408, 408, 503]
        for _, writer in slow:
            writer.close()
        await site.login("reader")


async def test_one_is_shown_what_one_may_read() -> None:
    async with running(access=granted()) as site:
        await site.register("player", "p1", "owner")
        await site.register("chat", "c1", "elsewhere")
        await site.login("reader")
        async with site.session.get(site.page + "/api/live?service=chat&events=yes") as stream:
            assert "reader has not the right `read`" in (await told(stream, "instances"))["refused"]
            await site.register("chat", "c2", "elsewhere")
            await site.register("player", "p2", "neighbour")
            history = await told(stream, "history")
            assert [event[5] for event in history["events"]] == ["p2"]
        async with site.session.get(site.page + "/api/live") as stream:
            server = await told(stream, "server")
            assert (server["size"], server["pushes"]) == (None, None)  # nor does /metrics tell
            assert [row[1] for row in (await told(stream, "services", "set"))["set"]] == ["player"]
        assert {event[4] for event in (await site.ask("/api/history"))["events"]} == {"player"}
        assert (await site.ask("/api/search?q=p1"))["found"] == [["default", "player", "p1", "id"]]
        assert (await site.get("/api/instance?service=chat&id=c1"))[0] == 403
        assert (await site.get("/api/connected"))[0] == 403


async def test_a_right_that_is_taken_away_ends_the_page(tmp_path: Any) -> None:
    file = tmp_path / "access.toml"
    file.write_text(file_of())
    async with running(access=read_access_of(str(file))) as site:
        await site.login("reader")
        async with site.session.get(site.page + "/api/live") as stream:
            await told(stream, "server")
            file.write_text(file_of({**IDENTITIES, "reader": ["read default/other"]}))
            async with asyncio.timeout(20):
                await stream.content.read()  # to its end


async def test_what_is_granted_to_all_later_is_nothing_for_a_page_of_somebody_else(tmp_path: Any) -> None:
    """Its name may lead here; it has no token."""
    file = tmp_path / "access.toml"
    file.write_text(file_of())
    evil, shown = {"Host": "evil.example"}, {"Authorization": f"Bearer {token('reader')}"}
    async with running(access=read_access_of(str(file))) as site:
        assert (await site.get("/", headers=evil))[0] == 200, "any name may be that of a server that asks for tokens"
        assert (await site.get("/api/me", headers=evil))[0] == 401
        file.write_text(file_of(anonymous=["read */*"]))

        async def is_granted() -> bool:
            return (await site.get("/api/me"))[0] == 200

        await eventually_async(is_granted)
        for path in ("/api/me", "/api/live", "/metrics"):
            assert (await site.get(path, headers=evil))[0] == 421
        assert (await site.get("/api/me", headers={**evil, **shown}))[0] == 200


# ---- what it tells


async def test_an_instance_and_its_life() -> None:
    async with running() as site:
        await site.register("player", "p1")
        async with registry_client.connect(site.address) as registry:
            await registry.update("player", "p1", weight=0)
            found = await site.ask("/api/instance?service=player&id=p1")
            assert (found["instance"]["id"], found["instance"]["weight"]) == ("p1", 0)
            assert [event[6] for event in found["history"]] == ["updated", "registered"]
            assert found["why"]["traffic"] is False
            assert "weight" in found["why"]["verdict"]
            await registry.deregister("player", "p1")
        gone = await site.ask("/api/instance?service=player&id=p1")
        assert gone["instance"] is None
        assert [event[6] for event in gone["history"]] == ["deregistered", "updated", "registered"]
        assert "gets none because" in gone["why"]["verdict"]


async def test_history_goes_back_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry_server.page.making.EVENTS", 4)
    async with running() as site:
        async with registry_client.connect(site.address) as registry:
            await registry.register_once(Instance("player", HOST, 8001, id="p1"), ttl=60)
            for weight in range(9):
                await registry.update("player", "p1", weight=weight)
        numbers: list[int] = []
        page = await site.ask("/api/history")
        while page["more"]:
            numbers += [event[0] for event in page["events"]]
            page = await site.ask(f"/api/history?before={numbers[-1]}")
        numbers += [event[0] for event in page["events"]]
        assert len(numbers) == 10
        assert numbers == sorted(numbers, reverse=True)


@pytest.mark.parametrize(
    "path",
    [
        "/api/instance",
        "/api/instance?service=player",
        "/api/instance?service=<b>&id=1",
        "/api/history?before=x",
        "/api/history?before=-1",
        "/api/history?before=" + "9" * 99,
        "/api/history?before=%C2%B2",
        "/api/live?events=x",
        "/api/live?events=-1",
    ],
)
async def test_questions_that_are_none(path: str) -> None:
    async with running() as site:
        status, text = await site.get(path)
        assert (status, "<b>" in text) == (400, False)


async def test_who_is_connected() -> None:
    async with running() as site, registry_client.connect(site.address) as registry, registry.watch("player"):
        found: dict[str, Any] = {}

        async def is_shown() -> bool:
            found.update(await site.ask("/api/connected"))
            return [row[5] for row in found["streams"]] == ["up to date"]

        await eventually_async(is_shown)
        assert (found["count"], found["methods"], found["xds"]) == (1, {"Watch": 1}, [])
        assert found["streams"][0][4] == "default/player"


# ---- what it costs


async def test_pages_are_counted_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_PAGES", 2)
    monkeypatch.setattr(live, "TICK_S", 0.1)
    async with running() as site:
        open_ = [await site.session.get(site.page + "/api/live") for _ in range(2)]
        for stream in open_:
            await told(stream, "server")
        status, why = await site.get("/api/live")
        assert (status, why) == (503, "2 pages are open already\n")
        for stream in open_:
            stream.close()

        async def has_room() -> bool:
            async with site.session.get(site.page + "/api/live") as stream:
                return stream.status == 200

        await eventually_async(has_room)


async def test_who_opens_all_pages_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_PAGES", 3)
    async with running(access=granted()) as site:
        await site.login("reader")
        open_ = [await site.session.get(site.page + "/api/live") for _ in range(3)]
        for stream in open_:
            await told(stream, "server")
        assert (await site.get("/api/live"))[0] == 503
        await site.login("root")
        other = await site.session.get(site.page + "/api/live")
        await told(other, "server")
        async with asyncio.timeout(20):
            while await open_[0].content.readany():
                pass  # the oldest ends
        assert (await site.get("/api/live"))[0] == 503  # two each would be no fairer
        for stream in (*open_, other):
            stream.close()


async def test_who_searches_much_waits_for_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, most = set[object](), list[int]()

    def searching(*_: object) -> Iterator[None]:
        it = object()
        at_work.add(it)
        for _turn in range(20):
            most.append(len(at_work))
            yield None
        at_work.discard(it)

    monkeypatch.setattr(making, "searched", searching)
    monkeypatch.setattr(making, "peer_of", lambda _: "one")  # on this machine each connection is one
    async with running() as site:
        await asyncio.gather(*(site.ask("/api/search?q=x") for _ in range(4)))
    assert set(most) == {1}


async def test_a_page_holds_up_no_stop() -> None:
    async with running() as site:
        stream = await site.session.get(site.page + "/api/live")
        await told(stream, "server")
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 5
    stream.close()


async def test_who_reads_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WRITE_S", 0.3)
    monkeypatch.setattr(live, "LOOK_S", 0.001)
    monkeypatch.setattr(live, "TICK_S", 0.0)
    monkeypatch.setattr(Numbers, "__call__", lambda self, caller: {"much": "x" * 1_000_000})
    monkeypatch.setattr(live, "MAX_PAGES", 1)
    async with running() as site:
        _, writer = await asyncio.open_connection(*site.page.removeprefix("http://").split(":"), limit=1)
        writer.write(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n")

        async def is_full() -> bool:
            async with site.session.get(site.page + "/api/live") as stream:
                return stream.status == 503

        async def has_room() -> bool:
            return not await is_full()

        await eventually_async(is_full)
        await eventually_async(has_room, timeout_s=60)
        writer.close()
