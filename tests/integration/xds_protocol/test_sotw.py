"""Rules for the state of the world."""

import pytest

from tests.support.ads import SOTW, World, ports_of
from tests.support.xds_messages import C_CORE, CDS, EDS, ENVOY, LDS, RDS, Status

WHOLE = (LDS, CDS)


async def ask(world: World, kind: str, *names: str, version: str = "") -> dict[str, object]:
    """What the first request of a new stream is answered, with the version that the client had before."""
    async with world.open() as stream:
        stream.of[kind].version = version
        return await stream.get(kind, *names)


@pytest.mark.parametrize("kind", [LDS, RDS, CDS, EDS], ids=["LDS", "RDS", "CDS", "EDS"])
async def test_client_that_comes_back_with_its_version_is_answered(world: World, kind: str) -> None:
    """Nobody can prove that its set of names is still the same."""
    names = await world.service(8001)
    async with world.open() as stream:
        await stream.want(kind, names.of(kind))
        version = (await stream.take(kind)).version
    assert set(await ask(world, kind, names.of(kind), version=version)) == {names.of(kind)}


async def test_version_of_another_server_is_answered(world: World) -> None:
    names = await world.service(8001)
    assert set(await ask(world, EDS, names.eds, version="17/of-somebody-else")) == {names.eds}


@pytest.mark.parametrize("kind", WHOLE, ids=["LDS", "CDS"])
async def test_answer_has_every_resource_that_is_asked_for(world: World, kind: str) -> None:
    """What it lacks would be taken for deleted."""
    one, two = await world.service(8001), await world.service(8002)
    async with world.open() as stream:
        assert set(await stream.get(kind, one.of(kind))) == {one.of(kind)}
        assert set(await stream.get(kind, one.of(kind), two.of(kind))) == {one.of(kind), two.of(kind)}


@pytest.mark.parametrize("kind", WHOLE, ids=["LDS", "CDS"])
async def test_answer_to_a_name_that_cannot_be_still_has_all_others(world: World, kind: str) -> None:
    names = await world.service(8001)
    async with world.open() as stream:
        await stream.get(kind, names.of(kind))
        assert set(await stream.get(kind, names.of(kind), "a b")) == {names.of(kind)}


async def test_newer_request_supersedes_the_older(world: World) -> None:
    one, two = await world.service(8001), await world.service(8002)
    async with world.open() as stream:
        await stream.want(EDS, one.eds)
        await stream.want(EDS, two.eds)
        answer = await stream.take(EDS)
        if two.eds not in answer.resources:  # the first was answered before the second was read
            answer = await stream.take(EDS)
        assert set(answer.resources) <= {one.eds, two.eds}
        await world.put(one.lds, 8003)
        await stream.nothing_more()


async def test_stale_nonce_is_not_answered(world: World) -> None:
    names = await world.service(8001)
    async with world.open() as stream:
        await stream.want(EDS, names.eds)
        first = await stream.take(EDS)
        await world.put(names.lds, 8002)
        second = await stream.next(EDS)
        await stream.send(
            type_url=EDS, resource_names=[names.eds], version_info=first.version, response_nonce=first.nonce
        )
        await stream.nothing_more()
        await stream.ack(second)


async def test_nonce_of_nobody_is_not_answered(world: World) -> None:
    names = await world.service(8001)
    async with world.open() as stream:
        await stream.want(EDS, names.eds)
        answer = await stream.take(EDS)
        for nonce in ("never-sent", answer.nonce + "0", "x" * 10_000):
            await stream.send(
                type_url=EDS, resource_names=[names.eds], version_info=answer.version, response_nonce=nonce
            )
        await stream.nothing_more()
        await world.put(names.lds, 8002)
        await stream.take(EDS)


async def test_name_in_a_stale_request_is_told_once(world: World) -> None:
    """With the next acknowledgement it comes again, and may have been told already."""
    one, two = await world.service(8001), await world.service(8002)
    async with world.open() as stream:
        await stream.want(EDS, one.eds)
        first = await stream.take(EDS)
        await world.put(one.lds, 8003)
        second = await stream.next(EDS)
        stream.of[EDS].nonce = first.nonce
        await stream.want(EDS, one.eds, two.eds)
        stream.of[EDS].nonce = second.nonce
        await stream.ack(second)
        assert set((await stream.take(EDS)).resources) == {two.eds}


