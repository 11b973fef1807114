"""Health by the client: checks that the registry runs, reports, a monitor in this process, and who is told."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import registry_pb2_grpc
from registry_client import Health, HealthCheck, HealthStats, Instance, InvalidArgument, NotFound, RegistryClient, State
from registry_client import monitor as monitor_module
from registry_client.health import Pace
from tests.conftest import ServerFactory
from tests.integration.client.conftest import cache_home, registry, server
from tests.support.probed import NOT_SERVING, SERVING, SICK, HealthServer, WebServer, answer
from tests.support.registryctl import ctl, line_of, running
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async, passed, until

__all__ = ["cache_home", "registry", "server"]

FAST = Pace(interval=0.1, timeout=0.3)
BUSY_S = 4.0  # what a busy machine may add to what is promised


def logic(port: int, name: str = "one", **fields: object) -> Instance:
    return Instance(service="logic", host="127.0.0.1", port=port, id=name, **fields)  # type: ignore[arg-type]


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    async with WebServer().running() as running:
        yield running


async def test_the_registry_looks_and_everybody_is_told(registry: RegistryClient, web: WebServer) -> None:
    told: list[tuple[str, Health, Health]] = []
    subscription = registry.on_health("logic", lambda it, before, now: told.append((it.id, before, now)))
    check = HealthCheck.http("/healthz", interval=0.1, timeout=0.1)
    async with registry.register(logic(web.port, checks=[check])) as registration:
        await eventually_async(lambda: told == [("one", Health.UNKNOWN, Health.HEALTHY)])
        assert await registry.health("logic") == HealthStats(total=1, healthy=1)
        web.says = SICK
        await eventually_async(lambda: told[1:] == [("one", Health.HEALTHY, Health.UNHEALTHY)])
        [it] = await registry.list("logic")
        assert (it.checks, it.check_results[0].output) == ((check,), "503 Service Unavailable: no database")
        assert await registry.list("logic", healthy_only=True) == []
        [summary] = await registry.services()
        assert (summary.unhealthy, summary.routable) == (1, 0)
        with pytest.raises(InvalidArgument, match=r"instance\.health"):
            await registration.update(health="HEALTHY")
        assert (await registration.update(weight=7)).weight == 7
        assert registration.instance.weight == 7
        [prober] = await registry.probers()
        assert prober.cut_off_at is None
    subscription.cancel()


async def test_who_was_removed_comes_back_as_sick_as_it_was(registry: RegistryClient, web: WebServer) -> None:
    """Its owner registers it again, and it gets no traffic until it is well."""
    web.says = SICK
    check = HealthCheck.http(interval=0.1, timeout=0.1, failures=1, deregister_after=0.3)
    healths: list[Health] = []
    async with registry.register(logic(web.port, checks=[check]), ttl=2) as registration:
        left = asyncio.Event()
        subscription = registry.on_change(
            "logic", added=lambda it: healths.append(it.health), removed=lambda it: left.set()
        )
        await asyncio.wait_for(left.wait(), 10)
        await eventually_async(lambda: len(healths) >= 2)
        assert healths[0] in (Health.UNKNOWN, Health.UNHEALTHY)
        assert healths[1] is Health.UNHEALTHY
        web.says = answer()
        await eventually_async(lambda: _is_healthy(registry))
        assert registration.state is State.REGISTERED
        subscription.cancel()


async def test_owner_reports(registry: RegistryClient) -> None:
    async with registry.register(logic(8001, checks=[HealthCheck.ttl(interval=60)])) as registration:
        assert (await registration.update(health=Health.CRITICAL)).health is Health.CRITICAL
        assert (await registration.update(health="HEALTHY")).health is Health.HEALTHY
        [it] = await registry.list("logic")
        assert it.check_results[0].output == "reported by its owner"


async def test_calls_go_where_it_is_well(registry: RegistryClient, server: RegistryServer) -> None:
    """A back end that begins to fail gets no call of a balanced client after interval x failures + 1 s, and calls again
    after it has recovered."""
    async with contextlib.AsyncExitStack() as stack:
        games = [await stack.enter_async_context(HealthServer("game").running()) for _ in range(2)]
        check = HealthCheck.grpc("game", **FAST)
        for number, game in enumerate(games):
            it = logic(game.port, f"{number}", checks=[check])
            await stack.enter_async_context(registry.register(it))
        target = f"registry://{server.address}/logic"
        channel = await stack.enter_async_context(registry_client.aio.channel(target, policy="round_robin"))
        stub = health_pb2_grpc.HealthStub(channel)

        async def call() -> list[int]:
            """Calls of the game, which nobody has: how many have come to each."""
            for _ in range(4):
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await stub.Check(health_pb2.HealthCheckRequest(service="move"), timeout=5)
            return [game.asked["move"] for game in games]

        async def reaches(*wanted: bool) -> bool:
            before, after = [game.asked["move"] for game in games], await call()
            return [now > so_far for now, so_far in zip(after, before, strict=True)] == list(wanted)

        await eventually_async(lambda: reaches(True, True))
        games[0].status = NOT_SERVING
        await eventually_async(lambda: reaches(False, True), timeout_s=3 * 0.1 + 1 + BUSY_S)
        assert await reaches(False, True)
        games[0].status = SERVING
        await eventually_async(lambda: reaches(True, True))


async def test_who_stands_still_gets_no_calls_until_it_goes_on(
    registry: RegistryClient, server: RegistryServer, server_factory: ServerFactory
) -> None:
    """Back ends are processes; one is stopped, and its kernel goes on taking connections."""
    games = [await server_factory(name=f"game-{number}").start_async() for number in range(2)]
    check = HealthCheck.grpc("registry.v1.Registry", **FAST)
    async with contextlib.AsyncExitStack() as stack:
        for number, game in enumerate(games):
            await stack.enter_async_context(registry.register(logic(game.port, f"{number}", checks=[check])))
        target = f"registry://{server.address}/logic"
        channel = await stack.enter_async_context(registry_client.aio.channel(target, policy="round_robin"))
        stub = registry_pb2_grpc.RegistryStub(channel)

        async def answering() -> int:
            """How many of them answer to eight calls, all of which have to be answered."""
            calls = [stub.ListNamespaces(pb.ListNamespacesRequest(), timeout=5) for _ in range(8)]
            return len({answer.header.epoch for answer in await asyncio.gather(*calls)})

        await eventually_async(lambda: _are_well(registry, 2))
        await until(lambda: _is_so(answering, 2))
        games[0].pause()
        try:
            await eventually_async(lambda: _are_well(registry, 1), timeout_s=3 * (0.1 + 0.3) + 1 + BUSY_S)
            await passed(0.2)  # every watch has heard
            assert [await answering() for _ in range(3)] == [1, 1, 1]
        finally:
            games[0].resume()
        await eventually_async(lambda: _are_well(registry, 2))
        await until(lambda: _is_so(answering, 2))


async def _are_well(registry: RegistryClient, count: int) -> bool:
    return (await registry.health("logic")).healthy == count


async def _is_so(ask: Callable[[], Awaitable[int]], count: int) -> bool:
    return await ask() == count


async def test_a_monitor_looks_from_this_process(registry: RegistryClient, web: WebServer) -> None:
    told: list[tuple[Health, Health]] = []
    async with registry.register(logic(web.port)):
        monitor = registry.monitor(
            "logic", HealthCheck.http(timeout=0.1), on_change=lambda _, before, now: told.append((before, now)),
            interval=0.1, failures=2, successes=1,
        )  # fmt: skip
        async with monitor:
            await eventually_async(lambda: monitor.stats() == HealthStats(total=1, healthy=1))
            web.says = SICK
            await eventually_async(lambda: monitor.stats().unhealthy == 1)
            assert (await registry.list("logic"))[0].health is Health.UNHEALTHY
            web.says = answer()
            await eventually_async(lambda: monitor.stats().rate == 1.0)
            await eventually_async(lambda: len(told) == 3)
            assert told[1:] == [(Health.HEALTHY, Health.UNHEALTHY), (Health.UNHEALTHY, Health.HEALTHY)]
        asked = len(web.asked)
        assert (await registry.health("logic")).rate == 1.0
        assert len(web.asked) == asked, "closed, it looks no more"


@pytest.mark.parametrize("how", ["blocks", "never ends", "raises", "exits"])
async def test_whoever_a_monitor_tells_harms_himself_alone(registry: RegistryClient, web: WebServer, how: str) -> None:
    over = threading.Event()

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    def raises(*_: object) -> None:
        raise SystemExit if how == "exits" else ValueError

    on_change = {"blocks": lambda *_: over.wait(60), "never ends": never}.get(how, raises)
    monitor = registry.monitor(
        "logic", HealthCheck.http(timeout=0.1), on_change=on_change, interval=0.1, failures=2, successes=1
    )
    try:
        async with registry.register(logic(web.port), ttl=2), monitor:
            for says, health in ((None, Health.HEALTHY), (SICK, Health.UNHEALTHY), (answer(), Health.HEALTHY)):
                web.says = says or web.says
                await eventually_async(lambda health=health: monitor.stats() == HealthStats.of([health]))
    finally:
        over.set()


async def test_a_monitor_with_a_check_of_ones_own(registry: RegistryClient) -> None:
    well = asyncio.Event()

    async def check(instance: Instance) -> bool:
        return well.is_set()

    async with registry.register(logic(8001)), registry.monitor("logic", check, interval=0.1, failures=1) as monitor:
        await eventually_async(lambda: monitor.stats().unhealthy == 1)
        well.set()
        await eventually_async(lambda: monitor.stats().healthy == 1)
    with pytest.raises(InvalidArgument, match=r"check\.interval"):
        registry.monitor("logic", check, interval=-1)


async def test_the_time_in_which_a_monitor_stood_still_removes_nobody(
    registry: RegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who became well meanwhile is seen to be so, however short a time it may be ill."""
    jumps_s = [0.0]
    monkeypatch.setattr(monitor_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + jumps_s[0]))
    well = asyncio.Event()
    removed: list[object] = []

    async def check(instance: Instance) -> bool:
        return well.is_set()

    subscription = registry.on_change("logic", removed=removed.append)
    looking = registry.monitor("logic", check, interval=0.1, failures=1, successes=2, deregister_after=60)
    async with registry.register(logic(8001)), looking as monitor:
        await eventually_async(lambda: monitor.stats().unhealthy == 1)
        jumps_s[0] = 3600.0
        well.set()
        await eventually_async(lambda: monitor.stats().healthy == 1)
        assert removed == []
    subscription.cancel()


