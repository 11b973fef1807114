"""`discover`, `balancer`, `channel`, `policies`: what is registered, without a URL, over one watch for all."""

import asyncio
import contextlib
import gc
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import grpc
import grpc.aio
import pytest

import registry_client
from balancer import Endpoint
from examples.game import game_pb2, game_pb2_grpc
from registry_client import ClientClosed, Instance, InvalidArgument, NotFound, RegistryClient, RegistryUnavailable, sync
from tests.integration.client.conftest import player
from tests.integration.client.test_channels import Player, ready
from tests.support.waiting import eventually_async

JOIN = "/game.v1.Player/Join"


@pytest.fixture
async def inside() -> AsyncIterator[RegistryClient]:
    """A client and its registry."""
    async with registry_client.connect("memory:") as client:
        yield client


@contextlib.asynccontextmanager
async def serving(registry: RegistryClient, *names: str) -> AsyncIterator[None]:
    """Back ends that are registered."""
    async with contextlib.AsyncExitStack() as stack:
        for name in names:
            server = grpc.aio.server()
            game_pb2_grpc.add_PlayerServicer_to_server(Player(name), server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            stack.push_async_callback(server.stop, None)
            await stack.enter_async_context(registry.register(Instance("player", "127.0.0.1", port, name), drain=0))
        yield


def watches(registry: RegistryClient) -> int:
    return sum(task.get_name() == "registry-watch" for task in asyncio.all_tasks())


# ---- discover


async def test_the_first_asks_and_the_others_know(inside: RegistryClient) -> None:
    async with inside.register(player("a")):
        players = inside.discover("player")
        for _ in range(3):
            assert [it.id for it in await players.instances()] == ["a"]
    told = players.stats()
    assert (told.discoveries, told.cache_misses, told.cache_hits, told.errors, told.stale_for) == (3, 1, 2, 0, None)


async def test_it_follows_what_changes(inside: RegistryClient) -> None:
    players = inside.discover("player", tags=["eu"], healthy_only=True)
    assert await players.instances() == ()

    async def shows(*names: str) -> bool:
        return [it.id for it in await players.instances()] == list(names)

    async with inside.register(player("a", tags=["eu"]), drain=0), inside.register(player("b", 8002), drain=0):
        await eventually_async(lambda: shows("a"))
        await inside.update("player", "a", health="UNHEALTHY")
        await eventually_async(shows)


async def test_who_asks_the_same_shares_a_watch_that_ends_with_the_last_of_them(inside: RegistryClient) -> None:
    players = [inside.discover("player", tags=["eu"]) for _ in range(20)]
    others = inside.balancer("player", tags=["eu"])
    await asyncio.gather(*(it.instances() for it in players))
    assert watches(inside) == 1
    with pytest.raises(NotFound):
        await others.get()
    another = inside.discover("player")
    await another.instances()
    assert watches(inside) == 2
    del players, another
    gc.collect()
    await eventually_async(lambda: _is(watches(inside), 1))
    del others
    gc.collect()
    await eventually_async(lambda: _is(watches(inside), 0))


async def _is(value: object, other: object) -> bool:
    return value == other


async def test_no_registry_is_an_error_that_is_counted_and_gone_when_there_is_one() -> None:
    async with registry_client.connect("127.0.0.1:1", cache_dir=None) as registry:
        players = registry.discover("player")
        with pytest.raises(RegistryUnavailable, match="discover player: "):
            await players.instances(timeout=0.2)
        told = players.stats()
        assert (told.discoveries, told.cache_misses, told.errors) == (1, 1, 1)
        assert told.stale_for is not None


async def test_after_the_client_it_says_so(inside: RegistryClient) -> None:
    async with registry_client.connect(inside.addresses) as registry:
        players, waiting = registry.discover("player"), registry.discover("other")
        await players.instances()
    for closed in (players, waiting):
        with pytest.raises(ClientClosed):
            await closed.instances()
    async with registry_client.connect(inside.addresses) as registry:
        assert await registry.discover("player").instances() == ()


async def test_it_outlives_a_registry_that_is_away() -> None:
    async with registry_client.connect("memory:") as owner:
        await owner.register(player("a")).start()
        async with registry_client.connect(owner.addresses, cache_dir=None) as registry:
            players = registry.discover("player")
            assert [it.id for it in await players.instances()] == ["a"]
            await owner._session._inside.aclose()  # type: ignore[union-attr]
            await eventually_async(lambda: _is(players.stats().stale_for is None, False))
            assert [it.id for it in await players.instances()] == ["a"]


@pytest.mark.parametrize(("service", "filters"), [("", {}), ("a b", {}), ("player", {"tag": "eu"})])
async def test_bad_questions(inside: RegistryClient, service: str, filters: dict[str, object]) -> None:
    with pytest.raises((InvalidArgument, TypeError)):
        inside.discover(service, **filters)  # type: ignore[arg-type]


# ---- balancer


async def test_picks_by_turns_and_by_weight(inside: RegistryClient) -> None:
    async with inside.register(player("a", weight=1)), inside.register(player("b", 8002, weight=3)):
        players = inside.balancer("player")
        assert await _spread(players, 8) == {"a": 2, "b": 6}
        by_turns = inside.balancer("player", policy="round_robin")
        assert await _spread(by_turns, 8) == {"a": 4, "b": 4}


async def _spread(players: "registry_client.bridge.balanced.Balanced", calls: int) -> Counter[str]:
    return Counter([(await players.get()).id for _ in range(calls)])


async def test_who_drains_gets_nothing(inside: RegistryClient) -> None:
    async with inside.register(player("a"), drain=0), inside.register(player("b", 8002), drain=0):
        players = inside.balancer("player")
        await players.get()
        await inside.update("player", "a", status="DRAINING")

        async def only_b() -> bool:
            return set(await _spread(players, 4)) == {"b"}

        await eventually_async(only_b)


async def test_a_policy_for_each_service_and_a_function_is_one(inside: RegistryClient) -> None:
    asked: list[str | bytes | None] = []

    def last(endpoints: Sequence[Endpoint], key: str | bytes | None) -> Endpoint:
        asked.append(key)
        return max(endpoints, key=lambda it: it.id)

    inside.policies = {"player": last, "chat": "round_robin"}
    async with inside.register(player("a")), inside.register(player("b", 8002)):
        players = inside.balancer("player")
        assert (await players.get("k")).id == "b"
        assert asked == ["k"]
        assert (await players.get(exclude=[await players.get()])).id == "a"
        assert await _spread(inside.balancer("player", policy="round_robin"), 4) == {"a": 2, "b": 2}


async def test_a_function_that_makes_one_up_is_told(inside: RegistryClient) -> None:
    async with inside.register(player("a")):
        players = inside.balancer("player", policy=lambda endpoints, key: Endpoint("10.9.9.9:1"))
        with pytest.raises(ValueError, match="none of the endpoints"):
            await players.get()


@pytest.mark.parametrize("policy", ["round_robbin", 7, object])
async def test_a_policy_that_does_not_exist(inside: RegistryClient, policy: object) -> None:
    for make in (inside.balancer, inside.channel):
        with pytest.raises(InvalidArgument, match=r"^policy: "):
            make("player", policy=policy)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"^policy: "):
        inside.policies = {"player": policy}  # type: ignore[dict-item]
    with pytest.raises(InvalidArgument, match=r"^policies: "):
        inside.policies = "round_robin"  # type: ignore[assignment]


