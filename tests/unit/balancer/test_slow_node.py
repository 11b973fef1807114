"""Scenario: one of ten endpoints serves twenty times slower, or fails. Who notices, and what it does for the
callers."""

from dataclasses import replace

import pytest

from balancer.pool.outlier import FailurePercentage, OutlierOptions
from tests.support.fleet import ALONE, SPREADING, Backend, Fleet, endpoints, pool_of

CALLS = 20_000
SLOW = endpoints(1)[0].address
NOTICING = ("least_connections", "least_connections?choices=2", "least_connections?choices=full", "response_time")


def slow_fleet(name: str) -> Fleet:
    # 10 ms by four workers each: 4,000 calls/s by all of them, 20 by the slow one alone.
    fleet = Fleet(pool_of(name, endpoints(10)), backends={SLOW: Backend(service_s=0.2)})
    fleet.run(CALLS, rate=1_500)
    fleet.drain()
    return fleet


@pytest.mark.parametrize("name", NOTICING)
def test_slow_node_gets_less_from_who_looks_at_load(name: str) -> None:
    """It can serve 20 of 1,500 calls/s, 1.3 % of them; twice that and it would be drowned in a minute."""
    assert slow_fleet(name).share(SLOW) <= 0.027


@pytest.mark.parametrize("name", sorted(set(SPREADING) - set(NOTICING)))
def test_slow_node_gets_its_share_from_who_does_not(name: str) -> None:
    assert slow_fleet(name).share(SLOW) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("name", NOTICING)
def test_slow_node_hardly_slows_the_calls(name: str) -> None:
    """Round robin sends a tenth of the calls to the queue of the slow one, so its 95th percentile is that queue."""
    assert slow_fleet(name).percentile(0.95) < 0.05
    assert slow_fleet("round_robin").percentile(0.95) > 5.0


def test_slow_node_that_recovers_gets_its_share_back() -> None:
    backend = Backend(service_s=0.2)
    fleet = Fleet(pool_of("response_time", endpoints(10)), backends={SLOW: backend})
    fleet.run(10_000, rate=1_000)
    backend.service_s = 0.010
    fleet.run(30_000, rate=1_000)  # 30 s: three times the estimate's time constant
    fleet.calls.clear()
    fleet.run(10_000, rate=1_000)
    assert fleet.share(SLOW) == pytest.approx(0.1, abs=0.02)


def test_failing_node_at_once_attracts_no_calls() -> None:
    """Failures answer in 0.1 ms: without counting them as slow, response_time would send everything there."""
    fleet = Fleet(pool_of("response_time", endpoints(10)), backends={SLOW: Backend(failing=1.0)})
    fleet.run(CALLS, rate=1_500)
    assert fleet.share(SLOW) < 0.02


@pytest.mark.parametrize("name", SPREADING)
@pytest.mark.parametrize(
    "outlier",
    [OutlierOptions(), OutlierOptions(consecutive_failures=None, failure_percentage=FailurePercentage())],
    ids=["in a row", "failure percentage"],
)
def test_failing_node_is_ejected(name: str, outlier: OutlierOptions) -> None:
    """After the first interval of ten seconds at the latest, for 30 s. Who hardly calls it need not eject it."""
    options = replace(ALONE, outlier=outlier)
    fleet = Fleet(pool_of(name, endpoints(10), options=options), backends={SLOW: Backend(failing=1.0)})
    fleet.run(16_000, rate=1_500)
    early, fleet.failed = fleet.failed, 0
    fleet.run(20_000, rate=1_500)
    assert fleet.failed <= 20
    if outlier.consecutive_failures is not None:
        assert early <= 20
