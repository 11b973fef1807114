"""The scenarios of the one public test suite for xDS servers, ii/xds-test-harness, over ADS in both kinds.

There a server is told which resources it has, by type; here a service is registered, and its policy or its instances
are changed. So a listener, which neither changes, has no part in scenarios of changes, and a resource that does not
exist is one of a service that nobody registered: it is there, and leads to no endpoints. Every one ends in "the service
never responds more than necessary".
"""

from typing import Any

import pytest

from tests.support.ads import BOTH, DELTA, SOTW, Answer, Names, World, ports_of
from tests.support.xds_messages import CDS, EDS, ENVOY, LDS, RDS

WHOLE, PARTIAL = (LDS, CDS), (RDS, EDS)
ALL = (*WHOLE, *PARTIAL)
CHANGING = (CDS, RDS, EDS)
# Policies that concern one type.
POLICIES: dict[str, dict[str, Any]] = {
    CDS: {"circuit_breaking": {"max_requests": 100}},
    RDS: {"timeout": {"seconds": 100}},
}
each = pytest.mark.parametrize


def types(kinds: tuple[str, ...]) -> Any:
    """Once for each of them."""
    return each("kind", kinds, ids=[kind.rpartition(".")[2] for kind in kinds])


async def update(world: World, kind: str, names: Names) -> None:
    """Another version of one resource of a service, and of none of another type."""
    if kind == EDS:
        await world.put(names.lds, 8002)
    else:
        await world.policy(names.lds, **POLICIES[kind])


async def services(world: World, count: int) -> list[Names]:
    """New ones, with an instance each."""
    return [await world.service(8001) for _ in range(count)]


def named(answer: Answer, kind: str, all_: list[Names]) -> set[int]:
    """Which of these an answer has, by their places; others it must not have."""
    places = {it.of(kind): place for place, it in enumerate(all_)}
    return {places[name] for name in answer.resources}


# ---- subscribing


async def test_wildcard_has_everything_in_one_response(world: World) -> None:
    all_ = await services(world, 3)
    async with world.open(SOTW, ENVOY) as stream:
        assert set(await stream.get(CDS)) >= {it.cds for it in all_}


async def test_wildcard_has_everything_in_one_response_after_an_update(world: World) -> None:
    all_ = await services(world, 3)
    async with world.open(SOTW, ENVOY) as stream:
        before = set(await stream.get(CDS))
        await update(world, CDS, all_[0])
        assert set((await stream.take(CDS)).resources) == before >= {it.cds for it in all_}


async def test_wildcard_has_everything_in_one_response_after_one_more(world: World) -> None:
    await services(world, 2)
    async with world.open(SOTW, ENVOY) as stream:
        before = set(await stream.get(CDS))
        name = world.fresh()
        await world.put(name, 8001)
        assert set((await stream.take(CDS)).resources) == before | {name}


@each("protocol", BOTH)
@types(ALL)
async def test_only_what_is_subscribed_to_comes(world: World, protocol: str, kind: str) -> None:
    all_ = await services(world, 4)
    async with world.open(protocol) as stream:
        await stream.want(kind, all_[1].of(kind), all_[3].of(kind))
        assert named(await stream.take(kind), kind, all_) == {1, 3}


async def test_update_of_a_cluster_brings_all_that_are_subscribed_to(world: World) -> None:
    all_ = await services(world, 4)
    async with world.open(SOTW) as stream:
        await stream.get(CDS, all_[1].cds, all_[3].cds)
        await update(world, CDS, all_[1])
        assert named(await stream.take(CDS), CDS, all_) == {1, 3}


@types(PARTIAL)
async def test_update_of_routes_or_endpoints_brings_them_alone(world: World, kind: str) -> None:
    all_ = await services(world, 4)
    async with world.open(SOTW) as stream:
        await stream.get(kind, all_[1].of(kind), all_[3].of(kind))
        await update(world, kind, all_[1])
        assert named(await stream.take(kind), kind, all_) == {1}


