"""SHELL: a store whose calls are counted, by what they are, how they end and how long they take; and which are parts of
the spans of those who ask for them."""

from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from registry_server.metrics.times import Times
from registry_server.observe.answering import TRACED, Traced
from registry_server.records import Commit, Lease, Outcome, Renewal
from registry_server.stores.base import Conflict, Emit, NoSuchLease, Refused, Shelf, Store, StoreAway

Result = TypeVar("Result")

OK, AWAY = "ok", "away"
# How a call may end, besides well. What is no error of a store is one of ours.
ENDS: dict[type[Exception], str] = {
    Conflict: "conflict",
    NoSuchLease: "no_such_lease",
    Refused: "refused",
    StoreAway: AWAY,
}
OTHER = "error"
CANCELLED = "cancelled"
# A conflict is tried again, and what was asked for may be gone: that is how a store works.
_WELL = (OK, CANCELLED, "conflict", "no_such_lease")


class MeasuredStore(Store):
    """Does what `inner` does. `clock` gives monotonic seconds. `counts`: whether anybody wants to know."""

    def __init__(self, inner: Store, clock: Callable[[], float], *, counts: bool = True) -> None:
        self._inner = inner
        self._clock = clock
        self._counts = counts
        self._failed: Counter[tuple[str, str]] = Counter()
        self.times = {name: Times() for name in ("grant", "keep_alive", "commit")}
        self.held = 0
        self.touched = 0  # calls that failed because the store was away, and those by which renewals were held

    @property
    def ends(self) -> Counter[tuple[str, str]]:
        """How many of which call ended how. Those that went well are all others."""
        failed = Counter(self._failed)
        well = {
            (name, OK): times.total - sum(count for (of, _), count in failed.items() if of == name)
            for name, times in self.times.items()
        }
        return failed + Counter(well)

    async def run(self, emit: Emit) -> None:
        """See Store, as for all of these."""
        await self._inner.run(emit)

    async def grant(self, ttl_s: float) -> Lease:
        """See Store."""
        return await self._measured("grant", self._inner.grant(ttl_s))

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        """See Store."""
        renewals = await self._measured("keep_alive", self._inner.keep_alive(lease_ids))
        held = 0
        for renewal in renewals:
            if renewal.outcome is Outcome.HELD:
                held += 1
        if held:
            self.held += held
            self.touched += 1
        return renewals

    async def release(self, lease_id: str) -> None:
        """See Store."""
        await self._inner.release(lease_id)

    async def commit(self, commit: Commit) -> int:
        """See Store."""
        return await self._measured("commit", self._inner.commit(commit))

    async def vouch(self) -> None:
        """See Store."""
        await self._inner.vouch()

    @property
    def shelf(self) -> Shelf | None:
        """See Store."""
        return self._inner.shelf

    async def aclose(self) -> None:
        """See Store."""
        await self._inner.aclose()

    def _measured(self, name: str, call: Coroutine[Any, Any, Result]) -> Coroutine[Any, Any, Result]:
        """The same call, which is counted; what is written out here is done for each renewal."""
        asked_by = TRACED.get()
        if asked_by is not None:
            call = self._traced(name, call, asked_by)
        return self._counted(name, call) if self._counts else self._touching(call)

    async def _touching(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Nothing is counted but what an outage touches."""
        try:
            return await call
        except StoreAway:
            self.touched += 1
            raise

    async def _counted(self, name: str, call: Coroutine[Any, Any, Result]) -> Result:
        began = self._clock()
        try:
            result = await call
        except Exception as error:
            end = _end_of(error)
            self.touched += end == AWAY
            self._failed[name, end] += 1
            self.times[name].add(self._clock() - began)
            raise
        self.times[name].add(self._clock() - began)
        return result

    async def _traced(self, name: str, call: Coroutine[Any, Any, Result], asked_by: Traced) -> Result:
        part, end = asked_by.begin_part(f"store.{name}"), CANCELLED
        if part is None:
            return await call
        try:
            result = await call
            end = OK
        except Exception as error:
            end = _end_of(error)
            raise
        finally:
            asked_by.end_part(part, end, is_well=end in _WELL)
        return result


def _end_of(error: Exception) -> str:
    return next((end for kind, end in ENDS.items() if isinstance(error, kind)), OTHER)
