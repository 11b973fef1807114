"""Rules for both kinds of ADS: what is asked for is told once, and again when it changes, and nothing else is."""

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from tests.support.ads import BOTH, DELTA, SOTW, World, ports_of
from tests.support.xds_messages import CDS, EDS, ENVOY, JAVA, LDS, RDS, clusters_of, endpoints_name, manager_of

KINDS = (LDS, RDS, CDS, EDS)
pytestmark = pytest.mark.parametrize("protocol", BOTH)


# ---- asking


async def test_named_resources_of_every_type_are_told_once(world: World, protocol: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        for kind in KINDS:
            assert set(await stream.get(kind, names.of(kind))) == {names.of(kind)}


async def test_resources_lead_from_listener_to_endpoints(world: World, protocol: str) -> None:
    names = await world.service(8001, 8002)
    async with world.open(protocol) as stream:
        listener = (await stream.get(LDS, names.lds))[names.lds]
        assert manager_of(listener).rds.route_config_name == names.rds
        routes = (await stream.get(RDS, names.rds))[names.rds]
        assert clusters_of(routes) == [names.cds]
        assert any(names.lds in host.domains or "*" in host.domains for host in routes.virtual_hosts)
        cluster = (await stream.get(CDS, names.cds))[names.cds]
        assert endpoints_name(cluster) == names.eds
        assert ports_of((await stream.get(EDS, names.eds))[names.eds]) == {8001, 8002}


async def test_types_asked_for_together_are_each_answered(world: World, protocol: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        for kind in reversed(KINDS):
            await stream.want(kind, names.of(kind))
        for kind in KINDS:
            assert set((await stream.take(kind)).resources) == {names.of(kind)}


async def test_node_is_told_in_the_first_request_alone(world: World, protocol: str) -> None:
    """What kind of client it is goes for the whole stream: this one is answered by name, and not by everything."""
    names = await world.service(8001)
    async with world.open(protocol, JAVA) as stream:
        await stream.get(CDS, names.cds)
        assert set(await stream.get(EDS, names.eds)) == {names.eds}


async def test_stream_without_a_node_is_answered(world: World, protocol: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        stream.node = None
        assert set(await stream.get(EDS, names.eds)) == {names.eds}


async def test_name_that_is_added_is_told(world: World, protocol: str) -> None:
    one, two = await world.service(8001), await world.service(8002)
    async with world.open(protocol) as stream:
        for kind in KINDS:
            await stream.get(kind, one.of(kind))
            assert two.of(kind) in await stream.get(kind, one.of(kind), two.of(kind))


async def test_name_asked_for_twice_is_told_once(world: World, protocol: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        assert set(await stream.get(EDS, names.eds, names.eds)) == {names.eds}


@pytest.mark.parametrize("kind", KINDS, ids=["LDS", "RDS", "CDS", "EDS"])
async def test_name_that_is_dropped_and_taken_up_again_is_told_again(world: World, protocol: str, kind: str) -> None:
    """Clients forget what they drop: an idle channel that is used again waits for an answer, with its old version."""
    names, other = await world.service(8001), await world.service(8002)
    async with world.open(protocol) as stream:
        await stream.get(kind, names.of(kind), other.of(kind))
        await stream.want(kind, other.of(kind))
        await stream.nothing_more()
        assert names.of(kind) in await stream.get(kind, names.of(kind), other.of(kind))


@pytest.mark.parametrize("kind", KINDS, ids=["LDS", "RDS", "CDS", "EDS"])
async def test_asking_for_nothing_more_ends_all_and_can_be_taken_up(world: World, protocol: str, kind: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        await stream.get(kind, names.of(kind))
        await stream.want(kind)
        await world.put(names.lds, 8002)
        await stream.nothing_more()
        assert set(await stream.get(kind, names.of(kind))) == {names.of(kind)}


async def test_dropped_name_is_told_no_more(world: World, protocol: str) -> None:
    one, two = await world.service(8001), await world.service(8002)
    async with world.open(protocol) as stream:
        await stream.get(EDS, one.eds, two.eds)
        await stream.want(EDS, two.eds)
        await world.put(one.lds, 8011)
        await world.put(two.lds, 8012)
        assert set((await stream.take(EDS)).resources) == {two.eds}


async def test_what_others_ask_for_is_not_told(world: World, protocol: str) -> None:
    one, two = await world.service(8001), await world.service(8002)
    async with world.open(protocol) as stream, world.open(protocol) as other:
        await stream.get(EDS, one.eds)
        await other.get(EDS, two.eds)
        await world.put(two.lds, 8003)
        assert set((await other.take(EDS)).resources) == {two.eds}


async def test_grpc_client_that_names_nothing_gets_nothing(world: World, protocol: str) -> None:
    """Java does so for types that it needs not; nobody of them wants everything."""
    await world.service(8001)
    async with world.open(protocol, JAVA) as stream:
        for kind in KINDS:
            await stream.want(kind)


async def test_type_that_nobody_knows_is_let_be(world: World, protocol: str) -> None:
    """Ending the stream would take away all other types with it."""
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        await stream.send(type_url="type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret")
        await stream.send(type_url="no type at all")
        assert set(await stream.get(EDS, names.eds)) == {names.eds}


# ---- unknown services


async def test_unknown_service_is_answered_with_no_endpoints(world: World, protocol: str) -> None:
    """Silence would cost its caller 15 s, and Node for ever."""
    name = world.fresh()
    async with world.open(protocol) as stream:
        listener = (await stream.get(LDS, name))[name]
        route = manager_of(listener).rds.route_config_name
        (cds,) = clusters_of((await stream.get(RDS, route))[route])
        eds = endpoints_name((await stream.get(CDS, cds))[cds])
        assert ports_of((await stream.get(EDS, eds))[eds]) == set()


async def test_unknown_service_is_told_of_when_it_appears(world: World, protocol: str) -> None:
    names = await world.names(world.fresh())
    async with world.open(protocol) as stream:
        for kind in KINDS:
            await stream.get(kind, names.of(kind))
        await world.put(names.lds, 8001)
        assert ports_of((await stream.take(EDS)).resources[names.eds]) == {8001}


@pytest.mark.parametrize("name", ["a b", "-a", "a" * 300, "a/b/c", "größe", "a\nb"])
async def test_name_that_no_service_can_have_is_an_error_told_once(world: World, protocol: str, name: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        await stream.want(LDS, name, names.lds)
        answer = await stream.take(LDS)
        assert set(answer.resources) == {names.lds}
        assert set(answer.errors) == {name}
        code, text = answer.errors[name]
        assert code in (3, 5)
        assert text
        assert answer.removed in ((), (name,)) if protocol == SOTW else answer.removed == (name,)


# ---- changes


async def test_change_is_told_to_all_who_ask(world: World, protocol: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as one, world.open(protocol) as two, world.open(protocol, ENVOY) as three:
        for stream in (one, two, three):
            await stream.get(EDS, names.eds)
        await world.put(names.lds, 8002)
        for stream in (one, two, three):
            assert ports_of((await stream.take(EDS)).resources[names.eds]) == {8001, 8002}


async def test_change_of_one_is_told_without_the_others(world: World, protocol: str) -> None:
    one, two, three = [await world.service(8001) for _ in range(3)]
    async with world.open(protocol) as stream:
        await stream.get(EDS, one.eds, two.eds, three.eds)
        await world.put(two.lds, 8002)
        assert set((await stream.take(EDS)).resources) == {two.eds}


async def test_change_of_endpoints_is_no_change_of_the_rest(world: World, protocol: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        for kind in KINDS:
            await stream.get(kind, names.of(kind))
        await world.put(names.lds, 8002)
        assert ports_of((await stream.take(EDS)).resources[names.eds]) == {8001, 8002}


async def test_change_that_no_client_can_see_is_not_told(world: World, protocol: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        for kind in KINDS:
            await stream.get(kind, names.of(kind))
        await world.put(names.lds, 8001)
        await world.change(names.lds, 8001, weight=100)
        await stream.nothing_more()


@pytest.mark.parametrize(
    "change",
    [{"status": pb.DRAINING}, {"status": pb.DOWN}, {"health": pb.UNHEALTHY}, {"weight": 0}],
    ids=["draining", "down", "unhealthy", "no weight"],
)
async def test_instance_that_is_to_get_no_calls_gets_none(world: World, protocol: str, change: dict[str, int]) -> None:
    names = await world.service(8001, 8002)
    async with world.open(protocol) as stream:
        await stream.get(EDS, names.eds)
        await world.change(names.lds, 8001, **change)
        assert ports_of((await stream.take(EDS)).resources[names.eds]) == {8002}


async def test_service_without_its_last_instance_keeps_all_but_endpoints(world: World, protocol: str) -> None:
    """A listener or cluster that goes is an outage, and endpoints that are only removed are kept by Envoy."""
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        for kind in KINDS:
            await stream.get(kind, names.of(kind))
        await world.remove(names.lds, 8001)
        answer = await stream.take(EDS)
        assert ports_of(answer.resources[names.eds]) == set()
        assert not answer.removed
        await stream.nothing_more()
        await world.put(names.lds, 8001)
        assert ports_of((await stream.take(EDS)).resources[names.eds]) == {8001}


async def test_newcomer_finds_a_service_without_instances_complete(world: World, protocol: str) -> None:
    names = await world.service(8001)
    await world.remove(names.lds, 8001)
    async with world.open(protocol) as stream:
        for kind in KINDS:
            assert set(await stream.get(kind, names.of(kind))) == {names.of(kind)}


# ---- nonces, acknowledgements, rejections


async def test_acknowledgement_is_not_answered(world: World, protocol: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        for kind in KINDS:
            await stream.want(kind, names.of(kind))
            await stream.ack(await stream.next(kind))
        await stream.nothing_more()


async def test_rejected_content_is_not_sent_again_until_it_changes(world: World, protocol: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        await stream.want(EDS, names.eds)
        await stream.nack(await stream.next(EDS))
        await stream.nothing_more()
        await world.put(names.lds, 8002)
        assert ports_of((await stream.take(EDS)).resources[names.eds]) == {8001, 8002}


async def test_rejection_of_one_type_leaves_the_others(world: World, protocol: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        await stream.want(CDS, names.cds)
        await stream.nack(await stream.next(CDS))
        assert set(await stream.get(EDS, names.eds)) == {names.eds}
        await world.put(names.lds, 8002)
        assert set((await stream.take(EDS)).resources) == {names.eds}


async def test_name_added_beside_a_rejection_is_told(world: World, protocol: str) -> None:
    one, two = await world.service(8001), await world.service(8002)
    async with world.open(protocol) as stream:
        await stream.want(EDS, one.eds)
        await stream.nack(await stream.next(EDS))
        assert two.eds in await stream.get(EDS, one.eds, two.eds)


async def test_rejection_by_one_client_changes_nothing_for_another(world: World, protocol: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream, world.open(protocol) as other:
        await stream.want(EDS, names.eds)
        await stream.nack(await stream.next(EDS))
        assert set(await other.get(EDS, names.eds)) == {names.eds}
        await world.put(names.lds, 8002)
        await stream.take(EDS)
        await other.take(EDS)


async def test_next_is_sent_after_the_answer_to_the_last(world: World, protocol: str) -> None:
    """At most one of a type is under way; what changed meanwhile comes in one, as it is by then."""
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        await stream.want(EDS, names.eds)
        answer = await stream.next(EDS)
        for port in (8002, 8003, 8004):
            await world.put(names.lds, port)
        await stream.nothing_more()
        await stream.ack(answer)
        assert ports_of((await stream.take(EDS)).resources[names.eds]) == {8001, 8002, 8003, 8004}


async def test_type_that_is_not_acknowledged_holds_up_no_other(world: World, protocol: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        await stream.want(CDS, names.cds)
        await stream.next(CDS)
        assert set(await stream.get(EDS, names.eds)) == {names.eds}
        await world.put(names.lds, 8002)
        assert set((await stream.take(EDS)).resources) == {names.eds}


async def test_unacknowledged_change_and_back_is_nothing(world: World, protocol: str) -> None:
    names = await world.service(8001)
    async with world.open(protocol) as stream:
        await stream.want(EDS, names.eds)
        answer = await stream.next(EDS)
        await world.put(names.lds, 8002)
        await world.remove(names.lds, 8002)
        await stream.ack(answer)
        await stream.nothing_more()


async def test_versions_are_of_the_content(world: World, protocol: str) -> None:
    """Equal for all streams, and once more the same when it is the same again: so a replica's and a restart's are."""
    names = await world.service(8001)
    async with world.open(protocol) as stream, world.open(protocol) as other:
        for one in (stream, other):
            await one.want(EDS, names.eds)
        first, second = await stream.take(EDS), await other.take(EDS)
        assert (first.versions, first.resources) == (second.versions, second.resources)
        assert first.version == second.version or protocol == DELTA
        await world.put(names.lds, 8002)
        changed = await stream.take(EDS)
        await other.take(EDS)
        await world.remove(names.lds, 8002)
        again = await stream.take(EDS)
        await other.take(EDS)
    assert (changed.version, changed.versions) != (first.version, first.versions)
    assert (again.versions, again.resources) == (first.versions, first.resources)
