"""Which revisions values have, what is to be written to the file, and what is known of it after it was read again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.stores.backend import ABSENT, PRESENT, Changed, Check, ChecksFailed, Item
from registry_server.stores.sqlite.ledger import EMPTY, STRIDE, Flush, Ledger, Row

NAMES = st.sampled_from("abcd")
WRITES = st.dictionaries(NAMES, st.sampled_from([None, b"", b"", b"one", b"two"]), max_size=3)
CHECKS = st.lists(
    st.tuples(NAMES, st.sampled_from(["as it is", "as it is", "as it is", "present", "absent"])), max_size=2
)
LOTS = st.lists(st.tuples(st.lists(st.tuples(CHECKS, WRITES), max_size=4), st.sampled_from(["keep", "keep", "undo"])))


class File:
    """What is on the disk."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.ceiling = 1

    def write(self, flush: Flush) -> None:
        self.rows.update({row.name: row for row in flush.puts})
        for name in flush.deletes:
            del self.rows[name]
        self.ceiling = flush.ceiling or self.ceiling


class Model:
    """Values and their revisions, in the fewest words."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}

    def transact(self, checks: list[Check], writes: dict[str, bytes | None], revision: int) -> set[str]:
        """Which checks failed; if none did, it is done."""
        failed = {check.name for check in checks if not self._holds(check)}
        if not failed:
            for name, value in writes.items():
                before = self.items.pop(name, None)
                if value is not None:
                    self.items[name] = Item(name, value, revision, before.created if before else revision)
        return failed

    def _holds(self, check: Check) -> bool:
        item = self.items.get(check.name)
        return item is not None if check.revision == PRESENT else (item.revision if item else 0) == check.revision


@given(LOTS)
def test_it_is_the_model_and_so_is_the_file(
    lots: list[tuple[list[tuple[list[tuple[str, str]], dict[str, bytes | None]]], str]],
) -> None:
    ledger, model, file = Ledger(1), Model(), File()
    given_out = {ledger.revision}
    for transactions, end in lots:
        before = dict(model.items)
        for asked, writes in transactions:
            checks = [
                Check(
                    name,
                    {"present": PRESENT, "absent": ABSENT}.get(
                        how, model.items[name].revision if name in model.items else 0
                    ),
                )
                for name, how in asked
            ]
            if failed := model.transact(checks, writes, ledger.revision + 1):
                with pytest.raises(ChecksFailed) as refused:
                    ledger.transact(checks, writes)
                assert refused.value.names == failed
                continue
            changed = ledger.transact(checks, writes)
            assert changed.revision not in given_out
            given_out.add(changed.revision)
            assert {item.name: item for item in changed.puts} == {
                name: model.items[name] for name, value in writes.items() if value is not None
            }
        if end == "keep":
            file.write(ledger.flush)
            ledger.keep(ledger.flush)
        else:
            ledger.undo()
            model.items = before
        late = {name for name, item in model.items.items() if not item.value} - file.rows.keys()
        assert {name: row.value for name, row in file.rows.items()} == {
            name: item.value for name, item in model.items.items() if name not in late
        }
        assert all(row.created == model.items[name].created for name, row in file.rows.items())
    items = {item.name: item for item in ledger.load(file.rows.values())}
    assert items == model.items
    assert set(Ledger(STRIDE + 1).load(file.rows.values())) == {Item(*row) for row in file.rows.values()}


def test_grants_and_renewals_cost_no_write_of_their_own() -> None:
    ledger = Ledger(7)
    for revision, value in ((8, b""), (9, b"one")):
        assert ledger.transact([], {f"lease-{revision}": value}).revision == revision
        assert ledger.flush == (Flush((Row("lease-8", b"", 8, 8), Row("lease-9", b"one", 9, 9))) if value else EMPTY)
        ledger.keep(ledger.flush)
    ledger.transact([], {"lease-9": b""})
    assert ledger.flush == Flush((Row("lease-9", b"", 10, 9),))
    ledger.undo()
    ledger = Ledger(7)
    ledger.transact([], {"lease": b""})
    ledger.keep(ledger.flush)
    assert ledger.transact([Check("lease", 8)], {"lease": b""}) == Changed(9, (Item("lease", b"", 9, 8),))
    assert ledger.flush == EMPTY
    assert ledger.transact([Check("lease", 9)], {"lease": None}).deletes == ("lease",)
    assert ledger.flush == EMPTY


def test_ceiling_is_above_every_revision_and_rarely_raised() -> None:
    ledger, ceilings = Ledger(1), [1 + STRIDE]
    ledger.transact([], {"lease": b""})
    ledger.keep(ledger.flush)
    for _ in range(5):
        ledger.revision += STRIDE // 3
        ledger.transact([], {"lease": b""})
        ceilings.append(ledger.flush.ceiling or ceilings[-1])
        ledger.keep(ledger.flush)
        assert ledger.revision < ceilings[-1]
    assert 2 <= len(set(ceilings)) <= 4


def test_a_write_of_unknown_outcome_is_found_in_the_file() -> None:
    ledger = Ledger(1)
    ledger.transact([], {"a": b"one", "lease": b""})
    flush = ledger.flush
    ledger.undo()
    with pytest.raises(ChecksFailed):
        ledger.transact([Check("a", PRESENT)], {})
    assert {item.name for item in ledger.load(flush.puts)} == {"a", "lease"}
    assert ledger.transact([Check("a", 2)], {"a": b"two"}).puts[0].created == 2
