"""A server that runs checks: what changes is written, and nothing else; who is sick is let be, and comes back."""

import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.text import parse
from tests.conftest import ServerFactory
from tests.support.probed import NOT_SERVING, SERVING, SICK, HealthServer, WebServer
from tests.support.proxy import Proxy
from tests.support.raw import RawClient, Watching, detail
from tests.support.servers import RegistryServer
from tests.support.waiting import always_async, eventually_async, passed

FAST = "interval=0.1 timeout=0.1"
BUSY_S = 4.0  # what a busy machine may add to what is promised
HERE: dict[str, Any] = {"host": "127.0.0.1"}


@pytest.fixture
def server(server_factory: ServerFactory) -> RegistryServer:
    return server_factory(name="registry").start()


@pytest.fixture
async def client(server: RegistryServer) -> AsyncIterator[RawClient]:
    async with RawClient(server.address) as connected:
        yield connected


async def wait_health(watch: Watching, name: str, health: pb.Health.ValueType) -> pb.Instance:
    """The instance, once its health is so."""

    def is_so() -> bool:
        return ("player", name) in watch.view and watch.view["player", name].health == health

    await watch.wait(is_so, f"{name} is {pb.Health.Name(health)}")
    return watch.view["player", name]


async def test_who_is_sick_is_not_routable_and_comes_back(client: RawClient) -> None:
    async with WebServer().running() as web, client.watching() as watch:
        checks = [parse(f"http:/healthz {FAST}")]
        await client.register("a", web.port, checks=checks, **HERE)
        it = await wait_health(watch, "a", pb.HEALTHY)
        assert [(found.name, found.output) for found in it.check_results] == [("http", "200 OK: fine")]
        web.says, began = SICK, time.monotonic()
        it = await wait_health(watch, "a", pb.UNHEALTHY)
        assert time.monotonic() - began < 3 * 0.1 + 1 + BUSY_S
        assert it.check_results[0].output == "503 Service Unavailable: no database"
        assert it.check_results[0].failures >= 3
        [summary] = (await client.stub.ListServices(pb.ListServicesRequest())).services
        assert (summary.instances, summary.routable, summary.healthy, summary.unhealthy) == (1, 0, 0, 1)
        revision = (await client.list()).header.revision
        asked = len(web.asked)
        await eventually_async(lambda: len(web.asked) > asked + 5)
        assert (await client.list()).header.revision == revision, "only what changes is written"
        web.mood = "hangs"
        web.says = b""
        await always_async(lambda: watch.view["player", "a"].health == pb.UNHEALTHY, for_s=0.3)
        web.mood, web.says = "", b"HTTP/1.1 204 No Content\r\n\r\n"
        await wait_health(watch, "a", pb.HEALTHY)


async def _departure(client: RawClient) -> tuple[str, int]:
    """Who leaves next, and why."""
    call = client.stub.Watch(pb.WatchRequest(services=["player"]), timeout=10)
    async for response in call:
        for it in response.removed:
            call.cancel()
            return it.id, it.cause
    raise AssertionError("the watch has ended")


async def test_who_is_sick_for_long_leaves_and_comes_back_sick(client: RawClient) -> None:
    async with WebServer().running() as web, client.watching() as watch:
        web.says = SICK
        checks = [parse(f"http {FAST} failures=1 critical_after=0.3 deregister_after=0.3")]
        before = await client.register("a", web.port, checks=checks, **HERE)
        await wait_health(watch, "a", pb.CRITICAL)
        assert await _departure(client) == ("a", pb.Departure.UNHEALTHY)
        held = before.instance
        again = await client.register(
            "a", web.port, checks=checks, generation=held.generation, registered_at=held.registered_at, **HERE
        )
        assert again.instance.health == pb.CRITICAL, "it goes on where it was"
        assert (await client.register("b", web.port + 1, checks=checks, **HERE)).instance.health == pb.UNKNOWN


