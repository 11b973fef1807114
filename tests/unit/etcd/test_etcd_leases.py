"""CORE of the etcd store: lease ids that this registry gave, and no other."""

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.stores.etcd.leases import LeaseIds, ttl_of

OURS, THEIRS = LeaseIds(b"ours"), LeaseIds(b"theirs")
TTLS = st.integers(1, 4095)
RANDOM = st.integers(0, 2**31 - 1)


@given(TTLS, RANDOM)
def test_an_id_leads_back_to_its_number_and_its_time_to_live(ttl_s: int, random: int) -> None:
    number = OURS.number(ttl_s, random)
    assert 0 < number < 2**63
    assert ttl_of(number) == ttl_s
    assert OURS.find(OURS.id(number)) == number
    assert OURS.id(number).startswith(f"{number:016x}"), "as etcdctl prints it"
    assert len(OURS.id(number)) == 48


@given(TTLS, RANDOM, RANDOM)
def test_different_leases_have_different_numbers(ttl_s: int, one: int, two: int) -> None:
    assert (one == two) == (OURS.number(ttl_s, one) == OURS.number(ttl_s, two))


@given(TTLS, RANDOM)
def test_ids_of_another_registry_are_unknown(ttl_s: int, random: int) -> None:
    assert OURS.find(THEIRS.id(THEIRS.number(ttl_s, random))) is None


@pytest.mark.parametrize("place", range(48))
def test_no_digit_of_an_id_can_be_changed(place: int) -> None:
    id_ = OURS.id(OURS.number(15, 12345))
    for digit in "0123456789abcdef":
        changed = id_[:place] + digit + id_[place + 1 :]
        assert (OURS.find(changed) is None) == (changed != id_)


@given(st.one_of(st.text(max_size=60), st.text("0123456789abcdefABCDEF", min_size=46, max_size=50)))
def test_any_text_is_unknown(text: str) -> None:
    assert OURS.find(text) is None


@given(st.integers(-(2**63), 2**63 - 1))
def test_numbers_that_etcd_chose_have_no_id(number: int) -> None:
    assert OURS.id(number) == "" or OURS.find(OURS.id(number)) == number


def test_a_foreign_number_passes_for_ours_once_in_a_million() -> None:
    assert sum(bool(OURS.id(secrets.randbits(63))) for _ in range(20_000)) <= 2


@pytest.mark.parametrize(("ttl_s", "said"), [(0, 1), (1, 1), (3600, 3600), (4095, 4095), (86_400, 4095)])
def test_time_to_live_is_never_said_to_be_longer(ttl_s: int, said: int) -> None:
    assert ttl_of(OURS.number(ttl_s, 7)) == said
