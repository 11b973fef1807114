"""CORE: what the backends of a mirror hold, which of them has it right, and what the others lack.

Each of them has every value, with its revisions in the order of the mirror in front of it, and under the name `mirror`
a *stand*: how far it is, and whom it follows. Every transaction checks that the stand is still what its writer thinks,
and writes the next one, so that what a backend has is always as of its stand. Who begins to write takes a *ballot* that
is above all that he finds, has enough of the backends promise to follow him, and goes on from the furthest stand among
them: what was written to a quorum is on one of these. A former writer then meets stands that are not his.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from registry_server.stores.backend import ABSENT, PRESENT, Changed, Check, ChecksFailed, Item

MIRROR = "mirror"

# More than anybody is ever given: what says more was written by hand.
MOST = 10**15 - 1

_STAND = re.compile(r"([0-9]{1,15})\.([0-9a-f]{16}) ([+-]) ([0-9]{1,15})\.([0-9a-f]{16}) ([0-9]{1,15})")
_HEAD = re.compile(rb"([1-9][0-9]{0,14}) ([1-9][0-9]{0,14})")


class Ballot(NamedTuple):
    """Who writes: a number that grows, and 16 hexadecimal digits that tell one server from another."""

    number: int
    holder: str


NOBODY = Ballot(0, "0" * 16)


class Version(NamedTuple):
    """How far a state is, in the order of who wrote it."""

    term: Ballot
    revision: int


NOTHING = Version(NOBODY, 0)


class Stand(NamedTuple):
    """What a backend says of itself: whom it follows, whether that one is there, and how far it is.

    One that is being brought up to date is as of nothing.
    """

    promise: Ballot = NOBODY
    is_held: bool = False
    version: Version = NOTHING

    @property
    def value(self) -> bytes:
        """What is written under the name."""
        (number, holder), (term, revision) = self.promise, self.version
        held = "+" if self.is_held else "-"
        return f"{number}.{holder} {held} {term.number}.{term.holder} {revision}".encode()

    @classmethod
    def read(cls, value: bytes) -> "Stand":
        """The stand in a value; that of an empty backend if there is none in it."""
        match = _STAND.fullmatch(value.decode("ascii", errors="replace"))
        if match is None:
            return cls()
        promise, term = Ballot(int(match[1]), match[2]), Ballot(int(match[4]), match[5])
        return cls(promise, match[3] == "+", Version(term, int(match[6])))


# ---- values


def packed(item: Item) -> bytes:
    """A value as a backend has it: its revisions on the first line."""
    return b"%d %d\n%s" % (item.revision, item.created, item.value)


def unpacked(item: Item) -> Item | None:
    """The value in what a backend has; None if that is something else."""
    head, _, value = item.value.partition(b"\n")
    match = _HEAD.fullmatch(head)
    return Item(item.name, value, int(match[1]), int(match[2])) if match else None


Held = dict[str, Item | None]
"""What a backend has, by name, without its stand; None for what is no value of a mirror."""


def held_of(items: Iterable[Item]) -> tuple[Held, Stand, int]:
    """What a backend has, its stand, and the revision there of that."""
    held: Held = {}
    stand, at = Stand(), ABSENT
    for item in items:
        if item.name == MIRROR:
            stand, at = Stand.read(item.value), item.revision
        else:
            held[item.name] = unpacked(item)
    return held, stand, at


def lacking(held: Held, items: Mapping[str, Item]) -> list[str]:
    """The names that a backend has to write, or to delete, to have these items and no others."""
    return [*(held.keys() - items.keys()), *(name for name, item in items.items() if held.get(name) != item)]


def part_of(names: Sequence[str], items: Mapping[str, Item], most: int, most_bytes: int) -> dict[str, bytes | None]:
    """What is to be written for the first of these names, so many at the most."""
    found: dict[str, bytes | None] = {}
    size = 0
    for name in names[:most]:
        item = items.get(name)
        found[name] = value = None if item is None else packed(item)
        size += len(name) + len(value or b"")
        if size > most_bytes:
            break
    return found


def take(held: Held, writes: Mapping[str, bytes | None]) -> None:
    """A backend has taken these in."""
    for name, value in writes.items():
        if value is None:
            held.pop(name, None)
        else:
            held[name] = unpacked(Item(name, value, 0, 0))


# ---- the state


class Contents:
    """All values, as of a version."""

    def __init__(self, version: Version, items: Mapping[str, Item]) -> None:
        self.version = version
        self.items = dict(items)


def begun(ballot: Ballot, found: Sequence[Contents]) -> Contents:
    """Where the writer of a ballot goes on: at the furthest of what is found, the first of several.

    If another one of these gave more revisions than that one, they are of an order that is lost: then every value is as
    if it had just been written, so that whoever knows the lost order finds out what is different.
    """
    best = max(found, key=lambda state: state.version)
    given = max(state.version.revision for state in found)
    if given <= best.version.revision:
        return Contents(Version(ballot, max(1, given)), best.items)
    revision = given + 1
    return Contents(
        Version(ballot, revision), {name: it._replace(revision=revision) for name, it in best.items.items()}
    )


class Lot:
    """Transactions that are written together, each with a revision of its own, to all backends or to none."""

    def __init__(self, state: Contents) -> None:
        self._state = state
        self._changed: dict[str, Item | None] = {}
        self.revision = state.version.revision
        self.size = 0
        # Why things left is written beside them, once for each lot.
        self.is_full = False

    def transact(self, checks: Sequence[Check], writes: Mapping[str, bytes | None]) -> Changed:
        """What a transaction changes after those before it. Raises ChecksFailed."""
        failed = [check.name for check in checks if not self._holds(check)]
        if failed:
            raise ChecksFailed(failed, self.revision)
        self.revision += 1
        puts = [self._put(name, value) for name, value in writes.items() if value is not None]
        deletes = [name for name, value in writes.items() if value is None and self._delete(name)]
        self.is_full = self.is_full or bool(deletes)
        return Changed(self.revision, tuple(puts), tuple(deletes))

    @property
    def version(self) -> Version:
        """What the backends are at when they have it."""
        return Version(self._state.version.term, self.revision)

    @property
    def names(self) -> int:
        """How many names it writes."""
        return len(self._changed)

    @property
    def writes(self) -> dict[str, bytes | None]:
        """What the backends have to write."""
        return {name: None if item is None else packed(item) for name, item in self._changed.items()}

    def take_effect(self) -> None:
        """It is written."""
        for name, item in self._changed.items():
            if item is None:
                self._state.items.pop(name, None)
            else:
                self._state.items[name] = item
        self._state.version = self.version

    def _get(self, name: str) -> Item | None:
        return self._changed[name] if name in self._changed else self._state.items.get(name)

    def _holds(self, check: Check) -> bool:
        item = self._get(check.name)
        if check.revision == PRESENT:
            return item is not None
        return (item.revision if item else ABSENT) == check.revision

    def _put(self, name: str, value: bytes) -> Item:
        before = self._get(name)
        item = Item(name, value, self.revision, before.created if before else self.revision)
        self._changed[name] = item
        self.size += len(name) + len(value)
        return item

    def _delete(self, name: str) -> bool:
        was_there = self._get(name) is not None
        if was_there:
            self._changed[name] = None
        return was_there
