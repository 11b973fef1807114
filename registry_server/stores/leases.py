"""CORE: leases on a deadline heap, for the stores that are embedded."""

import heapq
import sys

from registry_server.holdings import Holdings
from registry_server.illness import PARTS, whole_s
from registry_server.records import Key

_SLACK = 1024


class LeaseTable:
    """Leases, what each holds, and when each ends. All times are of one monotonic clock, in seconds.

    NoEarlyExpiry: a lease ends when its deadline has passed, not before. RenewWinsTies: a renewal at the very deadline
    counts. The heap may hold deadlines that were put off since, and leases that are gone; they are looked up when their
    turn comes, so a renewal costs one assignment. When most of the heap is such, it is made anew.
    """

    def __init__(self) -> None:
        self._ttl_s: dict[str, float] = {}
        self._deadline: dict[str, float] = {}
        self._held = Holdings()
        self._heap: list[tuple[float, str]] = []

    def __contains__(self, lease_id: str) -> bool:
        return lease_id in self._ttl_s

    def __len__(self) -> int:
        return len(self._ttl_s)

    def grant(self, lease_id: str, ttl_s: float, now: float) -> None:
        """Add a lease that holds nothing."""
        self._ttl_s[lease_id] = ttl_s
        self._deadline[lease_id] = now + ttl_s
        if len(self._heap) > 2 * len(self._ttl_s) + _SLACK:
            self._heap = [(deadline, lease_id) for lease_id, deadline in self._deadline.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (now + ttl_s, lease_id))

    def renew(self, lease_id: str, now: float) -> float | None:
        """Let the lease live its whole time to live from now, which is returned; None if there is no such lease."""
        ttl_s = self._ttl_s.get(lease_id)
        if ttl_s is not None:  # a short one that was given time to come back (see below) keeps that
            self._deadline[lease_id] = max(now + ttl_s, self._deadline[lease_id])
        return ttl_s

    def attach(self, lease_id: str, key: Key) -> None:
        """Let the lease hold a key."""
        self._held.add(lease_id, key)

    def detach(self, lease_id: str, key: Key) -> None:
        """Let the lease hold a key no more."""
        self._held.remove(lease_id, key)

    def keys(self, lease_id: str) -> tuple[Key, ...]:
        """What the lease holds."""
        return self._held.of(lease_id)

    def drop(self, lease_id: str) -> None:
        """End a lease."""
        del self._ttl_s[lease_id], self._deadline[lease_id]
        self._held.drop(lease_id)

    def may_be_due(self, now: float) -> bool:
        """Whether `expire` has anything to look at."""
        return bool(self._heap) and self._heap[0][0] < now

    def expire(self, now: float, limit: int = sys.maxsize) -> list[str]:
        """The leases whose time has passed, still in the table, by their deadlines; at most so many are looked at."""
        due = []
        while limit > 0 and self.may_be_due(now):
            limit -= 1
            noted, lease_id = heapq.heappop(self._heap)
            deadline = self._deadline.get(lease_id)
            if deadline is None:
                continue
            if deadline > noted:
                heapq.heappush(self._heap, (deadline, lease_id))
            else:
                due.append(lease_id)
        return due

    def again(self, lease_id: str) -> None:
        """A lease that `expire` gave has not ended, and is looked at again."""
        if lease_id in self._deadline:
            heapq.heappush(self._heap, (self._deadline[lease_id], lease_id))

    def stood_still(self, for_s: float, now: float) -> None:
        """Nobody could renew for so long, up to now: that time does not count.

        Where it was long beside the time between two renewals, an owner has lost its connection over it, and its lease
        lives its whole time from now, and long enough to come back. Who was given that keeps it, though the process
        stands still again meanwhile.
        """
        for lease_id, ttl_s in self._ttl_s.items():
            deadline = self._deadline[lease_id]
            given_s = whole_s(ttl_s, for_s) if ttl_s <= for_s * PARTS else min(deadline + for_s - now, ttl_s)
            self._deadline[lease_id] = max(now + given_s, deadline)
