"""What a policy changes is told, and in an order that leaves no caller without a cluster; nothing else is touched."""

from typing import Any

import pytest

from registry_api.registry.v1 import policies_pb2 as pb
from tests.support.ads import BOTH, DELTA, SOTW, AdsStream, Follower, Names, World, ports_of
from tests.support.waiting import eventually_async
from tests.support.xds_messages import C_CORE, CDS, EDS, ENVOY, JAVA, LDS, RDS, endpoints_name

KINDS = (LDS, RDS, CDS, EDS)
# What each type of resource follows, by a policy that concerns it and no other.
CHANGES: dict[str, dict[str, Any]] = {
    RDS: {"timeout": {"seconds": 7}},
    CDS: {"circuit_breaking": {"max_requests": 7}},
}
SPLIT = [{"version": "1", "weight": 90}, {"version": "2", "weight": 10}]
EVERYTHING: list[dict[str, Any]] = [
    {"balancing": pb.Policy.LEAST_REQUEST},
    {"balancing": pb.Policy.RING_HASH, "hash_header": "player-id"},
    {"balancing": pb.Policy.PICK_FIRST},
    {"retries": {"attempts": 3}, "timeout": {"seconds": 5}},
    {"outlier_detection": {"consecutive_failures": 5, "failure_percentage": {}, "success_rate": {}}},
    {"split": SPLIT},
]


async def follow(stream: AdsStream, names: Names) -> None:
    """Have everything of a service."""
    for kind in KINDS:
        await stream.get(kind, names.of(kind))


async def two_versions(world: World) -> str:
    """A service with an instance of each of two versions."""
    name = world.fresh()
    await world.put(name, 8001, version="1")
    await world.put(name, 8002, version="2")
    return name


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize("kind", CHANGES, ids=["routes", "cluster"])
async def test_policy_is_told_in_the_type_that_it_concerns(world: World, protocol: str, kind: str) -> None:
    names, other = await world.service(8001), await world.service(8002)
    async with world.open(protocol) as stream, world.open(protocol) as bystander:
        await follow(stream, names)
        await follow(bystander, other)
        await world.policy(names.lds, **CHANGES[kind])
        assert set((await stream.take(kind)).resources) == {names.of(kind)}
        await stream.nothing_more()
        await world.policy(names.lds)
        await stream.take(kind)


@pytest.mark.parametrize("protocol", BOTH)
async def test_policy_that_says_nothing_new_is_not_told(world: World, protocol: str) -> None:
    names = await world.service(8001)
    await world.policy(names.lds, **CHANGES[CDS])
    async with world.open(protocol) as stream:
        await follow(stream, names)
        await world.policy(names.lds, **CHANGES[CDS])


async def test_changed_cluster_comes_with_all_others_that_are_asked_for(world: World) -> None:
    """In the state of the world what an answer lacks is deleted."""
    one, two = await world.service(8001), await world.service(8002)
    async with world.open(SOTW) as stream:
        await stream.get(CDS, one.cds, two.cds)
        await world.policy(two.lds, **CHANGES[CDS])
        assert set((await stream.take(CDS)).resources) == {one.cds, two.cds}


async def test_changed_cluster_comes_alone_to_who_asks_for_differences(world: World) -> None:
    one, two = await world.service(8001), await world.service(8002)
    async with world.open(DELTA) as stream:
        await stream.get(CDS, one.cds, two.cds)
        await world.policy(two.lds, **CHANGES[CDS])
        assert set((await stream.take(CDS)).resources) == {two.cds}


@pytest.mark.parametrize("protocol", BOTH)
async def test_envoy_is_told_the_endpoints_of_a_changed_cluster_again(world: World, protocol: str) -> None:
    """It warms the cluster, acknowledges it only once it has endpoints, and does not always ask."""
    names, other = await world.service(8001), await world.service(8002)
    async with world.open(protocol, ENVOY) as stream:
        await stream.get(CDS, names.cds, other.cds)
        await stream.get(EDS, names.eds, other.eds)
        stream.again(EDS)
        await world.policy(names.lds, **CHANGES[CDS])
        changed = await stream.next(CDS)
        assert set((await stream.take(EDS)).resources) == {names.eds}
        await stream.ack(changed)


async def test_envoy_that_asks_for_them_while_it_warms_is_answered_too(world: World) -> None:
    """In the state of the world it asks with the words of its last acknowledgement."""
    names = await world.service(8001)
    async with world.open(SOTW, ENVOY) as stream:
        await stream.get(CDS, names.cds)
        await stream.get(EDS, names.eds)
        stream.again(EDS)
        await world.policy(names.lds, **CHANGES[CDS])
        changed = await stream.next(CDS)
        pushed = await stream.next(EDS)
        await stream.ack(pushed)
        await stream.ack(changed)
        stream.again(EDS)
        await stream.ack(pushed)
        await stream.take(EDS)


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize("agent", [C_CORE, "gRPC Go", JAVA, "gRPC Node Pure JS", "gRPC Rust tonic-xds", ENVOY])
async def test_every_policy_is_told_in_a_way_that_all_take(world: World, protocol: str, agent: str) -> None:
    """By the rules of the strictest, which every answer is held to. What a kind cannot follow changes nothing."""
    name = await two_versions(world)
    async with Follower(world.open(protocol, agent), name) as follower:
        for port, policy in enumerate(EVERYTHING, 8003):
            await world.policy(name, **policy)
            await world.put(name, port, version="1")
            await eventually_async(lambda port=port: port in all_ports(follower), what=f"{port}")  # type: ignore[misc]


