"""Outlier detection by gRFC A50's rules, on a virtual clock."""

from random import Random

import pytest

from balancer.endpoints import Resolved
from balancer.policies import policy
from balancer.policies.base import ANY, Node
from balancer.pool.options import PoolOptions
from balancer.pool.outlier import FailurePercentage, OutlierOptions, SuccessRate
from balancer.pool.pool import Pool
from tests.support.fleet import endpoints

GIVEN = endpoints(10)


class Watched:
    """A pool with outlier detection whose calls end as the test says."""

    def __init__(self, number: int = 10, **options: object) -> None:
        options.setdefault("consecutive_failures", None)
        outlier = OutlierOptions(**options)  # type: ignore[arg-type]
        pool_options = PoolOptions(connections=False, idle_timeout_s=None, outlier=outlier)
        self.pool = Pool(policy("round_robin"), options=pool_options, rng=Random(1), now=0.0)
        self.pool.apply(Resolved(endpoints(number)), 0.0)
        self.nodes = [node for node in map(self.pool.node, endpoints(number)) if node is not None]

    def calls(self, node: Node, good: int, bad: int = 0, now: float = 0.0) -> None:
        for ok in (*[True] * good, *[False] * bad):
            node.load.started(now)
            node.load.finished(now, 0.01, ok)

    def sweep(self, now: float) -> list[int]:
        """Which nodes are ejected after the tick at `now`."""
        self.pool.tick(now)
        return [n for n, node in enumerate(self.nodes) if node.ejected_since is not None]


def test_success_rate_far_below_the_others_is_ejected() -> None:
    subject = Watched(success_rate=SuccessRate())
    for node in subject.nodes[1:]:
        subject.calls(node, 100)
    subject.calls(subject.nodes[0], 50, 50)
    assert subject.sweep(9.9) == []
    assert subject.sweep(10.0) == [0]
    picks = {subject.pool.picker.pick(ANY, 10.0) for _ in range(20)}
    assert picks == set(subject.nodes[1:])


def test_success_rate_a_little_below_the_others_is_not() -> None:
    """Rates from 0.90 to 0.99: the lowest is 1.57 standard deviations below the mean, 1.9 are needed."""
    subject = Watched(success_rate=SuccessRate())
    for number, node in enumerate(subject.nodes):
        subject.calls(node, 90 + number, 10 - number)
    assert subject.sweep(10.0) == []


@pytest.mark.parametrize(("calls", "ejected"), [(99, []), (100, [0])])
def test_success_rate_judges_from_a_volume_on(calls: int, ejected: list[int]) -> None:
    subject = Watched(success_rate=SuccessRate(request_volume=100))
    for node in subject.nodes[1:]:
        subject.calls(node, 200)
    subject.calls(subject.nodes[0], 0, calls)
    assert subject.sweep(10.0) == ejected


@pytest.mark.parametrize(("number", "ejected"), [(4, []), (5, [0])])
def test_failure_percentage_needs_enough_hosts(number: int, ejected: list[int]) -> None:
    subject = Watched(number, failure_percentage=FailurePercentage(minimum_hosts=5), max_ejection_percent=50)
    for node in subject.nodes[1:]:
        subject.calls(node, 50)
    subject.calls(subject.nodes[0], 0, 50)
    assert subject.sweep(10.0) == ejected


@pytest.mark.parametrize(("bad", "ejected"), [(85, []), (86, [0])])
def test_failure_percentage_is_a_threshold(bad: int, ejected: list[int]) -> None:
    subject = Watched(failure_percentage=FailurePercentage(threshold_percent=85))
    for node in subject.nodes[1:]:
        subject.calls(node, 100)
    subject.calls(subject.nodes[0], 100 - bad, bad)
    assert subject.sweep(10.0) == ejected