async def test_registryctl(registry: RegistryClient, server: RegistryServer, web: WebServer) -> None:
    checks = ["--check", "http:/healthz", "--check", "ttl interval=60", "--check-interval", "0.1"]
    asked = ["--server", server.address, "register", "logic", f"127.0.0.1:{web.port}", "--id", "one", *checks]
    with running(*asked, "--deregister-after", "60") as process:
        await line_of(process)
        await eventually_async(lambda: _is_well(registry, "http"))
        lines = (await ctl("--server", server.address, "health", "logic")).stdout.splitlines()
        rows = [line.split() for line in lines]
        assert rows[0] == ["ID", "ADDRESS", "HEALTH", "CHECK", "FOUND", "FAILURES", "SINCE", "OUTPUT"]
        assert rows[1][3:6] == ["http", "HEALTHY", "0"]
        rows = [line.split() for line in (await ctl("--server", server.address, "health")).stdout.splitlines()]
        assert rows[0] == ["SERVICE", "INSTANCES", "HEALTHY", "UNHEALTHY", "CRITICAL", "UNKNOWN", "RATE"]
        assert rows[1][:2] == ["logic", "1"]
        told = json.loads((await ctl("--server", server.address, "-o", "json", "health", "logic")).stdout)
        assert [check["deregisterAfter"] for check in told["instances"][0]["checks"]] == ["60s", "60s"]
        assert len(told["probers"]) == 1
    wrong = await ctl("--server", server.address, "register", "logic", "10.0.0.5:1", "--check", "http:x")
    assert (wrong.exit_code, "is no check; write one of http" in wrong.stderr) == (1, True)


