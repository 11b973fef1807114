"""CORE: what the store and everybody else say to each other: keys, records, leases, writes, and what is told of them.

These are plain values. Who keeps them is a store's (`stores/base.py` is its contract), what they mean is the
registry's: `rules.py` decides what a write changes, `catalog.py` shows what there is.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import NamedTuple, TypeVar

# The greatest fence: the microseconds of the year 2112. It leaves as much room again for revisions, so that no clock
# makes a generation that is more than what clients may send.
MAX_FENCE = 2**52


# To look for a name in a full set costs so much less than to take in what is under it.
NAMES_FOR_ONE = 50

Item = TypeVar("Item")


class Kind(StrEnum):
    """What a record is: an instance, or something that is set beside the instances."""

    INSTANCE = "instance"
    POLICY = "policy"  # how the traffic of a service is to be treated
    REPLICA = "replica"  # a server of this registry
    CHECKS = "checks"  # the checks of instances that bring none
    LEASE_KEY = "lease-key"  # by which the servers of a registry prove their lease ids


class Key(NamedTuple):
    """Names one record. What is set for a whole namespace has no service, and what is set for all no namespace."""

    namespace: str
    service: str
    id: str
    kind: Kind = Kind.INSTANCE

    def __str__(self) -> str:
        if self.kind is Kind.INSTANCE:
            return "/".join(self[:3])
        return f"{self.kind} {'/'.join(name or '-' for name in self[:3])}"


class Cause(Enum):
    """Why a record left."""

    EXPIRED = "expired"  # its lease ran out
    DEREGISTERED = "deregistered"  # its owner or an operator asked for it
    REPLACED = "replaced"  # another instance registered its address
    DRAINED = "drained"  # the time it was given to drain is over
    UNHEALTHY = "unhealthy"  # its checks failed for too long


class Author(NamedTuple):
    """Who brought a change about: an identity, where the registry knows any, the host that called, and what else is to
    be said of why. All of it is empty where nobody asked, or where nobody knows."""

    identity: str = ""
    peer: str = ""
    detail: str = ""


UNSAID = Author()


# ---- what a write asks for (named tuples, because a write makes half a dozen of these)


class Put(NamedTuple):
    """Write `value` under `key`, held by `lease_id` from now on, or until it is deleted if that is empty, which it
    never is for an instance.

    `expect` is the revision the record must still have, 0 for no record; the whole commit fails if it does not.
    """

    key: Key
    value: bytes
    lease_id: str
    expect: int

    @property
    def needs_lease(self) -> bool:
        """Whether it is written under a lease, or not at all."""
        return self.lease_id != "" or self.key.kind is Kind.INSTANCE


class Delete(NamedTuple):
    """Remove the record under `key`, if it still has the revision `expect`."""

    key: Key
    expect: int


class Commit(NamedTuple):
    """All of it happens, at one revision, or nothing. `cause` says why the deleted records leave, `author` by whom."""

    puts: tuple[Put, ...] = ()
    deletes: tuple[Delete, ...] = ()
    cause: Cause = Cause.DEREGISTERED
    author: Author = UNSAID

    @property
    def items(self) -> list[Put | Delete]:
        """All that is to be done."""
        return [*self.puts, *self.deletes]

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.puts or self.deletes)


class Outcome(Enum):
    """What became of a renewal: the lease lives, there is no such lease, or nobody can tell just now."""

    RENEWED = "renewed"
    UNKNOWN = "unknown"
    HELD = "held"


class Lease(NamedTuple):
    """A granted lease and the time to live in force, in seconds, which may be more than was asked for."""

    id: str
    ttl_s: float


class Renewal(NamedTuple):
    """What became of one lease. `ttl_s` is None when the lease is UNKNOWN, or HELD and not remembered."""

    lease_id: str
    outcome: Outcome
    ttl_s: float | None


# ---- what a store tells


class Record(NamedTuple):
    """One record as the store holds it. `value` is, of an instance, an encoded `Instance` without its revisions."""

    key: Key
    value: bytes
    lease_id: str
    revision: int
    create_revision: int


class Deleted(NamedTuple):
    """A record that left, why, and by whom."""

    key: Key
    cause: Cause
    author: Author = UNSAID


class Snapshot(NamedTuple):
    """The full set at a revision: first of all events, and again whenever the store cannot tell what changed.

    `fence` plus a revision of this epoch is a number that this registry never gave before, in no epoch: it begins at
    the microseconds of the wall clock when the epoch began. `through` is the revision that the store had reached when
    this telling began (0: the snapshot's own); what lies between is told at once, by Deltas.
    """

    epoch: str
    revision: int
    records: tuple[Record, ...]
    fence: int = 0
    through: int = 0


class Delta(NamedTuple):
    """All that one revision changed, together."""

    revision: int
    puts: tuple[Record, ...] = ()
    deletes: tuple[Deleted, ...] = ()

    def parts(self, size: int) -> Iterator["Delta"]:
        """The same in several, of so many records each at the most. What leaves comes first."""
        for deletes in parts(self.deletes, size):
            yield Delta(self.revision, (), tuple(deletes))
        for puts in parts(self.puts, size):
            yield Delta(self.revision, tuple(puts))


class Progress(NamedTuple):
    """Everything up to this revision has been told."""

    revision: int


class Away(NamedTuple):
    """The store cannot be reached. Nothing is known of what changes until Back or Snapshot."""

    reason: str


@dataclass(frozen=True, slots=True)
class Back:
    """The store is reached again and goes on telling where it stopped."""


class Ill(NamedTuple):
    """The store is reached, but was silent for so long that leases may have run out though their owners asked in time.

    Told before any Delta that came after such a silence. `silence_s` is how long it was, in seconds.
    """

    reason: str
    silence_s: float = math.inf


StoreEvent = Snapshot | Delta | Progress | Away | Back | Ill


def size(event: StoreEvent) -> int:
    """How many records an event tells of."""
    if isinstance(event, Delta):
        return len(event.puts) + len(event.deletes)
    return len(event.records) if isinstance(event, Snapshot) else 0


def parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """So many of them at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))
