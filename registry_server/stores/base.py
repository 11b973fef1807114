"""CORE: the Store contract: where the truth lives.

A store keeps records under keys, held by leases, and tells of every change in one stream of events. It knows nothing
of what they hold, nor of the rules of the registry (take-over, addresses, generations): `rules.py` decides what a
write changes, and the store does it all or not at all. `tests/contract` runs one suite against every implementation.

Adding a store is one file with a subclass of `Store`, and one line in `stores/__init__.py` or an entry point.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from registry_server.records import Commit, Key, Lease, Renewal, StoreEvent

Emit = Callable[[StoreEvent], None]


# ---- what can go wrong


class StoreError(Exception):
    """Root of what a store raises."""


class StoreAway(StoreError):
    """The store cannot be reached; whether a write that was under way took place is not known."""


class StoreFull(StoreAway):
    """The store has no room and takes no writes until its operators make some; all else goes on."""


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


class Shelf(Protocol):
    """What a store keeps beside the records for people to look at. It is no truth, and may lack the latest."""

    async def read(self) -> Sequence[tuple[int, bytes]]:
        """All that is kept, whatever anybody wrote there, in the order of its numbers. Raises StoreError."""

    async def write(self, puts: Sequence[tuple[int, bytes]], deletes: Sequence[int]) -> None:
        """Keep these under their numbers, and those no more. Raises StoreError; then it may be tried again."""


class Store(ABC):
    """Records under leases, and one stream of what changes. What is no instance may stand without a lease.

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

    @property
    def shelf(self) -> Shelf | None:
        """Where it keeps what happened over a restart; None where nothing of the kind is kept."""
        return None

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of connections. Leases go on."""