async def test_rejection_that_shows_the_new_version_is_a_rejection(world: World) -> None:
    """C-core and Node say the new version if any part of the response was good: `error_detail` is what counts."""
    names = await world.service(8001)
    async with world.open(agent=C_CORE) as stream:
        await stream.want(EDS, names.eds)
        answer = await stream.next(EDS)
        stream.of[EDS].version = answer.version
        await stream.nack(answer)
        await stream.nothing_more()
        await world.put(names.lds, 8002)
        assert ports_of((await stream.take(EDS)).resources[names.eds]) == {8001, 8002}


async def test_rejection_of_a_stale_response_is_none_of_the_newest(world: World) -> None:
    names = await world.service(8001)
    async with world.open() as stream:
        await stream.want(EDS, names.eds)
        first = await stream.take(EDS)
        await world.put(names.lds, 8002)
        second = await stream.next(EDS)
        await stream.send(
            type_url=EDS, resource_names=[names.eds], response_nonce=first.nonce, error_detail=Status(code=3)
        )
        await stream.ack(second)
        await world.put(names.lds, 8003)
        assert ports_of((await stream.take(EDS)).resources[names.eds]) == {8001, 8002, 8003}


async def test_request_that_repeats_an_acknowledgement_is_answered_to_envoy(world: World) -> None:
    """So it asks again for endpoints while it warms a cluster, and waits for an answer up to 15 s."""
    names = await world.service(8001)
    async with world.open(agent=ENVOY) as stream:
        await stream.want(EDS, names.eds)
        answer = await stream.take(EDS)
        stream.again(EDS)
        await stream.ack(answer)
        assert set((await stream.take(EDS)).resources) == {names.eds}


# ---- everything


async def test_envoy_that_names_nothing_gets_everything(world: World) -> None:
    one, two = await world.service(8001), await world.service(8002)
    async with world.open(agent=ENVOY) as stream:
        assert set(await stream.get(CDS)) >= {one.cds, two.cds}
        assert len(await stream.get(LDS)) == 1


async def test_star_is_everything(world: World) -> None:
    one, two = await world.service(8001), await world.service(8002)
    async with world.open(agent=ENVOY) as stream:
        assert set(await stream.get(CDS, "*")) >= {one.cds, two.cds}


async def test_names_beside_a_star_are_told_too(world: World) -> None:
    one = await world.service(8001)
    unknown = await world.names(world.fresh())
    async with world.open(agent=ENVOY) as stream:
        assert set(await stream.get(CDS, "*", unknown.cds)) >= {one.cds, unknown.cds}


async def test_empty_request_after_names_is_nothing_and_not_everything(world: World) -> None:
    names = await world.service(8001)
    async with world.open(agent=ENVOY) as stream:
        await stream.get(CDS, names.cds)
        await stream.want(CDS)
        await world.service(8002)
        await stream.nothing_more()


async def test_new_service_is_told_to_who_asks_for_everything(world: World) -> None:
    one = await world.service(8001)
    async with world.open(agent=ENVOY) as stream:
        assert one.cds in await stream.get(CDS)
        name = world.fresh()
        await world.put(name, 8002)
        answer = await stream.take(CDS)
        (new,) = set(answer.resources) - {one.cds} - set(stream.log[0].resources)
        assert set(answer.resources) >= set(stream.log[0].resources) | {new}
        assert ports_of((await stream.get(EDS, new))[new]) == {8002}


async def test_bare_resources_for_clients_that_know_no_wrapper(world: World) -> None:
    """Node knows none: every resource is of the type of its answer, which every stream here checks."""
    names = await world.service(8001)
    async with world.open(SOTW, "gRPC Node Pure JS") as stream:
        assert set(await stream.get(CDS, names.cds)) == {names.cds}
