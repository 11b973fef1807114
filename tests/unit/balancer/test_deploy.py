"""Scenario: all endpoints are replaced one after the other, as a rolling deploy does, under constant calls."""

import pytest

from balancer.endpoints import Endpoint, Resolved
from balancer.pool.options import PoolOptions, SlowStart
from tests.support.fleet import ALONE, POLICIES, SPREADING, Fleet, endpoints, pool_of

OLD = endpoints(10, version="1")
NEW = tuple(Endpoint(f"10.1.0.{n}:80", version="2") for n in range(10))


def deployed(name: str, options: PoolOptions = ALONE) -> tuple[Fleet, list[str]]:
    """The fleet after the deploy, and what calls went to endpoints that were not in the set at that moment."""
    fleet = Fleet(pool_of(name, OLD, options=options))
    wrong: list[str] = []
    for step in range(11):
        current = NEW[:step] + OLD[step:]
        fleet.pool.apply(Resolved(current), fleet.now)
        before = fleet.calls.copy()
        fleet.run(1_000, rate=1_000)
        wrong += (fleet.calls - before).keys() - {endpoint.address for endpoint in current}
    return fleet, wrong


@pytest.mark.parametrize("name", POLICIES)
def test_deploy_sends_no_call_to_who_is_gone(name: str) -> None:
    assert deployed(name)[1] == []


@pytest.mark.parametrize("name", SPREADING)
def test_deploy_ends_even(name: str) -> None:
    """Draws among 1,000 calls have a standard deviation of 9.5: 4.5 of them is 43."""
    fleet, _ = deployed(name)
    fleet.calls.clear()
    fleet.run(1_000, rate=1_000)
    assert set(fleet.calls) == {endpoint.address for endpoint in NEW}
    assert all(abs(count - 100) <= 43 for count in fleet.calls.values())


@pytest.mark.parametrize("name", SPREADING)
def test_deploy_with_slow_start_begins_gently(name: str) -> None:
    """One joins nine at a tenth of its weight: 1 % of the calls, and a growing part over the window of 30 s."""
    options = PoolOptions(connections=False, idle_timeout_s=None, slow_start=SlowStart(window_s=30.0))
    fleet = Fleet(pool_of(name, OLD[:9], options=options))
    fleet.run(35_000, rate=1_000)
    fleet.pool.apply(Resolved((*OLD[:9], NEW[0])), fleet.now)
    shares = []
    for _ in range(12):
        fleet.calls.clear()
        fleet.run(3_000, rate=1_000)
        shares.append(fleet.share(NEW[0].address))
    assert shares[0] < 0.03
    assert shares[5] < 0.08
    assert shares[-1] == pytest.approx(0.1, abs=0.03)
