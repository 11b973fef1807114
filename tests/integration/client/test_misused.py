"""Discovery, balancers, monitors, several registries and what helps tests, used wrongly: each says so at once."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import pytest

import registry_client
from registry_client import (
    CheckResult,
    HealthCheck,
    Instance,
    InvalidArgument,
    InvalidTarget,
    Misuse,
    NotFound,
    RegistryClient,
    sync,
    testing,
)
from tests.integration.client.conftest import player
from tests.integration.client.test_places import AT_ONCE_S, forked
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async

CALL = "/game.v1.Player/Join"


@pytest.fixture
async def inside() -> AsyncIterator[RegistryClient]:
    """A client and its registry, with one instance."""
    async with registry_client.connect("memory:") as client, client.register(player("a"), drain=0):
        yield client


# ---- values of other kinds

# Each: the field that is named, what is done with a value, and values that it cannot be.
ODD: list[Any] = [7, 1.5, True, b"x", object(), ["a", 3], {"a": 3}, lambda: 0]
Use = Callable[[RegistryClient, Any], Any]
USES: dict[str, tuple[str, Use, list[Any]]] = {
    "discover": ("service", lambda it, odd: it.discover(odd), [*ODD, None, "", "a b"]),
    "balancer": ("service", lambda it, odd: it.balancer(odd), [*ODD, None, ""]),
    "channel": ("service", lambda it, odd: it.channel(odd), [*ODD, None, ""]),
    "health": ("service", lambda it, odd: it.health(odd), ODD),
    "instances": ("timeout", lambda it, odd: it.discover("player").instances(timeout=odd), [True, "1", -1, 0]),
    "policy": ("policy", lambda it, odd: it.balancer("player", policy=odd), [7, b"x", [], "x" * 5000, "no\nsuch"]),
    "credentials": ("credentials", lambda it, odd: it.channel("player", credentials=odd), ODD),
    "key": ("key", lambda it, odd: it.balancer("player").get(odd), [1.5, object(), [], {}]),
    "exclude": ("exclude", lambda it, odd: it.balancer("player").get(exclude=odd), [7, "a", b"x", [3], [None]]),
    "request": ("exclude", lambda it, odd: it.balancer("player").request(exclude=odd), [7, "a", [3]]),
    "call key": ("key", lambda it, odd: it.balancer("player").call(CALL, b"", key=odd), [1.5, object(), []]),
    "call": ("request", lambda it, odd: it.balancer("player").call(CALL, odd), [7, "text", None, [], object()]),
    "call timeout": ("timeout", lambda it, odd: it.balancer("player").call(CALL, b"", timeout=odd), ["1", 0, -1, []]),
    "metadata": (
        "metadata",
        lambda it, odd: it.balancer("player").call(CALL, b"", metadata=odd),
        [None, 7, "ab", {"a": "b"}, [3], [("a",)], [("a", 3)]],
    ),
    "monitor": ("service", lambda it, odd: it.monitor(odd, HealthCheck.tcp()), [*ODD, ""]),
    "check": ("check", lambda it, odd: it.monitor("player", odd), [None, 7, "tcp", print, lambda it: True]),
    "pace": ("check.interval", lambda it, odd: it.monitor("player", HealthCheck.tcp(), interval=odd), ["1", 0, True]),
    "on_change": ("on_change", lambda it, odd: it.monitor("player", HealthCheck.tcp(), on_change=odd), [7, "f"]),
    "on_health": ("callback", lambda it, odd: it.on_health("player", odd), [7, None, "f"]),
    "parse": ("check", lambda _, odd: HealthCheck.parse(odd), [*ODD, None, "", "tpc"]),
    "checks": ("instance.checks", lambda _, odd: player(checks=odd), [*ODD, None, {}]),
    "results": ("instance.check_results", lambda _, odd: player(check_results=odd), [*ODD, None, {"a": "b"}]),
    "clock": ("clock", lambda _, odd: testing.registry(odd), [7, "now"]),
    "policies": ("namespace", lambda it, odd: it.policy.list(namespace=odd, all_namespaces=True), ["prod", 7]),
    "loads": ("namespace", lambda it, odd: it.xds_clients.loads(namespace=odd, all_namespaces=True), ["prod", 7]),
    "once": ("instance", lambda _, odd: testing.register_once("h1", odd), [None, "player", {}]),
    "many": ("registries", lambda _, odd: registry_client.connect_many(odd), [None, 7, "h1", ["h1"], {}]),
    "cache": ("cache_dir", lambda _, odd: registry_client.connect("h1", cache_dir=odd), [7, "", b""]),
}


@pytest.mark.parametrize("what", USES)
async def test_a_value_of_another_kind_is_refused_with_its_field(inside: RegistryClient, what: str) -> None:
    field, use, values = USES[what]
    for odd in values:
        with pytest.raises(InvalidArgument) as refused:
            await _done(use(inside, odd))
        assert refused.value.field.startswith(field), odd
        assert len(str(refused.value)) < 500
        assert "\n" not in str(refused.value)


async def _done(result: object) -> None:
    if isinstance(result, Awaitable):
        async with asyncio.timeout(AT_ONCE_S):
            await result


@pytest.mark.parametrize("odd", [None, 7, b"h1", "", "h1:x", ["h1"]])
def test_an_address_that_is_none(odd: Any) -> None:
    with pytest.raises(InvalidTarget):
        testing.register_once(odd, player())


@pytest.mark.parametrize("odd", ["1", None, [], True])
def test_a_time_that_is_none(odd: Any) -> None:
    with pytest.raises(TypeError, match="must be a number"):
        testing.Clock().advance(odd)


def test_a_time_without_an_end() -> None:
    for odd in (float("inf"), float("nan"), -1):
        with pytest.raises(ValueError, match="0 or more"):
            testing.Clock().advance(odd)


def test_results_that_are_some() -> None:
    result = CheckResult("tcp", registry_client.Health.HEALTHY, "", None, 0)
    assert player(check_results=[result]).check_results == (result,)


# ---- another loop, and a fork


async def test_another_loop_is_told_at_once(inside: RegistryClient) -> None:
    players, balanced = inside.discover("player"), inside.balancer("player")
    monitor = inside.monitor("player", HealthCheck.tcp())
    following = inside.watch_events("player")
    await players.instances()
    uses: list[Callable[[], Any]] = [
        players.instances,
        inside.discover("other").instances,
        balanced.get,
        lambda: balanced.call(CALL, b"", timeout=1),
        lambda: balanced.request().__aenter__(),
        balanced.aclose,
        monitor.aclose,
        following.__anext__,
        following.aclose,
    ]

    def other_thread() -> None:
        for use in uses:
            with pytest.raises(Misuse, match="belongs to the event loop of the thread"):
                asyncio.run(_awaited(use()))

    await balanced.aclose()
    async with asyncio.timeout(AT_ONCE_S):
        await asyncio.to_thread(other_thread)
    assert [it.id for it in await players.instances()] == ["a"]
    await monitor.aclose()
    async with following:
        await eventually_async(lambda: following.is_current)
        await inside.update("player", "a", weight=7)
        assert (await anext(following)).cause == "UPDATED"


async def _awaited(awaitable: Awaitable[object]) -> None:
    await awaitable


def test_what_a_fork_inherits_says_so(server: RegistryServer) -> None:
    """And leaves alone what is the parent's."""
    said = forked(
        server,
        """
        from registry_client import HealthCheck
        with sync.connect(ADDRESS, cache_dir=None) as registry, registry.register(instance(), drain=0):
            players, balanced = registry.discover("player"), registry.balancer("player")
            monitor = registry.monitor("player", HealthCheck.tcp())
            players.instances(), balanced.get()
            many = sync.connect_many({"one": ADDRESS}, cache_dir=None)
            with many, many.register(instance(8002), drain=0) as registered:
                in_child(
                    ("instances", players.instances),
                    ("get", balanced.get),
                    ("call", lambda: balanced.call("/a.B/C", b"", timeout=1)),
                    ("stats", monitor.stats),
                    ("update", lambda: registered.update(weight=1)),
                    ("list", many.list),
                    ("member", many["one"].list),
                    ("close", balanced.close),
                    ("close", monitor.close),
                    ("leave", registered.close),
                    ("close", many.close),
                )
                say(len(registry.list("player")), len(players.instances()))
        """,
    )
    refused = ["instances", "get", "call", "stats", "update", "list", "member"]
    assert said == [
        *(f"{what} Misuse" for what in refused),
        *(f"{what} works" for what in ("close", "close", "leave", "close")),
        "2 2",
    ]


