"""Leases of the embedded store to the very moment, on a clock of the test's own."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.records import Cause, Commit, Delta, Key, Outcome, Put, Snapshot
from registry_server.stores.leases import LeaseTable
from registry_server.stores.memory import MemoryStore
from registry_server.testing import Running, running

KEY = Key("default", "player", "one")


@dataclass
class Clock:
    """A monotonic clock that moves when told to."""

    now: float = 1000.0
    store: MemoryStore = field(init=False)

    def __call__(self) -> float:
        return self.now

    def to(self, now: float) -> None:
        """Move on, and let the store look for leases to end."""
        self.now = now
        self.store.tick(now)


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.store = MemoryStore(clock)
    return clock


@pytest.fixture
async def run(clock: Clock) -> AsyncIterator[Running]:
    async with running(clock.store) as started:
        yield started


async def held(run: Running, ttl_s: float) -> str:
    """A lease that holds KEY."""
    lease = await run.store.grant(ttl_s)
    await run.store.commit(Commit(puts=(Put(KEY, b"", lease.id, 0),)))
    return lease.id


async def renew(run: Running, lease_id: str) -> Outcome:
    (renewal,) = await run.store.keep_alive([lease_id])
    return renewal.outcome


async def test_fence_grows_from_one_start_to_the_next() -> None:
    fences = []
    for now in (1_764_000_000.0, 1_764_000_000.5):
        async with running(MemoryStore(wall_clock=lambda now=now: now)) as run:
            fences += [snapshot.fence for snapshot in run.seen.of(Snapshot)]
    assert fences == [1_764_000_000_000_000, 1_764_000_000_500_000]


async def test_no_early_expiry(run: Running, clock: Clock) -> None:
    await held(run, 15)
    for now in (1000.0, 1014.9, 1014.999999, 1015.0):
        clock.to(now)
        assert KEY in run.seen.view, now


async def test_expiry_within_one_tick(run: Running, clock: Clock) -> None:
    await held(run, 15)
    clock.to(1015.000001)
    assert [left.cause for left in run.deleted] == [Cause.EXPIRED]
    assert run.seen.view == {}


async def test_renew_wins_ties(run: Running, clock: Clock) -> None:
    lease = await held(run, 15)
    clock.to(1015.0)
    assert await renew(run, lease) is Outcome.RENEWED
    clock.to(1030.0)
    assert KEY in run.seen.view
    clock.to(1030.1)
    assert KEY not in run.seen.view
    assert await renew(run, lease) is Outcome.UNKNOWN


async def test_a_late_tick_still_hears_the_renewal_before_it(run: Running, clock: Clock) -> None:
    lease = await held(run, 15)
    clock.now = 1015.5  # the time has passed, but nobody has looked
    assert await renew(run, lease) is Outcome.RENEWED
    clock.to(1015.6)
    assert KEY in run.seen.view


async def test_leases_end_in_the_order_of_their_ends(run: Running, clock: Clock) -> None:
    keys = {ttl_s: Key("default", "player", f"{ttl_s}") for ttl_s in (9, 3, 7, 5)}
    for ttl_s, key in keys.items():
        await run.store.commit(Commit(puts=(Put(key, b"", (await run.store.grant(ttl_s)).id, 0),)))
    clock.to(1100.0)
    assert [left.key for left in run.deleted] == [keys[ttl_s] for ttl_s in sorted(keys)]
    assert len([delta for delta in run.seen.of(Delta) if delta.deletes]) == len(keys)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["renew", "look"]), st.integers(0, 8)), max_size=40))
def test_a_lease_ends_exactly_when_its_time_has_passed(steps: list[tuple[str, str, int]]) -> None:
    table, now = LeaseTable(), 0
    ends = {name: index + 4 for index, name in enumerate("abc")}
    for name, end in ends.items():
        table.grant(name, end, now)
    ttl_s = dict(ends)
    for name, step, pause in steps:
        now += pause
        if step == "look":
            over = [lease for lease, end in sorted(ends.items(), key=lambda item: item[1]) if end < now]
            assert sorted(table.expire(now)) == sorted(over)
            for lease in over:
                table.drop(lease)
                del ends[lease]
        else:
            assert table.renew(name, now) == (ttl_s[name] if name in ends else None)
            if name in ends:
                ends[name] = now + ttl_s[name]
