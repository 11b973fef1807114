"""SHELL. Carries writes out: asks the rules, commits to the store, and waits until the view shows it."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from protos.registry.v1 import registry_pb2 as pb
from registry_server.errors import Contended, InvalidField, LimitExceeded, NotFound, Unavailable
from registry_server.feed import Feed
from registry_server.model import Entry
from registry_server.rules import Plan, Rules
from registry_server.stores.base import (
    Cause,
    Commit,
    Conflict,
    Key,
    Lease,
    NoSuchLease,
    Outcome,
    Put,
    Record,
    Refused,
    Renewal,
    Store,
    StoreAway,
    StoreError,
)

# How often a write is tried when others change the same instance at the same time.
ATTEMPTS = 8
# Writers that collide again draw apart by a random pause, which grows by so much with every attempt.
PAUSE_S = 0.01
# How many instances one write changes at the most. Stores have limits: etcd takes 128 operations in a transaction.
MAX_KEYS = 100
# How long to wait for the view to catch up: with a conflict, and with a write that was done.
CATCH_UP_S = 1.0
RETRY_AFTER_S = 1.0
# A lease is held for this part of its time to live, and then refused. Where that is not known it is the least there is.
HOLD_PART = 3
# Of so many leases it is remembered since when they are held.
MAX_HELD = 100_000
LEAST_TTL_S = 2.0


class Written(NamedTuple):
    """What a write did: its revision, and the instances as they are now."""

    revision: int
    entries: tuple[Entry, ...]


class Registrar:
    """All writes. Raises the errors of errors.py alone. `now` is wall-clock time in seconds, for people to read."""

    def __init__(self, store: Store, feed: Feed, now: Callable[[], float], rng: random.Random) -> None:
        self._store = store
        self._feed = feed
        self._rng = rng
        self._held_since: dict[str, float] = {}
        self._rules = Rules(feed.catalog, feed.guard, now)

    async def register(self, wanted: pb.Instance, ttl_s: float, lease_id: str) -> tuple[Entry, int, Lease]:
        """Register under a lease, a new one if `lease_id` is empty; return the instance, the revision, the lease."""
        if wanted.generation:
            await self._check_given(wanted.generation)
        lease = await (self._existing(lease_id) if lease_id else self._granted(ttl_s))
        try:
            written = await self._write(wanted.id, lambda: self._rules.register(wanted, lease))
        except BaseException:
            if not lease_id:
                await self._release((lease.id,))
            raise
        return written.entries[0], written.revision, lease

    async def deregister(self, keys: Sequence[Key], drain_s: float, generation: int = 0) -> tuple[int, int]:
        """Remove instances, or let them drain first; return how many, and the revision. With a generation only those
        that have it."""
        lease = await self._granted(drain_s) if drain_s > 0 else None
        revision = 0
        for start in range(0, len(keys), MAX_KEYS):
            revision = await self._leave(keys[start : start + MAX_KEYS], lease, generation)
        return len(keys), revision

    async def _leave(self, keys: Sequence[Key], lease: Lease | None, generation: int) -> int:
        name = str(keys[0]) if len(keys) == 1 else f"{len(keys)} instances, {keys[0]} the first"
        if lease is None:
            written = await self._write(name, lambda: self._rules.deregister(keys, generation))
            self._feed.let_go(keys, Cause.DEREGISTERED)
            return written.revision
        try:
            return (await self._write(name, lambda: self._rules.drain(keys, lease, generation))).revision
        except BaseException:
            await self._release((lease.id,))
            raise

    async def update(self, wanted: pb.Instance, paths: Sequence[str]) -> Written:
        """Change the named fields of an instance."""
        return await self._write(wanted.id, lambda: self._rules.update(wanted, paths))

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        """Renew leases, answering in their order.

        Raises Unavailable when one of them has been HELD for a third of its time to live: another replica may still
        reach the store, and will take it for dead.
        """
        asked_at = self._feed.now()
        try:
            renewals = await self._store.keep_alive(lease_ids)
        except asyncio.CancelledError:
            self._feed.renewal_dropped(asked_at)
            raise
        for renewal in renewals:
            if renewal.outcome is Outcome.RENEWED and renewal.ttl_s:
                self._feed.guard.store_renewed(renewal.lease_id, asked_at + renewal.ttl_s)
        held = [renewal for renewal in renewals if renewal.outcome is Outcome.HELD]
        if held:
            self._feed.renewal_failed()
        if self._held_since:
            for renewal in renewals:
                if renewal.outcome is not Outcome.HELD:
                    self._held_since.pop(renewal.lease_id, None)
        for renewal in held:
            self._hold(renewal, asked_at)
        return renewals

    def _hold(self, renewal: Renewal, asked_at: float) -> None:
        since = self._held_since.setdefault(renewal.lease_id, asked_at)
        if len(self._held_since) > MAX_HELD:
            del self._held_since[next(iter(self._held_since))]
        ttl_s, held_for_s = renewal.ttl_s or LEAST_TTL_S, self._feed.now() - since
        if held_for_s >= ttl_s / HOLD_PART:
            pause_s = min(RETRY_AFTER_S, ttl_s / HOLD_PART / 2)
            raise Unavailable(f"the store could not renew for {held_for_s:.1f} s: renew on another replica", pause_s)

    # ---- within

    async def _check_given(self, generation: int) -> None:
        """A generation that was never given out is nobody's. One that another replica has just given may be news."""
        catalog = self._feed.catalog
        if generation <= catalog.fence + catalog.revision:
            return
        reached = await self._commit(Commit())
        if generation > catalog.fence + reached:
            raise InvalidField("instance.generation", "was never given out by this registry; a new owner gives none")
        if not await self._feed.reach(generation - catalog.fence, CATCH_UP_S):
            raise Unavailable("the view lags behind the generation; try again", RETRY_AFTER_S)

    async def _write(self, name: str, plan: Callable[[], Plan]) -> Written:
        for attempt in range(ATTEMPTS):
            planned = plan()
            seen = self._feed.catalog.revision
            try:
                revision = await self._commit(planned.commit) if planned.commit.changes else seen
            except Conflict:
                await self._feed.reach(seen + 1, CATCH_UP_S)
                await asyncio.sleep(self._rng.uniform(0, attempt * PAUSE_S))
                continue
            if self._feed.catalog.revision < revision:
                await self._feed.reach(revision, CATCH_UP_S)
            if planned.bereft:
                await self._release(planned.bereft)
            return Written(revision, tuple(self._entry(put, revision) for put in planned.commit.puts))
        raise Contended(name)

    async def _commit(self, commit: Commit) -> int:
        try:
            return await self._store.commit(commit)
        except NoSuchLease:
            raise NotFound.lease(commit.puts[0].lease_id) from None
        except Refused as error:
            raise LimitExceeded("store", str(error)) from None
        except StoreAway:
            raise _unavailable() from None

    def _entry(self, put: Put, revision: int) -> Entry:
        entry = self._feed.catalog.get(put.key)
        if entry is not None and entry.revision == revision:
            return entry
        created = revision if put.expect == 0 else entry.instance.create_revision if entry else revision
        return Entry.of(Record(put.key, put.value, put.lease_id, revision, created), self._feed.catalog.fence)

    async def _granted(self, ttl_s: float) -> Lease:
        try:
            return await self._store.grant(ttl_s)
        except StoreAway:
            raise _unavailable() from None

    async def _existing(self, lease_id: str) -> Lease:
        [renewal] = await self.keep_alive([lease_id])
        if renewal.outcome is Outcome.HELD:
            raise _unavailable()
        if renewal.ttl_s is None:
            raise NotFound.lease(lease_id)
        return Lease(lease_id, renewal.ttl_s)

    async def _release(self, lease_ids: Iterable[str]) -> None:
        """End the leases that hold nothing any more. If that fails they end by themselves."""
        empty = [lease_id for lease_id in lease_ids if not self._feed.catalog.of_lease(lease_id)]
        for lease_id in empty:
            with contextlib.suppress(StoreError):
                await self._store.release(lease_id)


def _unavailable() -> Unavailable:
    return Unavailable("the store cannot be reached; reads and watches go on from the last view", RETRY_AFTER_S)