@each("protocol", BOTH)
@types(ALL)
async def test_what_does_not_exist_is_told_when_it_does(world: World, protocol: str, kind: str) -> None:
    """It is there from the beginning, without endpoints; and these are what comes."""
    known, unknown = await world.service(8001), await world.names(world.fresh())
    async with world.open(protocol) as stream:
        await stream.want(kind, known.of(kind), unknown.of(kind))
        assert named(await stream.take(kind), kind, [known, unknown]) == {0, 1}
        await world.put(unknown.lds, 8001)
        if kind == EDS:
            assert ports_of((await stream.take(EDS)).resources[unknown.eds]) == {8001}


@each("protocol", BOTH)
@each(("one", "two"), [(CDS, EDS), (EDS, CDS), (RDS, EDS), (EDS, RDS), (CDS, RDS)])
async def test_types_on_one_stream_do_not_mix(world: World, protocol: str, one: str, two: str) -> None:
    all_ = await services(world, 3)
    policy: dict[str, Any] = {}
    async with world.open(protocol) as stream:
        for kind in (one, two):
            await stream.get(kind, all_[1].of(kind))
        for kind in (one, two):
            if kind == EDS:
                await world.put(all_[1].lds, 8002)
            else:
                policy |= POLICIES[kind]
                await world.policy(all_[1].lds, **policy)
            assert named(await stream.take(kind), kind, all_) == {1}


# ---- unsubscribing


@each("protocol", BOTH)
@types(CHANGING)
async def test_what_is_still_subscribed_to_is_updated_and_nothing_else(world: World, protocol: str, kind: str) -> None:
    all_ = await services(world, 3)
    async with world.open(protocol) as stream:
        await stream.get(kind, *(it.of(kind) for it in all_))
        await stream.want(kind, all_[1].of(kind))
        for it in all_:
            await update(world, kind, it)
        assert named(await stream.take(kind), kind, all_) == {1}


@each("protocol", BOTH)
@types(CHANGING)
async def test_nothing_comes_after_the_last_is_unsubscribed_from(world: World, protocol: str, kind: str) -> None:
    all_ = await services(world, 2)
    async with world.open(protocol) as stream:
        await stream.get(kind, *(it.of(kind) for it in all_))
        await stream.want(kind)
        for it in all_:
            await update(world, kind, it)


# ---- incremental


@types(ALL)
async def test_resources_subscribed_to_one_after_the_other_come_one_after_the_other(world: World, kind: str) -> None:
    one, two = await services(world, 2)
    async with world.open(DELTA) as stream:
        assert set(await stream.get(kind, one.of(kind))) == {one.of(kind)}
        assert set(await stream.get(kind, one.of(kind), two.of(kind))) == {two.of(kind)}


@types(CHANGING)
async def test_update_has_a_version_of_its_own(world: World, kind: str) -> None:
    all_ = await services(world, 3)
    async with world.open(DELTA) as stream:
        await stream.want(kind, *(it.of(kind) for it in all_))
        first = await stream.take(kind)
        await update(world, kind, all_[0])
        second = await stream.take(kind)
        assert named(second, kind, all_) == {0}
        assert second.versions[all_[0].of(kind)] not in first.versions.values()
        assert second.nonce != first.nonce


async def test_removal_is_told_by_name_and_what_comes_back_is_told(world: World) -> None:
    """A cluster that goes is one of a split that ends."""
    name = world.fresh()
    for version in ("1", "2"):
        await world.put(name, 8000 + int(version), version=version)
    split = [{"version": "1", "weight": 1}, {"version": "2", "weight": 1}]
    async with world.open(DELTA, ENVOY) as stream:
        await stream.get(CDS)
        await world.policy(name, split=split)
        parts = set((await stream.take(CDS)).resources)
        assert len(parts) == 2
        await world.policy(name)
        assert set((await stream.take(CDS)).removed) == parts
        await world.policy(name, split=split)
        assert set((await stream.take(CDS)).resources) == parts


@types(CHANGING)
async def test_unsubscribing_one_after_the_other(world: World, kind: str) -> None:
    one, two = await services(world, 2)
    async with world.open(DELTA) as stream:
        await stream.get(kind, one.of(kind), two.of(kind))
        await stream.want(kind, two.of(kind))
        await update(world, kind, one)
        await stream.nothing_more()
        await stream.want(kind)
        await update(world, kind, two)