async def test_owner_does_not_overwrite_what_was_found(client: RawClient) -> None:
    async with HealthServer().running() as game, client.watching() as watch:
        game.status = NOT_SERVING
        checks = [parse(f"grpc {FAST}")]
        lease_id = (await client.register("a", game.port, checks=checks, **HERE)).lease_id
        await wait_health(watch, "a", pb.UNHEALTHY)
        again = await client.register("a", game.port, checks=checks, lease_id=lease_id, health=pb.HEALTHY, **HERE)
        assert again.instance.health == pb.UNHEALTHY
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.update("a", health=pb.HEALTHY)
        assert detail(error.value, error_details_pb2.BadRequest).field_violations[0].field == "instance.health"
        assert (await client.update("a", weight=7)).instance.health == pb.UNHEALTHY
        game.status = SERVING
        await wait_health(watch, "a", pb.HEALTHY)


async def test_who_flickers_between_looks_is_sick(client: RawClient) -> None:
    """Well at every look, by its Watch it is not: that counts once a look, so it takes as many looks as ever."""
    async with HealthServer(watch=True).running() as game, client.watching() as watch:
        await client.register("a", game.port, checks=[parse(f"grpc {FAST}")], **HERE)
        await wait_health(watch, "a", pb.HEALTHY)
        asked = game.asked[""]

        def is_sick() -> bool:
            game.says(NOT_SERVING, SERVING)
            return watch.view["player", "a"].health == pb.UNHEALTHY

        await eventually_async(is_sick)
        assert game.asked[""] >= asked + 3
        [found] = watch.view["player", "a"].check_results
        assert found.output == "NOT_SERVING between two looks"
        await wait_health(watch, "a", pb.HEALTHY)
        await client.deregister("a")
        await eventually_async(lambda: not game.watchers)


async def test_owner_reports(client: RawClient) -> None:
    async with client.watching() as watch:
        await client.register("a", checks=[parse("ttl interval=0.2 failures=2")])
        assert (await client.update("a", health=pb.HEALTHY)).instance.health == pb.HEALTHY
        assert (await client.update("a", health=pb.UNHEALTHY)).instance.health == pb.UNHEALTHY
        assert (await client.update("a", health=pb.HEALTHY)).instance.health == pb.HEALTHY

        def is_silent() -> bool:
            [found] = watch.view["player", "a"].check_results
            return found.output == "its owner has not reported within 0.2 s"

        await watch.wait_ids("a")
        await watch.wait(is_silent, "it is told that its owner is silent")
        assert watch.view["player", "a"].health == pb.UNHEALTHY
        await client.update("a", health=pb.HEALTHY)
        await wait_health(watch, "a", pb.HEALTHY)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"http": {"path": "no"}}, "instance.checks[0].http.path"),
        ({"custom": {"type": "redis"}}, "instance.checks[0].custom.type"),
        ({}, "instance.checks[0].kind"),
        ({"tcp": {"port": 70_000}}, "instance.checks[0].tcp.port"),
    ],
)
async def test_wrong_checks_are_refused(client: RawClient, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.register("a", checks=[pb.HealthCheck(**fields)])
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error.value, error_details_pb2.BadRequest).field_violations[0].field == field


async def test_server_as_it_is_configured(server_factory: ServerFactory) -> None:
    """Checks by service, this machine left alone, and none at all."""
    rules = f"player=tcp {FAST}; *=ttl"
    server = server_factory(args=["--service-checks", rules])
    async with await server.start_async(), RawClient(server.address) as client, WebServer().running() as web:
        async with client.watching() as watch:
            it = (await client.register("a", web.port, **HERE)).instance
            assert [check.name for check in it.checks] == ["tcp"]
            await wait_health(watch, "a", pb.HEALTHY)
        other = (await client.register("a", web.port, service="chat", **HERE)).instance
        assert [check.name for check in other.checks] == ["ttl"]
    for args, reason in ((["--check-local", "no"], "this machine itself"), (["--checks", "off"], "runs no checks")):
        async with await server_factory(args=args).start_async() as server, RawClient(server.address) as client:
            with pytest.raises(grpc.aio.AioRpcError, match=reason):
                await client.register("a", checks=[parse("tcp")], **HERE)


OWN_KINDS = """
import time

async def file(host, port, settings):
    with open(settings["path"]) as file:
        assert file.read() == "well", "it is not well"
    return f"{host}:{port} is well"

async def blocks(host, port, settings):
    time.sleep(3600)

async def exits(host, port, settings):
    raise SystemExit(3)
"""


