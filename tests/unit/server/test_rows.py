"""The instances of a service in blocks: in order, small enough for a message, and shared by all snapshots."""

import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry_server import rows as rows_module
from registry_server.model import Entry, checksum
from registry_server.rows import MAX_BYTES, MAX_ROWS, Rows
from tests.support.core import key, record

IDS = st.integers(0, 60).map(lambda number: f"{number:02}")
KINDS = st.sampled_from(["put", "put", "remove", "snapshot"])
STEPS = st.lists(st.tuples(KINDS, IDS, st.integers(1, 128)), max_size=100)


def entry(id_: str, revision: int, **fields: Any) -> Entry:
    return Entry.of(record(key(id_), revision, **fields))


def flat(snapshot: Any) -> list[Entry]:
    return [it for block in snapshot for it in block.entries]


@given(STEPS)
@example([("put", f"{number:02}", 128 if number > 1 else 1) for number in range(4)])  # halves that differ in size
def test_rows_beside_a_plain_dict(steps: list[tuple[str, str, int]]) -> None:
    """Snapshots stay what they were whatever comes after."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "MAX_ROWS", 4)
        patch.setattr(rows_module, "MAX_BYTES", 400)
        rows, naive = Rows(), dict[str, Entry]()
        taken: list[tuple[Any, list[Entry]]] = []
        for revision, (step, id_, size) in enumerate(steps, 1):
            if step == "put":
                after = entry(id_, revision, version="v" * size)
                rows.put(naive.get(id_), after)
                naive[id_] = after
            elif step == "remove" and id_ in naive:
                rows.remove(naive.pop(id_))
            elif step == "snapshot":
                taken.append((rows.snapshot(), list(rows.flat())))
            check(rows, naive)
        for snapshot, then in taken:
            assert flat(snapshot) == then


def check(rows: Rows, naive: dict[str, Entry]) -> None:
    expected = [naive[id_] for id_ in sorted(naive)]
    assert list(rows.flat()) == expected
    assert rows.digest == sum(it.digest for it in expected)
    for block in rows._blocks:
        assert block.ids == [it.key.id for it in block.entries]
        assert block.size == sum(len(it.encoded) for it in block.entries)
        assert block.digest == sum(it.digest for it in block.entries)
        assert 1 <= len(block.ids) <= 4
        assert block.size <= 400 or len(block.ids) == 1
    assert rows._firsts == [block.ids[0] for block in rows._blocks]
    for id_ in ("", "30", "59", "~"):
        assert list(rows.after(id_)) == [it for it in expected if it.key.id > id_]


def test_snapshots_share_what_did_not_change() -> None:
    rows = Rows()
    for number in range(10 * MAX_ROWS):
        rows.put(None, entry(f"{number:05}", 5))
    before = rows.snapshot()
    assert rows.snapshot() is before
    rows.put(before[0].entries[0], entry("00000", 6))
    rows.put(rows.snapshot()[0].entries[0], entry("00000", 7))
    after = rows.snapshot()
    assert [one is other for one, other in zip(before, after, strict=True)] == [False] + [True] * (len(before) - 1)


def test_blocks_are_neither_too_large_nor_too_many() -> None:
    rows, there = Rows(), dict[str, Entry]()
    rng = random.Random(1)
    for number in range(20_000):
        id_ = f"{rng.randrange(10**9):09}"
        there[id_] = entry(id_, number)
        rows.put(None, there[id_])
    assert all(len(block.ids) <= MAX_ROWS and block.size <= MAX_BYTES for block in rows.snapshot())
    assert len(rows.snapshot()) < 20_000 / MAX_ROWS * 4
    left = rng.sample(sorted(there), 200)
    for id_ in set(there) - set(left):
        rows.remove(there[id_])
    assert len(rows.snapshot()) <= 5
    assert rows.digest % 2**64 == checksum(there[id_] for id_ in left)


def test_large_instances_share_a_block_as_far_as_they_fit() -> None:
    rows = Rows()
    for number in range(99):
        rows.put(None, entry(f"{number}", 5, **({"metadata": {"k": "v" * 16_000}} if number % 2 else {})))
    assert all(MAX_BYTES / 4 < block.size <= MAX_BYTES for block in rows.snapshot())