def test_what_a_fork_inherits_in_a_loop_says_so(server: RegistryServer) -> None:
    said = forked(
        server,
        """
        from registry_client import HealthCheck
        async def main():
            many = registry_client.connect_many({"one": ADDRESS}, cache_dir=None)
            async with many, many.register(instance(), drain=0) as registered:
                players, balanced = many.discover("player"), many.balancer("player")
                monitor = many["one"].monitor("player", HealthCheck.tcp())
                following = many["one"].watch_events("player")
                await players.instances()
                def drive(coroutine):
                    try:
                        coroutine.send(None)  # it ends before it waits for anything
                    except StopIteration:
                        pass
                in_child(
                    ("instances", lambda: drive(players.instances())),
                    ("get", lambda: drive(balanced.get())),
                    ("update", lambda: drive(registered.update(weight=1))),
                    ("event", lambda: drive(following.__anext__())),
                    ("events", lambda: drive(following.aclose())),
                    ("close", lambda: drive(balanced.aclose())),
                    ("monitor", lambda: drive(monitor.aclose())),
                    ("leave", lambda: drive(registered.aclose())),
                    ("many", lambda: drive(many.aclose())),
                )
                say(len(await many.list("player")))
        asyncio.run(main())
        """,
    )
    assert said == [
        *(f"{what} Misuse" for what in ("instances", "get", "update", "event")),
        *(f"{what} works" for what in ("events", "close", "monitor", "leave", "many")),
        "1",
    ]