async def test_kinds_of_ones_own_are_asked_and_hold_up_nobody(server_factory: ServerFactory, tmp_path: Path) -> None:
    """They are entry points of what is installed beside the server: one that works, and two that do what none may."""
    (tmp_path / "own_kinds.py").write_text(OWN_KINDS)
    (about := tmp_path / "own_kinds-1.0.dist-info").mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own-kinds\nVersion: 1.0\n")
    names = ("file", "exits", "blocks")
    lines = "".join(f"{name} = own_kinds:{name}\n" for name in names)
    (about / "entry_points.txt").write_text(f"[grpc_registry.checks]\n{lines}")
    (said := tmp_path / "said").write_text("well")
    path = os.pathsep.join((str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])))
    server = server_factory(env={"PYTHONPATH": path})
    async with await server.start_async(), RawClient(server.address) as client, client.watching() as watch:
        await client.register("file", 8001, checks=[parse(f"custom:file,path={said} {FAST}")])
        it = await wait_health(watch, "file", pb.HEALTHY)
        assert it.check_results[0].output == "10.0.0.5:8001 is well"
        said.write_text("ill")
        it = await wait_health(watch, "file", pb.UNHEALTHY)
        assert it.check_results[0].output == "AssertionError: it is not well"
        said.write_text("well")
        await wait_health(watch, "file", pb.HEALTHY)
        await client.register("exits", 8002, checks=[parse(f"custom:exits {FAST}")])
        it = await wait_health(watch, "exits", pb.UNHEALTHY)
        assert it.check_results[0].output == "SystemExit: 3"
        await client.register("blocks", 8003, checks=[parse(f"custom:blocks {FAST}")])
        it = await wait_health(watch, "blocks", pb.UNHEALTHY)
        assert it.check_results[0].output == "no answer within 0.1 s"
        with pytest.raises(grpc.aio.AioRpcError, match="there are: blocks, exits, file"):
            await client.register("other", 8004, checks=[parse("custom:other")])
        assert await server.terminate_async() == 0, "what blocks keeps nobody from ending"


async def lose(proxy: Proxy, how: str) -> None:
    """The way to an instance is gone: with resets, or with packets that nobody answers."""
    if how == "cut":
        await proxy.cut()
    else:
        proxy.freeze()


@pytest.mark.parametrize("how", ["cut", "swallowed"])
async def test_cut_off_server_reports_nobody(server_factory: ServerFactory, how: str) -> None:
    server = server_factory(args=["--cut-off-least", "3"])
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(await server.start_async())
        client = await stack.enter_async_context(RawClient(server.address))
        web = await stack.enter_async_context(WebServer().running())
        ways = [await stack.enter_async_context(Proxy(f"127.0.0.1:{web.port}")) for _ in range(6)]
        watch = await stack.enter_async_context(client.watching())
        for number, way in enumerate(ways):
            await client.register(f"{number}", way.port, checks=[parse(f"http {FAST}")], **HERE)
        for number in range(6):
            await wait_health(watch, f"{number}", pb.HEALTHY)
        for way in ways:
            await lose(way, how)
        await eventually_async(lambda: "takes itself for cut off" in server.log_text)
        await passed(0.5)
        assert {it.health for it in watch.view.values()} == {pb.HEALTHY}
        [prober] = (await client.stub.ListServices(pb.ListServicesRequest())).probers
        assert prober.HasField("cut_off_at")
        for way in ways[1:]:
            await way.restore()
        await wait_health(watch, "0", pb.UNHEALTHY)
        assert {it.health for name, it in watch.view.items() if name[1] != "0"} == {pb.HEALTHY}
        assert "can be told from here again" in server.log_text

        async def is_told() -> bool:
            [prober] = (await client.stub.ListServices(pb.ListServicesRequest())).probers
            return not prober.HasField("cut_off_at")

        await eventually_async(is_told)


async def test_a_server_that_stood_still_blames_nobody(client: RawClient, server: RegistryServer) -> None:
    async with WebServer().running() as web, client.watching() as watch:
        await client.register("a", web.port, checks=[parse(f"http {FAST} failures=1")], **HERE)
        await wait_health(watch, "a", pb.HEALTHY)
        for _ in range(2):
            server.pause()
            await passed(0.8)
            server.resume()
            await passed(0.3)
        assert {it.health for step in watch.steps for it in step.upserts.values()} == {pb.UNKNOWN, pb.HEALTHY}
