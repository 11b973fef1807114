"""Why an instance gets traffic or none, asked of a real server by the client, by `registryctl` and of channels."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import registry_client
from registry_client import (
    Cause,
    Door,
    Effect,
    Health,
    HealthCheck,
    Instance,
    InvalidArgument,
    OutlierDetection,
    RegistryClient,
    Status,
    TrafficPolicy,
)
from tests.integration.cli.conftest import address
from tests.integration.client.conftest import cache_home, registry, server
from tests.support.access import asking, granted, token
from tests.support.ads import Sotw
from tests.support.registryctl import ctl
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async, until
from tests.support.xds_messages import EDS, node

__all__ = ["address", "cache_home", "registry", "server"]

WHO = "/test.Who/Who"
WAIT_S = 20.0


def player(name: str, port: int = 8001, **fields: Any) -> Instance:
    return Instance("player", "127.0.0.1", port, id=name, **fields)


@contextlib.asynccontextmanager
async def back_end(status: grpc.StatusCode = grpc.StatusCode.OK) -> AsyncIterator[int]:
    """A gRPC server that answers, or fails; gives its port."""

    async def who(request: bytes, context: Any) -> bytes:
        if status is not grpc.StatusCode.OK:
            await context.abort(status, "as the test says")
        return b"here"

    made = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(who)
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", {"Who": handler}),))
    port = made.add_insecure_port("127.0.0.1:0")
    await made.start()
    try:
        yield port
    finally:
        await made.stop(None)


@contextlib.contextmanager
def nobody_listens() -> Iterator[int]:
    """A port at which connections are refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def test_the_life_of_an_instance(server: RegistryServer, registry: RegistryClient) -> None:
    never = await registry.why("player", "p1")
    assert (never.gets_traffic, never.left, never.instances) == (False, None, ())
    assert "it was never registered" in str(never)
    async with registry.register(player("p1"), ttl=30), registry.watch("player") as watch:
        await anext(watch)
        why = await registry.why("player", "p1")
        assert (why.gets_traffic, why.verdict) == (True, "player/p1 gets traffic")
        (found,) = why.instances
        assert found.instance == await registry.get("player", "p1")
        assert found.lease_left_s is None or 0 < found.lease_left_s <= 30
        (client,) = why.clients
        assert (client.door, client.current, client.leaves_out, client.trouble) == (Door.WATCH, True, False, "")
        assert client.connected_at is not None
        assert client.told_at is not None
        assert {it.about: it.effect for it in why.reasons}["status"] is Effect.PASSES
        await registry.update("player", "p1", status=Status.DRAINING, weight=0)
        drained = await registry.why("player", "p1")
        assert drained.verdict.startswith("player/p1 gets none because its status is DRAINING, set from 127.0.0.1 at ")
        assert [it.about for it in drained.reasons if it.effect is Effect.STOPS] == ["status", "weight"]
    gone = await registry.why("player", "p1")
    assert not gone.gets_traffic
    assert gone.left is not None
    assert gone.left.cause in (Cause.DRAINED, Cause.DEREGISTERED), "whichever is first"
    assert gone.verdict.startswith("player/p1 gets none because it ")
    assert (await registry.why("player")).verdict.startswith(
        "player gets none because no instance is registered: the last one, p1, "
    )


async def test_a_check_that_fails_is_told_with_what_it_found(registry: RegistryClient) -> None:
    with nobody_listens() as port:
        check = HealthCheck.tcp(interval=0.1, failures=1)
        async with registry.register(player("p1", port, checks=[check])):

            async def is_ill() -> bool:
                return (await registry.get("player", "p1")).health is Health.UNHEALTHY

            await until(is_ill, timeout_s=WAIT_S)
            why = await registry.why("player", "p1")
            assert "gets none because its health is UNHEALTHY: its check tcp fails since " in why.verdict
            assert "refused" in why.verdict


async def test_pages_filters_and_other_faces(server: RegistryServer, registry: RegistryClient) -> None:
    for number in range(1_100):
        await registry.register_once(player(f"i{number:04}", 9000 + number, tags=["eu"] if number % 2 else []))
    why = await registry.why("player", tags=["eu"])
    assert (len(why.instances), why.instance_count, why.serving_count) == (1_100, 1_100, 550)
    assert "550 left out by the filter" in why.verdict
    with pytest.raises(InvalidArgument):
        await registry.why("a b")
    with pytest.raises(InvalidArgument):
        registry_client.why(registry)
    async with registry_client.connect_many({"one": server.address}) as many:
        assert (await many.why("player", "i0001")).gets_traffic

    def in_a_thread() -> str:
        with registry_client.sync.connect(server.address) as blocking:
            return str(blocking.why("player", "i0001"))

    assert await asyncio.to_thread(in_a_thread) == "player/i0001 gets traffic"


