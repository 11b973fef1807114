"""Leaving names what it leaves, is told when it is somebody else's doing, and waits for no registry that is away."""

import asyncio
import contextlib
import logging
import time

import pytest

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import NotFound, RegistrationLost, RegistryClient, State, sync
from registry_client.keeper import LEAVE_S
from tests.integration.client.conftest import WAIT_S, ids, player, until
from tests.support.fake_registry import FakeRegistry, serving
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async, passed

TTL_S = 2.0
IN_ALL_S = 2 * LEAVE_S  # on a busy machine; one after the other they would take longer


# ---- what is left is what was held


async def test_leaving_names_the_generation_it_leaves() -> None:
    fake = FakeRegistry()
    async with serving(fake) as address, registry_client.connect(address, cache_dir=None) as registry:
        async with registry.register(player("p1"), drain=0.05) as registration:
            held = registration.instance
        asked = [it for it in fake.requests["Deregister"] if isinstance(it, pb.DeregisterRequest)]
        assert [(it.key.id, it.generation) for it in asked] == [("p1", held.generation)] * 2
        assert [it.drain.ToMilliseconds() for it in asked] == [50, 0]


async def test_a_successor_survives_the_leaving_of_its_predecessor(server: RegistryServer) -> None:
    """One leaves while another registers under the same id, in whatever order that happens."""
    async with registry_client.connect(server.address) as one, registry_client.connect(server.address) as other:
        predecessor = await one.register(player("p1", 8000), drain=0)
        for number in range(60):
            leaver, joiner = (one, other) if number % 2 == 0 else (other, one)
            assert leaver is not joiner
            successor = joiner.register(player("p1", 8001 + number), drain=0)

            async def join(successor: registry_client.Registration = successor, turns: int = number % 7) -> None:
                for _ in range(turns):
                    await asyncio.sleep(0)
                await successor

            await asyncio.gather(predecessor.aclose(), join())
            assert (await one.get("player", "p1")).port == 8001 + number
            predecessor = successor
        await predecessor.aclose()
        assert await one.list("player") == []


# ---- made to leave


@pytest.mark.parametrize("drain", [1.0, 4.0], ids=["before the next renewal", "after it"])
async def test_who_is_made_to_leave_is_told_and_stays_away(
    server: RegistryServer, registry: RegistryClient, drain: float
) -> None:
    async def own(operator: RegistryClient) -> None:
        async with registry.register(player("p1"), ttl=6) as registration, operator.watch("player") as watch:
            await until(watch, lambda view: ids(view) == ["p1"])
            began = time.monotonic()
            assert await operator.deregister("player", "p1", drain=drain) == 1
            await until(watch, lambda view: not view.endpoints and ids(view) == ["p1"])
            await until(watch, lambda view: not view.instances)
            assert drain * 0.8 <= time.monotonic() - began <= drain + 3
            assert "deregistered" in str(await asyncio.wait_for(registration.wait_lost(), WAIT_S))
            assert registration.state is State.LOST
            await passed(3.0)  # longer than until the next renewal
            assert await operator.list("player") == []

    async with registry_client.connect(server.address) as operator:
        with pytest.raises(RegistrationLost, match="deregistered"):
            await own(operator)
        async with registry.register(player("p1")):  # when it is told to
            assert [it.id for it in await operator.list("player")] == ["p1"]


async def test_who_drains_by_itself_is_not_told_that_it_was_made_to(
    registry: RegistryClient, caplog: pytest.LogCaptureFixture
) -> None:
    async with registry.register(player("p1"), ttl=TTL_S, drain=1.5) as registration:
        pass
    assert registration.state is State.LEFT
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# ---- with nobody there


@pytest.mark.parametrize("how", ["gone", "hanging"])
@pytest.mark.parametrize("seconds_away", [0.0, 3.0], ids=["just now", "for longer"])
async def test_any_number_leaves_in_three_seconds_with_the_registry_away(
    server: RegistryServer, how: str, seconds_away: float, caplog: pytest.LogCaptureFixture
) -> None:
    async with registry_client.connect(server.address) as registry:
        async with contextlib.AsyncExitStack() as stack:
            for port in range(8001, 8011):
                await stack.enter_async_context(registry.register(player(f"p{port}", port), ttl=TTL_S))
            if how == "gone":
                server.kill()
            else:
                server.pause()
            await passed(seconds_away)
            caplog.clear()
            began = time.monotonic()
        assert time.monotonic() - began < IN_ALL_S
    assert time.monotonic() - began < IN_ALL_S + 0.5  # the client too
    assert len([it for it in caplog.records if it.levelno >= logging.WARNING]) <= 2


def test_any_number_leaves_in_three_seconds_in_threads(server: RegistryServer) -> None:
    with sync.connect(server.address) as registry, contextlib.ExitStack() as stack:
        for port in range(8001, 8011):
            stack.enter_context(registry.register(player(f"p{port}", port), ttl=TTL_S))
        server.kill()
        began = time.monotonic()
    assert time.monotonic() - began < IN_ALL_S


async def test_who_could_not_say_good_bye_does_not_stay_on_the_lease_of_others(server: RegistryServer) -> None:
    """It left while the registry hung; those who share its lease go on renewing that."""
    async with (
        registry_client.connect(server.address) as observer,
        registry_client.connect(server.address) as registry,
        registry.register(player("p1"), ttl=30) as stays,
    ):
        leaves = await registry.register(player("p2", 8002), ttl=30)
        assert leaves.lease_id == stays.lease_id
        server.pause()
        await leaves.aclose()
        server.resume()
        await eventually_async(lambda: gone(observer, "p2"), timeout_s=WAIT_S)
        assert stays.state is State.REGISTERED
        assert [it.id for it in await observer.list("player")] == ["p1"]


async def gone(observer: RegistryClient, name: str) -> bool:
    with contextlib.suppress(registry_client.RegistryUnavailable):
        try:
            await observer.get("player", name)
        except NotFound:
            return True
    return False