async def test_checks_by_service(registry: RegistryClient, server: RegistryServer, web: WebServer) -> None:
    """Put by an operator, here or in a shell, they hold for those who bring none, also after these register again."""
    rules = registry.check_rules
    async with registry.register(logic(web.port), ttl=2) as registration:
        rule = await rules.put("logic", [HealthCheck.http("/healthz", interval=0.1)])
        assert (rule.service, rule.namespace, rule.checks[0].name) == ("logic", "default", "http")
        await eventually_async(lambda: _is_healthy(registry))
        [it] = await registry.list("logic")
        assert (it.checks, it.checks_by_rule) == (rule.checks, True)
        put = await ctl(
            "--server", server.address, "checks", "put", "logic", "--check", "ttl", "--check-interval", "60"
        )
        assert put.stdout.splitlines()[1].split() == ["default", "logic", "ttl", "interval=60"]
        await eventually_async(lambda: _has_checks(registry, "ttl"))
        await registry.deregister("logic", "one")
        await eventually_async(lambda: _has_checks(registry, "ttl"))  # it is back, and brings none
        assert (await registration.update(health="UNHEALTHY")).checks_by_rule
        await rules.put("*", [], namespace="*")
        listed = (await ctl("--server", server.address, "checks", "list")).stdout.splitlines()
        assert [line.split() for line in listed[1:]] == [["*", "*", "none"], ["default", "logic", "ttl", "interval=60"]]
        assert [it.namespace for it in await rules.list()] == ["*", "default"]
        assert "rule is removed" in (await ctl("--server", server.address, "checks", "delete", "logic")).stdout
        await eventually_async(lambda: _has_checks(registry))
        with pytest.raises(NotFound, match="no such rule: default/logic"):
            await rules.get("logic")
        with pytest.raises(InvalidArgument, match="service"):
            await rules.put("a b", [])
        with pytest.raises(InvalidArgument, match="checks"):
            await rules.put("logic", ["tcp"])  # type: ignore[list-item]
        await rules.delete("*", namespace="*")
    wrong = await ctl("--server", server.address, "checks", "put", "logic")
    assert (wrong.exit_code, "or --none for no checks" in wrong.stderr) == (2, True)


