"""CORE: what the log in ZooKeeper says, and what follows from it.

The log is numbered pages. Each holds transactions, which have consecutive revisions; all that there is follows from a
checkpoint and the pages after it. So every replica that has read as far as another knows the same.

What somebody else put among the pages is one that changes nothing, for every replica alike.
"""

import contextlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from registry_server.stores.backend import ABSENT, PRESENT, Changed, Check, Item

Transaction = Mapping[str, bytes | None]

# What a page costs beside its bytes, when it has to be read again, and what is not worth a checkpoint; in bytes.
_PAGE_COST = 1 << 10
_SMALL = 1 << 20

_PAGE = struct.Struct(">QQI")  # a number that no other page has, the revision before it, how many transactions
_COUNT = struct.Struct(">I")
_WRITE = struct.Struct(">Ii")  # the lengths of the name and of the value, or _DELETE
_ITEM = struct.Struct(">IIQQ")  # the lengths of the name and of the value, the revision, the one of its creation
_CHECKPOINT = struct.Struct(">QQQII")
_DELETE = -1
_CHARACTER = 4  # as many bytes as one of a name may take


class Garbled(ValueError):
    """These bytes are not what should be there."""


# ---- pages


class Page(NamedTuple):
    """Transactions, the first of which has the revision after `before`. `token` is of 64 bits, and no other page's."""

    token: int
    before: int
    transactions: tuple[Transaction, ...]

    def pack(self) -> bytes:
        """As it is kept."""
        parts = [_PAGE.pack(self.token, self.before, len(self.transactions))]
        for writes in self.transactions:
            parts.append(_COUNT.pack(len(writes)))
            for name, value in writes.items():
                encoded = name.encode()
                parts += (_WRITE.pack(len(encoded), _DELETE if value is None else len(value)), encoded, value or b"")
        return b"".join(parts)

    @classmethod
    def read(cls, data: bytes) -> "Page":
        """Raises Garbled."""
        with _all_of(data) as reader:
            token, before, count = reader.take(_PAGE)
            return cls(token, before, tuple([dict(_writes(reader)) for _ in range(count)]))


def size_of(writes: Transaction) -> int:
    """In how many bytes of a page a transaction finds room."""
    return _COUNT.size + sum(_WRITE.size + _CHARACTER * len(name) + len(value or b"") for name, value in writes.items())


def _writes(reader: "_Bytes") -> Iterator[tuple[str, bytes | None]]:
    (count,) = reader.take(_COUNT)
    for _ in range(count):
        name_size, value_size = reader.take(_WRITE)
        name = reader.text(name_size)
        yield name, None if value_size == _DELETE else reader.bytes(value_size)


# ---- checkpoints


class Checkpoint(NamedTuple):
    """That all there is, as of a page and its revision, is kept in so many parts, of so many bytes, under a name."""

    name: int
    number: int
    revision: int
    parts: int
    size: int

    def pack(self) -> bytes:
        """As it is kept."""
        return _CHECKPOINT.pack(*self)

    @classmethod
    def read(cls, data: bytes) -> "Checkpoint":
        """Raises Garbled."""
        with _all_of(data) as reader:
            return cls(*reader.take(_CHECKPOINT))


def pack_items(items: Iterable[Item], enough: int) -> Iterator[bytes]:
    """Items as the parts of a checkpoint, each of which ends when it has so many bytes."""
    parts: list[bytes] = []
    size = 0
    for item in items:
        name = item.name.encode()
        parts += (_ITEM.pack(len(name), len(item.value), item.revision, item.created), name, item.value)
        size += _ITEM.size + len(name) + len(item.value)
        if size >= enough:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def read_items(data: bytes) -> list[Item]:
    """The items of one part. Raises Garbled."""
    items = []
    with _all_of(data) as reader:
        while reader.left:
            name_size, value_size, revision, created = reader.take(_ITEM)
            name = reader.text(name_size)
            items.append(Item(name, reader.bytes(value_size), revision, created))
    return items


# ---- what there is


