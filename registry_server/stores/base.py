"""The Store contract: where the truth lives.

A store keeps records under keys, each held by a lease, and tells of every change in one stream of events. It knows
nothing of the rules of the registry (take-over, addresses, generations): `rules.py` decides what a write changes, and
the store does it all or not at all. `tests/contract` runs one suite against every implementation.

Adding a store is one file with a subclass of `Store`, and one line in `stores/__init__.py` or an entry point.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

# The greatest fence: the microseconds of the year 2112. It leaves as much room again for revisions, so that no clock
# makes a generation that is more than what clients may send.
MAX_FENCE = 2**52


class Key(NamedTuple):
    """Names one instance."""

    namespace: str
    service: str
    id: str

    def __str__(self) -> str:
        return "/".join(self)


class Cause(Enum):
    """Why a record left."""

    EXPIRED = "expired"  # its lease ran out
    DEREGISTERED = "deregistered"  # its owner or an operator asked for it
    REPLACED = "replaced"  # another instance registered its address
    DRAINED = "drained"  # the time it was given to drain is over


# ---- what a write asks for (named tuples, because a write makes half a dozen of these)


class Put(NamedTuple):
    """Write `value` under `key`, held by `lease_id` from now on.

    `expect` is the revision the record must still have, 0 for no record; the whole commit fails if it does not.
    """

    key: Key
    value: bytes
    lease_id: str
    expect: int


class Delete(NamedTuple):
    """Remove the record under `key`, if it still has the revision `expect`."""

    key: Key
    expect: int


class Commit(NamedTuple):
    """All of it happens, at one revision, or nothing. `cause` says why the deleted records leave."""

    puts: tuple[Put, ...] = ()
    deletes: tuple[Delete, ...] = ()
    cause: Cause = Cause.DEREGISTERED

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
    """One record as the store holds it. `value` is an encoded `Instance` without its revisions."""

    key: Key
    value: bytes
    lease_id: str
    revision: int
    create_revision: int


class Deleted(NamedTuple):
    """A record that left, and why."""

    key: Key
    cause: Cause


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
Emit = Callable[[StoreEvent], None]


# ---- what can go wrong


class StoreError(Exception):
    """Root of what a store raises."""


class StoreAway(StoreError):
    """The store cannot be reached; whether a write that was under way took place is not known."""


class Conflict(StoreError):
    """A record did not have the expected revision. Nothing was changed.

    `revision` is how far the store was, so what was in the way is told by then; 0 if that is not known.
    """

    def __init__(self, keys: Sequence[Key], revision: int = 0) -> None:
        super().__init__(", ".join(map(str, keys)))
        self.keys = tuple(keys)
        self.revision = revision


class Refused(StoreError):
    """The store will never take this write, because of its size. Nothing was changed."""


class NoSuchLease(StoreError):
    """The lease does not exist, or exists no more. Nothing was changed."""


class BadStoreURL(StoreError, ValueError):
    """A store URL with a mistake, found before anything is connected. The text names the part and what is allowed."""


class Store(ABC):
    """Records under leases, and one stream of what changes.

    The methods that write may be called once `run` has emitted its first Snapshot. They raise StoreAway, at once or
    within a second or two, while the store cannot be reached.
    """

    @abstractmethod
    async def run(self, emit: Emit) -> None:
        """Tell of every change, in order, until cancelled; a Snapshot first.

        `emit` is synchronous and does not raise. Losing the store is an Away event and endless tries to get it back,
        never the end of this coroutine. Raises only for what no retry can mend (credentials refused at the start).
        """

    @abstractmethod
    async def grant(self, ttl_s: float) -> Lease:
        """A new lease that holds nothing yet; its time to live, in seconds, is at least `ttl_s`."""

    @abstractmethod
    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        """Renew leases, answering in their order. Never raises StoreAway: it answers HELD instead."""

    @abstractmethod
    async def release(self, lease_id: str) -> None:
        """End the lease if it holds nothing (any more); else, or if there is no such lease, do nothing."""

    @abstractmethod
    async def commit(self, commit: Commit) -> int:
        """Do all of it at one revision, which is returned, or raise Conflict, NoSuchLease, Refused or StoreAway.

        The event that tells of the commit may come before this returns, or after. A commit with nothing to do asks the
        store how far it is: at least every write that was answered before, by whichever server, is at or before the
        revision returned.
        """

    async def vouch(self) -> None:
        """Note that the view as of the last event told is whole: no removal waits, and none was the store's fault.

        A store that many servers share keeps it where all of them see it, and a server that starts is told everything
        from there on as it happened, so that what ran out during an outage is an event for it and not an absence.
        Raises StoreAway.
        """
        return

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of connections. Leases go on."""
