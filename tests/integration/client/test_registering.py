"""Registering, asking and changing, against a real server."""

import asyncio

import pytest

import registry_client
from registry_client import (
    ClientClosed,
    Health,
    Instance,
    InvalidArgument,
    Locality,
    NotFound,
    RegistrationLost,
    RegistryClient,
    RegistryError,
    RegistryUnavailable,
    State,
    Status,
)
from tests.integration.client.conftest import WAIT_S, ids, player, recording, until
from tests.support.etcd import free_port
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async


async def test_a_registration_is_there_for_as_long_as_its_block(registry: RegistryClient) -> None:
    wanted = player(
        "p1", weight=3, tags=["game", "eu"], metadata={"map": "dust"}, version="2.1.0", locality=Locality("eu", "eu-1")
    )
    async with registry.register(wanted, ttl=15) as registration:
        found = await registry.get("player", "p1")
        assert found == registration.instance
        assert (found.host, found.port, found.weight, found.version) == ("10.0.0.5", 8001, 3, "2.1.0")
        assert (found.tags, found.metadata, found.locality.zone) == (("game", "eu"), {"map": "dust"}, "eu-1")
        assert (found.status, found.health, found.ttl_s) == ("ACTIVE", "UNKNOWN", 15.0)
        assert found.generation > 0
        assert found.registered_at is not None
        assert registration.lease_id
        assert registration.state is State.REGISTERED
        assert registration.invisible_for is None
    with pytest.raises(NotFound):
        await registry.get("player", "p1")


async def test_the_registry_makes_an_id(registry: RegistryClient) -> None:
    async with registry.register(player()) as one, registry.register(player(port=8002)) as other:
        assert one.instance.id
        assert one.instance.id != other.instance.id
        assert {it.id for it in await registry.list("player")} == {one.instance.id, other.instance.id}


async def test_registrations_of_one_client_share_a_lease(registry: RegistryClient) -> None:
    async with (
        registry.register(player("p1")) as first,
        registry.register(player("p2", 8002)) as second,
        registry.register(player("p3", 8003), ttl=30) as third,
    ):
        assert first.lease_id == second.lease_id != third.lease_id


async def test_it_lives_longer_than_its_ttl(registry: RegistryClient) -> None:
    watch = registry.watch("player")
    async with registry.register(player("p1"), ttl=2) as registration:
        await until(watch, lambda view: ids(view) == ["p1"])
        deadline = asyncio.get_running_loop().time() + 5
        async with recording(watch) as recorder:
            await eventually_async(lambda: registration.ttl_s == 2 and asyncio.get_running_loop().time() > deadline)
            assert recorder.views == []
        assert registration.state is State.REGISTERED


async def test_leaving_drains_first(registry: RegistryClient) -> None:
    watch = registry.watch("player")
    registration = await registry.register(player("p1"), drain=0.5)
    await until(watch, lambda view: len(view.endpoints) == 1)
    leaving = asyncio.create_task(registration.aclose())
    draining = await until(watch, lambda view: not view.endpoints)
    assert draining.instances[0].status is Status.DRAINING
    assert not leaving.done()
    await until(watch, lambda view: not view.instances)
    await leaving


async def test_closing_the_client_deregisters(server: RegistryServer) -> None:
    async with registry_client.connect(server.address) as observer:
        async with registry_client.connect(server.address) as client:
            await client.register(player("p1"))
            assert ids_of(await observer.list("player")) == ["p1"]
        assert await observer.list("player") == []


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10])
async def test_closing_the_client_while_it_registers_leaves_nothing(server: RegistryServer, steps: int) -> None:
    async with registry_client.connect(server.address) as observer:
        async with registry_client.connect(server.address) as client:
            entering = asyncio.ensure_future(client.register(player("p1")).start())
            for _ in range(steps):
                await asyncio.sleep(0)
        await asyncio.gather(entering, return_exceptions=True)
        assert await observer.list("player") == []


async def test_closing_the_client_ends_the_wait_for_a_registry() -> None:
    async with registry_client.connect(nobody_there()) as client:
        entering = asyncio.ensure_future(client.register(player("p1")).start())
        await asyncio.sleep(0)
    with pytest.raises(ClientClosed):
        await entering


async def test_closing_the_client_spares_what_others_took_over(server: RegistryServer) -> None:
    async with registry_client.connect(server.address) as observer, observer.register(player("p0", 9000), ttl=60):
        async with registry_client.connect(server.address) as client:
            await client.register(player("p1"), ttl=60)
            await client.register(player("p2", 8002), ttl=60)
            taken = await observer.register(player("p1", 9001), ttl=60)
        assert ids_of(await observer.list("player")) == ["p0", "p1"]
        await taken.aclose()


