"""Locality-aware balancing: near and preferred first, and over to the next in proportion to what is missing."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.endpoints import Endpoint, Locality, Resolved
from balancer.policies import policy
from balancer.policies.base import ANY, Connect, ConnectivityState, Node, connect_of
from balancer.policies.locality import LocalityAware, shares
from balancer.pool.options import PoolOptions
from balancer.pool.pool import Moves, Pool
from tests.support.fleet import ALONE, connect

FAILURE = ConnectivityState.TRANSIENT_FAILURE
HERE, NEAR, FAR = Locality("eu", "a"), Locality("eu", "b"), Locality("us", "a")
CALLS = 10_000


def zone(name: str, locality: Locality, number: int = 10, **fields: int) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(f"{name}-{n}:1", locality=locality, **fields) for n in range(number))


def pool(given_endpoints: tuple[Endpoint, ...], child: str = "round_robin", own: Locality = HERE) -> Pool:
    subject = Pool(LocalityAware(policy(child), own), options=PoolOptions(idle_timeout_s=None), rng=Random(1), now=0.0)
    connect(subject, subject.apply(Resolved(given_endpoints), 0.0))
    return subject


def fail(subject: Pool, given_endpoints: tuple[Endpoint, ...]) -> None:
    for endpoint in given_endpoints:
        node = subject.node(endpoint)
        assert node is not None
        subject.on_state(node, FAILURE, 1.0, "refused")


def where(subject: Pool) -> dict[str, float]:
    """The part of the calls for each zone, named by the addresses' beginnings."""
    picks = (subject.picker.pick(ANY, 1.0) for _ in range(CALLS))
    counts = Counter(node.endpoint.address.split("-")[0] for node in picks if isinstance(node, Node))
    assert counts.total() == CALLS
    return {name: count / CALLS for name, count in counts.items()}


def test_own_zone_takes_all_while_it_is_well() -> None:
    assert where(pool((*zone("here", HERE), *zone("near", NEAR), *zone("far", FAR)))) == {"here": 1.0}


def test_own_zone_takes_all_while_overprovisioning_covers_the_loss() -> None:
    """8 of 10 well can carry 1.4 x 80 % = 112 %."""
    here = zone("here", HERE)
    subject = pool((*here, *zone("near", NEAR)))
    fail(subject, here[:2])
    assert where(subject) == {"here": 1.0}


def test_what_the_own_zone_cannot_carry_spills_over() -> None:
    """5 of 10 well can carry 70 %: the rest goes to the next level, none to the one behind it."""
    here = zone("here", HERE)
    subject = pool((*here, *zone("near", NEAR), *zone("far", FAR)))
    fail(subject, here[:5])
    assert where(subject) == pytest.approx({"here": 0.7, "near": 0.3}, abs=0.02)


def test_without_the_own_zone_the_region_is_next() -> None:
    here = zone("here", HERE)
    subject = pool((*here, *zone("near", NEAR), *zone("far", FAR)))
    fail(subject, here)
    assert where(subject) == {"near": 1.0}


def test_priority_comes_before_distance() -> None:
    first, second = zone("far", FAR), zone("here", HERE, priority=1)
    subject = pool((*second, *first))
    assert where(subject) == {"far": 1.0}
    fail(subject, first)
    assert where(subject) == {"here": 1.0}


def test_when_all_are_short_each_gets_by_what_it_can() -> None:
    """1 of 10 and 2 of 10 well carry 14 % and 28 %: a third and two thirds of what there is."""
    here, near = zone("here", HERE), zone("near", NEAR)
    subject = pool((*here, *near))
    fail(subject, here[:9])
    fail(subject, near[:8])
    assert where(subject) == pytest.approx({"here": 1 / 3, "near": 2 / 3}, abs=0.02)


def test_zone_that_is_still_connecting_is_not_taken_for_ill() -> None:
    subject = Pool(LocalityAware(policy("round_robin"), HERE), rng=Random(1), now=0.0)
    plan = subject.apply(Resolved((*zone("here", HERE), *zone("near", NEAR))), 0.0)
    near = tuple(node for node in plan.open if node.endpoint.locality == NEAR)
    here = tuple(node for node in plan.open if node.endpoint.locality == HERE)
    connect(subject, Moves(open=(*near, here[0])))
    assert where(subject) == {"here": 1.0}