def test_a_registry_for_tests_is_the_parents_after_a_fork(server: RegistryServer) -> None:
    said = forked(
        server,
        """
        from registry_client import testing
        running = testing.registry()
        with running as address:
            in_child(("leave", lambda: running.__exit__(None, None, None)))
            with sync.connect(address, cache_dir=None) as registry:
                say(len(registry.list()))
        """,
    )
    assert said == ["leave works", "0"]


# ---- twice, and before its time


async def test_a_request_is_entered_once(inside: RegistryClient) -> None:
    players = inside.balancer("player")
    call = players.request()
    for use in (lambda: call.instance, call.mark_failed):
        with pytest.raises(Misuse, match="not entered"):
            use()
    with pytest.raises(Misuse, match="not entered"):
        await call.__aexit__(None, None, None)
    async with call:
        with pytest.raises(Misuse, match="entered already"):
            await call.__aenter__()
    [node] = players.stats().nodes
    assert (node.calls, node.in_flight) == (1, 0)


async def test_a_request_is_left_once(inside: RegistryClient) -> None:
    players = inside.balancer("player")
    async with players.request() as call:
        await call.__aexit__(None, None, None)
    await call.__aexit__(None, None, None)
    [node] = players.stats().nodes
    assert (node.calls, node.in_flight) == (1, 0)


async def test_of_two_who_enter_a_request_at_once_one_does() -> None:
    async with registry_client.connect("memory:") as client:
        players = client.balancer("player")
        call = players.request()
        entering = asyncio.create_task(call.__aenter__())  # waits, as nobody is known yet
        await asyncio.sleep(0)
        with pytest.raises(Misuse, match="entered already"):
            await call.__aenter__()
        with pytest.raises(NotFound):
            await entering
        with pytest.raises(NotFound):
            await call.__aenter__()


