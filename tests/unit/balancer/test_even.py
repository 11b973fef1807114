"""Scenario: all endpoints alike. Every policy that spreads, spreads evenly, or by weight."""

from collections import Counter
from random import Random

import pytest

from balancer.endpoints import Endpoint
from balancer.policies.base import ANY, PickInfo
from tests.support.fleet import BY_WEIGHT, HASHING, SPREADING, Fleet, endpoints, key_of, pool_of, spread

CALLS = 20_000
SIGMAS = 4.5
"""A right policy fails one such comparison in 150,000, and the seeds are fixed."""


@pytest.mark.parametrize("name", SPREADING)
def test_even_idle_endpoints_get_the_same(name: str) -> None:
    pool = pool_of(name, endpoints(10))
    counts = Counter(pool.picker.pick(ANY, 0.0) for _ in range(CALLS))
    assert len(counts) == 10
    assert max(abs(count - CALLS / 10) for count in counts.values()) <= spread(SIGMAS, CALLS, 0.1)


@pytest.mark.parametrize("name", ["round_robin", "weighted_round_robin"])
def test_even_round_robin_is_exact(name: str) -> None:
    pool = pool_of(name, endpoints(10))
    counts = Counter(pool.picker.pick(ANY, 0.0) for _ in range(CALLS))
    assert set(counts.values()) == {CALLS // 10}


@pytest.mark.parametrize("name", SPREADING)
def test_even_busy_endpoints_get_the_same(name: str) -> None:
    """Under load, picks that look at load depend on each other: within 10 % of the fair share instead of sigmas."""
    fleet = Fleet(pool_of(name, endpoints(10)))
    fleet.run(CALLS, rate=2_000)
    assert all(abs(fleet.share(endpoint.address) - 0.1) <= 0.01 for endpoint in endpoints(10))


@pytest.mark.parametrize("name", HASHING)
def test_even_keys_spread(name: str) -> None:
    """100 points on the ring give a node a share with a standard deviation of a tenth: 4.5 of them is 45 %.
    Maglev's table differs by a hundredth at most, so what is left is the randomness of the keys."""
    counts = _counts_of_keys(name, endpoints(10), CALLS)
    bound = spread(SIGMAS, CALLS, 0.1) + (0.001 * CALLS if "maglev" in name else 0.045 * CALLS)
    assert len(counts) == 10
    assert max(abs(count - CALLS / 10) for count in counts.values()) <= bound


@pytest.mark.parametrize("name", BY_WEIGHT)
def test_even_idle_endpoints_get_by_weight(name: str) -> None:
    pool = pool_of(name, (Endpoint("a:1"), Endpoint("b:1"), Endpoint("c:1", weight=3)))
    counts = Counter(pool.picker.pick(ANY, 0.0).endpoint.address for _ in range(CALLS))  # type: ignore[union-attr]
    for address, share in (("a:1", 0.2), ("b:1", 0.2), ("c:1", 0.6)):
        assert abs(counts[address] - CALLS * share) <= spread(SIGMAS, CALLS, share)


@pytest.mark.parametrize("name", ["round_robin", "random"])
def test_even_without_weights_in_the_name_ignores_them(name: str) -> None:
    pool = pool_of(name, (Endpoint("a:1"), Endpoint("b:1", weight=50)))
    counts = Counter(pool.picker.pick(ANY, 0.0) for _ in range(CALLS))
    assert max(abs(count - CALLS / 2) for count in counts.values()) <= spread(SIGMAS, CALLS, 0.5)


@pytest.mark.parametrize("name", HASHING)
def test_even_keys_spread_by_weight(name: str) -> None:
    given = tuple(Endpoint(f"10.0.0.{n}:80", weight=1 + 2 * (n % 2)) for n in range(20))
    counts = _counts_of_keys(name, given, CALLS)
    heavy = sum(count for endpoint, count in counts.items() if endpoint.weight == 3)
    # Ten nodes of 300 points against ten of 100: the sum's standard deviation is about 2.5 % of it.
    assert heavy / CALLS == pytest.approx(0.75, abs=0.05)


def test_even_pick_first_takes_one() -> None:
    pool = pool_of("pick_first", endpoints(10))
    assert {pool.picker.pick(ANY, 0.0) for _ in range(100)} == {pool.node(endpoints(1)[0])}


def _counts_of_keys(name: str, given: tuple[Endpoint, ...], calls: int) -> Counter[Endpoint]:
    pool, rng = pool_of(name, given), Random(7)
    picks = (pool.picker.pick(PickInfo(key_of(rng)), 0.0) for _ in range(calls))
    return Counter(node.endpoint for node in picks)  # type: ignore[union-attr]