async def test_a_registration_may_be_ended_after_its_client(server: RegistryServer) -> None:
    async with registry_client.connect(server.address) as client:
        registration = await client.register(player("p1"))
    await registration.aclose()
    assert registration.state is State.LEFT


def ids_of(instances: list[Instance]) -> list[str]:
    return [instance.id for instance in instances]


# ---- taken over


async def test_a_take_over_tells_the_old_owner_and_nobody_fights(
    server: RegistryServer, registry: RegistryClient
) -> None:
    async with registry_client.connect(server.address) as other:
        old = await registry.register(player("p1"), ttl=2)
        async with other.register(player("p1", 9001), ttl=2) as new:
            lost = await asyncio.wait_for(old.wait_lost(), WAIT_S)
            assert "p1" in str(lost)
            assert old.state is State.LOST
            assert (await registry.get("player", "p1")).generation == new.instance.generation > old.instance.generation
            with pytest.raises(RegistrationLost):
                await old.__aexit__(None)
            # The old owner has left, and what it left alone is the new owner's.
            found = await registry.get("player", "p1")
            assert (found.port, found.generation) == (9001, new.instance.generation)
            assert new.state is State.REGISTERED


async def test_who_asks_for_what_nobody_has_takes_nothing_over(
    server: RegistryServer, registry: RegistryClient
) -> None:
    async with registry_client.connect(server.address) as other, registry.register(player("p1")) as first:
        for taken in (player("p1", 9001), player("p2")):
            with pytest.raises(RegistrationLost, match="nothing was to be taken over"):
                await other.register(taken, if_absent=True, timeout=WAIT_S).start()
        assert first.state is State.REGISTERED
        async with other.register(player("p2", 9001), if_absent=True) as second:
            assert second.state is State.REGISTERED
        assert (await registry.get("player", "p1")).generation == first.instance.generation


async def test_leaving_the_block_says_that_it_was_lost(server: RegistryServer, registry: RegistryClient) -> None:
    async def own() -> None:
        async with registry.register(player("p1"), ttl=2) as registration, other.register(player("p1", 9001)):
            await registration.wait_lost()

    async with registry_client.connect(server.address) as other:
        with pytest.raises(RegistrationLost, match="p1"):
            await asyncio.wait_for(own(), WAIT_S)


async def test_a_take_over_that_the_old_owner_has_not_heard_of_survives_its_leaving(
    server: RegistryServer, registry: RegistryClient
) -> None:
    async with (
        registry_client.connect(server.address) as other,
        registry.register(player("p1"), ttl=60) as old,
        other.register(player("p1", 9001), ttl=60) as new,
    ):
        assert old.state is State.REGISTERED
        await old.aclose()
        assert (await registry.get("player", "p1")).port == new.instance.port


async def test_who_takes_the_address_takes_the_place(server: RegistryServer, registry: RegistryClient) -> None:
    """A process that came back under a new id must not be thrown out by what is left of its former self."""
    async with registry_client.connect(server.address) as other:
        old = await registry.register(player("p1"), ttl=2)
        async with other.register(player("p2"), ttl=2) as new:
            lost = await asyncio.wait_for(old.wait_lost(), WAIT_S)
            assert "p2" in str(lost)
            assert ids_of(await registry.list("player")) == ["p2"]
            assert new.state is State.REGISTERED


async def test_what_somebody_removed_comes_back(registry: RegistryClient) -> None:
    watch = registry.watch("player")
    async with registry.register(player("p1"), ttl=2) as registration:
        await until(watch, lambda view: ids(view) == ["p1"])
        assert await registry.deregister("player", "p1") == 1
        await until(watch, lambda view: not view.instances)
        await until(watch, lambda view: ids(view) == ["p1"])
        await eventually_async(lambda: registration.state is State.REGISTERED)


async def test_what_somebody_removed_comes_back_beside_others_on_the_same_lease(registry: RegistryClient) -> None:
    watch = registry.watch("player")
    async with registry.register(player("p1"), ttl=2), registry.register(player("p2", 8002), ttl=2):
        await until(watch, lambda view: ids(view) == ["p1", "p2"])
        await registry.deregister("player", "p1")
        await until(watch, lambda view: ids(view) == ["p2"])
        await until(watch, lambda view: ids(view) == ["p1", "p2"])


# ---- refused


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"service": "no spaces"}, "instance.service"),
        ({"host": ""}, "instance.host"),
        ({"port": 0}, "instance.port"),
        ({"port": 65536}, "instance.port"),
        ({"weight": 1_000_001}, "instance.weight"),
        ({"metadata": {"k": "v" * 20_000}}, "instance.metadata"),
    ],
)
async def test_a_mistake_is_named(registry: RegistryClient, wrong: dict[str, object], field: str) -> None:
    fields = {"service": "player", "host": "10.0.0.5", "port": 8001, **wrong}
    with pytest.raises(InvalidArgument) as caught:
        await registry.register(Instance(**fields))  # type: ignore[arg-type]
    assert caught.value.field == field
    assert field in str(caught.value)
    assert await registry.services() == []