def test_only_calls_of_the_interval_count() -> None:
    subject = Watched(failure_percentage=FailurePercentage(request_volume=50))
    for node in subject.nodes:
        subject.calls(node, 0, 49)
    assert subject.sweep(10.0) == []
    for node in subject.nodes:
        subject.calls(node, 0, 49)
    assert subject.sweep(20.0) == []


def test_enforcement_ejects_so_many_percent_of_the_times() -> None:
    ejected = 0
    for seed in range(200):
        subject = Watched(failure_percentage=FailurePercentage(enforcement_percent=30))
        subject.pool._rng.seed(seed)
        for node in subject.nodes:
            subject.calls(node, 100 if node is not subject.nodes[0] else 0, 100)
        ejected += subject.sweep(10.0) == [0]
    assert 60 - 30 <= ejected <= 60 + 30  # a standard deviation is 6.5


def test_failures_in_a_row_need_no_interval() -> None:
    subject = Watched(consecutive_failures=5)
    subject.calls(subject.nodes[3], 0, 4)
    assert subject.pool.next_tick(0.5) == 10.0
    assert subject.sweep(0.5) == []
    subject.calls(subject.nodes[3], 0, 1)
    assert subject.pool.next_tick(0.5) == 0.5
    assert subject.sweep(0.5) == [3]


def test_a_success_between_them_is_no_row() -> None:
    subject = Watched(consecutive_failures=5)
    for _ in range(10):
        subject.calls(subject.nodes[3], 1, 4)
    assert subject.sweep(0.5) == []


def test_ejection_ends_on_time_and_lasts_longer_each_time() -> None:
    subject = Watched(consecutive_failures=5, base_ejection_s=30.0, max_ejection_s=70.0)
    node, now = subject.nodes[0], 0.0
    for lasts in (30.0, 60.0, 70.0):
        subject.calls(node, 0, 5, now)
        assert subject.sweep(now) == [0]
        assert subject.sweep(now + lasts - 0.1) == [0]
        now += lasts
        assert subject.sweep(now) == []
        # No sweep of an interval lies between the end and the next failures: nothing is forgiven yet.
        subject.pool._detector._next_sweep = now + 1_000.0  # type: ignore[union-attr]


def test_good_conduct_is_rewarded_interval_by_interval() -> None:
    subject = Watched(consecutive_failures=5)
    node = subject.nodes[0]
    subject.calls(node, 0, 5)
    subject.sweep(0.0)
    subject.sweep(30.0)
    assert subject.pool._detector._records[node].multiplier == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(("percent", "number"), [(10, 1), (30, 3), (100, 10), (0, 0)])
def test_no_more_than_so_many_are_ejected(percent: int, number: int) -> None:
    subject = Watched(failure_percentage=FailurePercentage(), max_ejection_percent=percent)
    for node in subject.nodes:
        subject.calls(node, 0, 100)
    assert len(subject.sweep(10.0)) == number


def test_one_may_always_be_ejected() -> None:
    subject = Watched(5, consecutive_failures=5, max_ejection_percent=10)
    subject.calls(subject.nodes[0], 0, 5)
    assert subject.sweep(0.0) == [0]


def test_node_that_left_leaves_no_trace() -> None:
    subject = Watched(consecutive_failures=5)
    subject.calls(subject.nodes[0], 0, 5)
    assert subject.sweep(0.0) == [0]
    subject.pool.apply(Resolved(GIVEN[1:]), 1.0)
    subject.pool.apply(Resolved(GIVEN), 2.0)
    fresh = subject.pool.node(GIVEN[0])
    assert fresh is not subject.nodes[0]
    assert fresh is not None
    assert fresh.ejected_since is None
    assert subject.pool.next_tick(2.0) == 10.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("interval_s", 0.0),
        ("base_ejection_s", -1.0),
        ("max_ejection_s", float("nan")),
        ("max_ejection_percent", 101),
        ("consecutive_failures", 0),
    ],
)
def test_mistakes_name_the_field(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field}:"):
        OutlierOptions(**{field: value})  # type: ignore[arg-type]
