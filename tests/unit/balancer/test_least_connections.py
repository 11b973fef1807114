"""least_connections: whom it compares."""

from collections import Counter
from dataclasses import replace

import pytest

from balancer.endpoints import Resolved
from balancer.policies.base import ANY, Node
from balancer.policies.least_connections import FULL_UP_TO
from balancer.pool.options import SlowStart
from balancer.pool.pool import Pool
from tests.support.fleet import ALONE, endpoints, pool_of


def busy_but_one(name: str, size: int) -> tuple[Pool, Node]:
    """A pool whose nodes have a call each, but for one."""
    pool = pool_of(name, endpoints(size))
    *others, idle = pool.members
    for node in others:
        node.load.started(0.0)
    return pool, idle


def share_of(pool: Pool, node: Node, picks: int = 500) -> float:
    picked = Counter(pool.picker.pick(ANY, 0.0) for _ in range(picks))
    return picked[node] / picks


@pytest.mark.parametrize("size", [2, 3, 10, FULL_UP_TO])
def test_the_only_idle_one_of_up_to_32_gets_every_call(size: int) -> None:
    assert share_of(*busy_but_one("least_connections", size)) == 1.0


@pytest.mark.parametrize(("name", "size"), [("least_connections", FULL_UP_TO + 1), ("least_connections?choices=2", 10)])
def test_of_more_or_if_asked_to_two_are_compared(name: str, size: int) -> None:
    assert share_of(*busy_but_one(name, size)) == pytest.approx(2 / size, abs=0.05)


def test_more_than_32_are_compared_in_full_if_asked_to() -> None:
    assert share_of(*busy_but_one("least_connections?choices=full", 100)) == 1.0


def test_a_set_that_shrinks_and_grows_is_compared_as_its_size_says() -> None:
    pool, _ = busy_but_one("least_connections", FULL_UP_TO + 2)
    all_of_them = tuple(node.endpoint for node in pool.members)
    idle = list(pool.members)[-1]
    assert share_of(pool, idle) < 0.5
    pool.apply(Resolved(all_of_them[3:]), 0.0)
    assert share_of(pool, idle) == 1.0
    pool.apply(Resolved(all_of_them), 0.0)
    for node in pool.members:
        if node.load.in_flight == 0 and node is not idle:
            node.load.started(0.0)
    assert share_of(pool, idle) < 0.5


def test_weights_divide_what_is_idle_and_what_is_in_flight() -> None:
    light, heavy = endpoints(2)
    pool = pool_of("least_connections", (light, replace(heavy, weight=3)))
    for _ in range(40):
        node = pool.picker.pick(ANY, 0.0)
        assert isinstance(node, Node)
        node.load.started(0.0)
    assert {node.endpoint.weight: node.load.in_flight for node in pool.members} == {1: 10, 3: 30}


def test_one_in_slow_start_is_idle_and_yet_does_not_get_all() -> None:
    options = replace(ALONE, slow_start=SlowStart(window_s=60.0))
    given = endpoints(10)
    pool = pool_of("least_connections", given[:9], options=options)
    pool.tick(100.0)
    for node in pool.members:
        node.load.started(100.0)
    pool.apply(Resolved(given), 100.0)
    new = next(node for node in pool.members if node.endpoint is given[9])
    picked = Counter(pool.picker.pick(ANY, 100.0) for _ in range(500))
    assert 0 < picked[new] / 500 < 0.3
