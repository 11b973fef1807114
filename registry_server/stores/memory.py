"""The embedded store: everything in this process, nothing to install, gone when it ends."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from registry_server.illness import Pulse
from registry_server.records import (
    MAX_FENCE,
    Cause,
    Commit,
    Deleted,
    Delta,
    Key,
    Lease,
    Outcome,
    Put,
    Record,
    Renewal,
    Snapshot,
)
from registry_server.stores.base import Conflict, Emit, NoSuchLease, Store
from registry_server.stores.leases import LeaseTable

# How often leases are looked at, in seconds. What expires is noticed within one tick.
TICK_S = 0.1
# So many instances leave in one step when leases end; in between, everybody else has a turn.
STEP = 200


class MemoryStore(Store):
    """Records in a dict. A commit is told before it returns, so the view is never behind a write."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
        wall_clock: Callable[[], float] = time.time,
        pulse_clock: Callable[[], float] | None = None,
    ) -> None:
        """`pulse_clock`: by which a standstill of this process is found out, where `clock` may be moved on by hand."""
        self._clock = clock
        self._pulse_clock = pulse_clock or clock
        self._fence = max(1, min(int(wall_clock() * 1e6), MAX_FENCE))
        self._new_id = new_id
        self._epoch = new_id()
        self._revision = 1
        self._records: dict[Key, Record] = {}
        self._leases = LeaseTable()
        self._ended: deque[tuple[str, Iterator[Key]]] = deque()
        self._emit: Emit = lambda event: None

    async def run(self, emit: Emit) -> None:
        """Tell of every change; look for leases to end once a tick."""
        self._emit = emit
        emit(Snapshot(self._epoch, self._revision, tuple(self._records.values()), self._fence, self._revision))
        pulse = Pulse(self._pulse_clock(), TICK_S)
        while True:
            await asyncio.sleep(TICK_S)
            stood_still_s = pulse.beat(self._pulse_clock())
            while self.tick(self._clock(), stood_still_s):
                await asyncio.sleep(0)
                stood_still_s = pulse.beat(self._pulse_clock())

    def tick(self, now: float, stood_still_s: float = 0.0) -> bool:
        """End leases whose time has passed, and say whether there is more to do.

        One revision is the end of one lease; that of a large one takes several, for what expires is no write of
        anybody's that would have to be seen as a whole. Time in which this process stood still, and could not hear a
        renewal, does not count.
        """
        if stood_still_s:
            self._leases.stood_still(stood_still_s, now)
        for lease_id in self._leases.expire(now, STEP):
            self._ended.append((lease_id, iter(self._leases.keys(lease_id))))
            self._leases.drop(lease_id)
        left = STEP
        while self._ended and left > 0:
            lease_id, keys = self._ended[0]
            some = list(islice(keys, left))
            if len(some) < left:
                self._ended.popleft()
            left -= len(some) or 1
            self._expire([key for key in some if self._is_held_by(lease_id, key)])
        return bool(self._ended) or self._leases.may_be_due(now)

    def _is_held_by(self, lease_id: str, key: Key) -> bool:
        record = self._records.get(key)
        return record is not None and record.lease_id == lease_id

    def _expire(self, keys: Sequence[Key]) -> None:
        if keys:
            self._revision += 1
            for key in keys:
                del self._records[key]
            self._emit(Delta(self._revision, deletes=tuple([Deleted(key, Cause.EXPIRED) for key in keys])))

    async def grant(self, ttl_s: float) -> Lease:
        """A new lease, with exactly the time to live asked for."""
        lease_id = self._new_id()
        self._leases.grant(lease_id, ttl_s, self._clock())
        return Lease(lease_id, ttl_s)

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        """Renew leases, answering in their order."""
        now = self._clock()
        return [self._renew(lease_id, now) for lease_id in lease_ids]

    def _renew(self, lease_id: str, now: float) -> Renewal:
        ttl_s = self._leases.renew(lease_id, now)
        return Renewal(lease_id, Outcome.UNKNOWN if ttl_s is None else Outcome.RENEWED, ttl_s)

    async def release(self, lease_id: str) -> None:
        """End the lease if it holds nothing."""
        if lease_id in self._leases and not self._leases.keys(lease_id):
            self._leases.drop(lease_id)

    async def commit(self, commit: Commit) -> int:
        """Do all of it at one revision, or raise Conflict or NoSuchLease."""
        if not commit.changes:
            return self._revision
        self._check(commit)
        self._revision += 1
        gone = [self._delete(it.key, commit) for it in commit.deletes if it.expect] if commit.deletes else ()
        self._emit(Delta(self._revision, tuple([self._put(put) for put in commit.puts]), tuple(gone)))
        return self._revision

    async def aclose(self) -> None:
        """Nothing to let go of."""

    def _check(self, commit: Commit) -> None:
        differ = [it.key for it in commit.items if self._revision_of(it.key) != it.expect]
        if differ:
            raise Conflict(differ, self._revision)
        for put in commit.puts:
            if put.lease_id not in self._leases and put.needs_lease:
                raise NoSuchLease(put.lease_id)

    def _revision_of(self, key: Key) -> int:
        record = self._records.get(key)
        return record.revision if record else 0

    def _delete(self, key: Key, commit: Commit) -> Deleted:
        self._leases.detach(self._records.pop(key).lease_id, key)
        return Deleted(key, commit.cause, commit.author)

    def _put(self, put: Put) -> Record:
        before = self._records.get(put.key)
        if before is None or before.lease_id != put.lease_id:
            if before is not None:
                self._leases.detach(before.lease_id, put.key)
            if put.lease_id:
                self._leases.attach(put.lease_id, put.key)
        created = before.create_revision if before else self._revision
        record = Record(put.key, put.value, put.lease_id, self._revision, created)
        self._records[put.key] = record
        return record