async def test_who_listens_by_xds_is_told_and_what_it_did_not_take(
    server: RegistryServer, registry: RegistryClient
) -> None:
    await registry.register_once(player("p1"))
    async with grpc.aio.insecure_channel(server.address) as channel, Sotw(channel, node()) as stream:
        await stream.want(EDS, "player")
        await stream.ack(await stream.next(EDS))

        async def is_taken() -> bool:
            clients = (await registry.why("player", "p1")).clients
            return [(it.door, it.current, it.trouble) for it in clients] == [(Door.XDS, True, "")]

        await until(is_taken, timeout_s=WAIT_S)
        await registry.update("player", "p1", weight=7)
        await stream.nack(await stream.next(EDS), "no such thing")

        async def is_refused() -> bool:
            (client,) = (await registry.why("player", "p1")).clients
            return client.trouble.startswith("did not accept version ") and "no such thing" in client.trouble

        await until(is_refused, timeout_s=WAIT_S)
    assert (await registry.why("player")).client_count == 0


async def test_a_host_that_xds_clients_cannot_be_told_of_is_named(
    server: RegistryServer, registry: RegistryClient
) -> None:
    await registry.register_once(Instance("player", "nowhere.invalid", 8001, id="p1"))
    async with grpc.aio.insecure_channel(server.address) as channel, Sotw(channel, node()) as stream:
        await stream.want(EDS, "player")
        await stream.ack(await stream.next(EDS))

        async def is_said() -> bool:
            why = await registry.why("player", "p1")
            said = {it.about: it.text for it in why.reasons}.get("xds", "")
            return "its host nowhere.invalid is a name without an address" in said and why.clients[0].leaves_out

        await until(is_said, timeout_s=WAIT_S)


@pytest.mark.parametrize("who", ["reader", "operator"])
async def test_clients_are_shown_to_who_may_operate(who: str) -> None:
    async with (
        asking("http2", granted()) as guarded,
        registry_client.connect(guarded.address, token=token("owner")) as owner,
    ):
        await owner.register_once(player("p1"))
        async with (
            owner.watch("player") as watch,
            registry_client.connect(guarded.address, token=token(who)) as other,
        ):
            await anext(watch)
            why = await other.why("player", "p1")
            assert "by owner since" in why.reasons[0].text
            assert ([it.identity for it in why.clients], why.client_count) == (
                ["owner"] if who == "operator" else [],
                1,
            )


async def test_registryctl(server: RegistryServer, address: str, registry: RegistryClient) -> None:
    await registry.register_once(player("p1", tags=["eu"]))
    await registry.register_once(player("p2", 8002, weight=0))
    shown = await ctl("why", "player")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[0] == "player gets traffic: 1 of 2 instances take calls; 1 of weight 0"
    assert "gets none because its weight is 0" in shown.stdout
    one = await ctl("why", "player", "p2", "--tag", "eu")
    first, *rest = one.stdout.splitlines()
    assert (one.exit_code, first) == (0, "player/p2 gets none because its weight is 0")
    abouts = [line.split()[:2] for line in rest if line and not line.startswith("ABOUT")]
    assert ["weight", "no"] in abouts
    assert ["filter", "no"] in abouts
    unknown = await ctl("why", "plaeyr")
    assert (unknown.exit_code, "did you mean player?" in unknown.stdout) == (1, True)
    document = json.loads((await ctl("why", "player", "p1", "-o", "json")).stdout)
    assert (document["getsTraffic"], document["instances"][0]["instance"]["id"]) == (True, "p1")


# ---- channels


def told(channel: Any) -> dict[str, tuple[bool, str]]:
    """What a channel says of each instance, up to what differs from run to run."""
    return {it.id: (it.usable, it.why.partition(":")[0]) for it in registry_client.why(channel).endpoints}


EXPECTED = {
    "up": (True, "it is connected"),
    "down": (False, "connecting failed"),
    "light": (False, "its weight is 0"),
    "leaving": (False, "its status is DRAINING"),
    "ill": (False, "its health is CRITICAL"),
    "other": (False, "no part of the split that has a share fits it"),
}


def _is_expected(channel: Any) -> bool:
    return told(channel) == EXPECTED


