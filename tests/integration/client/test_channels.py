"""`registry://` channels: stubs over what the registry knows, against real servers and real back ends."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import grpc.aio
import pytest

import registry_client
from examples.game import game_pb2, game_pb2_grpc
from registry_client import Instance, InvalidTarget, RegistryClient
from tests.integration.client.conftest import until
from tests.integration.client.test_registering import nobody_there
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async

WEIGHTS = {"anna": 1, "bert": 1, "cleo": 3}


class Player(game_pb2_grpc.PlayerServicer):
    """Says who answered."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def Join(
        self, request: game_pb2.JoinRequest, context: grpc.aio.ServicerContext[game_pb2.JoinRequest, game_pb2.JoinReply]
    ) -> game_pb2.JoinReply:
        return game_pb2.JoinReply(server=self._name)


@dataclass
class BackEnds:
    """Game servers in this process, registered."""

    registry: RegistryClient
    running: dict[str, grpc.aio.Server] = field(default_factory=dict)
    registrations: dict[str, registry_client.Registration] = field(default_factory=dict)

    async def start(self, name: str, weight: int = 1, **fields: object) -> None:
        server = grpc.aio.server()
        game_pb2_grpc.add_PlayerServicer_to_server(Player(name), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        instance = Instance(service="player", host="127.0.0.1", port=port, id=name, weight=weight, **fields)  # type: ignore[arg-type]
        self.running[name] = server
        self.registrations[name] = await self.registry.register(instance, ttl=2, drain=0.2)

    async def stop(self, name: str) -> None:
        await self.registrations.pop(name).aclose()
        await self.running.pop(name).stop(5)


@pytest.fixture
async def back_ends(registry: RegistryClient) -> AsyncIterator[BackEnds]:
    them = BackEnds(registry)
    yield them
    for server in them.running.values():
        await server.stop(None)


async def answers(stub: "game_pb2_grpc.PlayerAsyncStub", calls: int) -> Counter[str]:
    replies = [await stub.Join(game_pb2.JoinRequest(player="x"), timeout=10) for _ in range(calls)]
    return Counter(reply.server for reply in replies)


@contextlib.asynccontextmanager
async def stub_for(target: str, **options: object) -> AsyncIterator["game_pb2_grpc.PlayerAsyncStub"]:
    async with registry_client.aio.channel(target, **options) as channel:  # type: ignore[arg-type]
        yield game_pb2_grpc.PlayerStub(channel)


async def ready(stub: "game_pb2_grpc.PlayerAsyncStub", names: set[str]) -> None:
    """Call until all of them have answered."""
    async with asyncio.timeout(20):
        missing = set(names)
        while missing:
            missing -= (await answers(stub, 1)).keys()


async def test_calls_divide_by_weight(server: RegistryServer, back_ends: BackEnds) -> None:
    for name, weight in WEIGHTS.items():
        await back_ends.start(name, weight)
    async with stub_for(f"registry://{server.address}/player") as stub:
        await ready(stub, set(WEIGHTS))
        # Smooth weighted round robin is exact over a period of 5.
        assert await answers(stub, 50) == {"anna": 10, "bert": 10, "cleo": 30}


async def test_a_policy_may_be_asked_for_in_the_url_or_as_an_argument(
    server: RegistryServer, back_ends: BackEnds
) -> None:
    for name, weight in WEIGHTS.items():
        await back_ends.start(name, weight)
    even = {"anna": 10, "bert": 10, "cleo": 10}
    async with stub_for(f"registry://{server.address}/player?policy=round_robin") as stub:
        await ready(stub, set(WEIGHTS))
        assert await answers(stub, 30) == even
    async with stub_for(f"registry://{server.address}/player?policy=random", policy="round_robin") as stub:
        await ready(stub, set(WEIGHTS))
        assert await answers(stub, 30) == even


async def test_a_channel_of_threads(server: RegistryServer, back_ends: BackEnds) -> None:
    await back_ends.start("anna")
    await back_ends.start("bert")

    def call() -> Counter[str]:
        with registry_client.channel(f"registry://{server.address}/player?policy=round_robin") as channel:
            stub = game_pb2_grpc.PlayerStub(channel)
            seen: Counter[str] = Counter()
            while len(seen) < 2:
                seen[stub.Join(game_pb2.JoinRequest(player="x"), timeout=10).server] += 1
            return seen

    assert (await asyncio.wait_for(asyncio.to_thread(call), 20)).keys() == {"anna", "bert"}


async def test_a_rolling_restart_fails_no_call(server: RegistryServer, back_ends: BackEnds) -> None:
    for name in WEIGHTS:
        await back_ends.start(name)
    async with stub_for(f"registry://{server.address}/player") as stub:
        await ready(stub, set(WEIGHTS))
        stopping = asyncio.Event()

        async def call_on_and_on() -> int:
            calls = 0
            while not stopping.is_set():
                await answers(stub, 1)
                calls += 1
            return calls

        callers = [asyncio.create_task(call_on_and_on()) for _ in range(4)]
        for name in WEIGHTS:
            await back_ends.stop(name)
            await back_ends.start(f"{name}-2")
        await ready(stub, {f"{name}-2" for name in WEIGHTS})
        stopping.set()
        assert sum(await asyncio.gather(*callers)) > 100


async def test_a_channel_outlives_the_registry(server: RegistryServer, back_ends: BackEnds) -> None:
    """StaleBeatsEmpty: while the registry is away, and when it comes back without its memory."""
    await back_ends.start("anna")
    async with stub_for(f"registry://{server.address}/player") as stub:
        await ready(stub, {"anna"})
        server.kill()
        assert await answers(stub, 20) == {"anna": 20}
        await server.start_async()
        watch = back_ends.registry.watch("player")
        await until(watch, lambda view: len(view.endpoints) == 1 and not view.unconfirmed and view.stale_for is None)
        assert await answers(stub, 20) == {"anna": 20}


async def test_calls_wait_for_the_first_instance_if_asked_to(server: RegistryServer, back_ends: BackEnds) -> None:
    async with stub_for(f"registry://{server.address}/player") as stub:
        waiting = asyncio.ensure_future(stub.Join(game_pb2.JoinRequest(player="x"), timeout=20, wait_for_ready=True))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Join(game_pb2.JoinRequest(player="x"), timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "no instance of player is registered" in str(caught.value.details())
        await back_ends.start("anna")
        assert (await waiting).server == "anna"


async def reason(stub: "game_pb2_grpc.PlayerAsyncStub") -> str:
    """Why a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Join(game_pb2.JoinRequest(player="x"), timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return str(caught.value.details())


async def test_calls_are_told_how_many_there_are_and_why_none_is_meant(
    server: RegistryServer, back_ends: BackEnds, registry: RegistryClient
) -> None:
    await back_ends.start("anna", tags=["eu"])
    async with stub_for(f"registry://{server.address}/player?tags=us") as filtered:
        assert "no instance of player is meant: of 1 registered, 1 not matching the filter" in await reason(filtered)
    async with stub_for(f"registry://{server.address}/player") as stub:
        assert await answers(stub, 5) == {"anna": 5}
        await registry.update("player", "anna", health="CRITICAL")
        await until(registry.watch("player"), lambda view: not view.endpoints)
        lack = "no instance of player gets traffic: of 1 registered, 1 critical"
        await eventually_async(lambda: failed_for(stub, lack), what=lack)


async def test_the_proxy_of_the_environment_is_for_the_web_alone(
    server: RegistryServer, back_ends: BackEnds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rule on the way to the registry and to the instances, and an option that asks for a proxy gets one."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://{nobody_there()}")
    await back_ends.start("anna")
    target = f"registry://{server.address}/player"

    def call() -> str:
        with registry_client.channel(target) as channel:
            return game_pb2_grpc.PlayerStub(channel).Join(game_pb2.JoinRequest(player="x"), timeout=20).server

    async with stub_for(target) as stub, stub_for(target, options=[("grpc.enable_http_proxy", 1)]) as proxied:
        assert await answers(stub, 1) == {"anna": 1}
        assert await asyncio.to_thread(call) == "anna"
        assert "failed to connect" in await reason(proxied)


async def failed_for(stub: "game_pb2_grpc.PlayerAsyncStub", why: str) -> bool:
    try:
        await stub.Join(game_pb2.JoinRequest(player="x"), timeout=20)
    except grpc.aio.AioRpcError as error:
        return why in str(error.details())
    return False


async def test_calls_are_told_why_there_is_no_registry() -> None:
    async with stub_for(f"registry://{nobody_there()}/player") as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Join(game_pb2.JoinRequest(player="x"), timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "the registry cannot be reached" in str(caught.value.details())


async def test_filters_and_namespaces_in_the_url(server: RegistryServer, back_ends: BackEnds) -> None:
    await back_ends.start("anna", tags=["eu"], namespace="prod")
    await back_ends.start("bert", tags=["us"], namespace="prod")
    await back_ends.start("cleo", tags=["eu"])
    async with stub_for(f"registry://{nobody_there()},{server.address}/prod/player?tags=eu") as stub:
        assert await answers(stub, 10) == {"anna": 10}


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("http://h:1/player", "registry://"),
        ("registry:///player", "address"),
        ("registry://h:1", "path"),
        ("registry://h:1/", "path"),
        ("registry://h:1/a/b/c", "path"),
        ("registry://h:1/pl%20ayer", "service"),
        ("registry://h:1/-x/player", "namespace"),
        ("registry://h:99999/player", "port"),
        ("registry://h:1/player?policy=nonsense", "weighted_round_robin"),
        ("registry://h:1/player?colour=red", "colour"),
        ("registry://h:1/player?policy=random&policy=random", "twice"),
        ("registry://h:1/player?policy", "NAME=VALUE"),
    ],
)
def test_a_mistake_in_a_target_is_named(target: str, named: str) -> None:
    for make in (registry_client.channel, registry_client.aio.channel):
        with pytest.raises(InvalidTarget, match=named):
            make(target)


def test_a_policy_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="weighted_round_robin"):
        registry_client.channel("registry://h:1/player", policy="nonsense")
