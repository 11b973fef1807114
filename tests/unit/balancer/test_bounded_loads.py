"""Consistent hashing with bounded loads: nobody is given more than the bound, whatever the keys."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.endpoints import Endpoint
from balancer.policies.base import Node, PickInfo
from tests.support.fleet import pool_of

BOUNDED = ["consistent_hash?load_factor=1.25", "consistent_hash?load_factor=1.25&table=maglev&table_size=1009"]


@pytest.mark.parametrize("name", BOUNDED)
@settings(max_examples=30, deadline=None)
@given(weights=st.lists(st.integers(1, 5), min_size=1, max_size=12), seed=st.integers(0, 2**32))
def test_no_node_is_given_more_than_its_bound(name: str, weights: list[int], seed: int) -> None:
    """Every call has the same key: without the bound all would go to one node."""
    pool = pool_of(name, tuple(Endpoint(f"h{n}:1", weight=weight) for n, weight in enumerate(weights)))
    rng, running = Random(seed), list[Node]()
    for _ in range(120):
        node = pool.picker.pick(PickInfo("the same player"), 0.0)
        assert isinstance(node, Node)
        fair = (len(running) + 1) * node.endpoint.weight / sum(weights)
        assert node.load.in_flight < 1.25 * fair
        node.load.started(0.0)
        running.append(node)
        if rng.random() < 0.3:
            running.pop(rng.randrange(len(running))).load.finished(0.0, 0.1)


@pytest.mark.parametrize("name", BOUNDED)
def test_below_the_bound_keys_stay_at_home(name: str) -> None:
    given_endpoints = tuple(Endpoint(f"h{n}:1") for n in range(10))
    bounded, free = pool_of(name, given_endpoints), pool_of(name.replace("load_factor=1.25", ""), given_endpoints)
    for n in range(500):
        info = PickInfo(f"player-{n}")
        one, other = bounded.picker.pick(info, 0.0), free.picker.pick(info, 0.0)
        assert isinstance(one, Node)
        assert isinstance(other, Node)
        assert one.endpoint == other.endpoint


@pytest.mark.parametrize("name", BOUNDED)
def test_one_key_overflows_to_the_same_next_node(name: str) -> None:
    """The overflow of a hot key has a second home, so that what it caches there is of use."""
    pool = pool_of(name, tuple(Endpoint(f"h{n}:1") for n in range(10)))
    info = PickInfo("hot")
    first = pool.picker.pick(info, 0.0)
    assert isinstance(first, Node)
    for _ in range(5):
        first.load.started(0.0)
    seconds = {pool.picker.pick(info, 0.0) for _ in range(5)}
    assert len(seconds) == 1
    assert first not in seconds
