"""Scenario: half of the endpoints go away."""

from random import Random

import pytest

from balancer.endpoints import Resolved
from balancer.policies.base import Node, PickInfo
from tests.support.fleet import HASHING, POLICIES, SPREADING, Fleet, endpoints, key_of, pool_of

ALL = endpoints(10)
LEFT = ALL[::2]


@pytest.mark.parametrize("name", POLICIES)
def test_shrink_sends_no_call_to_who_is_gone(name: str) -> None:
    fleet = Fleet(pool_of(name, ALL))
    fleet.run(2_000, rate=1_000)
    fleet.pool.apply(Resolved(LEFT), fleet.now)
    fleet.calls.clear()
    fleet.run(2_000, rate=1_000)
    assert set(fleet.calls) <= {endpoint.address for endpoint in LEFT}


@pytest.mark.parametrize("name", SPREADING)
def test_shrink_shares_among_the_rest(name: str) -> None:
    """5,000 draws of a fifth have a standard deviation of 28: 4.5 of them is 127."""
    fleet = Fleet(pool_of(name, ALL))
    fleet.run(2_000, rate=1_000)
    fleet.pool.apply(Resolved(LEFT), fleet.now)
    fleet.calls.clear()
    fleet.run(5_000, rate=1_000)
    assert all(abs(fleet.calls[endpoint.address] - 1_000) <= 127 for endpoint in LEFT)


def moved(name: str, number: int) -> float:
    """The part of the keys that another node gets once one of `number` has left."""
    pool, rng = pool_of(name, endpoints(number)), Random(3)
    infos = [PickInfo(key_of(rng)) for _ in range(20_000)]
    before = [_address(pool.picker.pick(info, 0.0)) for info in infos]
    pool.apply(Resolved(endpoints(number)[: number // 2] + endpoints(number)[number // 2 + 1 :]), 1.0)
    after = [_address(pool.picker.pick(info, 1.0)) for info in infos]
    return sum(old != new for old, new in zip(before, after, strict=True)) / len(infos)


def _address(picked: object) -> str:
    assert isinstance(picked, Node)
    return picked.endpoint.address


@pytest.mark.parametrize("number", [5, 10, 50])
@pytest.mark.parametrize("name", HASHING)
def test_shrink_by_one_moves_few_keys(name: str, number: int) -> None:
    """At most a fifth more than the 1/n that lived there."""
    assert moved(name, number) <= 1 / number + 0.2


@pytest.mark.parametrize("name", ["consistent_hash", "ip_hash"])
def test_shrink_by_one_moves_its_own_keys_alone(name: str) -> None:
    pool, rng = pool_of(name, ALL), Random(3)
    infos = [PickInfo(key_of(rng)) for _ in range(5_000)]
    before = [_address(pool.picker.pick(info, 0.0)) for info in infos]
    pool.apply(Resolved(ALL[1:]), 1.0)
    after = [_address(pool.picker.pick(info, 1.0)) for info in infos]
    pairs = zip(before, after, strict=True)
    assert {old for old, new in pairs if old != new} == {ALL[0].address}
