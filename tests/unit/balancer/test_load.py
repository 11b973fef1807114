"""The load of an endpoint: peaks count at once and are forgotten slowly, and looking changes nothing."""

from math import exp, inf, nan
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.load import ERROR_RATE_SPAN, Load, LoadBook, LoadOptions


def load(decay_s: float = 10.0, *, alarm_at: int | None = None) -> Load:
    return Load(LoadBook(LoadOptions(decay_s=decay_s), alarm_at=alarm_at))


def observe(load: Load, now: float, rtt_s: float, ok: bool = True) -> bool:
    load.started(now)
    return load.finished(now, rtt_s, ok)


def test_peak_counts_at_once() -> None:
    subject = load()
    observe(subject, 1.0, 0.01)
    observe(subject, 1.0, 2.0)
    assert subject.latency_s(1.0) == 2.0


def test_estimate_falls_by_the_time_that_passed() -> None:
    subject = load(decay_s=10.0)
    observe(subject, 0.0, 1.0)
    observe(subject, 10.0, 0.1)
    keep = exp(-1)
    assert subject.latency_s(10.0) == pytest.approx(1.0 * keep + 0.1 * (1 - keep))


def test_idle_endpoint_is_forgiven() -> None:
    subject = load(decay_s=10.0)
    observe(subject, 0.0, 1.0)
    assert subject.latency_s(100.0) == pytest.approx(exp(-10))


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), min_size=1), st.lists(st.floats(0, 200)))
def test_reading_changes_nothing(samples: list[tuple[float, float]], moments: list[float]) -> None:
    read, unread = load(), load()
    for now, rtt_s in samples:
        observe(read, now, rtt_s)
        observe(unread, now, rtt_s)
        for moment in moments:
            read.latency_s(moment)
    assert read.latency_s(200.0) == unread.latency_s(200.0)


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(0, 10)), min_size=1))
def test_clock_going_backwards_is_a_clock_standing_still(samples: list[tuple[float, float]]) -> None:
    """The estimate stays within what was observed, whatever the clock does."""
    subject = load()
    for now, rtt_s in samples:
        observe(subject, now, rtt_s)
        assert 0.0 <= subject.latency_s(now) <= max(rtt_s for _, rtt_s in samples)


def test_time_that_is_lived_twice_passes_once() -> None:
    """The clock goes back from 100 to 0 and comes to 100 again: nothing was forgotten meanwhile."""
    subject = load(decay_s=10.0)
    observe(subject, 100.0, 1.0)
    observe(subject, 0.0, 0.5)
    assert subject.latency_s(100.0) == 1.0


@pytest.mark.parametrize("rtt_s", [nan, inf, -inf])
def test_what_is_no_latency_is_not_observed(rtt_s: float) -> None:
    subject = load()
    observe(subject, 0.0, 0.5)
    observe(subject, 0.0, rtt_s)
    assert subject.latency_s(0.0) == 0.5
    assert subject.calls == 2
    assert subject.in_flight == 0


def test_negative_latency_is_none_at_all() -> None:
    subject = load()
    observe(subject, 0.0, -1.0)
    assert subject.latency_s(0.0) == 0.0


@pytest.mark.parametrize("decay_s", [0.0, -1.0, nan, inf])
def test_decay_must_be_a_time(decay_s: float) -> None:
    with pytest.raises(ValueError, match=r"^decay_s:"):
        LoadOptions(decay_s=decay_s)


def test_tiny_decay_forgets_at_once() -> None:
    subject = load(decay_s=1e-9)
    observe(subject, 0.0, 5.0)
    observe(subject, 1.0, 0.1)
    assert subject.latency_s(1.0) == pytest.approx(0.1)


def test_failure_is_never_quick() -> None:
    subject = load()
    observe(subject, 0.0, 0.0001, ok=False)
    assert subject.latency_s(0.0) == LoadOptions().failure_cost_s


def test_counts() -> None:
    subject = load()
    subject.started(1.0)
    subject.started(2.0)
    assert (subject.in_flight, subject.book.in_flight, subject.last_used) == (2, 2, 2.0)
    subject.finished(3.0, 1.0, ok=False)
    subject.abandoned()
    assert (subject.in_flight, subject.book.in_flight, subject.calls, subject.failures) == (0, 0, 1, 1)


def test_error_rate_follows_the_last_calls() -> None:
    subject = load()
    for _ in range(10 * ERROR_RATE_SPAN):
        observe(subject, 0.0, 0.1, ok=False)
    assert subject.error_rate > 0.99
    for _ in range(10 * ERROR_RATE_SPAN):
        observe(subject, 0.0, 0.1)
    assert subject.error_rate < 0.01


def test_alarm_at_so_many_failures_in_a_row_and_only_then() -> None:
    subject = load(alarm_at=3)
    outcomes = [False, False, True, False, False, False, False]
    assert [observe(subject, 0.0, 0.1, ok) for ok in outcomes] == [False] * 5 + [True, False]
    assert subject.book.alarmed


def test_loads_share_their_book() -> None:
    book = LoadBook()
    one, other = Load(book), Load(book)
    one.started(0.0)
    other.started(0.0)
    assert book.in_flight == 2


def test_threads_lose_no_count() -> None:
    subject = load()

    def work() -> None:
        for _ in range(2_000):
            observe(subject, 0.0, 0.1)

    threads = [Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (subject.in_flight, subject.book.in_flight, subject.calls) == (0, 0, 16_000)
