"""Which spells matter to which leases, and how a process finds out that it stood still."""

import math

from hypothesis import given
from hypothesis import strategies as st

from registry_server.illness import PARTS, Illness, Pulse


def test_nothing_is_ill_at_first() -> None:
    assert Illness().last(2.0) == -math.inf


def test_spell_of_unknown_length_matters_to_all() -> None:
    illness = Illness()
    illness.note(100.0)
    assert {illness.last(ttl_s) for ttl_s in (0.0, 2.0, 15.0, 3600.0)} == {100.0}


def test_spell_matters_to_those_who_renew_as_often() -> None:
    illness = Illness()
    illness.note(100.0, 0.5)
    assert illness.last(0.5 * PARTS) == 100.0
    assert illness.last(15.0) == -math.inf


def test_longer_spell_stays_known_though_a_shorter_one_follows() -> None:
    illness = Illness()
    illness.note(100.0, 60.0)
    illness.note(101.0, 0.5)
    assert (illness.last(15.0), illness.last(2.0)) == (100.0, 101.0)


@given(
    st.lists(st.tuples(st.floats(0.1, 10.0), st.floats(0.0, 2000.0) | st.just(math.inf)), max_size=30),
    st.floats(0.0, 3600.0),
)
def test_no_spell_that_matters_is_forgotten(spells: list[tuple[float, float]], ttl_s: float) -> None:
    """Against the plain list: at least what matters by the rule, and at most twice as long a time to live."""
    illness, now = Illness(), 0.0
    least = most = -math.inf
    for pause_s, length_s in spells:
        now += pause_s
        illness.note(now, length_s)
        if length_s * PARTS >= ttl_s:
            least = now
        if 2 * max(length_s, 0.125) * PARTS >= ttl_s:
            most = now
    assert least <= illness.last(ttl_s) <= most
    assert len(illness._ended) <= 14


def test_pulse_tells_a_standstill_once() -> None:
    pulse = Pulse(100.0, every_s=0.1, late_s=0.2)
    assert pulse.beat(100.1) == 0.0
    assert pulse.beat(100.35) == 0.0
    assert math.isclose(pulse.beat(160.45), 60.0)
    assert pulse.beat(160.6) == 0.0
