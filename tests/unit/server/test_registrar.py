"""Writes against a store that gets in the way: conflicts, outages, leases that are gone; and what is left behind."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import registrar
from registry_server.errors import Contended, InvalidField, NotFound, OwnershipLost, Unavailable
from registry_server.records import Away, Back, Cause, Commit, Delta, Key, Lease, Outcome, Renewal, Snapshot, StoreEvent
from registry_server.stores.base import Conflict, StoreAway, StoreFull
from registry_server.stores.memory import MemoryStore
from tests.support.core import NOBODY, SEAL, Core, gone, key

ONE = key("one")
FENCE = 1_800_000_000_000_000


class Fickle(MemoryStore):
    """The embedded store with bad days."""

    conflicts = 0
    away = False
    commits = 0

    async def grant(self, ttl_s: float) -> Lease:
        if self.away:
            raise StoreAway("gone")
        return await super().grant(ttl_s)

    async def commit(self, commit: Commit) -> int:
        self.commits += 1
        if self.away:
            raise StoreAway("gone")
        if self.conflicts:
            self.conflicts -= 1
            raise Conflict([])
        return await super().commit(commit)

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        if self.away:
            return [Renewal(lease_id, Outcome.HELD, self._leases._ttl_s.get(lease_id)) for lease_id in lease_ids]
        return await super().keep_alive(lease_ids)


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    monkeypatch.setattr(registrar, "CATCH_UP_S", 0.001)
    store = Fickle()
    made = Core(store)
    store._emit = made.feed.emit
    made.feed.emit(Snapshot("e1", 1, ()))
    return made


def fickle(core: Core) -> Fickle:
    assert isinstance(core.store, Fickle)
    return core.store


def wanted(id_: str = "one", port: int = 7, **fields: Any) -> pb.Instance:
    return pb.Instance(namespace="default", service="player", id=id_, host="10.9.9.9", port=port, **fields)


async def test_conflict_is_tried_again(core: Core) -> None:
    fickle(core).conflicts = registrar.ATTEMPTS - 1
    entry, revision, lease = await core.registrar.register(wanted(), 15.0, "")
    assert (entry.key, entry.revision) == (ONE, revision)
    assert fickle(core)._leases.keys(lease.id) == (ONE,)


async def test_endless_conflict_is_told_and_leaves_no_lease(core: Core) -> None:
    fickle(core).conflicts = 1000
    with pytest.raises(Contended):
        await core.registrar.register(wanted(), 15.0, "")
    assert fickle(core).commits == registrar.ATTEMPTS
    assert len(fickle(core)._leases) == 0


async def test_store_away_is_unavailable_and_changes_nothing(core: Core) -> None:
    entry, revision, lease = await core.registrar.register(wanted(), 15.0, "")
    fickle(core).away = True
    writes = [
        core.registrar.register(wanted("two", 8), 15.0, ""),
        core.registrar.register(wanted("two", 8), 15.0, lease.id),
        core.registrar.deregister(ONE, 0, 0.0),
        core.registrar.deregister(ONE, 0, 5.0),
        core.registrar.update(wanted(weight=3), ["weight"]),
    ]
    for write in writes:
        with pytest.raises(Unavailable) as error:
            await write
        assert error.value.retry_after_s > 0
    assert core.catalog.get(ONE) == entry
    assert core.catalog.revision == revision


async def test_renewal_while_the_store_is_away_is_held_and_noted(core: Core) -> None:
    _, revision, lease = await core.registrar.register(wanted(), 15.0, "")
    core.timeline.advance(20)
    fickle(core).away = True
    (renewal,) = await core.registrar.keep_alive([lease.id])
    assert renewal.outcome is Outcome.HELD
    core.feed.emit(gone(revision + 1, ONE, cause=Cause.EXPIRED))
    assert ONE in core.feed.guard


async def renewed_after(core: Core, lease_id: str, by_s: float) -> Outcome:
    core.timeline.advance(by_s)
    (renewal,) = await core.registrar.keep_alive([lease_id])
    return renewal.outcome


@pytest.mark.parametrize("ttl_s", [2.0, 15.0])
async def test_renewals_are_held_for_a_third_of_a_ttl_and_then_refused(core: Core, ttl_s: float) -> None:
    """Another replica may reach the store, and takes those who renew here for dead."""
    _, _, lease = await core.registrar.register(wanted(), ttl_s, "")
    fickle(core).away = True
    assert await renewed_after(core, lease.id, 0.0) is Outcome.HELD
    assert await renewed_after(core, lease.id, ttl_s / 3 - 0.01) is Outcome.HELD
    with pytest.raises(Unavailable) as error:
        await renewed_after(core, lease.id, 0.02)
    assert 0 < error.value.retry_after_s <= ttl_s / 6
    fickle(core).away = False
    assert await renewed_after(core, lease.id, 0.0) is Outcome.RENEWED
    fickle(core).away = True
    assert await renewed_after(core, lease.id, 0.0) is Outcome.HELD


async def test_lease_with_the_smallest_ttl_decides_how_long_a_stream_is_held(core: Core) -> None:
    _, _, short = await core.registrar.register(wanted("short", 8), 3.0, "")
    _, _, long = await core.registrar.register(wanted("long", 9), 60.0, "")
    fickle(core).away = True
    await core.registrar.keep_alive([long.id, short.id])
    core.timeline.advance(1.01)
    await core.registrar.keep_alive([long.id])
    with pytest.raises(Unavailable):
        await core.registrar.keep_alive([long.id, short.id])


async def test_every_lease_is_held_once_before_it_is_refused(core: Core) -> None:
    _, _, first = await core.registrar.register(wanted("first", 8), 3.0, "")
    _, _, second = await core.registrar.register(wanted("second", 9), 3.0, "")
    fickle(core).away = True
    assert await renewed_after(core, first.id, 0.0) is Outcome.HELD
    assert await renewed_after(core, second.id, 1.01) is Outcome.HELD
    with pytest.raises(Unavailable):
        await renewed_after(core, first.id, 0.0)


async def test_time_a_renewal_took_counts(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, lease = await core.registrar.register(wanted(), 3.0, "")

    async def slow(lease_ids: Sequence[str]) -> list[Renewal]:
        core.timeline.advance(1.01)
        return [Renewal(lease_id, Outcome.HELD, 3.0) for lease_id in lease_ids]

    monkeypatch.setattr(core.store, "keep_alive", slow)
    with pytest.raises(Unavailable):
        await core.registrar.keep_alive([lease.id])


async def test_what_is_remembered_of_held_leases_is_bounded(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registrar, "MAX_HELD", 10)
    fickle(core).away = True
    await core.registrar.keep_alive([f"{number}" for number in range(50)])
    assert len(core.registrar._held_since) == 10
    fickle(core).away = False
    await core.registrar.keep_alive([f"{number}" for number in range(50)])
    assert len(core.registrar._held_since) == 0


async def test_renewal_that_somebody_stopped_waiting_for_was_not_given(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts by how long it was waited for: whoever gives up at once proves nothing against the store."""
    _, revision, _ = await core.registrar.register(wanted(), 15.0, "")
    _, revision, _ = await core.registrar.register(wanted("two", 8), 15.0, "")
    core.timeline.advance(20)

    async def stuck(lease_ids: Sequence[str]) -> list[Renewal]:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    monkeypatch.setattr(core.store, "keep_alive", stuck)
    await give_up_after(core, 0.01)
    core.feed.emit(gone(revision + 1, ONE, cause=Cause.EXPIRED))
    assert core.catalog.get(ONE) is None
    await give_up_after(core, 5.0)
    core.feed.emit(gone(revision + 2, key("two"), cause=Cause.EXPIRED))
    assert key("two") in core.feed.guard