async def test_a_ttl_out_of_bounds_is_refused(registry: RegistryClient) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await registry.register(player(), ttl=1)
    assert caught.value.field == "ttl"


async def test_registering_can_give_up_if_asked_to() -> None:
    async with registry_client.connect(nobody_there()) as registry:
        with pytest.raises(RegistryUnavailable, match=r"not registered within 0\.3 s: .*connection refused"):
            await registry.register(player(), timeout=0.3)


async def test_nobody_there_is_an_error_of_this_package() -> None:
    async with registry_client.connect(nobody_there(), timeout=0.3) as registry:
        with pytest.raises(RegistryUnavailable) as caught:
            await registry.list("player")
    assert isinstance(caught.value, RegistryError)


def nobody_there() -> str:
    """An address where nobody listens, nor will: its port is none that the kernel gives to somebody."""
    return f"127.0.0.1:{free_port()}"


async def test_a_client_that_is_not_open_says_so(server: RegistryServer) -> None:
    registry = registry_client.connect(server.address)
    with pytest.raises(ClientClosed):
        registry.watch("player")
    async with registry:
        watch = registry.watch("player")
        await anext(watch)
    with pytest.raises(ClientClosed):
        await anext(watch)
    with pytest.raises(ClientClosed):
        await registry.get("player", "p1")


# ---- asking and changing


async def test_lists_are_filtered(registry: RegistryClient) -> None:
    async with (
        registry.register(player("a", 1, tags=["game", "eu"], metadata={"map": "dust", "mode": "duel"})),
        registry.register(player("b", 2, tags=["game"], version="2.0.0", locality=Locality("eu", "eu-1"))),
        registry.register(player("c", 3, status=Status.DRAINING)),
        registry.register(player("d", 4, health=Health.UNHEALTHY)),
        registry.register(player("e", 5, weight=0)),
        registry.register(Instance(service="chat", host="10.0.0.6", port=1, id="z")),
    ):

        async def named(**filters: object) -> str:
            return "".join(it.id for it in await registry.list("player", **filters))  # type: ignore[arg-type]

        assert await named() == "abcde"
        assert await named(tags=["game"]) == "ab"
        assert await named(tags=["game", "eu"]) == "a"
        assert await named(metadata={"map": "dust"}) == "a"
        assert await named(version="2.0.0") == "b"
        assert await named(statuses=["DRAINING", Status.DOWN]) == "c"
        assert await named(healths=[Health.UNHEALTHY]) == "d"
        assert await named(locality=Locality("eu")) == "b"
        assert await named(healthy_only=True) == "ab"
        assert await named(page_size=2) == "abcde"
        assert [it.id for it in await registry.list()] == ["z", *"abcde"]
        assert [(it.service, it.instances, it.routable) for it in await registry.services()] == [
            ("chat", 1, 1),
            ("player", 5, 2),
        ]
        with pytest.raises(ValueError, match="SLEEPY"):
            await registry.list("player", statuses=["SLEEPY"])


async def test_an_update_changes_what_it_names(registry: RegistryClient) -> None:
    async with registry.register(player("p1", weight=3, tags=["a"], metadata={"k": "v"})) as registration:
        updated = await registry.update("player", "p1", weight=5)
        assert (updated.weight, updated.tags, updated.metadata) == (5, ("a",), {"k": "v"})
        updated = await registry.update("player", "p1", tags=["b", "c"], status="DRAINING", metadata={})
        assert (updated.weight, updated.tags, updated.metadata) == (5, ("b", "c"), {})
        assert updated.status is Status.DRAINING
        assert registration.instance == updated
        with pytest.raises(TypeError, match="port"):
            await registry.update("player", "p1", port=1)  # type: ignore[call-arg]
        with pytest.raises(NotFound):
            await registry.update("player", "nobody", weight=1)


async def test_namespaces_are_apart(server: RegistryServer, registry: RegistryClient) -> None:
    async with registry_client.connect(server.address, namespace="prod") as prod, prod.register(player("p1")):
        assert await registry.list("player") == []
        assert ids_of(await registry.list("player", namespace="prod")) == ["p1"]
        assert (await prod.get("player", "p1")).namespace == "prod"


async def test_a_list_can_wait_for_a_write(registry: RegistryClient) -> None:
    async with registry.register(player("p1")) as registration:
        next_revision = registration.instance.revision + 1
        waiting = asyncio.create_task(registry.list("player", min_revision=next_revision))
        for _ in range(3):
            assert ids_of(await registry.list("player")) == ["p1"]
        assert not waiting.done()
        async with registry.register(player("p2", 8002)):
            assert ids_of(await waiting) == ["p1", "p2"]