async def _has_checks(registry: RegistryClient, *names: str) -> bool:
    return [tuple(check.name for check in it.checks) for it in await registry.list("logic")] == [names]


async def _is_healthy(registry: RegistryClient) -> bool:
    return (await registry.health("logic")).healthy == 1


async def _is_well(registry: RegistryClient, check: str) -> bool:
    [it] = await registry.list("logic")
    return any(found.name == check and found.health is Health.HEALTHY for found in it.check_results)


def test_for_threads(server: RegistryServer, cache_home: Path) -> None:
    with registry_client.sync.connect(server.address) as registry:
        rule = registry.check_rules.put("other", [HealthCheck.tcp()])
        assert rule == registry.check_rules.get("other") == registry.check_rules.list()[0]
        registry.check_rules.delete("other")
        with registry.register(logic(8001, checks=[HealthCheck.ttl()])) as registration:
            assert registration.update(health="UNHEALTHY").health is Health.UNHEALTHY
            assert registry.health("logic") == HealthStats(total=1, unhealthy=1)
        check = HealthCheck.grpc(interval=0.1, successes=1)
        it = Instance(service="registry", host=server.host, port=server.port)
        with registry.register(it), registry.monitor("registry", check) as monitor:
            while monitor.stats().healthy != 1:
                pass
