"""The pauses between tries grow, are bounded, and are left to chance."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_client.backoff import Backoff

ATTEMPTS = st.integers(min_value=0, max_value=10_000_000)


@given(attempt=ATTEMPTS, seed=st.integers())
def test_a_delay_is_within_its_ceiling(attempt: int, seed: int) -> None:
    backoff = Backoff(base_s=0.1, cap_s=5.0)
    assert 0 <= backoff.delay(attempt, random.Random(seed)) <= backoff.ceiling(attempt) <= 5.0


def test_ceilings_double_until_the_cap() -> None:
    backoff = Backoff(base_s=1.0, cap_s=10.0)
    assert [backoff.ceiling(attempt) for attempt in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_full_jitter_is_uniform() -> None:
    # The mean of n uniform delays is ceiling/2 with a deviation of ceiling/sqrt(12 n): 5 deviations are 0.0456 here.
    backoff, rng, tries = Backoff(base_s=2.0, cap_s=2.0), random.Random(7), 4000
    delays = [backoff.delay(0, rng) for _ in range(tries)]
    assert abs(sum(delays) / tries - 1.0) < 5 * 2.0 / math.sqrt(12 * tries)
    assert min(delays) < 0.05
    assert max(delays) > 1.95


def test_without_jitter_nothing_is_left_to_chance() -> None:
    backoff = Backoff(base_s=1.0, cap_s=8.0, jitter=0.0)
    assert backoff.delay(2, random.Random(1)) == backoff.delay(2, random.Random(2)) == 4.0


def test_jitter_does_not_compound() -> None:
    """The delay depends on the attempt, not on the delay before."""
    backoff = Backoff()
    assert backoff.delay(4, random.Random(3)) == backoff.delay(4, random.Random(3))


@given(cap_s=st.floats(min_value=1e-6, max_value=1e6))
def test_a_smaller_cap_is_valid_and_holds(cap_s: float) -> None:
    capped = Backoff(base_s=0.5, cap_s=4.0).capped(cap_s)
    assert capped.ceiling(1000) == min(4.0, cap_s)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"base_s": 0.0}, "base_s"),
        ({"base_s": 2.0, "cap_s": 1.0}, "base_s"),
        ({"factor": 0.5}, "factor"),
        ({"jitter": 1.5}, "jitter"),
        ({"jitter": -0.1}, "jitter"),
    ],
)
def test_a_mistake_is_named(settings: dict[str, float], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}:"):
        Backoff(**settings)
