"""registry_client over whatever happens to the registry: NeverGivesUp and StaleBeatsEmpty, end to end."""

import asyncio
from pathlib import Path

import registry_client
from tests.conftest import ServerFactory
from tests.support.etcd import EtcdCluster
from tests.support.servers import RegistryServer
from tests.support.views import NAMES, TTL_S, Views, at_work, player, shows_all
from tests.support.waiting import passed


async def test_never_gives_up_when_the_server_is_killed(registry_server: RegistryServer) -> None:
    """Killed, gone for two ttls, and back without its memory; and at once again."""
    async with at_work(registry_server.address) as (registrations, views):
        registry_server.kill()
        await asyncio.gather(*(them.wait_stale() for them in views))
        await passed(2 * TTL_S)
        for _ in range(2):
            await registry_server.restart_async()
            await shows_all(registrations, registry_server.address)
            await asyncio.gather(*(them.wait_confirmed() for them in views))
        assert all(True in them.stale for them in views)


async def test_never_gives_up_when_the_server_stands_still(registry_server: RegistryServer) -> None:
    """Stopped for two ttls: its connections stay, and nobody answers."""
    async with at_work(registry_server.address) as (registrations, views):
        registry_server.pause()
        await passed(2 * TTL_S)
        registry_server.resume()
        await shows_all(registrations, registry_server.address)
        await passed(TTL_S / 2)
        await asyncio.gather(*(them.wait_confirmed() for them in views))


async def test_never_gives_up_when_etcd_is_killed(server_factory: ServerFactory, etcd: EtcdCluster) -> None:
    """Gone for three ttls and back with its data, then once more and back without."""
    server = await server_factory(store=etcd.url()).start_async()
    async with at_work(server.address) as (registrations, views):
        first = {it.instance.id: it.instance.generation for it in registrations}
        for wiped in (False, True):
            etcd.kill()
            await asyncio.gather(*(them.wait_stale() for them in views))
            await passed(3 * TTL_S)
            if wiped:
                etcd.nodes[0].wipe()
            await etcd.start_async()
            await shows_all(registrations, server.address)
            await asyncio.gather(*(them.wait_confirmed() for them in views))
        await passed(TTL_S)
        assert all(it.instance.generation > first[it.instance.id] for it in registrations), (
            "they came back to a wiped one"
        )


async def test_never_gives_up_when_both_are_killed(server_factory: ServerFactory, etcd: EtcdCluster) -> None:
    """The server loses its memory and etcd its data, so nobody knows anything but the clients."""
    server = await server_factory(store=etcd.url()).start_async()
    async with at_work(server.address) as (registrations, views):
        server.kill()
        await etcd.restart_async(wiped=True)
        await server.start_async()
        await shows_all(registrations, server.address)
        await asyncio.gather(*(them.wait_confirmed() for them in views))


async def test_starts_without_a_registry(registry_server: RegistryServer, tmp_path: Path) -> None:
    """StaleBeatsEmpty at a cold start: the view is the one from disk, with its age; a registration waits."""
    # The watch is over before the instance leaves, so what it saw last is what is on disk.
    async with (
        registry_client.connect(registry_server.address, cache_dir=tmp_path) as registry,
        registry.register(player(0), ttl=TTL_S, drain=0.0),
        registry.watch("player") as watch,
    ):
        async for view in watch:
            if view.instances:
                break
    registry_server.kill()
    async with registry_client.connect(registry_server.address, cache_dir=tmp_path) as registry:
        views = Views()
        following = asyncio.create_task(views.follow(registry))
        entering = asyncio.create_task(registry.register(player(1), ttl=TTL_S, drain=0.0).start())
        try:
            await views.wait_stale()
            assert views.latest is not None
            assert [it.id for it in views.latest.instances] == [NAMES[0]]
            assert not entering.done()
            await registry_server.start_async()
            registration = await entering
            await views.wait(lambda view: NAMES[1] in {it.id for it in view.instances}, "the new one is seen")
            await registration.aclose()
        finally:
            following.cancel()
            await asyncio.gather(following, entering, return_exceptions=True)


async def test_sigterm_of_the_server_is_noticed_at_once(server_factory: ServerFactory, etcd: EtcdCluster) -> None:
    """A rolling update of the registry itself: each replica in turn ends in order and is started again."""
    replicas = [await server_factory(store=etcd.url(), name=f"replica-{number}").start_async() for number in (1, 2)]
    async with at_work(*(replica.address for replica in replicas)) as (registrations, views):
        for replica in replicas:
            assert await replica.terminate_async() == 0
            await passed(1.0)
            await replica.start_async()
            await shows_all(registrations, replica.address)
        await asyncio.gather(*(them.wait_confirmed() for them in views))
        assert not any(any(them.stale) for them in views), "there was always one that answered"
