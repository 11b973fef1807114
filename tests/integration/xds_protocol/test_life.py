"""What streams are told when the server stops, comes back, or has a twin."""

import itertools

import grpc
import pytest

from tests.conftest import ServerFactory
from tests.support.ads import BOTH, DELTA, SOTW, World, come_back, ports_of, world_of
from tests.support.servers import RegistryServer
from tests.support.stores import Backends, backends
from tests.support.waiting import passed
from tests.support.xds_messages import CDS, EDS, ENVOY, LDS, RDS

__all__ = ["backends"]
KINDS = (LDS, RDS, CDS, EDS)


@pytest.fixture
def server(registry_server: RegistryServer) -> RegistryServer:
    """One of the test's own, to be stopped."""
    return registry_server


@pytest.mark.parametrize("protocol", BOTH)
async def test_streams_end_when_the_server_stops(world: World, server: RegistryServer, protocol: str) -> None:
    """In order, and in a moment: gRPC takes the end of a stream that was answered for no error."""
    names = await world.service(8001)
    async with world.open(protocol, quiet_s=0) as stream:
        await stream.get(EDS, names.eds)
        assert await server.terminate_async() == 0
        assert await stream.ended() in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize("protocol", BOTH)
async def test_server_that_lost_its_memory_takes_no_endpoints_away(server: RegistryServer, protocol: str) -> None:
    """A client that comes back with a version keeps what it has until the service is registered again."""
    async with world_of(server.address, itertools.count(1)) as world:
        names = await world.service(8001)
        async with world.open(protocol) as stream:
            await stream.want(EDS, names.eds)
            before = await stream.take(EDS)
    await server.restart_async()
    async with world_of(server.address, itertools.count(100)) as world, world.open(protocol) as stream:
        stream.of[EDS].want([names.eds])
        if protocol == SOTW:
            await stream.send(type_url=EDS, resource_names=[names.eds], version_info=before.version)
        else:
            await stream.send(
                type_url=EDS, resource_names_subscribe=[names.eds], initial_resource_versions=before.versions
            )
        await stream.nothing_more(0.5)
        await world.put(names.lds, 8002)
        assert ports_of((await stream.take(EDS)).resources[names.eds]) == {8002}


async def test_newcomer_is_answered_by_a_server_that_lost_its_memory(server: RegistryServer) -> None:
    """Who has nothing has nothing to lose, and would wait for 15 s."""
    async with world_of(server.address, itertools.count(1)) as world, world.open() as stream:
        names = await world.names(world.fresh())
        assert ports_of((await stream.get(EDS, names.eds))[names.eds]) == set()


@pytest.mark.parametrize("protocol", BOTH)
async def test_restart_with_memory_changes_no_version(server_factory: ServerFactory, protocol: str) -> None:
    """So nothing is sent twice to who comes back, and replicas agree."""
    store = f"sqlite:{server_factory(name='nobody').log_path.parent / 'registry.db'}"
    server = await server_factory(store=store).start_async()
    serial = itertools.count(1)
    async with world_of(server.address, serial) as world:
        names = await world.service(8001, 8002, weight=3)
        before = await versions(world, protocol, names)
    await server.restart_async()
    async with world_of(server.address, serial) as world:
        assert await versions(world, protocol, names) == before


async def test_client_that_comes_back_for_everything_is_told_what_is_gone(server_factory: ServerFactory) -> None:
    """By a server that has its memory, and so knows."""
    store = f"sqlite:{server_factory(name='nobody').log_path.parent / 'registry.db'}"
    server = await server_factory(store=store).start_async()
    async with world_of(server.address, itertools.count(1)) as world:
        names = await world.service(8001)
    await server.restart_async()
    async with world_of(server.address, itertools.count(9)) as world, world.open(DELTA, ENVOY) as stream:
        await come_back(stream, CDS, {"is-gone": "0123456789abcdef"})
        answer = await stream.take(CDS)
        assert (set(answer.resources), answer.removed) == ({names.cds}, ("is-gone",))


@pytest.mark.parametrize("protocol", BOTH)
async def test_server_that_lost_its_memory_takes_no_cluster_away(server: RegistryServer, protocol: str) -> None:
    """From who follows everything and shows that it had something: what an answer lacks would be gone."""
    async with world_of(server.address, itertools.count(1)) as world:
        names = await world.service(8001)
        async with world.open(protocol, ENVOY) as stream:
            await stream.want(CDS)
            before = await stream.take(CDS)
    await server.restart_async()
    async with (
        world_of(server.address, itertools.count(100)) as world,
        world.open(protocol, ENVOY, quiet_s=0, lenient=True) as stream,
    ):
        shown = {"version_info": before.version} if protocol == SOTW else {"initial_resource_versions": before.versions}
        await stream.send(type_url=CDS, **shown)
        await passed(0.5)
        for answer in stream.log:
            assert names.cds not in answer.removed
            assert protocol == DELTA or names.cds in answer.resources


async def versions(world: World, protocol: str, names: object) -> dict[str, object]:
    """Version and content of every type, for one who asks for one service."""
    found = {}
    async with world.open(protocol) as stream:
        for kind in KINDS:
            await stream.want(kind, names.of(kind))  # type: ignore[attr-defined]
            answer = await stream.take(kind)
            found[kind] = (answer.version if protocol == SOTW else answer.versions, answer.resources)
    return found


@pytest.mark.parametrize("protocol", BOTH)
async def test_replicas_tell_the_same_under_the_same_versions(
    server_factory: ServerFactory, backends: Backends, protocol: str
) -> None:
    url = backends.etcd_url()
    one, two = [await server_factory(store=url, name=f"replica-{it}").start_async() for it in (1, 2)]
    async with world_of(one.address, itertools.count(1)) as first, world_of(two.address, itertools.count(1)) as second:
        names = await first.service(8001, 8002)
        async with second.open(protocol) as stream:
            await stream.get(EDS, names.eds)
            while len(ports_of(stream.of[EDS].held[names.eds])) < 2:
                await stream.take(EDS)
        assert await versions(first, protocol, names) == await versions(second, protocol, names)


async def test_client_comes_back_to_the_other_replica_and_is_told_nothing_twice(
    server_factory: ServerFactory, backends: Backends
) -> None:
    url = backends.etcd_url()
    one = await server_factory(store=url, name="replica-1").start_async()
    async with world_of(one.address, itertools.count(1)) as world:
        names = await world.service(8001)
        async with world.open(DELTA, ENVOY) as stream:
            await stream.get(CDS)
            before = dict(stream.of[CDS].versions)
    assert names.cds in before
    two = await server_factory(store=url, name="replica-2").start_async()
    async with world_of(two.address, itertools.count(9)) as world, world.open(DELTA, ENVOY) as stream:
        await come_back(stream, CDS, before)
        answer = await stream.take(CDS)
        assert (answer.resources, answer.removed) == ({}, ())
