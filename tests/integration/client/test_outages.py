"""NeverGivesUp and StaleBeatsEmpty: registries that are killed, stopped, restarted, or not there at first."""

import asyncio
import contextlib
import logging
from pathlib import Path

import pytest

import registry_client
from registry_client import ClientClosed, RegistryClient, State
from tests.conftest import ServerFactory
from tests.integration.client.conftest import ids, player, recording, until
from tests.integration.client.test_registering import nobody_there
from tests.support.proxy import Proxy
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async

TTL_S = 2.0
NAMES = ["p1", "p2", "p3"]


async def test_never_gives_up(server: RegistryServer, registry: RegistryClient) -> None:
    """Killed and restarted without its memory: all registrations are back, and no watcher ever saw a shorter list."""
    async with registry_client.connect(server.address) as other, contextlib.AsyncExitStack() as stack:
        registrations = [
            await stack.enter_async_context(registry.register(player(name, 8000 + i), ttl=TTL_S))
            for i, name in enumerate(NAMES)
        ]
        async with recording(other.watch("player")) as recorder:
            await recorder.wait(lambda view: ids(view) == NAMES)
            before = registrations[0].instance.generation
            recorder.views.clear()
            for _ in range(2):
                server.kill()
                stale = await recorder.wait(lambda view: view.stale_for is not None)
                await server.start_async()
                await recorder.wait(lambda view, old=stale.epoch: view.epoch != old and not view.unconfirmed)  # type: ignore[misc]
            assert [ids(view) for view in recorder.views if ids(view) != NAMES] == []
            assert recorder.views[-1].stale_for is None
        assert [registration.state for registration in registrations] == [State.REGISTERED] * 3
        assert [it.id for it in await registry.list("player")] == NAMES
        assert registrations[0].instance.generation > before, "also of a registry that remembers nothing"


async def test_a_registry_that_greets_late_is_reached(server: RegistryServer) -> None:
    """It is busy, or far away: connecting is given more time after each time that was too little."""
    async with Proxy(server.address, late_s=1.3) as late:
        addresses = f"{late.address},{nobody_there()}"
        registry = registry_client.connect(addresses, cache_dir=None, timeout=30.0)
        async with registry, registry.register(player("p1"), ttl=TTL_S):
            assert [it.id for it in await registry.list("player")] == ["p1"]


async def test_who_still_tries_when_the_client_is_closed_connects_no_more() -> None:
    """Its channel would be nobody's, and stay open for ever."""
    registry = registry_client.connect(nobody_there(), cache_dir=None, timeout=30.0)
    async with registry:
        asking = asyncio.create_task(registry.list("player"))
        await eventually_async(lambda: registry._here().link.trouble)
    with pytest.raises(ClientClosed):
        await asking


async def test_never_gives_up_through_an_outage_longer_than_the_ttl(
    server: RegistryServer, registry: RegistryClient
) -> None:
    async with registry.register(player("p1"), ttl=TTL_S) as registration:
        server.kill()
        await eventually_async(lambda: (registration.invisible_for or 0) > 2 * TTL_S)
        await server.start_async()
        await eventually_async(lambda: registration.invisible_for is None)
        assert [it.id for it in await registry.list("player")] == ["p1"]


async def test_it_registers_when_the_registry_comes_up_later(server_factory: ServerFactory) -> None:
    server = server_factory(name="late").start()
    server.kill()
    async with registry_client.connect(server.address) as registry:
        entering = asyncio.create_task(registry.register(player("p1")).start())
        watch = registry.watch("player")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(entering), 1.0)
        await server.start_async()
        registration = await entering
        await until(watch, lambda view: ids(view) == ["p1"])
        await registration.aclose()


async def test_a_registry_that_hangs_is_left_for_another(server_factory: ServerFactory) -> None:
    """Half dead: connections stay, nobody answers. The registrations go to the one that lives."""
    hung, alive = server_factory().start(), server_factory().start()
    async with (
        registry_client.connect(hung.address) as lone,
        registry_client.connect([hung.address, alive.address], timeout=10) as registry,
    ):
        await lone.services()  # the server is up
        hung.pause()
        async with registry.register(player("p1"), ttl=TTL_S) as registration, registry.watch("player") as watch:
            await until(watch, lambda view: ids(view) == ["p1"])
            assert registration.state is State.REGISTERED
            assert [it.id for it in await registry.list("player")] == ["p1"]
        hung.resume()


async def test_a_registry_that_stops_for_a_while_loses_nobody(server: RegistryServer, registry: RegistryClient) -> None:
    async with (
        registry.register(player("p1"), ttl=TTL_S) as registration,
        recording(registry.watch("player")) as recorder,
    ):
        await recorder.wait(lambda view: ids(view) == ["p1"])
        recorder.views.clear()
        server.pause()
        await eventually_async(lambda: (registration.invisible_for or 0) > TTL_S)
        server.resume()
        await eventually_async(lambda: registration.invisible_for is None)
        assert [it.id for it in await registry.list("player")] == ["p1"]


async def test_one_address_down_is_as_good_as_none(server: RegistryServer) -> None:
    for addresses in ([nobody_there(), server.address], f"{server.address},{nobody_there()}"):
        async with registry_client.connect(addresses) as registry, registry.register(player("p1"), ttl=TTL_S):
            assert [it.id for it in await registry.list("player")] == ["p1"]
            async with registry.watch("player") as watch:
                view = await until(watch, lambda view: ids(view) == ["p1"])
                assert view.stale_for is None


