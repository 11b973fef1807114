"""Which spells matter to which leases, and how a process finds out that it stood still."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.illness import PARTS, RETURN_S, Illness, Pulse, whole_s


def test_nothing_is_excused_at_first() -> None:
    assert Illness().excused_until(2.0) == -math.inf


def test_spell_of_unknown_length_matters_to_all() -> None:
    illness = Illness()
    illness.note(100.0)
    assert [illness.excused_until(ttl_s) for ttl_s in (15.0, 60.0, 3600.0)] == [115.0, 160.0, 3700.0]


def test_spell_matters_to_those_who_renew_as_often() -> None:
    illness = Illness()
    illness.note(100.0, 0.5)
    assert illness.excused_until(0.5 * PARTS) == 100.0 + 0.5 * PARTS
    assert illness.excused_until(15.0) == -math.inf


def test_longer_spell_stays_known_though_a_shorter_one_follows() -> None:
    illness = Illness()
    illness.note(100.0, 60.0)
    illness.note(101.0, 0.5)
    assert (illness.excused_until(15.0), illness.excused_until(2.0)) == (115.0, 105.0)


@pytest.mark.parametrize(("length_s", "excused_s"), [(0.5, 2.0), (3.0, 3.0), (60.0, RETURN_S), (math.inf, RETURN_S)])
def test_owners_have_as_long_as_the_spell_was_to_come_back(length_s: float, excused_s: float) -> None:
    """They were refused, and pause between their tries."""
    illness = Illness()
    illness.note(100.0, length_s)
    assert illness.excused_until(2.0) == 100.0 + excused_s


def test_who_felt_nothing_need_not_come_back() -> None:
    illness = Illness()
    illness.note(100.0, was_felt=False)
    assert illness.excused_until(2.0) == 102.0


@given(
    st.lists(st.tuples(st.floats(0.1, 10.0), st.floats(0.0, 2000.0) | st.just(math.inf)), max_size=30),
    st.floats(0.0, 3600.0),
)
def test_no_spell_that_matters_is_forgotten(spells: list[tuple[float, float]], ttl_s: float) -> None:
    """Against the plain list: at least what matters by the rule, and at most to twice as long a time to live."""
    illness, now = Illness(), 0.0
    least = most = -math.inf
    for pause_s, length_s in spells:
        now += pause_s
        illness.note(now, length_s)
        excused = now + whole_s(ttl_s, length_s)
        if length_s * PARTS >= ttl_s:
            least = max(least, excused)
        if 2 * max(length_s, 0.125) * PARTS >= ttl_s:
            most = max(most, excused)
    assert least <= illness.excused_until(ttl_s) <= most
    assert len(illness._ended) <= 14


def test_pulse_tells_a_standstill_once() -> None:
    pulse = Pulse(100.0, every_s=0.1, late_s=0.2)
    assert pulse.beat(100.1) == 0.0
    assert pulse.beat(100.35) == 0.0
    assert math.isclose(pulse.beat(160.45), 60.0)
    assert pulse.beat(160.6) == 0.0
