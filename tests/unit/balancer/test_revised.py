"""A chooser carried over from change to change chooses like one made for the set as it is now."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.endpoints import Endpoint, Resolved
from balancer.policies.base import ANY, Node
from balancer.pool.pool import Pool
from tests.support.fleet import BY_WEIGHT, SPREADING, pool_of

PICKS = 600
SETS = st.lists(st.dictionaries(st.integers(0, 9), st.integers(1, 5), min_size=1, max_size=6), min_size=2, max_size=6)


@pytest.mark.parametrize("name", [name for name in SPREADING if "round_robin" not in name])
@settings(max_examples=25, deadline=None)
@given(sets=SETS)
def test_shares_are_those_of_the_last_set(name: str, sets: list[dict[int, int]]) -> None:
    """Bounds of 6 standard deviations: one wrong alarm in hundreds of millions of comparisons."""
    counts, weights = after(name, sets)
    for address, weight in weights.items():
        share = weight / sum(weights.values()) if name in BY_WEIGHT else 1 / len(weights)
        assert abs(counts[address] - PICKS * share) <= 6 * (PICKS * share * (1 - share)) ** 0.5
    assert counts.keys() <= weights.keys()


@pytest.mark.parametrize("name", ["round_robin", "weighted_round_robin"])
@settings(max_examples=100)
@given(sets=SETS)
def test_turns_are_exact_after_any_change(name: str, sets: list[dict[int, int]]) -> None:
    """But for the one turn by which the place where the count begins and ends may differ."""
    counts, weights = after(name, sets)
    total = sum(weights.values())
    for address, weight in weights.items():
        share = weight / total if name == "weighted_round_robin" else 1 / len(weights)
        assert abs(counts[address] - PICKS * share) < 2


def after(name: str, sets: list[dict[int, int]]) -> tuple[Counter[str], dict[str, int]]:
    """What is picked after the last of `sets`, and the weights then."""
    pool, rng = pool_of(name, ()), Random(5)
    for weights in sets:
        pool.apply(Resolved(tuple(Endpoint(f"h{n}:1", weight=weight) for n, weight in weights.items())), 0.0)
        picked(pool, rng.randrange(12))
    return picked(pool, PICKS), {f"h{n}:1": weight for n, weight in sets[-1].items()}


def picked(pool: Pool, number: int) -> Counter[str]:
    picks = (pool.picker.pick(ANY, 0.0) for _ in range(number))
    return Counter(node.endpoint.address for node in picks if isinstance(node, Node))