class Chronicle:
    """All that there is, as of one page of the log, which has a `number`.

    `mark` is that page as it is kept, which tells this log from every other one.
    """

    def __init__(self, number: int, revision: int, mark: bytes, items: Iterable[Item] = ()) -> None:
        self.number = number
        self.revision = revision
        self.mark = mark
        self._items = {item.name: item for item in items}
        self._begins_at = number
        self._cost = 0

    @property
    def items(self) -> tuple[Item, ...]:
        """Everything."""
        return tuple(self._items.values())

    def revision_of(self, name: str) -> int:
        """When it was last written, or ABSENT."""
        item = self._items.get(name)
        return ABSENT if item is None else item.revision

    def take(self, data: bytes) -> list[Changed]:
        """Take in the next page, as it is kept: what it changes, transaction by transaction."""
        self.number, self.mark = self.number + 1, data
        self._cost += _PAGE_COST + len(data)
        try:
            page = Page.read(data)
        except Garbled:
            return []
        if page.before != self.revision:
            return []
        return [self._change(writes) for writes in page.transactions]

    def _change(self, writes: Transaction) -> Changed:
        self.revision += 1
        puts, deletes = [], []
        for name, value in writes.items():
            if value is not None:
                created = self._items[name].created if name in self._items else self.revision
                self._items[name] = item = Item(name, value, self.revision, created)
                puts.append(item)
            elif self._items.pop(name, None) is not None:
                deletes.append(name)
        return Changed(self.revision, tuple(puts), tuple(deletes))

    # ---- when a checkpoint is worth it

    def begins_at(self, number: int) -> None:
        """Who comes now reads the pages after that one alone."""
        behind, skipped = self.number - self._begins_at, number - self._begins_at
        if 0 < skipped <= behind:
            self._cost -= self._cost * skipped // behind  # what each of them cost is not known
            self._begins_at = number

    def is_long(self, size: int) -> bool:
        """Whether what has to be read after a checkpoint of that size is more than the checkpoint."""
        return self._cost > _SMALL + size


class Proposal:
    """The page that would come after what a chronicle has."""

    def __init__(self, chronicle: Chronicle) -> None:
        self._chronicle = chronicle
        self._revisions: dict[str, int] = {}
        self._transactions: list[Transaction] = []

    def add(self, checks: Sequence[Check], writes: Transaction) -> int | frozenset[str]:
        """Add a transaction: its revision, or the names whose checks fail; then it is left out."""
        if failed := frozenset(check.name for check in checks if not self._holds(check)):
            return failed
        self._transactions.append(writes)
        revision = self._chronicle.revision + len(self._transactions)
        self._revisions |= {name: ABSENT if value is None else revision for name, value in writes.items()}
        return revision

    def _holds(self, check: Check) -> bool:
        revision = self._revisions.get(check.name)
        if revision is None:
            revision = self._chronicle.revision_of(check.name)
        return revision == check.revision or (check.revision == PRESENT and revision != ABSENT)

    @property
    def is_empty(self) -> bool:
        """Whether nothing would be written."""
        return not self._transactions

    def page(self, token: int) -> Page:
        """As it would be kept."""
        return Page(token, self._chronicle.revision, tuple(self._transactions))


# ---- bytes


class _Bytes:
    """Bytes that are read from their beginning. Raises struct.error or ValueError when they end too soon."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, form: struct.Struct) -> tuple[int, ...]:
        values: tuple[int, ...] = form.unpack_from(self._data, self._at)
        self._at += form.size
        return values

    def bytes(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise ValueError("it ends too soon")
        self._at += size
        return self._data[self._at - size : self._at]

    def text(self, size: int) -> str:
        return self.bytes(size).decode()


@contextlib.contextmanager
def _all_of(data: bytes) -> Iterator[_Bytes]:
    """Everything is to be read. Raises Garbled."""
    reader = _Bytes(data)
    try:
        yield reader
    except (struct.error, ValueError) as error:
        raise Garbled(str(error)) from None
    if reader.left:
        raise Garbled("something follows")
