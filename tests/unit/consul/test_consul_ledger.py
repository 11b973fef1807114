"""What a replica knows of the log in Consul, and what it makes of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.stores.backend import ABSENT, PRESENT, Changed, Check, Item
from registry_server.stores.consul.http import next_index
from registry_server.stores.consul.ledger import RING, Bid, ConsulLog, Folded, Logged, batch, place

NAMES = st.text(max_size=40)
WRITES = st.dictionaries(NAMES, st.none() | st.binary(max_size=40), max_size=5)


@given(st.integers(0, 10**15), WRITES)
def test_an_entry_comes_back_as_it_was(seq: int, writes: dict[str, bytes | None]) -> None:
    assert Logged.read(Logged(seq, writes).packed()) == Logged(seq, writes)


@given(st.binary(max_size=60))
def test_what_somebody_else_wrote_is_no_entry_or_a_whole_one(value: bytes) -> None:
    logged = Logged.read(value)
    assert logged is None or isinstance(logged.writes, dict)


@pytest.mark.parametrize(
    "value", [b"", b"7", b"x\n", b"7\n1 1\na", b"7\n1 x\nab", b"7\n2 0\n\xff\xff", b"7\n-1 3\nabc"]
)
def test_no_entry(value: bytes) -> None:
    assert Logged.read(value) is None


@given(st.integers(0, 10**18), st.integers(0, 10**18), st.binary(max_size=40))
def test_a_folded_value_comes_back_as_it_was(revision: int, created: int, value: bytes) -> None:
    assert Folded.read(Folded(revision, created, value).packed()) == Folded(revision, created, value)


@pytest.mark.parametrize("value", [b"", b"1 2", b"1\nx", b"a b\nx", b"1 2 3\nx", b"-1 2\nx", b"9" * 5000 + b" 1\nx"])
def test_nothing_folded(value: bytes) -> None:
    assert Folded.read(value) is None


def test_revisions_and_names() -> None:
    ledger = ConsulLog(0)
    assert ledger.take(Logged(1, {"a": b"1"}), 10) == Changed(10, (Item("a", b"1", 10, 10),))
    assert ledger.take(Logged(2, {"a": b"2", "gone": None}), 12) == Changed(12, (Item("a", b"2", 12, 10),))
    assert ledger.failed([Check("a", 10), Check("a", 12), Check("a", PRESENT), Check("b", ABSENT)]) == ["a"]
    assert ledger.failed([Check("b", PRESENT), Check("a", ABSENT)]) == ["b", "a"]
    assert ledger.take(Logged(3, {"a": None}), 13) == Changed(13, deletes=("a",))
    assert (ledger.seq, ledger.revision, ledger.head_index) == (3, 13, 13)


def test_what_was_written_after_the_base_is_still_to_be_folded() -> None:
    ledger = ConsulLog(0)
    ledger.take(Logged(1, {"a": b"1", "b": b"1"}), 10)
    ledger.take(Logged(2, {"b": None}), 11)
    assert dict(ledger.unfolded()) == {"a": Folded(10, 10, b"1"), "b": None}
    ledger.fold(1)
    assert dict(ledger.unfolded()) == {"b": None}


def test_no_entry_is_written_over_that_is_not_folded() -> None:
    ledger = ConsulLog(0)
    ledger.stand(RING - 2, 5, 5)
    assert ledger.has_room
    ledger.stand(RING - 1, 5, 5)
    assert not ledger.has_room
    ledger.fold(1)
    assert ledger.has_room
    assert place(1) == place(RING + 1) != place(2)


def test_who_touches_what_another_writes_comes_later() -> None:
    ledger = ConsulLog(0)
    ledger.take(Logged(1, {"a": b"1"}), 10)
    one = Bid([Check("a", 10)], {"a": b"2"})
    other = Bid([Check("b", ABSENT)], {"b": b"2"})
    wrong = Bid([Check("a", 9)], {"c": b"2"})
    found = batch(ledger, [other, wrong], 1_000)
    assert ([list(it) for it in found.verdicts], found.writes) == ([[], ["a"]], {"b": b"2"})
    assert len(batch(ledger, [one, wrong, other], 1_000).verdicts) == 1
    assert len(batch(ledger, [one, one], 1_000).verdicts) == 1
    assert len(batch(ledger, [one, other], 10).verdicts) == 1


@pytest.mark.parametrize(
    ("index", "answered", "then"), [(0, 0, 1), (0, 7, 7), (7, 7, 7), (7, 9, 9), (9, 7, 0), (7, 0, 0)]
)
def test_an_index_may_go_backwards(index: int, answered: int, then: int) -> None:
    """Then the next query asks for what is there now; and none is below 1."""
    assert next_index(index, answered) == then
