"""Make before break: whoever follows a pointer finds what it points to, while services come, change and go."""

import pytest

from tests.support.ads import BOTH, AdsStream, Follower, World, ports_of
from tests.support.waiting import eventually_async
from tests.support.xds_messages import CDS, EDS, ENVOY, LDS, RDS, endpoints_name

pytestmark = pytest.mark.parametrize("protocol", BOTH)


def complete(follower: Follower) -> bool:
    """Whether its routes lead to all its clusters, and all of these have endpoints."""
    clusters = follower.held(CDS)
    return follower.routed() == set(clusters) and {*map(endpoints_name, clusters.values())} == set(follower.held(EDS))


def leads_nowhere_else(follower: Follower) -> None:
    """Raises AssertionError if a route leads to a cluster that is not there."""
    assert follower.routed() <= set(follower.stream.of[CDS].held)


async def test_routes_lead_nowhere_but_to_known_clusters_with_endpoints(world: World, protocol: str) -> None:
    await world.service(8001)
    async with Follower(world.open(protocol, ENVOY), look=leads_nowhere_else) as follower:
        for port in (8002, 8003):
            name = world.fresh()
            await world.put(name, port)
            await eventually_async(lambda name=name: follower.endpoints(name) is not None)  # type: ignore[misc]
        await eventually_async(lambda: complete(follower))


async def test_new_service_comes_as_cluster_and_then_as_route(world: World, protocol: str) -> None:
    """Envoy has no patience with routes whose cluster is not there yet: calls fail at once."""
    names, name = await world.service(8001), world.fresh()
    async with Follower(world.open(protocol, ENVOY)) as follower:
        await eventually_async(lambda: follower.endpoints(names.lds) is not None and complete(follower))
        at_rest = len(follower.stream.log)
        await world.put(name, 8002)
        await eventually_async(lambda: follower.endpoints(name) is not None)
        came = [answer.kind for answer in follower.stream.log[at_rest:]]
        assert came.index(CDS) < came.index(RDS)


async def test_cluster_comes_before_its_endpoints(world: World, protocol: str) -> None:
    """Both change at once when a service appears whose endpoints were asked for already."""
    name = world.fresh()
    names = await world.names(name)
    async with world.open(protocol, ENVOY) as stream:
        await stream.get(CDS)
        await stream.get(EDS, names.eds)
        await world.put(name, 8001)
        answers = [await stream.next(), await stream.next()]
        assert [answer.kind for answer in answers] == [CDS, EDS]


async def test_service_that_goes_and_comes_leaves_no_gap(world: World, protocol: str) -> None:
    """Whatever came in between, everything is there whenever a stream is at rest."""
    names = await world.service(8001)
    async with Follower(world.open(protocol, ENVOY), look=leads_nowhere_else) as follower:
        for _ in range(3):
            await eventually_async(lambda: ports(follower, names.lds) == {8001})
            await world.remove(names.lds, 8001)
            await eventually_async(lambda: ports(follower, names.lds) == set())
            await world.put(names.lds, 8001)


def ports(follower: Follower, service: str) -> set[int] | None:
    """The ports of a service; None while nothing is known of it."""
    assignment = follower.assignment(service)
    return None if assignment is None else ports_of(assignment)


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