async def test_clients_move_on_when_their_replica_dies(server_factory: ServerFactory) -> None:
    """Two registries without a common store: what one had is registered with the other, and no list gets shorter."""
    first, second = server_factory().start(), server_factory().start()
    addresses = [first.address, second.address]
    async with contextlib.AsyncExitStack() as stack:
        # Each client begins at an address of its own choice: all of them are brought to the first.
        second.kill()
        registry, other = [await stack.enter_async_context(registry_client.connect(addresses)) for _ in range(2)]
        for port, name in enumerate(NAMES, 8000):
            await stack.enter_async_context(registry.register(player(name, port), ttl=TTL_S))
        recorder = await stack.enter_async_context(recording(other.watch("player")))
        before = await recorder.wait(lambda view: ids(view) == NAMES)
        recorder.views.clear()
        await second.start_async()
        first.kill()
        await recorder.wait(lambda view: view.epoch != before.epoch and view.stale_for is None and not view.unconfirmed)
        assert [ids(view) for view in recorder.views if ids(view) != NAMES] == []


# ---- cold starts


async def test_stale_beats_empty_at_a_cold_start(server: RegistryServer, cache_home: Path) -> None:
    """A process that starts while the registry is away begins with what an earlier one last saw."""
    async with registry_client.connect(server.address) as registry, registry.register(player("p1", weight=7)):
        await until(registry.watch("player"), lambda view: ids(view) == ["p1"])
    server.kill()
    assert list((cache_home / "grpc-registry").glob("*.view"))

    async with registry_client.connect(server.address) as registry, registry.watch("player") as watch:
        view = await anext(watch)
        assert ids(view) == ["p1"]
        assert view.instances[0].weight == 7
        assert view.stale_for is not None
        assert [it.id for it in view.changes.added] == ["p1"]
        await server.start_async()
        # A registry without memory: what the last one had stays for a ttl, and is fresh again.
        view = await until(watch, lambda view: view.stale_for is None)
        assert ids(view) == ["p1"]
        assert len(view.unconfirmed) == 1


async def test_a_cold_start_from_disk_gives_way_to_a_registry_that_knows(server: RegistryServer) -> None:
    async with registry_client.connect(server.address) as owner:
        registration = await owner.register(player("p1"))
        async with registry_client.connect(server.address) as registry:
            await until(registry.watch("player"), lambda view: ids(view) == ["p1"])
        await registration.aclose()
    async with registry_client.connect(server.address) as registry, registry.watch("player") as watch:
        view = await anext(watch)
        assert (ids(view), view.stale_for) == ([], None)


async def test_without_anything_known_a_watch_waits(cache_home: Path) -> None:
    """An empty set only ever comes from a registry that says so."""
    async with registry_client.connect(nobody_there()) as registry, registry.watch("player") as watch:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 3.0)
        assert watch.view is None
        assert "refused" in watch.trouble


async def test_a_damaged_cache_is_ignored_with_a_word(
    server: RegistryServer, cache_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with registry_client.connect(server.address) as registry, registry.register(player("p1")):
        await until(registry.watch("player"), lambda view: ids(view) == ["p1"])
    server.kill()
    [path] = (cache_home / "grpc-registry").glob("*.view")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    async with registry_client.connect(server.address) as registry, registry.watch("player") as watch:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 3.0)
    assert "damaged" in caplog.text


async def test_a_cache_that_cannot_be_written_harms_nobody(server: RegistryServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with (
        registry_client.connect(server.address, cache_dir=tmp_path / "file") as registry,
        registry.register(player("p1")),
    ):
        await until(registry.watch("player"), lambda view: ids(view) == ["p1"])


async def test_the_cache_can_be_switched_off(server: RegistryServer, cache_home: Path) -> None:
    async with registry_client.connect(server.address, cache_dir=None) as registry, registry.register(player("p1")):
        await until(registry.watch("player"), lambda view: ids(view) == ["p1"])
    assert not cache_home.exists()


async def test_an_outage_is_a_line_and_its_end_another(
    server: RegistryServer, registry: RegistryClient, caplog: pytest.LogCaptureFixture
) -> None:
    """However many registrations and watches a client has."""
    caplog.set_level(logging.INFO, "registry_client")
    async with contextlib.AsyncExitStack() as stack:
        registrations = [
            await stack.enter_async_context(registry.register(player(f"p{port}", port), ttl=TTL_S, drain=0))
            for port in range(8001, 8051)
        ]
        watches = [await stack.enter_async_context(registry.watch(f"s{number}")) for number in range(10)]
        await asyncio.gather(*(anext(watch) for watch in watches))
        server.kill()
        await eventually_async(lambda: all((it.invisible_for or 0) > 2 * TTL_S for it in registrations))
        [said] = [it for it in caplog.records if it.name.startswith("registry_client")]
        assert said.levelname == "WARNING"
        assert f"{server.address}: connection refused; trying on" in said.getMessage()
        assert all("connection refused" in it.trouble for it in registrations)
        await server.start_async()
        await eventually_async(lambda: all(it.invisible_for is None for it in registrations), timeout_s=30)
        said, again = [it for it in caplog.records if it.name.startswith("registry_client")]
        assert again.levelname == "INFO"
        assert "answers again" in again.getMessage()
        assert int(again.getMessage().partition("in which ")[2].partition(" tries failed")[0]) > 1