def all_ports(follower: Follower) -> set[int]:
    """The ports of every service and part."""
    return {port for assignment in follower.held(EDS).values() for port in ports_of(assignment)}


# ---- a split: clusters come and go


@pytest.mark.parametrize("protocol", BOTH)
async def test_split_leads_each_share_to_its_own_endpoints(world: World, protocol: str) -> None:
    name = await two_versions(world)
    await world.policy(name, split=SPLIT)
    async with Follower(world.open(protocol), name) as follower:
        await eventually_async(lambda: complete(follower, name) == 2, what="both parts")
        assert shares(follower, name) == {90: {8001}, 10: {8002}}


def complete(follower: Follower, service: str) -> int:
    """How many clusters a service has, if all of them have endpoints; else 0."""
    try:
        clusters = follower.clusters(service)
    except KeyError:
        return 0
    held = follower.held(CDS)
    known = [held[it] for it in clusters if it in held and endpoints_name(held[it]) in follower.held(EDS)]
    return len(clusters) if len(known) == len(clusters) else 0


def shares(follower: Follower, service: str) -> dict[int, set[int]]:
    """Weight -> ports."""
    (routes,) = follower.held(RDS).values()
    (host,) = [it for it in routes.virtual_hosts if service in it.domains or "*" in it.domains]
    return {
        part.weight.value: ports_of(follower.held(EDS)[endpoints_name(follower.held(CDS)[part.name])])
        for part in host.routes[0].route.weighted_clusters.clusters
    }


@pytest.mark.parametrize("protocol", BOTH)
async def test_envoy_has_the_clusters_of_its_routes_while_splits_come_and_go(world: World, protocol: str) -> None:
    """Clusters first on the way in, routes first on the way out: at no time do calls go where nothing is."""
    name = await two_versions(world)
    async with Follower(world.open(protocol, ENVOY), look=leads_to_what_is_there) as follower:
        await eventually_async(lambda: complete(follower, name) == 1)
        for policy, parts in (
            ({"split": SPLIT}, 2),
            ({}, 1),
            ({"split": SPLIT[:1]}, 1),
            ({"split": SPLIT}, 2),
            ({}, 1),
        ):
            await world.policy(name, **policy)
            await eventually_async(lambda parts=parts: complete(follower, name) == parts)  # type: ignore[misc]
        assert follower.clusters(name) == [name]
        await eventually_async(lambda: not [it for it in follower.held(CDS) if it.startswith(f"{name}#")])


def leads_to_what_is_there(follower: Follower) -> None:
    """Raises AssertionError if a route leads to a cluster that its client does not have."""
    missing = follower.routed() - set(follower.stream.of[CDS].held)
    assert not missing, f"routes to {missing}; came: {[str(it) for it in follower.stream.log[-8:]]}"


@pytest.mark.parametrize("protocol", BOTH)
async def test_client_that_goes_by_names_finds_every_cluster_that_it_is_led_to(world: World, protocol: str) -> None:
    """It asks for a cluster once a route leads there, and drops it once none does: it is told of none that is gone."""
    name = await two_versions(world)
    async with Follower(world.open(protocol), name) as follower:
        await eventually_async(lambda: complete(follower, name) == 1)
        for policy, parts in (({"split": SPLIT}, 2), ({}, 1), ({"split": SPLIT}, 2), ({}, 1)):
            await world.policy(name, **policy)
            await eventually_async(lambda parts=parts: complete(follower, name) == parts)  # type: ignore[misc]
        assert follower.clusters(name) == [name]
        told_of_lack = [str(it) for it in follower.stream.log if it.removed or it.errors]
        assert not told_of_lack


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize("agent", [C_CORE, ENVOY])
async def test_newcomer_is_led_to_a_part_that_came_while_nobody_was_there(
    world: World, protocol: str, agent: str
) -> None:
    """What was made for those before it is not what there is now."""
    name = world.fresh()
    await world.put(name, 8001, version="1")
    await world.policy(name, split=SPLIT)
    async with Follower(world.open(protocol, agent), name) as before:
        await eventually_async(lambda: complete(before, name) == 1)
    await world.put(name, 8002, version="2")
    async with Follower(world.open(protocol, agent), name) as after:
        await eventually_async(lambda: complete(after, name) == 2)


@pytest.mark.parametrize("protocol", BOTH)
async def test_envoy_has_the_clusters_of_its_routes_while_policies_come_faster_than_it_is_told(
    world: World, protocol: str
) -> None:
    """Routes are made of what there is now, of which the clusters may not have been told yet."""
    name = await two_versions(world)
    async with Follower(world.open(protocol, ENVOY), look=leads_to_what_is_there) as follower:
        await eventually_async(lambda: complete(follower, name) == 1)
        for turn in range(20):
            await world.policy(name, split=SPLIT[: 1 + turn % 2], timeout={"seconds": 1 + turn})
        await eventually_async(lambda: complete(follower, name) == 2)


@pytest.mark.parametrize("protocol", BOTH)
async def test_unknown_part_of_a_service_is_no_resource(world: World, protocol: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        await stream.want(CDS, f"{names.cds}#no-such-part", names.cds)
        answer = await stream.take(CDS)
        assert set(answer.resources) >= {names.cds}
