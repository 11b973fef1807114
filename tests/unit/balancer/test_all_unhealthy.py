"""Scenario: nothing is well. Some answer beats none: all are used, as if all were well."""

from collections import Counter
from dataclasses import replace

import pytest

from balancer.endpoints import Resolved
from balancer.policies.base import ANY, Node, PickInfo
from balancer.pool.outlier import OutlierOptions
from balancer.pool.picker import Fail
from tests.support.fleet import ALONE, POLICIES, SPREADING, Backend, Fleet, endpoints, pool_of

ILL = endpoints(10, routable=False)
FAILING = {endpoint.address: Backend(failing=1.0) for endpoint in endpoints(10)}
EJECTING = replace(ALONE, outlier=OutlierOptions(max_ejection_percent=100))


@pytest.mark.parametrize("name", SPREADING)
def test_all_unhealthy_are_used_like_healthy_ones(name: str) -> None:
    pool = pool_of(name, ILL)
    counts = Counter(pool.picker.pick(ANY, 0.0) for _ in range(10_000))
    assert len(counts) == 10
    assert max(abs(count - 1_000) for count in counts.values()) <= 135  # 4.5 standard deviations of independent draws


@pytest.mark.parametrize("name", POLICIES)
def test_all_unhealthy_but_one_is_one(name: str) -> None:
    pool = pool_of(name, ILL)
    well = replace(ILL[3], routable=True)
    pool.apply(Resolved((*ILL[:3], well, *ILL[4:])), 1.0)
    picks = [pool.picker.pick(PickInfo(f"10.9.8.{n}"), 1.0) for n in range(100)]
    assert {pick.endpoint for pick in picks if isinstance(pick, Node)} == {well}
    assert all(isinstance(pick, Node) for pick in picks)


def test_all_unhealthy_without_panic_is_a_failure() -> None:
    pool = pool_of("round_robin", ILL, options=replace(ALONE, panic_threshold=0.0))
    assert isinstance(pool.picker.pick(ANY, 0.0), Fail)


@pytest.mark.parametrize("name", SPREADING)
def test_all_failing_are_used_all_the_same(name: str) -> None:
    """Ejections go on until half are out; from then on they are ignored, and everybody gets calls again."""
    fleet = Fleet(pool_of(name, endpoints(10), options=EJECTING), backends=FAILING)
    fleet.run(2_000, rate=1_000)
    assert fleet.pool.statistics(fleet.now).panic
    fleet.calls.clear()
    fleet.run(2_000, rate=1_000)
    assert set(fleet.calls) == set(FAILING)


def test_all_failing_and_one_that_recovers() -> None:
    """Once the ejections are over and the calls succeed, nobody is ejected and there is no panic."""
    backends = {address: Backend(failing=1.0) for address in FAILING}
    fleet = Fleet(pool_of("round_robin", endpoints(10), options=EJECTING), backends=backends)
    fleet.run(2_000, rate=1_000)
    for backend in backends.values():
        backend.failing = 0.0
    fleet.run(40_000, rate=1_000)
    statistics = fleet.pool.statistics(fleet.now)
    assert not statistics.panic
    assert statistics.usable == 10


@pytest.mark.parametrize("name", POLICIES)
def test_weight_zero_gets_nothing_whatever_happens(name: str) -> None:
    pool = pool_of(name, endpoints(3, weight=0))
    assert isinstance(pool.picker.pick(ANY, 0.0), Fail)
