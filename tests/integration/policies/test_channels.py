"""Channels and balancers follow the traffic policy of their service while they run, against real back ends."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

import registry_client
import registry_client.link
from examples.game import game_pb2, game_pb2_grpc
from registry_client import (
    Instance,
    OutlierDetection,
    RegistryClient,
    Retries,
    TrafficPart,
    TrafficPolicy,
)
from registry_client.link import SILENT_S, Link
from registry_client.watcher import Links
from tests.integration.client.conftest import cache_home, registry, server
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async

__all__ = ["cache_home", "registry", "server"]

WAIT_S = 20.0
Stub = "game_pb2_grpc.PlayerAsyncStub"


class Player(game_pb2_grpc.PlayerServicer):
    """Says who answered; fails or takes its time when the test says so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = 0
        self.fails = 0
        self.told: list[dict[str, str | bytes]] = []
        self.gate: asyncio.Event | None = None

    async def Join(
        self, request: game_pb2.JoinRequest, context: grpc.aio.ServicerContext[game_pb2.JoinRequest, game_pb2.JoinReply]
    ) -> game_pb2.JoinReply:
        self.asked += 1
        self.told.append(dict(context.invocation_metadata() or ()))
        if self.fails:
            self.fails -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as the test says")
        if self.gate is not None:
            await self.gate.wait()
        return game_pb2.JoinReply(server=self.name)


