"""A process's own standstill: found out by beats that come late, and held against nobody."""

from math import inf

import pytest

from balancer.pulse import BEAT_S, RETURN_S, SLIP_S, STILL_S, Pulse


def beating(until: float, asleep_s: float = 0.0) -> Pulse:
    """From 0 on, with the next beat due `BEAT_S` after `until`."""
    pulse = Pulse(asleep_s)
    for beat in range(round(until / BEAT_S) + 1):
        pulse.beat(beat * BEAT_S, asleep_s, (beat + 1) * BEAT_S)
    return pulse


def test_who_is_attended_to_excuses_nothing_and_measures_what_there_was() -> None:
    pulse = beating(10.0)
    assert not pulse.excuses(0.0, 10.05)
    assert pulse.latency_s(1.0, 10.05) == pytest.approx(9.05)


def test_a_beat_that_is_a_little_late_is_no_standstill() -> None:
    pulse = beating(10.0)
    late = 10.0 + BEAT_S + SLIP_S / 2
    assert pulse.latency_s(9.0, late) == pytest.approx(late - 9.0)
    assert not pulse.excuses(9.0, late)


def test_while_nobody_beats_no_gap_is_a_standstill() -> None:
    pulse = beating(10.0)
    pulse.beat(10.1)
    pulse.beat(99.0, 0.0, 99.0 + BEAT_S)
    assert not pulse.excuses(98.0, 99.05)
    assert pulse.latency_s(98.0, 99.05) == pytest.approx(1.05)


@pytest.mark.parametrize("beats_first", [True, False])
def test_what_was_under_way_in_a_standstill_is_excused_whoever_finds_it_out(beats_first: bool) -> None:
    """What waits in the sockets is read before timers ring."""
    pulse = beating(10.0)
    if beats_first:
        pulse.beat(13.0, 0.0, 13.0 + BEAT_S)
    assert pulse.excuses(9.9, 13.0)


def test_a_latency_leaves_out_every_standstill_and_nothing_else() -> None:
    pulse = beating(10.0)
    for wakes in (13.0, 23.0):
        pulse.beat(wakes, 0.0, wakes + BEAT_S)
        pulse.beat(wakes + BEAT_S, 0.0, wakes + 2 * BEAT_S)
    assert pulse.latency_s(23.05, 23.19) == pytest.approx(0.14), "it began afterwards"
    assert pulse.latency_s(9.5, 23.2) == pytest.approx((10.0 - 9.5) + (13.1 - 13.0) + (23.2 - 23.0))


def test_a_call_that_began_and_ended_within_the_gap_took_what_it_took_after_it() -> None:
    assert beating(10.0).latency_s(10.05, 70.0) == 0.0
    pulse = beating(10.0)
    pulse.beat(70.0, 0.0, 70.1)
    pulse.beat(70.1, 0.0, 70.2)
    assert pulse.latency_s(10.05, 70.2) == pytest.approx(0.2)


def test_failures_are_excused_for_as_long_as_it_stood_still() -> None:
    pulse = beating(10.0)
    pulse.beat(12.1, 0.0, 99.0)
    assert pulse.excuses(9.0, 14.0)
    assert not pulse.excuses(9.0, 14.2)


def test_who_is_blocked_again_and_again_still_finds_out_what_fails() -> None:
    """A loop that works for a second before each call: no call was under way in that time."""
    pulse = beating(10.0)
    for second in range(11, 60):
        began = second + 0.001
        pulse.beat(began + 0.001, 0.0, began + BEAT_S)
        assert not pulse.excuses(began, began + 0.05)


def test_after_a_long_one_connections_may_be_gone_so_that_new_calls_are_excused_too() -> None:
    pulse = beating(10.0)
    pulse.beat(70.0, 0.0, inf)
    assert pulse.excuses(70.5, 71.0)
    assert not pulse.excuses(70.5, 70.0 + RETURN_S)


def test_a_short_one_after_a_long_one_takes_nothing_back() -> None:
    pulse = beating(10.0)
    pulse.beat(70.0, 0.0, 70.1)
    pulse.beat(70.1 + STILL_S + 0.1, 0.0, inf)
    assert pulse.excuses(9.0, 70.0 + RETURN_S - 0.1)


def test_another_timer_of_the_loop_finds_out_as_well_while_no_call_is_under_way() -> None:
    pulse = Pulse()
    pulse.rang(100.0, 100.05)
    assert not pulse.excuses(100.0, 100.06)
    pulse.rang(110.0, 160.0)
    assert pulse.excuses(160.01, 160.02)


def test_a_machine_that_was_suspended_is_found_out_though_its_clock_stood_still_too() -> None:
    """The clock that deadlines go by leaves that time out; what was connected may be gone all the same."""
    pulse = beating(10.0, asleep_s=3.0)
    assert not pulse.excuses(9.0, 10.05, 3.0)
    assert pulse.excuses(10.06, 10.07, 3603.0)
    assert pulse.latency_s(9.0, 10.08) == pytest.approx(1.08)