async def give_up_after(core: Core, wait_s: float) -> None:
    asking = asyncio.create_task(core.registrar.keep_alive(["some"]))
    await asyncio.sleep(0)
    core.timeline.advance(wait_s)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_lease_does_not_count_what_only_waits_to_be_removed(core: Core) -> None:
    """Its owner would take it for registered, and find it gone when the wait ends."""
    _, _, lease = await core.registrar.register(wanted(), 15.0, "")
    _, revision, _ = await core.registrar.register(wanted("two", 8), 15.0, lease.id)
    core.feed.emit(gone(revision + 1, ONE, cause=Cause.EXPIRED))
    assert ONE in core.feed.guard
    answer = pb.KeepAliveResponse.FromString(
        await core.service.keep_alive(pb.KeepAliveRequest(lease_ids=[SEAL.close(lease.id, "")]), NOBODY)
    )
    assert [(it.state, it.instances) for it in answer.renewals] == [(pb.Renewal.RENEWED, 1)]


async def test_unknown_lease(core: Core) -> None:
    with pytest.raises(NotFound, match="no such lease: unknown"):
        await core.registrar.register(wanted(), 15.0, "unknown")
    assert core.catalog.get(ONE) is None


async def test_lease_that_ends_in_between(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = await fickle(core).grant(15.0)
    real = fickle(core).keep_alive

    async def renew_and_drop(lease_ids: Sequence[str]) -> list[Renewal]:
        renewals = await real(lease_ids)
        fickle(core)._leases.drop(lease.id)
        return renewals

    monkeypatch.setattr(core.store, "keep_alive", renew_and_drop)
    with pytest.raises(NotFound) as error:
        await core.registrar.register(wanted(), 15.0, lease.id)
    assert error.value.kind == "lease"
    assert lease.id not in str(error.value)
    assert error.value.name == f"{lease.id[:16]}…"


async def test_take_over_ends_the_old_lease_when_it_holds_nothing_more(core: Core) -> None:
    _, _, old = await core.registrar.register(wanted(), 15.0, "")
    _, _, new = await core.registrar.register(wanted(), 15.0, "")
    outcomes = [it.outcome for it in await core.registrar.keep_alive([old.id, new.id])]
    assert outcomes == [Outcome.UNKNOWN, Outcome.RENEWED]


async def test_take_over_leaves_a_lease_that_holds_more(core: Core) -> None:
    _, _, old = await core.registrar.register(wanted(), 15.0, "")
    await core.registrar.register(wanted("two", 8), 15.0, old.id)
    await core.registrar.register(wanted(), 15.0, "")
    (renewal,) = await core.registrar.keep_alive([old.id])
    assert renewal.outcome is Outcome.RENEWED
    assert core.catalog.of_lease(old.id) == (key("two"),)


async def test_generation_that_was_never_given_out_is_refused(core: Core) -> None:
    core.feed.emit(Snapshot("e1", 1, (), FENCE))
    entry, revision, _ = await core.registrar.register(wanted(), 15.0, "")
    assert entry.owner.generation == FENCE + revision
    for claim in (FENCE + revision + 1, 2**53):
        with pytest.raises(InvalidField, match=r"^instance.generation: was never given out"):
            await core.registrar.register(wanted(generation=claim), 15.0, "")
    assert core.catalog.get(ONE) == entry
    assert len(fickle(core)._leases) == 1
    again, _, _ = await core.registrar.register(wanted(generation=FENCE + revision), 15.0, "")
    assert again.owner.generation > entry.owner.generation


async def test_generation_that_another_replica_has_just_given_out_is_waited_for(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    core.feed.emit(Snapshot("e1", 1, (), FENCE))
    told: list[StoreEvent] = []
    fickle(core)._emit = told.append
    entry, _, _ = await core.registrar.register(wanted(), 15.0, "")
    assert core.catalog.get(ONE) is None, "this one's view does not show it yet"
    fickle(core)._emit = core.feed.emit
    monkeypatch.setattr(registrar, "CATCH_UP_S", 60.0)
    task = asyncio.create_task(core.registrar.register(wanted(generation=entry.owner.generation), 15.0, ""))
    await asyncio.sleep(0)
    for event in told:
        core.feed.emit(event)
    again, _, _ = await task
    assert again.owner.generation > entry.owner.generation


async def test_generation_that_the_view_does_not_reach_is_no_mistake(core: Core) -> None:
    core.feed.emit(Snapshot("e1", 1, (), FENCE))
    fickle(core)._emit = lambda event: None
    entry, _, _ = await core.registrar.register(wanted(), 15.0, "")
    with pytest.raises(Unavailable, match="the view lags"):
        await core.registrar.register(wanted(generation=entry.owner.generation), 15.0, "")


async def test_same_owner_keeps_its_generation_whatever_it_does(core: Core) -> None:
    first, _, lease = await core.registrar.register(wanted(), 15.0, "")
    second, _, _ = await core.registrar.register(wanted(port=8), 15.0, lease.id)
    third, _ = await core.registrar.update(wanted(weight=3), ["weight"])
    await core.registrar.deregister(ONE, 0, 5.0)
    last = core.catalog.get(ONE)
    assert last is not None
    assert {it.owner.generation for it in (first, second, third, last)} == {first.owner.generation}


async def test_refused_registration_leaves_no_lease(core: Core) -> None:
    await core.registrar.register(wanted(), 15.0, "")
    await core.registrar.register(wanted(), 15.0, "")
    with pytest.raises(OwnershipLost):
        await core.registrar.register(wanted(generation=1), 15.0, "")
    assert len(fickle(core)._leases) == 1


async def test_cancelled_registration_leaves_no_lease(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    started = asyncio.Event()

    async def stuck(commit: Commit) -> int:
        started.set()
        await asyncio.get_running_loop().create_future()
        return 0

    monkeypatch.setattr(core.store, "commit", stuck)
    task = asyncio.create_task(core.registrar.register(wanted(), 15.0, ""))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(fickle(core)._leases) == 0


async def test_deregister_lets_go_of_what_waits(core: Core) -> None:
    await core.registrar.register(wanted(ttl={"seconds": 15}), 15.0, "")
    core.feed.emit(Away("gone"))
    core.feed.emit(Back())
    core.feed.emit(gone(core.catalog.revision + 1, ONE, cause=Cause.EXPIRED))
    assert ONE in core.feed.guard
    removed, _ = await core.registrar.deregister(ONE, 0, 0.0)
    assert removed == 1
    assert core.catalog.get(ONE) is None


async def test_write_is_answered_from_what_was_written_when_the_view_lags(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Delta] = []
    fickle(core)._emit = told.append  # type: ignore[assignment]
    entry, revision, _ = await core.registrar.register(wanted(), 15.0, "")
    assert core.catalog.get(ONE) is None
    assert (entry.key, entry.parse().revision, entry.parse().create_revision) == (ONE, revision, revision)
    assert entry.owner.generation == core.catalog.fence + revision


async def test_drain_keeps_it_for_its_time_and_then_it_is_gone(core: Core) -> None:
    await core.registrar.register(wanted(), 15.0, "")
    removed, _ = await core.registrar.deregister(ONE, 0, 5.0)
    assert removed == 1
    entry = core.catalog.get(ONE)
    assert entry is not None
    assert entry.parse().status == pb.DRAINING
    now = fickle(core)._clock()
    fickle(core).tick(now + 4.9)
    assert core.catalog.get(ONE) is not None
    fickle(core).tick(now + 5.2)
    assert core.catalog.get(ONE) is None


async def test_keys_of_both(core: Core) -> None:
    _, _, lease = await core.registrar.register(wanted(), 15.0, "")
    await core.registrar.register(wanted("two", 8), 15.0, lease.id)
    removed, revision = await core.registrar.end_lease(lease.id, 0.0)
    assert (removed, list(core.catalog.keys())) == (2, list[Key]())
    assert revision == core.catalog.revision


async def test_lease_of_many_leaves_in_steps_and_what_is_said_of_it_is_short(core: Core) -> None:
    _, _, lease = await core.registrar.register(wanted("x" * 128), 15.0, "")
    for port in range(8, 8 + registrar.MAX_KEYS):
        await core.registrar.register(wanted(f"{port:x>128}", port), 15.0, lease.id)
    before = fickle(core).commits
    fickle(core).conflicts = 1000
    with pytest.raises(Contended) as error:
        await core.registrar.end_lease(lease.id, 0.0)
    assert len(str(error.value)) < 1000
    fickle(core).conflicts, fickle(core).commits = 0, before
    removed, revision = await core.registrar.end_lease(lease.id, 0.0)
    assert (removed, fickle(core).commits - before) == (registrar.MAX_KEYS + 1, 2)
    assert revision == core.catalog.revision
    assert list(core.catalog.keys()) == []
    assert len(fickle(core)._leases) == 0


# ---- the log


def _of(port: int) -> pb.Instance:
    return pb.Instance(namespace="default", service="player", id="one", host="10.0.0.1", port=port)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [it.getMessage() for it in caplog.records if it.levelname == "WARNING"]


async def test_two_that_fight_for_an_id_do_not_fill_the_log(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(300):
        await core.registrar.register(_of(1 + number % 2), 15.0, "")
    found = warnings(caplog)
    assert len(found) == registrar.MOST_LOSSES
    assert found[0].startswith(
        "default/player/one at 10.0.0.1:1 was taken over by default/player/one at 10.0.0.1:2, who"
    )


async def test_a_store_without_room_is_told_of_once(
    core: Core, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_: Commit) -> int:
        raise StoreFull("100 % used")

    monkeypatch.setattr(core.store, "commit", full)
    for _ in range(20):
        with pytest.raises(Unavailable, match="takes no writes"):
            await core.registrar.register(_of(1), 15.0, "")
    assert warnings(caplog) == ["the store takes no writes: 100 % used"]
