"""CORE: waits shrink with the shortest time to live, and leave its owner time to act."""

from hypothesis import given
from hypothesis import strategies as st

from registry_server.stores.pace import Pace, hold_s, most_s

TTLS = st.floats(2.0, 3600.0)


def pace_of(*ttls: float) -> Pace:
    pace = Pace()
    for ttl_s in ttls:
        pace.uses(ttl_s)
    return pace


@given(TTLS)
def test_silence_is_noticed_before_an_owner_can_lose_its_lease_over_it(ttl_s: float) -> None:
    # An owner renews every third of its time to live, so it has two thirds left when a silence begins.
    pace = pace_of(ttl_s)
    assert pace.idle_s + pace.ill_s <= ttl_s / 3


@given(TTLS)
def test_a_renewal_that_hangs_leaves_time_for_another_server(ttl_s: float) -> None:
    assert hold_s(ttl_s) <= max(ttl_s / 8, 0.25)


@given(TTLS)
def test_who_waits_for_his_turn_is_answered_before_he_would_ask_again(ttl_s: float) -> None:
    assert hold_s(ttl_s) <= most_s(ttl_s) < ttl_s / 3


@given(TTLS)
def test_another_endpoint_is_tried_before_a_lease_ends(ttl_s: float) -> None:
    pace = pace_of(ttl_s)
    assert pace.idle_s + pace.patience_s <= ttl_s / 2
    assert pace.suspect_s <= pace.patience_s


@given(st.lists(TTLS, min_size=1))
def test_the_shortest_counts(ttls: list[float]) -> None:
    assert pace_of(*ttls).patience_s == pace_of(min(ttls)).patience_s


def test_long_ones_change_nothing_and_a_full_set_begins_anew() -> None:
    usual, pace = Pace(), pace_of(3600, 0, -1)
    assert pace.patience_s == usual.patience_s
    pace.uses(2)
    assert pace.patience_s < usual.patience_s
    pace.begin()
    assert pace.patience_s == usual.patience_s
