"""Weighted round robin is exact over a period, smooth within it, and neither is lost when the set changes."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.endpoints import Endpoint, Resolved
from balancer.policies.base import ANY, Node
from balancer.pool.pool import Pool
from tests.support.fleet import pool_of

WRR = "weighted_round_robin"


def weighted(*weights: int) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(f"{chr(ord('a') + n)}:1", weight=weight) for n, weight in enumerate(weights))


def turns(pool: Pool, number: int) -> str:
    """Each pick as one letter."""
    picks = (pool.picker.pick(ANY, 0.0) for _ in range(number))
    return "".join(node.endpoint.address[0] for node in picks if isinstance(node, Node))


def test_one_one_three_comes_out_as_in_nginx() -> None:
    assert turns(pool_of(WRR, weighted(1, 1, 3)), 10) == "cacbccacbc"


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_every_period_is_exact(weights: list[int]) -> None:
    pool = pool_of(WRR, weighted(*weights))
    wanted = {chr(ord("a") + n): weight for n, weight in enumerate(weights)}
    for _ in range(3):
        assert Counter(turns(pool, sum(weights))) == wanted


@given(st.lists(st.integers(1, 30), min_size=2, max_size=12))
def test_no_node_is_ever_far_from_its_share(weights: list[int]) -> None:
    """A class of equal weights is never more than about one turn off; within it, turns go round. For a node that is
    less than two turns, whatever the weights: measured over two periods."""
    pool, total = pool_of(WRR, weighted(*weights)), sum(weights)
    got: Counter[str] = Counter()
    for number, letter in enumerate(turns(pool, 2 * total), start=1):
        got[letter] += 1
        for n, weight in enumerate(weights):
            assert abs(got[chr(ord("a") + n)] - number * weight / total) < 2


def test_heavy_node_is_never_called_in_a_burst() -> None:
    """Half of the weight is every other turn, but for the seam of two periods."""
    letters = turns(pool_of(WRR, weighted(4, 1, 1, 1, 1)), 80)
    assert "aaa" not in letters


def test_order_is_that_of_the_list() -> None:
    assert turns(pool_of("round_robin", weighted(1, 1, 1, 1)), 8) == "abcdabcd"


@pytest.mark.parametrize("name", [WRR, "round_robin"])
@pytest.mark.parametrize("weights", [(1, 2, 3, 4), (2, 3)], ids=str)
def test_changes_do_not_start_the_turns_anew(name: str, weights: tuple[int, ...]) -> None:
    """With a change between any two picks, a schedule that began at its start each time would call the first alone, and
    one that forgot how long a weight has waited would call the heavy ones alone."""
    given_endpoints = weighted(2, 2, 2, 3, 3)
    pool, got = pool_of(name, given_endpoints), Counter[str]()
    for number in range(1_200):
        extra = [Endpoint(f"x{number}-{weight}:1", weight=weight) for weight in weights]
        pool.apply(Resolved((*given_endpoints, *extra)), 0.0)
        got.update(turns(pool, 1))
    total = sum(got[letter] for letter in "abcde")
    for endpoint in given_endpoints:
        share = endpoint.weight / 12 if name == WRR else 1 / 5
        assert got[endpoint.address[0]] / total == pytest.approx(share, abs=0.03)


def test_weights_change_under_way() -> None:
    pool = pool_of(WRR, weighted(1, 1, 3))
    turns(pool, 7)
    pool.apply(Resolved((*weighted(1, 1), replace(weighted(1, 1, 3)[2], weight=2))), 0.0)
    turns(pool, 4)  # what is left of the old period
    for _ in range(5):
        assert Counter(turns(pool, 4)) == {"a": 1, "b": 1, "c": 2}


def test_many_turns_are_exact() -> None:
    """Rounding errors do not add up."""
    pool = pool_of(WRR, weighted(7, 11, 13))
    pick = pool.picker.pick
    counts = Counter(islice(iter(lambda: pick(ANY, 0.0), None), 31 * 10_000))
    assert sorted(counts.values()) == [70_000, 110_000, 130_000]