async def registered(registry: RegistryClient, up: int, down: int) -> None:
    await registry.policy.put(TrafficPolicy("player", split={"version=1.0": 1}))
    instances: dict[str, dict[str, Any]] = {
        "up": {"port": up},
        "down": {"port": down},
        "light": {"port": 9001, "weight": 0},
        "leaving": {"port": 9002, "status": Status.DRAINING},
        "ill": {"port": 9003, "health": Health.CRITICAL},
        "other": {"port": 9004, "version": "2.0"},
    }
    for name, fields in instances.items():
        await registry.register_once(player(name, **{"version": "1.0", **fields}))


async def test_an_asyncio_channel_tells_of_each_instance(server: RegistryServer, registry: RegistryClient) -> None:
    async with back_end() as up:
        with nobody_listens() as down:
            await registered(registry, up, down)
            for channel in (
                registry_client.aio.channel(f"registry://{server.address}/player"),
                registry.channel("player"),
            ):
                async with channel:
                    assert "nothing was called yet" in str(registry_client.why(channel))
                    call: Any = channel.unary_unary(WHO)
                    assert await call(b"", timeout=WAIT_S) == b"here"
                    await eventually_async(partial(_is_expected, channel), timeout_s=WAIT_S)
                    why = registry_client.why(channel)
                    assert (why.usable, why.verdict) == (True, "1 of 2 endpoints gets calls")
                assert registry_client.why(channel).verdict == "the channel is closed"


async def test_a_channel_for_threads_does_so_too(server: RegistryServer, registry: RegistryClient) -> None:
    async with back_end() as up:
        with nobody_listens() as down:
            await registered(registry, up, down)
            with registry_client.channel(f"registry://{server.address}/player") as channel:
                call: Any = channel.unary_unary(WHO)
                assert await asyncio.to_thread(call, b"", timeout=WAIT_S) == b"here"
                await eventually_async(partial(_is_expected, channel), timeout_s=WAIT_S)


async def test_a_balancer_tells_without_connections(registry: RegistryClient) -> None:
    await registered(registry, 8001, 8002)
    players = registry.balancer("player")
    assert (await players.get()).id in ("up", "down")
    found = told(players)
    assert found["up"] == found["down"] == (True, "nothing speaks against it")
    assert {name: found[name] for name in EXPECTED if name not in ("up", "down")} == {
        name: said for name, said in EXPECTED.items() if name not in ("up", "down")
    }


async def test_who_is_ejected_is_told_until_when(server: RegistryServer, registry: RegistryClient) -> None:
    async with back_end() as good, back_end(grpc.StatusCode.UNAVAILABLE) as bad:
        await registry.register_once(player("good", good))
        await registry.register_once(player("bad", bad))
        outliers = OutlierDetection(consecutive_failures=2, base_ejection_time=300, max_ejection_percent=50)
        await registry.policy.put(TrafficPolicy("player", outlier_detection=outliers))
        async with registry_client.aio.channel(f"registry://{server.address}/player") as channel:
            call: Any = channel.unary_unary(WHO)

            async def is_ejected() -> bool:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await call(b"", timeout=WAIT_S)
                found = registry_client.why(channel).of("bad")
                return found is not None and found.ejected_for_s is not None

            await until(is_ejected, timeout_s=WAIT_S)
            found = registry_client.why(channel).of("bad")
            assert found is not None
            assert 200 < (found.ejected_for_s or 0) <= 300
            assert found.why.startswith("it failed more than others and is ejected for ")


async def test_a_registry_that_is_away_is_told(server: RegistryServer, registry: RegistryClient) -> None:
    async with back_end() as up:
        await registry.register_once(player("up", up))
        async with registry_client.aio.channel(f"registry://{server.address}/player", cache_dir=None) as channel:
            call: Any = channel.unary_unary(WHO)
            assert await call(b"", timeout=WAIT_S) == b"here"
            await asyncio.to_thread(server.kill)

            def is_told() -> bool:
                verdict = registry_client.why(channel).verdict
                return "nobody has confirmed that these are all: " in verdict and server.address in verdict

            await eventually_async(is_told, timeout_s=WAIT_S)
            assert await call(b"", timeout=WAIT_S) == b"here"


def test_what_is_no_channel_is_refused(tmp_path: Path) -> None:
    for wrong in (grpc.insecure_channel("127.0.0.1:1"), None, "player", RegistryClient):
        with pytest.raises(InvalidArgument, match="channel: must be one that"):
            registry_client.why(wrong)
