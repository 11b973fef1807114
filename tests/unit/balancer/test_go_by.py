"""What a pool goes by may change while it runs: how many calls there may be, and who is an outlier."""

from random import Random

import pytest

from balancer.endpoints import Endpoint, Resolved
from balancer.policies import policy
from balancer.policies.base import ANY, Node
from balancer.pool.options import PoolOptions
from balancer.pool.outlier import OutlierOptions
from balancer.pool.picker import Fail
from balancer.pool.pool import Pool
from tests.support.fleet import connect

ENDPOINTS = tuple(Endpoint(f"e-{number}:1") for number in range(3))


@pytest.fixture
def subject() -> Pool:
    made = Pool(
        policy("round_robin"), options=PoolOptions(idle_timeout_s=None, panic_threshold=0), rng=Random(1), now=0.0
    )
    connect(made, made.apply(Resolved(ENDPOINTS), 0.0))
    return made


def begun(subject: Pool) -> Node:
    node = subject.picker.pick(ANY, 1.0)
    assert isinstance(node, Node)
    node.load.started(1.0)
    return node


def test_one_call_too_many_is_dropped_until_one_has_ended(subject: Pool) -> None:
    assert subject.go_by(None, 2, 1.0).swapped
    nodes = [begun(subject), begun(subject)]
    dropped = subject.picker.pick(ANY, 1.0)
    assert isinstance(dropped, Fail)
    assert (dropped.drop, dropped.reason) == (True, "circuit breaker: 2 calls are in flight, which is the most")
    nodes[0].load.finished(1.0, 0.1)
    nodes.append(begun(subject))
    subject.go_by(None, 3, 1.0)
    nodes.append(begun(subject))
    assert isinstance(subject.picker.pick(ANY, 1.0), Fail)
    subject.go_by(None, None, 1.0)
    nodes.extend(begun(subject) for _ in range(20))


def test_a_limit_outlives_changes_of_the_endpoints_and_of_the_policy(subject: Pool) -> None:
    subject.go_by(None, 1, 1.0)
    begun(subject)
    connect(subject, subject.apply(Resolved((*ENDPOINTS, Endpoint("e-9:1"))), 1.0))
    assert isinstance(subject.picker.pick(ANY, 1.0), Fail)
    connect(subject, subject.choose_by(policy("random"), 1.0))
    assert isinstance(subject.picker.pick(ANY, 1.0), Fail)


def test_another_rule_ejects_and_without_one_all_come_back(subject: Pool) -> None:
    for now in (1.0, 2.0):
        subject.go_by(OutlierOptions(consecutive_failures=2, max_ejection_percent=100), None, now)
        sick = begun(subject)
        sick.load.finished(now, 0.1, ok=False)
        sick.load.started(now)
        assert sick.load.finished(now, 0.1, ok=False), "the pool is to look"
        subject.tick(now)
        assert sick.ejected_since == now
        assert {subject.picker.pick(ANY, now) for _ in range(9)}.isdisjoint({sick})
        subject.go_by(None, None, now)
        assert sick.ejected_since is None
        assert len({subject.picker.pick(ANY, now) for _ in range(9)}) == 3
        sick.load.started(now)
        sick.load.finished(now, 0.1)
        assert subject.next_tick(now) is None


def test_the_same_rule_again_is_no_news(subject: Pool) -> None:
    options = OutlierOptions(consecutive_failures=1, max_ejection_percent=100)
    subject.go_by(options, None, 1.0)
    sick = begun(subject)
    sick.load.finished(1.0, 0.1, ok=False)
    subject.tick(1.0)
    subject.go_by(OutlierOptions(consecutive_failures=1, max_ejection_percent=100), 7, 2.0)
    assert sick.ejected_since == 1.0
