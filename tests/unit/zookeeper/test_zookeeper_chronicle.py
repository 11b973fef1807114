"""The log in ZooKeeper: every chronicle that was read from it says the same as a plain dict that was written to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.stores.backend import ABSENT, PRESENT, Check, Item
from registry_server.stores.zookeeper.chronicle import (
    Checkpoint,
    Chronicle,
    Garbled,
    Page,
    Proposal,
    pack_items,
    read_items,
    size_of,
)

NAMES = st.sampled_from(["a", "b", "größe/✓", "x" * 300])
WRITES = st.dictionaries(NAMES, st.none() | st.binary(max_size=20), max_size=4)
CHECKS = st.lists(st.builds(Check, NAMES, st.sampled_from([ABSENT, PRESENT, 1, 2, 3, 4, 5])), max_size=3)


def written(chronicle: Chronicle, *transactions: dict[str, bytes | None]) -> bytes:
    proposal = Proposal(chronicle)
    for writes in transactions:
        proposal.add([], writes)
    return proposal.page(7).pack()


@given(st.lists(st.lists(st.tuples(CHECKS, WRITES), max_size=4), max_size=8))
def test_pages_say_what_was_written(pages: list[list[tuple[list[Check], dict[str, bytes | None]]]]) -> None:
    writer, reader = Chronicle(0, 0, b""), Chronicle(0, 0, b"")
    model: dict[str, Item] = {}
    revision = 0
    for transactions in pages:
        proposal = Proposal(writer)
        told = []
        for checks, writes in transactions:
            revisions = {name: item.revision for name, item in model.items()}
            wrong = {
                it.name
                for it in checks
                if revisions.get(it.name, ABSENT) != it.revision and not (it.revision == PRESENT and it.name in model)
            }
            outcome = proposal.add(checks, writes)
            if wrong:
                assert outcome == wrong
                continue
            revision += 1
            assert outcome == revision
            gone = {name for name, value in writes.items() if value is None and model.pop(name, None)}
            for name, value in writes.items():
                if value is not None:
                    model[name] = Item(name, value, revision, model[name].created if name in model else revision)
            told.append((revision, {name: model[name] for name, value in writes.items() if value is not None}, gone))
        data = proposal.page(7).pack()
        changes = writer.take(data)
        assert reader.take(data) == changes
        assert [(it.revision, {put.name: put for put in it.puts}, set(it.deletes)) for it in changes] == told
        assert {item.name: item for item in reader.items} == model
        assert (reader.number, reader.revision, reader.mark) == (writer.number, revision, data)


@given(st.lists(st.builds(Item, NAMES, st.binary(max_size=50), st.integers(0, 2**63), st.integers(0, 2**63))))
def test_a_checkpoint_has_all_items(items: list[Item]) -> None:
    parts = list(pack_items(items, 100))
    assert [item for part in parts for item in read_items(part)] == items
    assert all(part for part in parts)


@given(WRITES)
def test_a_transaction_is_no_larger_than_is_said(writes: dict[str, bytes | None]) -> None:
    assert len(Page(0, 0, (writes,)).pack()) <= len(Page(0, 0, ()).pack()) + size_of(writes)


@given(st.binary(max_size=200))
def test_what_is_no_page_changes_nothing(data: bytes) -> None:
    chronicle = Chronicle(3, 9, b"", [Item("a", b"1", 9, 9)])
    chronicle.take(data)
    assert (chronicle.number, chronicle.mark) == (4, data)
    if chronicle.revision == 9:
        assert chronicle.items == (Item("a", b"1", 9, 9),)


def test_a_page_that_was_written_for_another_place_changes_nothing() -> None:
    ahead = Chronicle(0, 5, b"")
    chronicle = Chronicle(0, 4, b"")
    assert chronicle.take(written(ahead, {"a": b"1"})) == []
    assert (chronicle.number, chronicle.revision, chronicle.items) == (1, 4, ())


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_what_ends_too_soon_or_too_late_is_not_read(cut: int) -> None:
    data = written(Chronicle(0, 0, b""), {"name": b"value", "gone": None})
    checkpoint = Checkpoint(1, 2, 3, 4, 5).pack()
    items = b"".join(pack_items([Item("name", b"value" * 10, 1, 1)], 10))
    for read, whole in ((Page.read, data), (Checkpoint.read, checkpoint)):
        for wrong in (whole[: -min(cut, len(whole) - 1)], whole + b"x"):
            with pytest.raises(Garbled):
                read(wrong)
    with pytest.raises(Garbled):
        read_items(items[:-cut])


def test_later_transactions_of_a_page_see_the_earlier_ones() -> None:
    proposal = Proposal(Chronicle(0, 10, b""))
    assert proposal.add([Check("a", ABSENT)], {"a": b"1"}) == 11
    assert proposal.add([Check("a", ABSENT)], {"a": b"2"}) == {"a"}
    assert proposal.add([Check("a", 11)], {"a": None}) == 12
    assert proposal.add([Check("a", PRESENT)], {"b": b""}) == {"a"}
    assert proposal.add([Check("a", ABSENT), Check("b", PRESENT)], {}) == {"b"}
    assert proposal.add([], {}) == 13


def test_a_checkpoint_is_worth_it_when_there_is_more_to_read_than_it_has() -> None:
    chronicle = Chronicle(0, 0, b"")
    while not chronicle.is_long(0):
        chronicle.take(written(chronicle, {"a": b"x" * 1000}))
    assert 400 < chronicle.number < 1000
    assert not chronicle.is_long(1 << 20)
    half = chronicle.number // 2
    chronicle.begins_at(half)
    assert not chronicle.is_long(0)
    chronicle.begins_at(half)  # somebody says so again
    chronicle.begins_at(half - 10)  # and one who knows less
    for _ in range(half + 1):
        chronicle.take(written(chronicle, {"a": b"x" * 1000}))
    assert chronicle.is_long(0)
