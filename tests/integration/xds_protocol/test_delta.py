"""Rules for incremental xDS."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ads import ANYTHING, DELTA, World, come_back, ports_of, world_of
from tests.support.servers import RegistryServer
from tests.support.xds_messages import CDS, EDS, ENVOY, LDS, RDS

KINDS = (LDS, RDS, CDS, EDS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """One that has a memory: without any it would wait for those it does not remember before it says who is gone."""
    directory = tmp_path_factory.mktemp("xds")
    with RegistryServer(directory, store=f"sqlite:{directory / 'registry.db'}") as server:
        asyncio.run(remember_one(server.address))
        yield server.restart()


async def remember_one(address: str) -> None:
    """A service that nobody else uses."""
    async with world_of(address, itertools.count()) as world:
        await world.put("remembered", 8001)


async def versions_of(world: World, kind: str, *names: str) -> dict[str, str]:
    """The versions that a client holds now."""
    async with world.open(DELTA, ENVOY) as stream:
        await stream.want(kind, *names)
        return (await stream.take(kind)).versions


# ---- coming back


async def test_client_that_comes_back_for_everything_is_told_what_changed(world: World) -> None:
    one, two = await world.service(8001), await world.service(8002)
    before = await versions_of(world, CDS)
    before[one.cds] = "another version"
    async with world.open(DELTA, ENVOY) as stream:
        await come_back(stream, CDS, before)
        answer = await stream.take(CDS)
        assert set(answer.resources) == {one.cds}
        assert not answer.removed
        assert two.cds in before


async def test_client_that_comes_back_with_an_old_version_of_a_name_is_told(world: World) -> None:
    names = await world.service(8001)
    before = await versions_of(world, EDS, names.eds)
    await world.put(names.lds, 8002)
    async with world.open(DELTA, ENVOY) as stream:
        await come_back(stream, EDS, before, names.eds)
        assert ports_of((await stream.take(EDS)).resources[names.eds]) == {8001, 8002}


async def test_client_that_comes_back_for_everything_with_all_in_hand_is_answered(world: World) -> None:
    """Envoy waits for an answer, though there is nothing to tell."""
    names = await world.service(8001)
    before = await versions_of(world, CDS)
    async with world.open(DELTA, ENVOY) as stream:
        await come_back(stream, CDS, before)
        answer = await stream.take(CDS)
        assert (answer.resources, answer.removed) == ({}, ())
        assert names.cds in before


async def test_endpoints_asked_for_by_name_are_told_whatever_the_client_has(world: World) -> None:
    """It may be warming their cluster, which it does not say, and would wait for them for 15 s."""
    names = await world.service(8001)
    before = await versions_of(world, EDS, names.eds)
    async with world.open(DELTA, ENVOY) as stream:
        await come_back(stream, EDS, before, names.eds)
        stream.of[EDS].due.add(names.eds)
        assert set((await stream.take(EDS)).resources) == {names.eds}


async def test_first_answer_to_who_asks_for_everything_may_be_empty_but_comes(tmp_path: Path) -> None:
    with RegistryServer(tmp_path) as server:
        async with world_of(server.address, itertools.count()) as world, world.open(DELTA, ENVOY) as stream:
            assert await stream.get(CDS) == {}
            await world.put("first", 8001)
            assert len((await stream.take(CDS)).resources) == 1


# ---- nonces


async def test_names_asked_for_without_a_nonce_are_told(world: World) -> None:
    one, two = await world.service(8001), await world.service(8002)
    async with world.open(DELTA) as stream:
        await stream.want(EDS, one.eds)
        first = await stream.next(EDS)
        await stream.want(EDS, one.eds, two.eds)
        await stream.ack(first)
        assert set((await stream.take(EDS)).resources) == {two.eds}


@pytest.mark.parametrize("nonce", ["", "never-sent", "x" * 10_000])
async def test_names_asked_for_with_any_nonce_are_told(world: World, nonce: str) -> None:
    one, two = await world.service(8001), await world.service(8002)
    async with world.open(DELTA) as stream:
        await stream.get(EDS, one.eds)
        stream.of[EDS].want([one.eds, two.eds])
        await stream.send(type_url=EDS, resource_names_subscribe=[two.eds], response_nonce=nonce)
        assert set((await stream.take(EDS)).resources) == {two.eds}


async def test_names_beside_an_acknowledgement_are_told(world: World) -> None:
    one, two = await world.service(8001), await world.service(8002)
    async with world.open(DELTA) as stream:
        await stream.want(EDS, one.eds)
        answer = await stream.next(EDS)
        stream.of[EDS].want([two.eds])
        await stream.send(
            type_url=EDS,
            response_nonce=answer.nonce,
            resource_names_subscribe=[two.eds],
            resource_names_unsubscribe=[one.eds],
        )
        assert set((await stream.take(EDS)).resources) == {two.eds}
        await world.put(one.lds, 8003)
        await stream.nothing_more()


async def test_name_asked_for_again_without_dropping_it_is_told_again(world: World) -> None:
    """The client may have dropped it and taken it up before it could say so."""
    names = await world.service(8001)
    async with world.open(DELTA) as stream:
        await stream.get(EDS, names.eds)
        stream.again(EDS)
        await stream.send(type_url=EDS, resource_names_subscribe=[names.eds])
        assert set((await stream.take(EDS)).resources) == {names.eds}


# ---- dropping


async def test_dropping_what_was_never_asked_for_is_not_answered(world: World) -> None:
    names = await world.service(8001)
    async with world.open(DELTA) as stream:
        await stream.get(EDS, names.eds)
        await stream.send(type_url=EDS, resource_names_unsubscribe=["who-knows", "a b", ANYTHING])
        await stream.nothing_more()
        await world.put(names.lds, 8002)
        await stream.take(EDS)


async def test_name_that_cannot_be_is_removed_once(world: World) -> None:
    async with world.open(DELTA) as stream:
        await stream.want(EDS, "a b")
        answer = await stream.take(EDS)
        assert (answer.resources, answer.removed) == ({}, ("a b",))


async def test_name_dropped_while_everything_is_asked_for_is_answered(world: World) -> None:
    """The client cannot know whether it goes on to have it: it is told the resource, or that there is none."""
    names = await world.service(8001)
    async with world.open(DELTA, ENVOY) as stream:
        await stream.get(CDS, ANYTHING, names.cds)
        stream.of[CDS].due.add(names.cds)
        await stream.want(CDS, ANYTHING)
        answer = await stream.take(CDS)
        assert set(answer.resources) | set(answer.removed) == {names.cds}


# ---- everything


async def test_envoy_that_names_nothing_gets_everything(world: World) -> None:
    one, two = await world.service(8001), await world.service(8002)
    async with world.open(DELTA, ENVOY) as stream:
        assert set(await stream.get(CDS)) >= {one.cds, two.cds}
        assert len(await stream.get(LDS)) == 1


async def test_star_is_everything(world: World) -> None:
    names = await world.service(8001)
    async with world.open(DELTA, ENVOY) as stream:
        assert names.cds in await stream.get(CDS, ANYTHING)


async def test_star_that_is_dropped_is_nothing(world: World) -> None:
    one, two = await world.service(8001), await world.service(8002)
    async with world.open(DELTA, ENVOY) as stream:
        await stream.get(CDS, ANYTHING, one.cds)
        await stream.want(CDS, one.cds)
        await world.service(8003)
        await stream.nothing_more()
        assert set(await stream.get(CDS, one.cds, two.cds)) == {two.cds}


async def test_everything_goes_on_when_names_are_added(world: World) -> None:
    """Who asked for everything without saying so does until `*` is dropped."""
    one, unknown = await world.service(8001), await world.names(world.fresh())
    async with world.open(DELTA, ENVOY) as stream:
        await stream.get(CDS)
        stream.of[CDS].want([ANYTHING, one.cds, unknown.cds])
        stream.of[CDS].due.add(one.cds)
        await stream.send(type_url=CDS, resource_names_subscribe=[one.cds, unknown.cds])
        assert set((await stream.take(CDS)).resources) == {one.cds, unknown.cds}
        name = world.fresh()
        await world.put(name, 8002)
        assert len((await stream.take(CDS)).resources) == 1


async def test_new_service_is_told_alone(world: World) -> None:
    await world.service(8001)
    async with world.open(DELTA, ENVOY) as stream:
        before = set(await stream.get(CDS))
        await world.put(world.fresh(), 8002)
        (new,) = (await stream.take(CDS)).resources
        assert new not in before


async def test_every_type_has_versions_of_its_own(world: World) -> None:
    names = await world.service(8001)
    async with world.open(DELTA) as stream:
        for kind in KINDS:
            await stream.get(kind, names.of(kind))
        before = {kind: dict(stream.of[kind].versions) for kind in KINDS}
        await world.put(names.lds, 8002)
        await stream.take(EDS)
        assert {kind for kind in KINDS if stream.of[kind].versions != before[kind]} == {EDS}