class Fleet:
    """Back ends in this process, registered by one client."""

    def __init__(self, registry: RegistryClient) -> None:
        self.registry = registry
        self.players: dict[str, Player] = {}
        self._stack = contextlib.AsyncExitStack()

    async def start(self, name: str, version: str = "1.0", **fields: object) -> Player:
        player = self.players[name] = Player(name)
        server = grpc.aio.server()
        game_pb2_grpc.add_PlayerServicer_to_server(player, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._stack.push_async_callback(server.stop, None)
        instance = Instance("player", "127.0.0.1", port, id=name, version=version, **fields)  # type: ignore[arg-type]
        await self._stack.enter_async_context(self.registry.register(instance, drain=0))
        return player

    async def aclose(self) -> None:
        await self._stack.aclose()

    async def put(self, **fields: object) -> None:
        await self.registry.policy.put(TrafficPolicy("player", **fields))  # type: ignore[arg-type]


@pytest.fixture
async def fleet(registry: RegistryClient) -> AsyncIterator[Fleet]:
    them = Fleet(registry)
    yield them
    for player in them.players.values():
        if player.gate is not None:
            player.gate.set()
    await them.aclose()


@contextlib.asynccontextmanager
async def stub_to(server: RegistryServer, query: str = "", **options: object) -> AsyncIterator[Stub]:
    url = f"registry://{server.address}/player{query}"
    async with registry_client.aio.channel(url, **options) as channel:  # type: ignore[arg-type]
        yield game_pb2_grpc.PlayerStub(channel)


async def answers(stub: Stub, calls: int, **fields: object) -> Counter[str]:
    replies = [await stub.Join(game_pb2.JoinRequest(player="x"), timeout=10, **fields) for _ in range(calls)]
    return Counter(reply.server for reply in replies)


async def until(stub: Stub, names: set[str], calls: int = 40) -> None:
    """Call until so many calls in a row are answered by just these."""

    async def is_so() -> bool:
        return (await answers(stub, calls)).keys() == names

    async with asyncio.timeout(WAIT_S):
        while not await is_so():
            pass


async def test_a_canary_gets_its_share_and_no_more(server: RegistryServer, fleet: Fleet) -> None:
    for name, version in (("a", "1.0"), ("b", "1.0"), ("canary", "2.0")):
        await fleet.start(name, version)
    await fleet.put(split={"version=1.0": 90, "version=2.0": 10})
    async with stub_to(server) as stub:
        await until(stub, {"a", "b", "canary"})
        counts = await answers(stub, 2_000)
        assert counts["canary"] / 2_000 == pytest.approx(0.1, abs=0.03)
        assert counts["a"] / counts["b"] == pytest.approx(1, abs=0.05)
        await fleet.put(split={"version=2.0": 1, "rest": 0})
        await until(stub, {"canary"})
        await fleet.put(split=[TrafficPart(1, version="3.0")])
        await until(stub, {"a", "b", "canary"})
        await fleet.put(split={"version=2.0": 0, "rest": 1})
        await until(stub, {"a", "b"})
        await fleet.registry.policy.delete("player")
        await until(stub, {"a", "b", "canary"})


async def test_from_the_first_call_on_nobody_goes_where_the_policy_would_not_have_it(
    server: RegistryServer, fleet: Fleet
) -> None:
    await fleet.start("a")
    canary = await fleet.start("canary", "2.0")
    await fleet.put(split={"version=1.0": 1, "version=2.0": 0})
    for _ in range(5):
        async with stub_to(server) as stub:
            assert await answers(stub, 10) == {"a": 10}
    assert canary.asked == 0


async def test_the_share_of_a_part_without_anybody_goes_to_the_others(server: RegistryServer, fleet: Fleet) -> None:
    await fleet.put(split={"tag=canary": 50, "rest": 50})
    await fleet.start("a")
    async with stub_to(server) as stub:
        await until(stub, {"a"})
        await fleet.start("canary", tags=["canary"])
        await until(stub, {"a", "canary"})
        await fleet.registry.update("player", "canary", status="DRAINING")
        await until(stub, {"a"})


async def test_channels_for_threads_follow_too(server: RegistryServer, fleet: Fleet) -> None:
    await fleet.start("a")
    await fleet.start("canary", "2.0")
    await fleet.put(split={"version=1.0": 0, "version=2.0": 1})
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def call() -> None:
        with registry_client.channel(f"registry://{server.address}/player") as channel:
            stub = game_pb2_grpc.PlayerStub(channel)
            seen = {stub.Join(game_pb2.JoinRequest(player="x"), timeout=10).server for _ in range(20)}
            assert seen == {"canary"}
            loop.call_soon_threadsafe(changed.set)
            while seen != {"a", "canary"}:
                seen = {stub.Join(game_pb2.JoinRequest(player="x"), timeout=10).server for _ in range(40)}

    calling = asyncio.create_task(asyncio.to_thread(call))
    await asyncio.wait_for(changed.wait(), WAIT_S)
    await fleet.registry.policy.delete("player")
    await asyncio.wait_for(calling, WAIT_S)


async def test_metadata_that_can_be_had_once_is_told_by_every_attempt(server: RegistryServer, fleet: Fleet) -> None:
    await fleet.start("a")
    await fleet.put(balancing="RING_HASH", hash_header="player-id", retries=Retries(2, backoff=0.005))
    player = fleet.players["a"]

    def call() -> None:
        with registry_client.channel(f"registry://{server.address}/player") as channel:
            join = game_pb2_grpc.PlayerStub(channel).Join
            join(game_pb2.JoinRequest(player="x"), timeout=10)
            for begin in (join, lambda *given, **named: join.future(*given, **named).result()):
                player.told.clear()
                player.fails = 2
                pairs = iter([("player-id", "7"), ("token", "t")])
                begin(game_pb2.JoinRequest(player="x"), timeout=10, metadata=pairs)
                assert [(it.get("player-id"), it.get("token")) for it in player.told] == [("7", "t")] * 3

    await asyncio.to_thread(call)


async def test_calls_that_fail_are_tried_again(server: RegistryServer, fleet: Fleet) -> None:
    sick, well = await fleet.start("sick"), await fleet.start("well")
    async with stub_to(server) as stub:
        await until(stub, {"sick", "well"})
        sick.fails = 1_000_000
        await fleet.put(retries=Retries(3, backoff=0.005))

        async def all_go_well() -> bool:
            with contextlib.suppress(grpc.aio.AioRpcError):
                return (await answers(stub, 20)) == {"well": 20}
            return False

        async with asyncio.timeout(WAIT_S):
            while not await all_go_well():
                pass
        assert well.asked


async def test_calls_end_when_their_time_is_over(server: RegistryServer, fleet: Fleet) -> None:
    player = await fleet.start("a")
    async with stub_to(server) as stub:
        await until(stub, {"a"})
        player.gate = asyncio.Event()
        await fleet.put(timeout=0.3)

        async def outcome() -> grpc.StatusCode:
            call = stub.Join(game_pb2.JoinRequest(player="x"), timeout=5)
            return await call.code()

        began = asyncio.get_running_loop().time()
        assert await outcome() is grpc.StatusCode.DEADLINE_EXCEEDED  # which may have begun before the policy was there
        between = asyncio.get_running_loop().time()
        assert await outcome() is grpc.StatusCode.DEADLINE_EXCEEDED
        ended = asyncio.get_running_loop().time()
        assert ended - between < 4.0, f"after {between - began:.1f} s the policy was there"


async def test_one_call_too_many_fails_at_once_even_if_it_would_wait(server: RegistryServer, fleet: Fleet) -> None:
    player = await fleet.start("a")
    await fleet.put(circuit_breaking=2)
    async with stub_to(server) as stub:
        await until(stub, {"a"}, calls=1)
        player.gate = asyncio.Event()
        calls = [stub.Join(game_pb2.JoinRequest(player="x"), timeout=30) for _ in range(2)]
        asked = player.asked
        await eventually_async(lambda: player.asked >= asked + 2 or player.asked > 2)
        for waits in (False, True):
            with pytest.raises(grpc.aio.AioRpcError, match="circuit breaker: 2 calls") as error:
                await stub.Join(game_pb2.JoinRequest(player="x"), timeout=20, wait_for_ready=waits)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        player.gate.set()
        assert [(await call).server for call in calls] == ["a", "a"]
        assert await answers(stub, 3) == {"a": 3}


async def test_hashing_by_a_header(server: RegistryServer, fleet: Fleet) -> None:
    for name in "abc":
        await fleet.start(name)
    await fleet.put(balancing="RING_HASH", hash_header="player-id")
    async with stub_to(server) as stub:
        await until(stub, {"a", "b", "c"})
        homes = set()
        for number in range(30):
            found = await answers(stub, 3, metadata=(("player-id", str(number)),))
            assert len(found) == 1
            homes |= found.keys()
        assert len(homes) > 1
        keys = [(("player-id", str(number)),) for number in range(10)]
        at_home = [await answers(stub, 1, metadata=key) for key in keys]
        for key, home in zip(keys, at_home, strict=True):
            async with stub_to(server) as fresh:
                assert await answers(fresh, 1, metadata=key) == home, "from the first call of a channel on"
        await fleet.put(balancing="PICK_FIRST")

        async def is_one() -> bool:
            return len(await answers(stub, 30)) == 1

        async with asyncio.timeout(WAIT_S):
            while not await is_one():
                pass


async def test_who_fails_in_a_row_is_ejected(server: RegistryServer, fleet: Fleet) -> None:
    await fleet.start("a")
    sick = await fleet.start("sick")
    await fleet.put(outlier_detection=OutlierDetection(consecutive_failures=3, base_ejection_time=60))
    sick.fails = 1_000_000
    async with stub_to(server) as stub:

        async def only_one_answers() -> bool:
            asked = sick.asked
            for _ in range(10):
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await answers(stub, 1)
            return sick.asked == asked and asked >= 3

        async with asyncio.timeout(WAIT_S):
            while not await only_one_answers():
                pass
        await fleet.put(timeout=10.0)
        sick.fails = 0
        await until(stub, {"a", "sick"})


async def test_what_the_url_and_the_arguments_say_goes_first(server: RegistryServer, fleet: Fleet) -> None:
    for name in "ab":
        await fleet.start(name)
    await fleet.put(balancing="PICK_FIRST", retries=Retries(3, backoff=0.005))
    async with stub_to(server, "?policy=round_robin") as stub:
        await until(stub, {"a", "b"}, calls=10)
    config = '{"loadBalancingConfig": [{"round_robin": {}}]}'
    async with stub_to(server, options=[("grpc.service_config", config)]) as stub:
        await until(stub, {"a", "b"}, calls=10)
        for player in fleet.players.values():
            player.fails = 1
        with pytest.raises(grpc.aio.AioRpcError, match="as the test says"):
            await answers(stub, 1)
        for player in fleet.players.values():
            player.fails = 0
    async with stub_to(server) as stub:
        assert len(await answers(stub, 20)) == 1


async def test_channels_and_balancers_of_a_client_share_what_they_follow(server: RegistryServer, fleet: Fleet) -> None:
    await fleet.start("a")
    await fleet.start("canary", "2.0")
    await fleet.put(split={"version=1.0": 0, "version=2.0": 1})
    async with registry_client.connect(server.address) as client, client.channel("player") as channel:
        players = client.balancer("player")
        assert {(await players.get()).id for _ in range(20)} == {"canary"}
        stub = game_pb2_grpc.PlayerStub(channel)
        assert await answers(stub, 20) == {"canary": 20}
        await fleet.put(balancing="ROUND_ROBIN")
        await until(stub, {"a", "canary"})
        assert {(await players.get()).id for _ in range(20)} == {"a", "canary"}
        await fleet.put(balancing="RING_HASH", hash_header="id")

        async def homes(key: int) -> int:
            return len({(await players.get(key)).id for _ in range(5)})

        async with asyncio.timeout(WAIT_S):
            while max([await homes(key) for key in range(20)]) > 1:
                await answers(stub, 1)
        assert {(await players.get(key)).id for key in range(50)} == {"a", "canary"}


async def test_a_registry_that_restarts_loses_no_policy_for_those_who_follow_it(
    server: RegistryServer, fleet: Fleet
) -> None:
    """It does lose it itself, being of memory: what it says then holds, as soon as it is back."""
    await fleet.start("a")
    await fleet.start("canary", "2.0")
    await fleet.put(split={"version=1.0": 0, "version=2.0": 1})
    async with stub_to(server) as stub:
        await until(stub, {"canary"})
        server.kill()
        assert await answers(stub, 20) == {"canary": 20}
        server.start()
        await until(stub, {"a", "canary"})


async def test_a_connection_that_is_given_up_does_not_end_what_follows(
    server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    links: list[Link] = []
    take = Links.take

    def taken(self: Links) -> Link:
        links.append(take(self))
        return links[-1]

    monkeypatch.setattr(Links, "take", taken)
    monkeypatch.setattr(registry_client.link, "GRACE_S", 0.1)
    async with registry_client.connect(server.address) as registry:
        traffic = registry.traffic("player")
        await traffic.known()
        await registry.policy.put(TrafficPolicy("player", timeout=1))
        await eventually_async(lambda: traffic.policy is not None, timeout_s=5)
        [link] = set(links)
        link.retire(link.current, SILENT_S)
        await eventually_async(lambda: not link._retired, timeout_s=5)
        await registry.policy.delete("player")
        await eventually_async(lambda: traffic.policy is None, timeout_s=5)
