"""When a call may be tried again (gRFC A6)."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.calls.retry import (
    ATTEMPTS_HEADER,
    PUSHBACK_TRAILER,
    Hedging,
    HedgingPolicy,
    Retrying,
    RetryPolicy,
    Throttle,
    marked,
    never_left,
    speaks_against,
)

UNAVAILABLE, NOT_FOUND = 14, 5
POLICY = RetryPolicy(3, 1.0, 5.0, 2.0, frozenset({UNAVAILABLE}))


def asks(value: str) -> list[tuple[str, str | bytes]]:
    return [("other", "x"), (PUSHBACK_TRAILER, value)]


@given(st.integers(1, 30), st.integers())
def test_backoff_grows_to_its_cap_with_jitter(retry: int, seed: int) -> None:
    plain = min(1.0 * 2.0 ** (retry - 1), 5.0)
    assert 0.8 * plain <= POLICY.backoff_s(retry, Random(seed)) <= 1.2 * plain


def test_attempts_are_limited_and_marked() -> None:
    retries, rng = Retrying(POLICY).begin(), Random(1)
    assert marked((("a", "b"),), retries.previous) == (("a", "b"),)
    assert retries.pause_after(UNAVAILABLE, (), rng) is not None
    first = marked((("a", "b"),), retries.previous)
    assert first == (("a", "b"), (ATTEMPTS_HEADER, "1"))
    assert retries.pause_after(UNAVAILABLE, (), rng) is not None
    assert marked(first, retries.previous) == (("a", "b"), (ATTEMPTS_HEADER, "2"))
    assert retries.pause_after(UNAVAILABLE, (), rng) is None


def test_other_codes_and_committed_calls_are_final() -> None:
    assert Retrying(POLICY).begin().pause_after(NOT_FOUND, (), Random(1)) is None
    assert Retrying(POLICY).begin().pause_after(UNAVAILABLE, (), Random(1), committed=True) is None


def test_pushback_sets_the_pause_and_restarts_the_backoff() -> None:
    retries, rng = Retrying(RetryPolicy(5, 1.0, 100.0, 10.0, frozenset({UNAVAILABLE}))).begin(), Random(1)
    assert (retries.pause_after(UNAVAILABLE, (), rng) or 0) <= 1.2
    assert retries.pause_after(UNAVAILABLE, asks("1500"), rng) == 1.5
    assert (retries.pause_after(UNAVAILABLE, (), rng) or 0) <= 1.2


@pytest.mark.parametrize("value", ["-1", "", "soon", "1.5", "²", "9" * 13, "9" * 5_000])
def test_unreadable_or_negative_pushback_stops(value: str) -> None:
    assert Retrying(POLICY).begin().pause_after(UNAVAILABLE, asks(value), Random(1)) is None


def test_throttle_stops_at_half_and_recovers() -> None:
    throttle = Throttle(4.0, 0.5)
    retrying, rng = Retrying(POLICY, throttle), Random(1)
    assert retrying.begin().pause_after(UNAVAILABLE, (), rng) is not None
    assert retrying.begin().pause_after(UNAVAILABLE, (), rng) is None
    assert throttle.tokens == 2.0
    for _ in range(3):
        retrying.begin().succeeded()
    assert retrying.begin().pause_after(NOT_FOUND, (), rng) is None
    assert throttle.tokens == 3.5, "a failure that is not retryable takes no token"
    assert retrying.begin().pause_after(UNAVAILABLE, (), rng) is not None
    for _ in range(30):
        retrying.begin().succeeded()
    assert throttle.tokens == 4.0


def test_a_failure_that_this_process_may_have_caused_takes_no_token() -> None:
    """Or a standstill, in which all calls under way failed, would leave nothing to try them again with."""
    throttle = Throttle(4.0, 0.5)
    for _ in range(9):
        assert Retrying(POLICY, throttle).begin().pause_after(UNAVAILABLE, (), Random(1), excused=True) is not None
    hedges = Hedging(HedgingPolicy(3, 1.0, frozenset({UNAVAILABLE})), throttle).begin()
    hedges.failed(UNAVAILABLE, (), 0.0, excused=True)
    assert throttle.tokens == 4.0


def test_hedges_are_due_one_delay_apart() -> None:
    hedges = Hedging(HedgingPolicy(3, 2.0, frozenset({UNAVAILABLE}))).begin()
    assert hedges.pause_s(10.0) == 2.0
    assert not hedges.due(11.9)
    assert hedges.due(12.0)
    assert hedges.pause_s(12.0) == 2.0
    assert hedges.due(14.0)
    assert hedges.pause_s(14.0) is None
    assert not hedges.due(99.0)
    assert hedges.sent == 3


def test_non_fatal_failure_brings_the_next_hedge_forward() -> None:
    hedges = Hedging(HedgingPolicy(3, 2.0, frozenset({UNAVAILABLE}))).begin()
    hedges.failed(UNAVAILABLE, (), 10.0)
    assert hedges.pause_s(10.0) == 0.0
    assert hedges.due(10.0)
    assert not hedges.over
    hedges.failed(NOT_FOUND, (), 10.0)
    assert hedges.over


def test_refused_hedge_does_not_count() -> None:
    hedges = Hedging(HedgingPolicy(2, 2.0, frozenset())).begin()
    hedges.replaced(1.0)
    assert hedges.sent == 1
    assert hedges.pause_s(1.0) == 2.0
    assert hedges.due(3.0)
    assert hedges.sent == 2
    assert not hedges.due(9.0)
    assert not hedges.over


def test_hedging_pushback() -> None:
    hedges = Hedging(HedgingPolicy(3, 2.0, frozenset({UNAVAILABLE}))).begin()
    assert hedges.pause_s(0.0) == 2.0
    hedges.failed(UNAVAILABLE, asks("3000"), 1.0)
    assert hedges.pause_s(1.0) == 3.0, "as long as the server asked for (A6), whatever the delay had left"
    assert hedges.due(4.0)
    hedges.failed(UNAVAILABLE, asks("-1"), 5.0)
    assert hedges.pause_s(5.0) is None


def test_marked_replaces_an_older_mark() -> None:
    assert marked(((ATTEMPTS_HEADER, "1"), ("a", "b")), 2) == (("a", "b"), (ATTEMPTS_HEADER, "2"))


@pytest.mark.parametrize(
    ("code", "details", "left"),
    [
        (14, "failed to connect to all addresses; last error: UNKNOWN: …: Connection refused", True),
        (14, "Socket closed", False),
        (14, None, False),
        (13, "failed to connect to all addresses", False),
    ],
)
def test_never_left(code: int, details: str | None, left: bool) -> None:
    assert never_left(code, details) is left


def test_what_speaks_against_an_endpoint() -> None:
    assert {code for code in range(17) if speaks_against(code)} == {2, 4, 13, 14, 15}
