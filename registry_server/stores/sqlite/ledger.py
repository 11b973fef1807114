"""CORE: what a file of the store has under which revisions, and what transactions change of it.

A write of nothing, as the grants and the renewals of leases are, is not worth a flush of the disk. A new name goes
there with the next write that is: what a lease holds is never there without it. Over nothing it only moves a
revision, which is known here alone and not in the file: whoever reads it after a crash gives every lease its whole
time anyway. So an idle registry writes nothing to the disk. That no revision is given twice all the same, the file has
a *ceiling* that is above all that were given, and the next process begins there.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from registry_server.stores.backend import ABSENT, PRESENT, Changed, Check, ChecksFailed, Item

# So many revisions may be given until the ceiling has to be raised. It costs a write a day at ten renewals a second.
STRIDE = 1_000_000


class Row(NamedTuple):
    """One value as it is in the file."""

    name: str
    value: bytes
    revision: int
    created: int


class Flush(NamedTuple):
    """What is to be written to the file, all or nothing. There is nothing to do if it is `EMPTY`."""

    puts: tuple[Row, ...] = ()
    deletes: tuple[str, ...] = ()
    ceiling: int = 0  # 0: as it was


EMPTY = Flush()


class _Mark(NamedTuple):
    """What is known of a value without the value."""

    revision: int
    created: int
    is_empty: bool


class Ledger:
    """The revisions of all values.

    Transactions are made one after the other with `transact`; `flush` is what all of them since the last `keep` or
    `undo` come to. A revision that was given is never given again, also when it was undone.
    """

    def __init__(self, ceiling: int) -> None:
        """`ceiling`: above all revisions that anybody gave."""
        self.revision = ceiling
        self._ceiling = ceiling + STRIDE
        self._marks: dict[str, _Mark] = {}
        self._before: dict[str, _Mark | None] = {}
        self._values: dict[str, bytes | None] = {}
        # Names of nothing that the file does not have yet.
        self._late: dict[str, None] = {}

    @property
    def ceiling(self) -> int:
        """What the file has to have for a ceiling."""
        return self._ceiling

    def raise_to(self, ceiling: int) -> None:
        """The file was opened anew, and had this ceiling until then."""
        self._ceiling = ceiling + STRIDE

    def load(self, rows: Iterable[Row]) -> tuple[Item, ...]:
        """All that is in the file, which may have been read before: then what only moved on here counts as well."""
        former, self._marks = self._marks, {}
        items = [self._load(row, former.get(row.name)) for row in rows]
        for name in self._late.keys() - self._marks.keys():
            mark = self._marks[name] = former[name]
            items.append(Item(name, b"", mark.revision, mark.created))
        return tuple(items)

    def _load(self, row: Row, former: _Mark | None) -> Item:
        mark = _Mark(row.revision, row.created, not row.value)
        if former is not None and former.is_empty and mark.is_empty and former.revision > row.revision:
            mark = former
        self._marks[row.name] = mark
        return Item(row.name, row.value, mark.revision, mark.created)

    def transact(self, checks: Sequence[Check], writes: Mapping[str, bytes | None]) -> Changed:
        """What a transaction changes, which has a revision of its own. Raises ChecksFailed."""
        failed = [check.name for check in checks if not self._holds(check)]
        if failed:
            raise ChecksFailed(failed, self.revision)
        self.revision += 1
        puts = [self._put(name, value) for name, value in writes.items() if value is not None]
        deletes = [name for name, value in writes.items() if value is None and self._delete(name)]
        return Changed(self.revision, tuple(puts), tuple(deletes))

    def _holds(self, check: Check) -> bool:
        mark = self._marks.get(check.name)
        if check.revision == PRESENT:
            return mark is not None
        return (mark.revision if mark else ABSENT) == check.revision

    def _put(self, name: str, value: bytes) -> Item:
        before = self._marks.get(name)
        mark = _Mark(self.revision, before.created if before else self.revision, not value)
        self._before.setdefault(name, before)
        self._marks[name] = mark
        if before is None or value or not before.is_empty or name in self._values:
            self._values[name] = value
        return Item(name, value, mark.revision, mark.created)

    def _delete(self, name: str) -> bool:
        before = self._marks.pop(name, None)
        if before is not None:
            self._before.setdefault(name, before)
            self._values[name] = None
        return before is not None

    @property
    def flush(self) -> Flush:
        """What the transactions since the last `keep` or `undo` have to write to the file."""
        in_file = {name for name, mark in self._before.items() if mark is not None and name not in self._late}
        if self.revision < self._ceiling and not any(it or name in in_file for name, it in self._values.items()):
            return EMPTY
        deletes = tuple([name for name, value in self._values.items() if value is None and name in in_file])
        puts = tuple(self._rows())
        return Flush(puts, deletes, self.revision + STRIDE if self.revision + STRIDE // 2 > self._ceiling else 0)

    def _rows(self) -> Iterable[Row]:
        for name, value in {**dict.fromkeys(self._late, b""), **self._values}.items():
            if value is not None:
                mark = self._marks[name]
                yield Row(name, value, mark.revision, mark.created)

    @property
    def remains(self) -> Flush:
        """What is to be written before the file is closed in order."""
        return Flush(tuple([Row(name, b"", *self._marks[name][:2]) for name in self._late]))

    def keep(self, flush: Flush) -> None:
        """They took place, and `flush` is in the file."""
        self._ceiling = flush.ceiling or self._ceiling
        if flush == EMPTY:
            for name, value in self._values.items():
                self._late[name] = None
                if value is None:
                    del self._late[name]
        else:
            self._late.clear()
        self._forget()

    def undo(self) -> None:
        """They did not."""
        for name, mark in self._before.items():
            if mark is None:
                self._marks.pop(name, None)
            else:
                self._marks[name] = mark
        self._forget()

    def _forget(self) -> None:
        self._before.clear()
        self._values.clear()
