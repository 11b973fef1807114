"""CORE: what stands in Consul's KV, and what one replica knows of it.

Consul changes 64 keys in a transaction at the most, and tells of a change by all that is there. So what is written
goes, whole, into one entry of a log, whose head every writer moves on by one; who is told follows the head. The values
themselves are folded into keys of their own now and then, for those who come later. Every replica knows all names and
their revisions, so what a writer checks is checked here: it is true if the head is still where it was.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from registry_server.stores.backend import ABSENT, PRESENT, Changed, Check, Item

HEAD, BASE, LOG, DATA = "head", "base", "log/", "data/"
# So many entries are kept, each in its place; one that is written over has to be folded before.
RING = 1024
# After so many, they are folded.
FOLD = 128
# So many has no index of Consul's.
MAX_DIGITS = 20


class Logged(NamedTuple):
    """One entry of the log, of one transaction or of several that were written together."""

    seq: int
    writes: Mapping[str, bytes | None]

    def packed(self) -> bytes:
        """As it is kept: its number, and for each name how long name and value are (-1: deleted), and these."""
        parts = [b"%d\n" % self.seq]
        for name, value in self.writes.items():
            encoded = name.encode()
            parts += [b"%d %d\n" % (len(encoded), -1 if value is None else len(value)), encoded, value or b""]
        return b"".join(parts)

    @classmethod
    def read(cls, kept: bytes) -> "Logged | None":
        """What is kept there; None if somebody else wrote it."""
        head, line, rest = kept.partition(b"\n")
        try:
            return cls(int(head), dict(_writes(rest))) if line else None
        except ValueError:  # a UnicodeDecodeError is one
            return None


def _writes(rest: bytes) -> Iterator[tuple[str, bytes | None]]:
    at = 0
    while at < len(rest):
        end = rest.index(b"\n", at) + 1
        of_name, of_value = map(int, rest[at:end].split())
        name = rest[end : end + of_name].decode()
        at = end + of_name + max(0, of_value)
        if of_name < 0 or at > len(rest):
            raise ValueError
        yield name, None if of_value < 0 else rest[end + of_name : at]


def place(seq: int) -> str:
    """Where that entry is."""
    return f"{LOG}{seq % RING:04d}"


class Folded(NamedTuple):
    """A value that was folded, as of which revision, and when its name came to be."""

    revision: int
    created: int
    value: bytes

    def packed(self) -> bytes:
        """As it is kept."""
        return b"%d %d\n" % (self.revision, self.created) + self.value

    @classmethod
    def read(cls, kept: bytes) -> "Folded | None":
        """What is kept there; None if somebody else wrote it."""
        head, line, value = kept.partition(b"\n")
        revision, _, created = head.partition(b" ")
        if not line or not all(it.isdigit() and len(it) < MAX_DIGITS for it in (revision, created)):
            return None
        return cls(int(revision), int(created), value)


class _Known(NamedTuple):
    revision: int
    created: int


class _Unfolded(NamedTuple):
    seq: int
    kept: Folded | None


class ConsulLog:
    """How far the log is, as far as it was read: the entry `seq`, written at the revision `revision`; the index of the
    head, which is 0 if there is none. `base` is the entry up to which everything is folded."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.seq = base
        self.revision = self.head_index = 0
        self._known: dict[str, _Known] = {}
        self._unfolded: dict[str, _Unfolded] = {}

    def stand(self, seq: int, revision: int, head_index: int) -> None:
        """That is how far it is."""
        self.seq, self.revision, self.head_index = seq, revision, head_index

    # ---- reading

    @property
    def has_room(self) -> bool:
        """Whether one more entry writes over none that is not folded."""
        return self.seq + 1 - self.base < RING

    def failed(self, checks: Iterable[Check]) -> list[str]:
        """The names whose checks fail."""
        return [check.name for check in checks if not self._holds(check)]

    def _holds(self, check: Check) -> bool:
        known = self._known.get(check.name)
        if check.revision == PRESENT:
            return known is not None
        return (known.revision if known is not None else ABSENT) == check.revision

    def unfolded(self) -> Sequence[tuple[str, Folded | None]]:
        """All names that were written since the base, as they are now."""
        return [(name, it.kept) for name, it in self._unfolded.items()]

    # ---- writing

    def keep(self, name: str, kept: Folded) -> None:
        """It is there, folded."""
        self._known[name] = _Known(kept.revision, kept.created)

    def take(self, logged: Logged, revision: int) -> Changed:
        """Take in the next entry, which was written at that revision."""
        puts: list[Item] = []
        deletes: list[str] = []
        for name, value in logged.writes.items():
            known = self._known.pop(name, None)
            if value is not None:
                created = known.created if known is not None else revision
                self._known[name] = _Known(revision, created)
                puts.append(Item(name, value, revision, created))
            elif known is not None:
                deletes.append(name)
            kept = Folded(revision, self._known[name].created, value) if value is not None else None
            self._unfolded[name] = _Unfolded(logged.seq, kept)
        self.stand(logged.seq, revision, revision)
        return Changed(revision, tuple(puts), tuple(deletes))

    def fold(self, base: int) -> None:
        """Everything up to that entry is folded, by whoever did it."""
        if base <= self.base:
            return
        self.base = base
        self._unfolded = {name: it for name, it in self._unfolded.items() if it.seq > base}


class Bid(NamedTuple):
    """What somebody wants to have written, if the checks hold."""

    checks: Sequence[Check]
    writes: Mapping[str, bytes | None]

    @property
    def size(self) -> int:
        """What it takes in an entry, about, in bytes."""
        return sum(len(name.encode()) + len(value or b"") + 16 for name, value in self.writes.items())


class Batch(NamedTuple):
    """How many of those who wait are dealt with together: for each the names whose checks fail, none if it passes; and
    what all that pass write."""

    verdicts: Sequence[Collection[str]]
    writes: Mapping[str, bytes | None]


def batch(ledger: ConsulLog, waiting: Iterable[Bid], most_bytes: int) -> Batch:
    """As many, in their order, as know nothing of each other: who touches what another one writes comes later."""
    verdicts: list[Collection[str]] = []
    writes: dict[str, bytes | None] = {}
    size = 0
    for asked in waiting:
        size += asked.size
        if verdicts and (
            size > most_bytes
            or any(check.name in writes for check in asked.checks)
            or any(name in writes for name in asked.writes)
        ):
            break
        failed = ledger.failed(asked.checks)
        verdicts.append(failed)
        if not failed:
            writes |= asked.writes
    return Batch(verdicts, writes)