async def test_a_request_that_has_nobody_counts_none(inside: RegistryClient) -> None:
    players = inside.balancer("nobody")
    with pytest.raises(NotFound):
        await players.request().__aenter__()
    assert players.stats().nodes == ()


async def test_a_registry_for_tests_may_be_entered_again(inside: RegistryClient) -> None:
    running = testing.registry()
    for _ in range(2):
        async with running as address:
            with pytest.raises(Misuse, match="entered already"):
                await running.__aenter__()
            testing.register_once(address, player("b"))
            async with registry_client.connect(address) as registry:
                assert [it.id for it in await registry.list()] == ["b"]
    await running.__aexit__()


# ---- nobody holds it any more


async def test_a_balancer_that_is_dropped_leaves_no_channel(inside: RegistryClient) -> None:
    players = inside.balancer("player")
    with pytest.raises(grpc.aio.AioRpcError):
        await players.call(CALL, b"", timeout=0.2)

    def running() -> bool:
        gc.collect()
        return any("channel" in task.get_name() or "resolver" in task.get_name() for task in asyncio.all_tasks())

    del players
    await eventually_async(lambda: not running())


async def test_a_monitor_that_is_dropped_goes_on(inside: RegistryClient) -> None:
    """It was begun for what it does, and not for what it is: it ends with its client."""
    looked = asyncio.Event()

    async def look(_: Instance) -> bool:
        looked.set()
        return True

    inside.monitor("player", look, interval=0.1, successes=1)
    gc.collect()
    await asyncio.wait_for(looked.wait(), 10)
    looked.clear()
    await asyncio.wait_for(looked.wait(), 10)


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()])
async def test_a_check_that_leaves_has_failed(inside: RegistryClient, error: BaseException) -> None:
    async def look(_: Instance) -> bool:
        raise error

    async def told(*_: object) -> None:
        raise error

    async with inside.monitor("player", look, interval=0.1, failures=2, on_change=told) as monitor:
        await eventually_async(lambda: monitor.stats().unhealthy == 1)


async def test_who_was_registered_anew_is_told_of_anew() -> None:
    """A sick one that its supervisor started again is not taken for well because it was told of before."""

    async def look(_: Instance) -> bool:
        return False

    with testing.registry() as address:
        async with registry_client.connect(address) as client:

            async def is_unhealthy() -> bool:
                return (await client.get("player", "a")).health == "UNHEALTHY"

            await asyncio.to_thread(testing.register_once, address, player("a"), 3600)
            async with client.monitor("player", look, interval=0.1, failures=2):
                await eventually_async(is_unhealthy)
                for _ in range(2):
                    await asyncio.to_thread(testing.register_once, address, player("a"), 3600)
                    await eventually_async(is_unhealthy)


# ---- this process stands still


async def test_a_look_that_this_process_held_up_blames_nobody(inside: RegistryClient) -> None:
    looks = 0

    async def look(_: Instance) -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            loop = asyncio.get_running_loop()
            loop.call_soon(threading.Event().wait, 2.0)  # the loop is busy, and the answer came meanwhile
            await asyncio.sleep(0)
            await asyncio.get_running_loop().run_in_executor(None, threading.Event().wait, 0.05)
        return True

    changes: list[str] = []
    async with inside.monitor(
        "player", look, interval=0.2, timeout=0.5, failures=1, successes=1, on_change=lambda *it: changes.append(it[2])
    ) as monitor:
        await eventually_async(lambda: looks >= 2 and monitor.stats().healthy == 1)
    assert changes == ["HEALTHY"]


def test_threads_use_what_is_theirs() -> None:
    """A front of a client that was closed and entered again is not a front of its next life."""
    with testing.registry() as address:
        testing.register_once(address, player("a"))
        client = sync.connect(address)
        with client:
            players, balanced = client.discover("player"), client.balancer("player")
            assert players.instances()[0].id == balanced.get().id == "a"
        with client:
            for use in (players.instances, balanced.get):
                with pytest.raises(registry_client.ClientClosed):
                    use()
            balanced.close()
