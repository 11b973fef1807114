"""Slow start: how a node's weight grows once it is ready."""

from collections import Counter
from random import Random

import pytest

from balancer.endpoints import Resolved
from balancer.policies import policy
from balancer.policies.base import ANY, ConnectivityState, Node
from balancer.pool.options import PoolOptions, SlowStart
from balancer.pool.pool import Moves, Pool
from tests.support.fleet import connect, endpoints

READY, FAILURE = ConnectivityState.READY, ConnectivityState.TRANSIENT_FAILURE


def started(number: int = 2, **fields: float) -> tuple[Pool, tuple[Node, ...]]:
    """All but the last node have been ready for long."""
    options = PoolOptions(slow_start=SlowStart(**fields), idle_timeout_s=None, shuffle=False)
    pool = Pool(policy("weighted_round_robin"), options=options, rng=Random(1), now=0.0)
    plan = pool.apply(Resolved(endpoints(number, weight=10)), 0.0)
    connect(pool, Moves(open=plan.open[:-1]))
    pool.tick(1_000.0)
    connect(pool, Moves(open=plan.open[-1:]), 1_000.0)
    return pool, plan.open


def weights_over_time(pool: Pool, node: Node, now: float = 1_000.0) -> list[tuple[float, float]]:
    """Seconds after the start and the weight then, whenever the pool wants a tick."""
    seen = [(0.0, node.weight)]
    for _ in range(100):
        due = pool.next_tick(now)
        if due is None:
            return seen
        pool.tick(due)
        seen.append((round(due - now, 6), round(node.weight, 6)))
    raise AssertionError("it never ends")


def test_weight_grows_step_by_step_to_the_full() -> None:
    pool, nodes = started(window_s=30.0)
    steps = [(3.0 * step, float(max(step, 1))) for step in range(11)]
    assert weights_over_time(pool, nodes[-1]) == steps
    assert nodes[0].weight == 10.0


def test_aggression_is_faster_at_first() -> None:
    pool, nodes = started(window_s=30.0, aggression=2.0)
    assert dict(weights_over_time(pool, nodes[-1]))[9.0] == pytest.approx(10 * 0.3**0.5, abs=1e-5)


def test_picks_follow_the_weight() -> None:
    pool, nodes = started(window_s=30.0)
    counts = Counter(pool.picker.pick(ANY, 1_000.0) for _ in range(110))
    assert counts[nodes[-1]] == 10
    pool.tick(1_015.0)
    counts = Counter(pool.picker.pick(ANY, 1_015.0) for _ in range(150))
    assert abs(counts[nodes[-1]] - 50) <= 1


def test_connection_that_comes_back_starts_slowly_again() -> None:
    pool, nodes = started(window_s=30.0)
    pool.tick(2_000.0)
    assert nodes[-1].weight == 10.0
    pool.on_state(nodes[-1], FAILURE, 2_000.0, "reset")
    pool.on_state(nodes[-1], READY, 2_001.0)
    assert nodes[-1].weight == 1.0


def test_node_that_leaves_while_it_grows_is_forgotten() -> None:
    pool, _ = started(window_s=30.0)
    pool.apply(Resolved(endpoints(1, weight=10)), 1_001.0)
    assert pool.next_tick(1_001.0) is None


def test_no_slow_start_unasked() -> None:
    pool = Pool(policy("round_robin"), options=PoolOptions(idle_timeout_s=None), rng=Random(1), now=0.0)
    plan = pool.apply(Resolved(endpoints(2, weight=10)), 0.0)
    connect(pool, plan)
    assert {node.weight for node in plan.open} == {10.0}
    assert pool.next_tick(0.0) is None


@pytest.mark.parametrize(
    ("field", "value"), [("window_s", 0.0), ("aggression", -1.0), ("min_part", 0.0), ("min_part", 1.5)]
)
def test_mistakes_name_the_field(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field}:"):
        SlowStart(**{field: value})
