"""Make before break: whoever follows a pointer finds what it points to, while services come, change and go."""

import asyncio
import contextlib

import pytest

from tests.support.ads import BOTH, AdsStream, Answer, World, ports_of
from tests.support.waiting import eventually_async
from tests.support.xds_messages import CDS, EDS, ENVOY, LDS, RDS, clusters_of, endpoints_name, manager_of

pytestmark = pytest.mark.parametrize("protocol", BOTH)


async def settle(stream: AdsStream) -> list[Answer]:
    """Take all that comes as Envoy does, which asks for the endpoints of each new cluster; what came."""
    before = len(stream.log)
    with contextlib.suppress(TimeoutError):
        while True:
            answer = await asyncio.wait_for(stream.next(), 0.1)
            if answer.kind == CDS:
                stream.again(EDS)
            await stream.ack(answer)
            wanted = {endpoints_name(it) for it in stream.of[CDS].held.values()}
            if wanted != stream.of[EDS].wanted:
                await stream.want(EDS, *sorted(wanted))
            routes = {manager_of(it).rds.route_config_name for it in stream.of[LDS].held.values()}
            if routes != stream.of[RDS].wanted:
                await stream.want(RDS, *sorted(routes))
    return stream.log[before:]


def routed(stream: AdsStream) -> set[str]:
    """The clusters that are called by the routes a stream holds."""
    return {name for it in stream.of[RDS].held.values() for name in clusters_of(it)}


async def test_routes_lead_nowhere_but_to_known_clusters_with_endpoints(world: World, protocol: str) -> None:
    await world.service(8001)
    async with world.open(protocol, ENVOY) as stream:
        await stream.want(CDS)
        await stream.want(LDS)
        await settle(stream)
        for port in (8002, 8003):
            await world.put(world.fresh(), port)
            for answer in await settle(stream):
                if answer.kind == RDS:
                    assert routed(stream) <= set(stream.of[CDS].held)
        assert routed(stream) == set(stream.of[CDS].held)
        assert {endpoints_name(it) for it in stream.of[CDS].held.values()} == set(stream.of[EDS].held)


async def test_new_service_comes_as_cluster_and_then_as_route(world: World, protocol: str) -> None:
    """Envoy has no patience with routes whose cluster is not there yet: calls fail at once."""
    await world.service(8001)
    async with world.open(protocol, ENVOY) as stream:
        await stream.want(CDS)
        await stream.want(LDS)
        await settle(stream)
        await world.put(world.fresh(), 8002)
        came = [answer.kind for answer in await settle(stream)]
        assert CDS in came
        assert RDS in came
        assert came.index(CDS) < came.index(RDS)


async def test_cluster_comes_before_its_endpoints(world: World, protocol: str) -> None:
    """Both change at once when a service appears whose endpoints were asked for already."""
    name = world.fresh()
    names = await world.names(name)
    async with world.open(protocol, ENVOY) as stream:
        await stream.get(CDS)
        await stream.get(EDS, names.eds)
        at_rest = len(stream.log)
        await world.put(name, 8001)
        await settle(stream)
        came = [answer.kind for answer in stream.log[at_rest:]]
        assert came[:2] == [CDS, EDS]


async def test_service_that_goes_and_comes_leaves_no_gap(world: World, protocol: str) -> None:
    """Whatever came in between, everything is there whenever a stream is at rest."""
    names = await world.service(8001)
    async with world.open(protocol, ENVOY) as stream:
        await stream.want(CDS)
        await stream.want(LDS)
        await settle(stream)
        for _ in range(3):
            await world.remove(names.lds, 8001)
            await settle(stream)
            assert names.cds in stream.of[CDS].held
            assert ports_of(stream.of[EDS].held[names.eds]) == set()
            await world.put(names.lds, 8001)
            await settle(stream)
            assert ports_of(stream.of[EDS].held[names.eds]) == {8001}


async def test_envoys_own_listener_has_the_address_that_its_node_asks_for(world: World, protocol: str) -> None:
    stream = world.open(protocol, ENVOY)
    stream.node.metadata.fields["registry.listen"].string_value = "127.0.0.1:18080"
    async with stream:
        ((name, listener),) = (await stream.get(LDS)).items()
        address = listener.address.socket_address
        assert (name, address.address, address.port_value) == ("registry", "127.0.0.1", 18080)


async def test_streams_that_come_while_services_come_hold_the_same(world: World, protocol: str) -> None:
    """Two streams that joined at different moments of a history end with equal sets."""
    async with world.open(protocol, ENVOY) as early, world.open(protocol, ENVOY) as late:
        await early.want(CDS)
        await early.ack(await early.next(CDS))
        for port in (8001, 8002, 8003):
            await world.put(world.fresh(), port)
        await late.want(CDS)
        await late.take(CDS)

        async def equal() -> bool:
            await settle_clusters(early)
            return set(early.of[CDS].held) == set(late.of[CDS].held)

        await eventually_async(equal)


async def settle_clusters(stream: AdsStream) -> None:
    """Acknowledge what has come."""
    while stream.answers:
        await stream.ack(await stream.next())
