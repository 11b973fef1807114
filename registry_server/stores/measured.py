"""SHELL: a store whose calls are counted, by what they are, how they end and how long they take."""

from collections import Counter
from collections.abc import Callable, Sequence

from registry_server.metrics.times import Times
from registry_server.records import Commit, Lease, Outcome, Renewal
from registry_server.stores.base import Conflict, Emit, NoSuchLease, Refused, Store, StoreAway

OK = "ok"
# How a call may end, besides well. What is no error of a store is one of ours.
ENDS: dict[type[Exception], str] = {
    Conflict: "conflict",
    NoSuchLease: "no_such_lease",
    Refused: "refused",
    StoreAway: "away",
}
OTHER = "error"


class MeasuredStore(Store):
    """Does what `inner` does. `clock` gives monotonic seconds."""

    def __init__(self, inner: Store, clock: Callable[[], float]) -> None:
        self._inner = inner
        self._clock = clock
        self.ends: Counter[tuple[str, str]] = Counter()
        self.times = {name: Times() for name in ("grant", "keep_alive", "commit")}
        self.held = 0

    async def run(self, emit: Emit) -> None:
        """See Store, as for all of these."""
        await self._inner.run(emit)

    async def grant(self, ttl_s: float) -> Lease:
        """See Store."""
        began = self._clock()
        try:
            lease = await self._inner.grant(ttl_s)
        except Exception as error:
            self._failed("grant", began, error)
            raise
        self._done("grant", began)
        return lease

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        """See Store."""
        began = self._clock()
        try:
            renewals = await self._inner.keep_alive(lease_ids)
        except Exception as error:
            self._failed("keep_alive", began, error)
            raise
        self._done("keep_alive", began)
        for renewal in renewals:
            if renewal.outcome is Outcome.HELD:
                self.held += 1
        return renewals

    async def release(self, lease_id: str) -> None:
        """See Store."""
        await self._inner.release(lease_id)

    async def commit(self, commit: Commit) -> int:
        """See Store."""
        began = self._clock()
        try:
            revision = await self._inner.commit(commit)
        except Exception as error:
            self._failed("commit", began, error)
            raise
        self._done("commit", began)
        return revision

    async def vouch(self) -> None:
        """See Store."""
        await self._inner.vouch()

    async def aclose(self) -> None:
        """See Store."""
        await self._inner.aclose()

    def _done(self, name: str, began: float) -> None:
        self.ends[name, OK] += 1
        self.times[name].add(self._clock() - began)

    def _failed(self, name: str, began: float, error: Exception) -> None:
        self.ends[name, next((end for kind, end in ENDS.items() if isinstance(error, kind)), OTHER)] += 1
        self.times[name].add(self._clock() - began)