def test_zone_that_recovers_gets_its_calls_back() -> None:
    here = zone("here", HERE)
    subject = pool((*here, *zone("near", NEAR)))
    fail(subject, here)
    for endpoint in here:
        node = subject.node(endpoint)
        assert node is not None
        subject.on_state(node, ConnectivityState.READY, 2.0)
    assert where(subject) == {"here": 1.0}


def test_in_panic_the_sick_count_as_well_and_not_twice() -> None:
    """All of the own zone says that it is not serving: less than half of all is well, so it is used as if it were
    well."""
    here = zone("here", HERE)
    subject = pool((*here, *zone("near", NEAR, 2)))
    for endpoint in here:
        node = subject.node(endpoint)
        assert node is not None
        subject.on_health(node, False, 1.0)
    assert subject.statistics(1.0).panic
    assert where(subject) == {"here": 1.0}


def test_endpoint_that_moves_to_another_zone_is_used_there() -> None:
    here, near = zone("here", HERE, 1), zone("near", NEAR, 1)
    subject = pool((*here, *near))
    subject.apply(Resolved((replace(here[0], locality=FAR), *near)), 1.0)
    assert where(subject) == {"near": 1.0}
    subject.apply(Resolved((here[0], replace(near[0], locality=HERE))), 1.0)
    assert where(subject) == pytest.approx({"here": 0.5, "near": 0.5}, abs=0.02)


def test_caller_at_an_unknown_place_uses_all_alike() -> None:
    subject = pool((*zone("here", HERE), *zone("far", FAR)), own=Locality())
    assert where(subject) == pytest.approx({"here": 0.5, "far": 0.5}, abs=0.001)


@pytest.mark.parametrize("child", ["weighted_round_robin", "weighted_random", "least_connections", "response_time"])
def test_child_chooses_within_a_level(child: str) -> None:
    given_endpoints = (Endpoint("a-0:1", locality=HERE, weight=3), Endpoint("b-0:1", locality=HERE))
    subject = Pool(LocalityAware(policy(child), HERE), options=ALONE, rng=Random(1), now=0.0)
    subject.apply(Resolved((*given_endpoints, *zone("near", NEAR))), 0.0)
    assert where(subject) == pytest.approx({"a": 0.75, "b": 0.25}, abs=0.02)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_shares_add_up_and_go_to_the_first_that_can(well: list[float]) -> None:
    result = shares(well)
    able = [min(1.0, 1.4 * part) for part in well]
    if sum(able) == 0:
        assert result == [0.0] * len(well)
        return
    assert sum(result) == pytest.approx(1.0)
    assert all(share == 0.0 for share, part in zip(result, able, strict=True) if part == 0)
    if sum(able) >= 1:
        # No level gets anything while a better one has room.
        assert all(share <= part + 1e-9 for share, part in zip(result, able, strict=True))
        for at in range(len(well) - 1):
            if result[at] < able[at] - 1e-9:
                assert sum(result[at + 1 :]) == pytest.approx(0.0)


def test_overprovisioning_below_one_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"^overprovisioning:"):
        LocalityAware(policy("random"), overprovisioning=0.9)


def test_explains_the_level_and_the_choice() -> None:
    subject = pool((*zone("here", HERE, 2), *zone("near", NEAR)))
    subject.picker.pick(ANY, 0.0)
    told = subject.statistics(0.0)
    assert told.policy == "round_robin by locality"
    assert "own zone, which gets 100%: next in turn of 2" in told.last_pick


def test_policy_by_name() -> None:
    spec = policy("locality_aware?child=weighted_random&region=eu&zone=a&overprovisioning=2")
    assert isinstance(spec, LocalityAware)
    assert (spec.own, spec.overprovisioning, spec.name) == (HERE, 2.0, "weighted_random by locality")
    assert connect_of(policy("locality_aware?child=consistent_hash")) is Connect.LAZY


@pytest.mark.parametrize("spec", ["locality_aware?child=moon", "locality_aware?overprovisioning=0.5"])
def test_mistakes_by_name(spec: str) -> None:
    with pytest.raises(ValueError, match=r"moon|overprovisioning"):
        policy(spec)