async def test_requests_are_counted(inside: RegistryClient) -> None:
    async with inside.register(player("a")):
        players = inside.balancer("player")
        async with players.request() as call:
            assert call.instance.id == "a"
        async with players.request() as call:
            call.mark_failed()
        with pytest.raises(KeyError):
            async with players.request():
                raise KeyError
        [node] = players.stats().nodes
        assert (node.calls, node.failures, node.in_flight) == (3, 2, 0)


async def test_why_there_is_none(inside: RegistryClient) -> None:
    with pytest.raises(NotFound, match="no instance of player is registered"):
        await inside.balancer("player").get()
    async with inside.register(player("a", status="DOWN")):
        with pytest.raises(NotFound, match="1 down"):
            await inside.balancer("player").get()
        with pytest.raises(NotFound, match="matches the filter"):
            await inside.balancer("player", tags=["eu"]).get()


# ---- calls


async def test_a_call_by_the_name_of_its_method(inside: RegistryClient) -> None:
    async with serving(inside, "a", "b"), inside.balancer("player", policy="round_robin") as players:
        answered: set[str] = set()
        while answered != {"a", "b"}:
            answer = await players.call(JOIN, game_pb2.JoinRequest().SerializeToString(), timeout=5)
            answered.add(game_pb2.JoinReply.FromString(answer).server)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await players.call("/game.v1.Player/Nothing", b"", timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_calls_by_name_are_in_the_statistics(inside: RegistryClient) -> None:
    """Beside those of `request`, and after the channel was closed."""
    async with serving(inside, "a"):
        players = inside.balancer("player")
        for _ in range(2):
            await players.call(JOIN, b"", timeout=5)
            with pytest.raises(KeyError):
                async with players.request():
                    raise KeyError
            [node] = players.stats().nodes
            assert node.in_flight == 0
            assert node.latency_s > 0
            await players.aclose()
        [node] = players.stats().nodes
        assert (node.calls, node.failures) == (4, 2)


async def test_a_key_keeps_a_call_where_it_was(inside: RegistryClient) -> None:
    async with serving(inside, "a", "b", "c"), inside.balancer("player", policy="consistent_hash") as players:
        request = game_pb2.JoinRequest().SerializeToString()
        for key in ("one", "two", "three"):
            answers = {await players.call(JOIN, request, key=key) for _ in range(5)}
            assert [game_pb2.JoinReply.FromString(it).server for it in answers] == [(await players.get(key)).id]


@pytest.mark.parametrize("method", ["", "Join", "game.v1.Player/Join", "/game.v1.Player.Join", 7])
async def test_a_method_that_is_none(inside: RegistryClient, method: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^method: "):
        await inside.balancer("player").call(method, b"")


async def test_a_channel_over_the_watch_of_the_client(inside: RegistryClient) -> None:
    async with serving(inside, "a", "b"), inside.channel("player", policy="round_robin") as channel:
        await ready(game_pb2_grpc.PlayerStub(channel), {"a", "b"})
        players = inside.discover("player")
        await players.instances()
        assert watches(inside) == 1


async def test_a_channel_says_why_there_is_nobody(inside: RegistryClient) -> None:
    for filters, why in (({}, "no instance of player is registered"), ({"tags": ["eu"]}, "matches the filter")):
        async with inside.channel("player", **filters) as channel:  # type: ignore[arg-type]
            with pytest.raises(grpc.aio.AioRpcError, match=why):
                await game_pb2_grpc.PlayerStub(channel).Join(game_pb2.JoinRequest(), timeout=5)


async def test_a_channel_outlives_its_client(inside: RegistryClient, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(inside, "a"):
        async with registry_client.connect(inside.addresses) as registry:
            channel = registry.channel("player")
            stub = game_pb2_grpc.PlayerStub(channel)
            assert (await stub.Join(game_pb2.JoinRequest(), timeout=5)).server == "a"
        assert (await stub.Join(game_pb2.JoinRequest(), timeout=5)).server == "a"
        await channel.close()
    assert not [it for it in caplog.records if it.levelno >= logging.WARNING and it.name.startswith("balancer")]


async def test_a_channel_that_knows_nobody_says_that_its_client_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    async with registry_client.connect("127.0.0.1:1", cache_dir=None) as registry:
        channel = registry.channel("player")
        calling = asyncio.ensure_future(game_pb2_grpc.PlayerStub(channel).Join(game_pb2.JoinRequest(), timeout=20))
        await asyncio.sleep(0)
    with pytest.raises(grpc.aio.AioRpcError, match="the client was closed"):
        await calling
    await channel.close()
    assert "resolver failed" not in caplog.text


# ---- threads


async def test_threads_have_all_of_it(inside: RegistryClient) -> None:
    async with serving(inside, "a", "b"):
        await asyncio.to_thread(_use_in_threads, inside.addresses)


def _use_in_threads(addresses: Sequence[str]) -> None:
    with sync.connect(addresses) as registry:
        registry.policies = {"player": "round_robin"}
        players = registry.discover("player")
        assert [it.id for it in players.instances()] == ["a", "b"]
        assert players.stats().cache_misses == 1
        with registry.balancer("player") as balanced:
            assert Counter(balanced.get().id for _ in range(4)) == {"a": 2, "b": 2}
            with balanced.request() as call:
                call.mark_failed()
            assert sum(node.failures for node in balanced.stats().nodes) == 1
            answer = balanced.call(JOIN, b"", timeout=5)
            assert game_pb2.JoinReply.FromString(answer).server in ("a", "b")
        with registry.channel("player") as channel:
            stub = game_pb2_grpc.PlayerStub(channel)
            answered: set[str] = set()
            while answered != {"a", "b"}:
                answered.add(stub.Join(game_pb2.JoinRequest(), timeout=5).server)
        outliving = registry.channel("player")
        stub = game_pb2_grpc.PlayerStub(outliving)
        stub.Join(game_pb2.JoinRequest(), timeout=5)
    began = time.monotonic()
    while time.monotonic() - began < 0.5:  # for as long as it looks for the registry again
        assert stub.Join(game_pb2.JoinRequest(), timeout=5).server in ("a", "b")
    outliving.close()
