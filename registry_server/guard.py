"""CORE: keeps the illness of the store from looking like the death of instances.

While the store is away nobody can renew, so leases may run out that their owners would have kept, and a store that
comes back empty has forgotten them all. So for one time to live after the store was last ill, an instance whose lease
ran out, or that a full set lacks, is kept in the view: its owner, if it lives, renews or registers again within that
time. What is asked for (deregistration, take-over, the end of a drain) takes effect at once, ill or not.

No wait ends while the store is away, and all of them begin anew when it comes back: only time in which an owner could
have done something counts.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from registry_server.holdings import Holdings
from registry_server.illness import Illness
from registry_server.model import Entry
from registry_server.records import NAMES_FOR_ONE, Cause, Deleted, Delta, Key, Snapshot, parts

# How many instances leave in one step when their waits end.
MAX_STEP = 500
# Of so many leases it is remembered until when they were promised to live.
MAX_PROMISED = 200_000


class _Waiting(NamedTuple):
    """What was known of an instance when its removal began to wait; its time to live is in whole seconds."""

    ttl_s: int
    lease_id: str


class RemovalGuard:
    """Decides which removals wait. `lookup` finds the current entry of a key; all times are of one monotonic clock."""

    def __init__(self, lookup: Callable[[Key], Entry | None]) -> None:
        self._lookup = lookup
        self._illness = Illness()
        self._is_away = False
        self._waiting: dict[Key, _Waiting] = {}
        # The same by time to live, which alone decides when a wait ends; and by lease.
        self._by_ttl: dict[int, dict[Key, None]] = {}
        self._leases = Holdings()
        self._promised: dict[str, float] = {}
        # No wait ends before this. Looked at with every change, so never searched for.
        self._earliest = math.inf

    def __contains__(self, key: object) -> bool:
        """Whether the view has this instance only because its removal waits: the store has it no more."""
        return key in self._waiting

    def __len__(self) -> int:
        """How many removals wait."""
        return len(self._waiting)

    @property
    def next_due(self) -> float | None:
        """No removal has waited long enough before this; None if none waits, or the store is away."""
        return self._earliest if self._waiting and not self._is_away else None

    def excused_until(self, ttl_s: float) -> float:
        """Until when the end of an instance of that time to live may be the fault of others; minus infinity if not."""
        return self._illness.excused_until(ttl_s)

    def count_of_lease(self, lease_id: str) -> int:
        """How many of the instances that wait to be removed this lease held."""
        return self._leases.count(lease_id)

    def promised(self, lease_id: str) -> float | None:
        """Until when the store has said that a lease lives, as far as its renewals came by here."""
        return self._promised.get(lease_id)

    def shown_until(self, entry: Entry) -> float:
        """When an instance that waits to be removed leaves if nothing happens; infinite while the store is away."""
        return math.inf if self._is_away else self._deadline(whole_ttl_s(entry))

    # ---- what the store does

    def store_away(self) -> None:
        """Note that the store cannot be reached."""
        self._is_away = True

    def store_back(self, now: float) -> None:
        """Note that the store is reached (again)."""
        if self._is_away:
            self._is_away = False
            self.store_ill(now)

    def store_ill(self, now: float, silence_s: float = math.inf) -> None:
        """Note that the store is reached, but for so long, up to now, did not keep up leases that it should have.

        As far as that matters to them, all that wait begin to wait anew.
        """
        self._illness.note(now, silence_s)

    def store_renewed(self, lease_id: str, until: float) -> None:
        """Note that the store renewed a lease, which its owner was told: it lives until then.

        If it ends before, the store is ill: etcd before 3.5.13 lets a leader that stood still end, by its own clock,
        what others have renewed since.
        """
        self._promised.pop(lease_id, None)
        self._promised[lease_id] = until
        if len(self._promised) > MAX_PROMISED:
            del self._promised[next(iter(self._promised))]  # the one not renewed for longest

    def filter_delta(self, delta: Delta, now: float) -> Delta:
        """The same delta without the removals that wait."""
        if self._waiting:
            for record in delta.puts:
                self._free(record.key)
        if not delta.deletes:
            return delta
        waiting = {deleted.key for deleted in delta.deletes if self._must_wait(deleted, now)}
        if not waiting:
            return delta
        return delta._replace(deletes=tuple(it for it in delta.deletes if it.key not in waiting))

    def keep(self, snapshot: Snapshot, current: list[Key], now: float) -> frozenset[Key]:
        """Those of the current instances that stay though the snapshot lacks them.

        That a store cannot tell what changed, but only what is, is an illness too. The first of all is none for anybody
        if nothing is known of what was before.
        """
        return frozenset(chain.from_iterable(self.keeping(snapshot, current, now)))

    def keeping(
        self, snapshot: Snapshot, current: Sequence[Key], now: float, at_once: int = sys.maxsize
    ) -> Iterator[list[Key]]:
        """The same, of so many records' worth at a time, as that is asked for."""
        self._is_away = False
        self._illness.note(now, was_felt=bool(current) or snapshot.through > snapshot.revision)
        present = set[Key]()
        for records in parts(snapshot.records, at_once * NAMES_FOR_ONE):
            present.update([record.key for record in records])
            yield []
        for key in self._waiting.keys() & present:
            self._free(key)
        for keys in parts(current, at_once * NAMES_FOR_ONE):
            yield []
            lacking = [key for key in keys if key not in present]
            for some in parts(lacking, at_once):
                yield [key for key in some if self._must_wait(Deleted(key, Cause.EXPIRED), now)]

    # ---- the end of a wait

    def due(self, now: float, limit: int = MAX_STEP) -> list[Key]:
        """Up to `limit` instances whose removal has waited long enough; they are forgotten here."""
        if self._is_away:
            return []
        due: list[Key] = []
        for ttl_s, keys in self._by_ttl.items():
            if self._deadline(ttl_s) <= now:
                due += islice(keys, limit - len(due))
        for key in due:
            self._free(key)
        self._earliest = min(map(self._deadline, self._by_ttl), default=math.inf)
        return due

    def release(self, keys: Iterable[Key]) -> list[Key]:
        """Those of the instances whose removal waits; it waits no more."""
        return [key for key in keys if self._free(key)]

    # ---- within

    def _deadline(self, ttl_s: int) -> float:
        return self._illness.excused_until(ttl_s)

    def _must_wait(self, deleted: Deleted, now: float) -> bool:
        if deleted.cause is not Cause.EXPIRED:
            self._free(deleted.key)
            return False
        if deleted.key in self._waiting:
            return True
        entry = self._lookup(deleted.key)
        if entry is None:
            return False
        if self._promised.pop(entry.lease_id, -math.inf) > now:
            self.store_ill(now)
        ttl_s = whole_ttl_s(entry)
        if entry.owner.is_leaving or not (self._is_away or now < self._deadline(ttl_s)):
            return False
        self._hold(entry, ttl_s)
        return True

    def _hold(self, entry: Entry, ttl_s: int) -> None:
        self._waiting[entry.key] = _Waiting(ttl_s, entry.lease_id)
        self._by_ttl.setdefault(ttl_s, {})[entry.key] = None
        self._leases.add(entry.lease_id, entry.key)
        self._earliest = min(self._earliest, self._deadline(ttl_s))

    def _free(self, key: Key) -> bool:
        waited = self._waiting.pop(key, None)
        if waited is None:
            return False
        keys = self._by_ttl[waited.ttl_s]
        del keys[key]
        if not keys:
            del self._by_ttl[waited.ttl_s]
        self._leases.remove(waited.lease_id, key)
        return True


def whole_ttl_s(entry: Entry) -> int:
    """The time to live of an instance in seconds, rounded up."""
    return math.ceil(entry.traits.ttl_s)
