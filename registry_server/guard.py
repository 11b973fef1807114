"""CORE. Keeps the illness of the store from looking like the death of instances.

While the store is away nobody can renew, so leases may run out that their owners would have kept, and a store that
comes back empty has forgotten them all. So for one TTL after the store was last ill, an instance whose lease ran out,
or that a full set lacks, is kept in the view: its owner, if it lives, renews or registers again within that time. What
is asked for (deregistration, take-over, the end of a drain) takes effect at once, ill or not.
"""

import math
from collections.abc import Callable, Iterable

from protos.registry.v1 import registry_pb2 as pb
from registry_server.model import Entry
from registry_server.stores.base import Cause, Deleted, Delta, Key, Snapshot

MAX_HOLD_S = 60.0


class RemovalGuard:
    """Decides which removals wait. `lookup` finds the current entry of a key; all times are of one monotonic clock."""

    def __init__(self, lookup: Callable[[Key], Entry | None], max_hold_s: float = MAX_HOLD_S) -> None:
        self._lookup = lookup
        self._max_hold_s = max_hold_s
        self._ill_until: float | None = None
        self._is_away = False
        self._held: dict[Key, float] = {}
        # At most the first deadline of those held. Looked at with every change, so never searched for.
        self._earliest = math.inf

    def __contains__(self, key: object) -> bool:
        """Whether the view has this instance only because its removal waits: the store has it no more."""
        return key in self._held

    def __len__(self) -> int:
        """How many removals wait."""
        return len(self._held)

    @property
    def next_due(self) -> float | None:
        """No removal has waited long enough before this; None if none waits."""
        return self._earliest if self._held else None

    def store_away(self) -> None:
        """Note that the store cannot be reached."""
        self._is_away = True

    def store_ill(self, now: float) -> None:
        """Note that the store is reached, but did not keep up a lease that it should have."""
        self._ill_until = now

    def store_back(self, now: float) -> None:
        """Note that the store is reached (again)."""
        if self._is_away:
            self._is_away, self._ill_until = False, now

    def filter_delta(self, delta: Delta, now: float) -> Delta:
        """The same delta without the removals that wait."""
        if self._ill_until is None:
            return delta
        for record in delta.puts:
            self._held.pop(record.key, None)
        waiting = {deleted.key for deleted in delta.deletes if self._must_wait(deleted, now)}
        if not waiting:
            return delta
        return delta._replace(deletes=tuple(it for it in delta.deletes if it.key not in waiting))

    def keep(self, snapshot: Snapshot, current: list[Key], now: float) -> frozenset[Key]:
        """Those of the current instances that stay though the snapshot lacks them."""
        present = {record.key for record in snapshot.records}
        for key in self._held.keys() & present:
            del self._held[key]
        return frozenset(
            key for key in current if key not in present and self._must_wait(Deleted(key, Cause.EXPIRED), now)
        )

    def due(self, now: float) -> list[Key]:
        """The instances whose removal has waited long enough; they are forgotten here."""
        due = [key for key, deadline in self._held.items() if deadline <= now]
        for key in due:
            del self._held[key]
        self._earliest = min(self._held.values(), default=math.inf)
        return due

    def release(self, keys: Iterable[Key]) -> list[Key]:
        """Those of the instances whose removal waits; it waits no more."""
        return [key for key in keys if self._held.pop(key, None) is not None]

    def _must_wait(self, deleted: Deleted, now: float) -> bool:
        if deleted.cause is not Cause.EXPIRED:
            self._held.pop(deleted.key, None)
            return False
        if deleted.key in self._held:
            return True
        entry = self._lookup(deleted.key)
        if entry is None or entry.instance.status == pb.DRAINING or self._ill_until is None:
            return False
        deadline = self._ill_until + min(_ttl_s(entry), self._max_hold_s)
        if now >= deadline:
            return False
        self._held[deleted.key] = deadline
        self._earliest = min(self._earliest, deadline)
        return True


def _ttl_s(entry: Entry) -> float:
    return entry.instance.ttl.seconds + entry.instance.ttl.nanos / 1e9
