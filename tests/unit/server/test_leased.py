"""Leases as a layer: several replicas on one backend, each with a clock of its own and a way there that may fail."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from registry_server.illness import Pulse
from registry_server.records import (
    Away,
    Back,
    Cause,
    Commit,
    Delete,
    Deleted,
    Delta,
    Ill,
    Key,
    Outcome,
    Progress,
    Put,
    Record,
    Renewal,
    Snapshot,
)
from registry_server.stores import pace
from registry_server.stores.backend import Changed, Everything
from registry_server.stores.base import Refused, StoreAway, StoreError
from registry_server.stores.leased import Leased
from registry_server.stores.leased import store as leased
from registry_server.stores.leased.layout import lease_name
from registry_server.stores.mirror.backend import MirrorBackend, Write
from registry_server.testing import Running, running
from tests.support.backend import DictBackend, Link
from tests.support.waiting import eventually_async

TTL_S = 10.0


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Replica:
    """One of several servers' stores."""

    link: Link
    clock: Clock
    run: Running

    @property
    def store(self) -> Leased:
        assert isinstance(self.run.store, Leased)
        return self.run.store

    @property
    def view(self) -> dict[Key, Record]:
        return self.run.seen.view

    async def holding(self, *keys: Key, ttl_s: float = TTL_S) -> str:
        """A lease that holds them."""
        lease = await self.store.grant(ttl_s)
        await self.run.commit(Commit(puts=tuple(Put(key, b"value", lease.id, 0) for key in keys)))
        return lease.id

    async def renew(self, lease_id: str) -> Outcome:
        [renewal] = await self.store.keep_alive([lease_id])
        return renewal.outcome

    async def told(self) -> None:
        """It was told everything."""
        assert await self.store.is_told(self.link.shared.revision, 5)

    async def at(self, now: float) -> None:
        """Look for leases to end at that time."""
        self.clock.now = now
        await self.store.tick()
        await self.told()


@dataclass
class Fleet:
    """Replicas that share a backend. A clock for each: they say different times."""

    stack: contextlib.AsyncExitStack
    shared: Any = field(default_factory=DictBackend)

    async def add(self, offset_s: float = 0.0, wall_s: float = 1.7e9, **link: Any) -> Replica:
        way, clock = Link(self.shared, **link), Clock(1000.0 + offset_s)
        store = Leased(way, clock, lambda: wall_s)
        return Replica(way, clock, await self.stack.enter_async_context(running(store)))


@pytest.fixture
async def fleet(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    # A clock that jumps looks like a process that was stopped; here it is not.
    monkeypatch.setattr(leased, "Pulse", partial(Pulse, late_s=float("inf")))
    async with contextlib.AsyncExitStack() as stack:
        yield Fleet(stack)


def key(name: str = "one") -> Key:
    return Key("default", "player", name)


# ---- whose clock counts


async def test_a_renewal_by_one_replica_counts_for_all(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    lease = await one.holding(key())
    await two.at(1009)
    one.clock.now = 1009
    assert await one.renew(lease) is Outcome.RENEWED
    await two.told()
    await two.at(1019)
    await one.at(1019)
    assert key() in one.view
    await two.at(1019.1)
    await one.told()
    assert one.view == two.view == {}
    assert one.run.deleted == two.run.deleted == [Deleted(key(), Cause.EXPIRED)]
    assert await one.renew(lease) is Outcome.UNKNOWN


@pytest.mark.parametrize("offset_s", [-1e6, 1e6])
async def test_no_clock_is_compared_with_another(offset_s: float, fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add(offset_s)
    await one.holding(key())
    await two.told()
    for now in (1009.9, 1010.0):
        await one.at(now)
        await two.at(now + offset_s)
        assert key() in one.view
    await two.at(1010.1 + offset_s)
    await one.told()
    assert one.view == {}


async def test_who_comes_later_gives_a_lease_its_whole_time(fleet: Fleet) -> None:
    one = await fleet.add()
    await one.holding(key())
    late = await fleet.add(offset_s=8)
    await late.at(1018)
    assert key() in late.view
    await late.at(1018.1)
    assert late.view == {}


async def test_a_renewal_that_was_not_told_yet_wins(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    lease = await one.holding(key())
    await two.told()
    two.link.hears.clear()
    one.clock.now = two.clock.now = 1009
    assert await one.renew(lease) is Outcome.RENEWED
    two.clock.now = 1011
    await two.store.tick()
    assert {lease_name(lease): None, "instances/default/player/one": None} in two.link.transactions
    two.link.hears.set()
    await two.told()
    await two.at(1021)
    assert key() in one.view
    await two.at(1021.1)
    assert two.view == {}


async def test_a_renewal_that_is_under_way_wins(fleet: Fleet) -> None:
    one = await fleet.add()
    lease = await one.holding(key())
    one.clock.now = 1010.5
    one.link.answers.clear()
    renewing = asyncio.create_task(one.renew(lease))
    await one.run.seen.stays(lambda: True, 0.01)
    await one.store.tick()
    one.link.answers.set()
    assert await renewing is Outcome.RENEWED
    await one.told()
    await one.at(1020.5)
    assert key() in one.view


# ---- time that does not count


async def test_a_standstill_of_its_own_does_not_count(fleet: Fleet) -> None:
    one = await fleet.add()
    lease = await one.holding(key())
    one.clock.now = 1060
    await one.store.tick(50.0)
    assert await one.renew(lease) is Outcome.RENEWED
    await one.told()
    await one.at(1070)
    assert key() in one.view
    await one.at(1070.1)
    assert one.view == {}


@pytest.mark.parametrize("is_noticed", [True, False])
async def test_a_clock_that_went_on_without_it_shows_a_standstill(
    is_noticed: bool, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_noticed:
        monkeypatch.setattr(leased, "Pulse", Pulse)
    one = await fleet.add()
    await one.holding(key())
    one.clock.now += 60
    if is_noticed:
        await one.run.seen.stays(lambda: key() in one.view, 3 * leased.TICK_S)
    else:
        await one.run.seen.wait(lambda: key() not in one.view, "the end of the lease")


async def test_while_the_backend_is_silent_nothing_ends_and_then_it_is_told(fleet: Fleet) -> None:
    one = await fleet.add()
    lease = await one.holding(key())
    await one.holding(key("other"))
    one.clock.now = 1009
    one.link.answers.clear()
    renewing = asyncio.create_task(one.renew(lease))
    await one.run.seen.stays(lambda: True, 0.01)
    one.clock.now = 1011
    await one.store.tick()
    one.link.answers.set()
    assert await renewing is Outcome.RENEWED
    assert [ill.silence_s for ill in one.run.seen.of(Ill)] == [2.0]
    await one.told()
    await one.at(1021)
    assert set(one.view) == {key(), key("other")}
    await one.at(1021.1)
    assert one.view == {}


async def test_silence_is_told_before_what_others_ended_meanwhile(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    lease = await one.holding(key())
    await two.told()
    one.link.answers.clear()
    renewing = asyncio.create_task(one.renew(lease))
    await one.run.seen.stays(lambda: True, 0.01)
    one.clock.now = 1010.5
    await two.at(1010.5)
    await one.told()
    kinds = [type(event) for event in one.run.seen.events if not isinstance(event, Progress)]
    assert kinds[-2:] == [Ill, Delta]
    one.link.answers.set()
    assert await renewing is Outcome.UNKNOWN


async def test_failed_writes_are_a_silence_until_one_is_answered(fleet: Fleet) -> None:
    one = await fleet.add()
    lease = await one.holding(key())
    one.clock.now = 1008
    one.link.refuses = True
    with pytest.raises(StoreAway):
        await one.store.commit(Commit())
    one.clock.now = 1012
    await one.store.tick()
    one.link.refuses = False
    assert await one.renew(lease) is Outcome.RENEWED
    assert [ill.silence_s for ill in one.run.seen.of(Ill)] == [4.0]


async def test_a_store_that_denies_what_it_allowed_before_is_away(fleet: Fleet) -> None:
    """A token that is revoked while servers run: who writes health or rules expects an outage, and nothing else."""
    one = await fleet.add()
    lease = await one.holding(key())
    one.link.denies = True
    for writing in (
        one.store.commit(Commit()),
        one.store.commit(Commit((Put(key("more"), b"value", lease, 0),))),
        one.store.grant(TTL_S),
    ):
        with pytest.raises(StoreAway, match="may not write"):
            await writing
    one.link.denies = False
    await one.run.commit(Commit((Put(key("more"), b"value", lease, 0),)))
    assert one.view.keys() == {key(), key("more")}


async def test_what_could_not_be_ended_is_tried_again(fleet: Fleet) -> None:
    one = await fleet.add()
    await one.holding(key())
    one.link.refuses = True
    one.clock.now = 1010.1
    await one.store.tick()
    one.link.refuses = False
    await one.run.commit(Commit())
    await one.at(1010.2)
    assert one.view == {}


async def test_what_could_not_be_renewed_is_tried_again(fleet: Fleet) -> None:
    one = await fleet.add()
    lease = await one.holding(key())
    one.link.refuses = True
    renewing = asyncio.create_task(one.renew(lease))
    await one.run.seen.stays(lambda: True, 0.01)
    one.link.refuses = False
    assert await renewing is Outcome.RENEWED


# ---- outages


async def test_after_an_outage_the_difference_is_told_and_leases_have_their_time(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    await one.holding(key("kept"))
    await one.holding(key("asked"), key("changed"))
    await one.holding(key("dead"), ttl_s=2)
    await two.told()
    one.link.cut()
    await one.run.seen.wait(lambda: one.run.seen.is_away, "away")
    await two.at(1003)
    await two.run.put(key("changed"), two.view[key("changed")].lease_id, b"new")
    await two.run.delete(key("asked"))
    before, one.clock.now = len(one.run.seen.events), 1030
    one.link.mend()
    await one.run.seen.wait(lambda: not one.run.seen.is_away, "back")
    await one.told()
    assert [type(event) for event in one.run.seen.events[before:]][:3] == [Back, Delta, Delta]
    assert one.view == two.view
    causes = {left.key: left.cause for left in one.run.deleted}
    assert causes == {key("dead"): Cause.EXPIRED, key("asked"): Cause.DEREGISTERED}
    await one.at(1040)
    assert key("kept") in one.view
    await one.at(1040.1)
    assert one.view == {}


async def test_very_much_that_changed_is_told_in_turns(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each revision whole, and in between everybody else does something."""
    monkeypatch.setattr(leased, "TOLD_AT_ONCE", 3)
    one, two = await fleet.add(), await fleet.add()
    await one.holding(key("other"))
    one.link.cut()
    await one.run.seen.wait(lambda: one.run.seen.is_away, "away")
    for number in range(6):
        await two.holding(key(f"{number}a"), key(f"{number}b"))
    one.link.mend()
    await one.run.seen.wait(lambda: not one.run.seen.is_away, "back")
    seen = [len(one.view)]
    while len(one.view) < 13:
        await asyncio.sleep(0)
        seen.append(len(one.view))
    assert list(dict.fromkeys(seen)) == [5, 9, 13]
    await one.told()
    assert one.view == two.view


async def test_a_telling_that_ends_in_between_leaves_nothing_untold(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the view has taken in is no difference any more when the store is back."""
    monkeypatch.setattr(leased, "TOLD_AT_ONCE", 1)
    one, two = await fleet.add(), await fleet.add()
    one.link.hears.clear()
    for number in range(6):
        await two.holding(key(f"{number}"))
    change = one.store._view.difference(Everything(two.link.shared.revision, tuple(two.link.shared.items.values())))
    telling = asyncio.create_task(one.store._take(change))
    await asyncio.sleep(0)
    assert len(one.view) == 1
    telling.cancel()
    await asyncio.wait([telling])
    assert telling.cancelled()
    assert one.view == two.view
    one.link.hears.set()
    await one.told()
    assert one.view == two.view


async def test_a_short_outage_gives_back_no_more_than_it_took(fleet: Fleet) -> None:
    one = await fleet.add()
    await one.holding(key())
    one.clock.now = 1009
    await one.run.commit(Commit())
    one.link.cut()
    await one.run.seen.wait(lambda: one.run.seen.is_away, "away")
    one.clock.now = 1009.2
    one.link.mend()
    await one.run.seen.wait(lambda: not one.run.seen.is_away, "back")
    await one.at(1010.1)
    assert key() in one.view
    await one.at(1010.3)
    assert one.view == {}


async def test_a_change_that_is_told_twice_is_one(fleet: Fleet) -> None:
    one = await fleet.add()
    await one.holding(key("a"))
    [changes] = fleet.shared.watchers
    told = Changed(fleet.shared.revision, deletes=("instances/default/player/a",))
    changes.put_nowait(told)
    await one.holding(key("b"))
    assert set(one.view) == {key("a"), key("b")}


async def test_while_it_is_away(fleet: Fleet) -> None:
    one = await fleet.add()
    lease = await one.holding(key())
    one.link.cut()
    await one.run.seen.wait(lambda: one.run.seen.is_away, "away")
    unknown, nonsense = f"{'0' * 32}-15000", "no lease"
    assert await one.store.keep_alive([lease, unknown, nonsense]) == [
        Renewal(lease, Outcome.HELD, TTL_S),
        Renewal(unknown, Outcome.HELD, None),
        Renewal(nonsense, Outcome.UNKNOWN, None),
    ]
    for write in (one.store.commit(Commit()), one.store.grant(5), one.store.release(lease)):
        with pytest.raises(StoreAway):
            await write
    one.clock.now = 1100
    await one.store.tick()
    assert key() in one.view
    assert one.run.seen.of(Away)[0].reason == "the link is cut"


@pytest.mark.parametrize(("what", "reason"), [("hears", "was not told of"), ("answers", "no answer in time")])
async def test_a_link_that_says_nothing_is_an_outage(
    what: str, reason: str, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "USUAL_TTL_S", 0.6)
    monkeypatch.setattr(leased, "ANSWER_S", 0.3)
    one = await fleet.add()
    await one.holding(key(), ttl_s=0.6)
    way: asyncio.Event = getattr(one.link, what)
    way.clear()
    one.clock.now += 0.5
    await one.run.seen.wait(lambda: one.run.seen.is_away, "away", 3)
    assert reason in one.run.seen.of(Away)[0].reason
    way.set()
    await one.run.seen.wait(lambda: not one.run.seen.is_away, "back")


async def test_a_write_that_is_not_answered_fails_in_time(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await fleet.add()
    monkeypatch.setattr(leased, "ANSWER_S", 0.05)
    one.link.answers.clear()
    with pytest.raises(StoreAway):
        await one.store.grant(5)
    one.link.answers.set()


async def test_it_is_waited_for_at_the_start(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    link = Link(fleet.shared)
    link.is_cut = True
    seen = Running(Leased(link))
    starting = asyncio.create_task(seen.start())
    try:
        await eventually_async(lambda: caplog.records)
        link.mend()
        await starting
        await seen.stop()
    finally:
        await seen.cancel()
    assert "is not there yet, and is tried for on: the link is cut" in caplog.text


async def test_what_no_retry_can_mend_ends_the_start(fleet: Fleet) -> None:
    class Refusing(Link):
        async def watch(self) -> Any:
            raise StoreError("the password is wrong")
            yield

    with pytest.raises(StoreError, match="the password is wrong"):
        async with running(Leased(Refusing(fleet.shared))):
            pass


@pytest.mark.parametrize("of_a_mirror", [False, True])
async def test_a_backend_whose_code_raises_is_shown_once_however_often_it_is_tried(
    of_a_mirror: bool, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[None] = []

    class Raising(Link):
        async def watch(self) -> Any:
            tried.append(None)
            raise ZeroDivisionError
            yield

    link: Any = Raising(fleet.shared)
    store = Leased(MirrorBackend({"a": link, "b": Link(fleet.shared)}, Write.QUORUM) if of_a_mirror else link)
    telling = asyncio.create_task(store.run(lambda event: None))
    try:
        await eventually_async(lambda: len(tried) > 3)
    finally:
        telling.cancel()
        await asyncio.wait([telling])
    assert caplog.text.count("could not be taken in") == 1
    assert caplog.text.count("Traceback") == 1


# ---- a backend that lost its memory


@pytest.mark.parametrize("revision", [1, 10_000])
async def test_an_emptied_backend_is_a_new_epoch(revision: int, fleet: Fleet) -> None:
    one = await fleet.add(wall_s=0.0)
    await one.holding(key())
    first = one.run.seen.of(Snapshot)[0]
    given_out = first.fence + one.run.seen.revision
    fleet.shared.items.clear()
    fleet.shared.revision = revision
    one.link.cut()
    await one.run.seen.wait(lambda: one.run.seen.is_away, "away")
    one.link.mend()
    await one.run.seen.wait(lambda: not one.run.seen.is_away, "back")
    last = one.run.seen.of(Snapshot)[-1]
    assert last.epoch != first.epoch
    assert last.fence + last.revision > given_out
    assert one.view == {}
    lease = await one.store.grant(TTL_S)
    await one.store.release(lease.id)
    assert await one.renew(lease.id) is Outcome.UNKNOWN


async def test_a_backend_that_was_set_back_is_a_new_epoch(fleet: Fleet) -> None:
    one = await fleet.add(wall_s=0.0)
    backup, at = dict(fleet.shared.items), fleet.shared.revision
    first = one.run.seen.of(Snapshot)[0]
    await one.holding(key())
    given_out = first.fence + one.run.seen.revision
    fleet.shared.items, fleet.shared.revision = backup, at
    one.link.cut()
    await one.run.seen.wait(lambda: one.run.seen.is_away, "away")
    one.link.mend()
    await one.run.seen.wait(lambda: not one.run.seen.is_away, "back")
    last = one.run.seen.of(Snapshot)[-1]
    assert last.epoch != first.epoch
    assert last.fence > given_out


async def test_a_backend_that_was_set_back_has_all_owners_register_again(fleet: Fleet) -> None:
    """A lease that was restored would keep who has left since, and its owner would not learn who is missing."""
    one = await fleet.add()
    lease_id = await one.holding(key())
    backup, at = dict(fleet.shared.items), fleet.shared.revision
    await one.holding(key("later"))
    fleet.shared.items, fleet.shared.revision = backup, at
    one.link.cut()
    await one.run.seen.wait(lambda: one.run.seen.is_away, "away")
    one.link.mend()
    await one.run.seen.wait(lambda: len(one.run.seen.of(Snapshot)) == 2, "a new full set")
    await one.run.seen.wait(lambda: not one.run.seen.is_away, "back")
    assert await one.renew(lease_id) is Outcome.UNKNOWN
    await one.run.seen.wait(lambda: not one.view, "what nobody holds has ended")
    anew = await one.holding(key())
    assert await one.renew(anew) is Outcome.RENEWED


async def test_an_epoch_that_somebody_removed_begins_anew(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    await one.holding(key())
    await fleet.shared.transact([], {"epoch": None})
    for replica in (one, two):
        await replica.run.seen.wait(lambda seen=replica.run.seen: len(seen.of(Snapshot)) == 2, "a new full set")
        assert key() in replica.view
        assert replica.run.seen.of(Away) == []
    assert one.run.seen.epoch == two.run.seen.epoch != one.run.seen.of(Snapshot)[0].epoch


# ---- large ones, and what others write


async def test_a_large_lease_ends_in_steps(fleet: Fleet) -> None:
    one = await fleet.add(most=8)
    lease = (await one.store.grant(TTL_S)).id
    for number in range(20):
        await one.run.put(key(f"{number}"), lease)
    while one.view:
        await one.at(1010.1)
    deltas = [len(delta.deletes) for delta in one.run.seen.of(Delta) if delta.deletes]
    assert (max(deltas), sum(deltas)) == (8, 20)
    assert {left.cause for left in one.run.deleted} == {Cause.EXPIRED}


async def test_what_a_server_that_died_left_of_a_lease_another_ends(fleet: Fleet) -> None:
    one = await fleet.add(most=8)
    lease = await one.holding(key("one"), key("two"))
    lasting = await one.holding(key("other"))
    await fleet.shared.transact([], {lease_name(lease): None})
    await one.told()
    await one.at(1000.1)
    assert set(one.view) == {key("other")}
    late = await fleet.add()
    assert set(late.view) == {key("other")}
    assert await late.renew(lasting) is Outcome.RENEWED


async def test_records_under_a_lease_that_is_gone_are_ended_by_whoever_starts(fleet: Fleet) -> None:
    async with running(Leased(Link(fleet.shared))) as first:
        lease = await first.store.grant(TTL_S)
        await first.put(key(), lease.id)
    await fleet.shared.transact([], {lease_name(lease.id): None})
    one = await fleet.add()
    await one.at(1000.1)
    assert one.run.deleted == [Deleted(key(), Cause.EXPIRED)]


async def test_many_that_are_due_end_together(fleet: Fleet) -> None:
    one = await fleet.add()
    for number in range(150):
        await one.holding(key(f"{number}"))
    before = len(one.link.transactions)
    await one.at(1010.1)
    assert one.view == {}
    assert len(one.link.transactions) - before <= 3


async def test_one_that_was_renewed_does_not_keep_others_that_are_due(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    renewed = await one.holding(key("renewed"))
    await one.holding(key("due"))
    await two.told()
    two.link.hears.clear()
    await one.renew(renewed)
    two.clock.now = 1010.1
    await two.store.tick()
    two.link.hears.set()
    await two.told()
    assert set(two.view) == {key("renewed")}


async def test_a_write_that_is_too_large_is_refused(fleet: Fleet) -> None:
    one = await fleet.add(most=8)
    lease = (await one.store.grant(TTL_S)).id
    puts = [Put(key(f"{number}"), b"", lease, 0) for number in range(7)]
    with pytest.raises(Refused):
        await one.store.commit(Commit(puts=tuple(puts)))
    await one.run.commit(Commit(puts=tuple(puts[:6])))


async def test_what_others_write_harms_nobody(fleet: Fleet) -> None:
    one = await fleet.add()
    await one.holding(key())
    foreign = ["instances/a", "other", "leases/x", "leases/", "", "instances/n//i", "settings/no-kind/n/s/i", "left"]
    revision = await fleet.shared.transact(
        [], {**dict.fromkeys(foreign, b"\xff\n\xfe"), "instances/n/s/i": b"no lease", "instances/n/s/j": b"x\ny"}
    )
    await one.told()
    puts = one.run.seen.at(revision).puts
    assert {(record.key.id, record.value, record.lease_id) for record in puts} == {
        ("i", b"no lease", ""),
        ("j", b"x\ny", ""),
    }
    await fleet.shared.transact([], dict.fromkeys([*foreign, "instances/n/s/i", "instances/n/s/j"]))
    await one.told()
    assert set(one.view) == {key()}


async def test_what_others_write_is_there_for_whoever_starts(fleet: Fleet) -> None:
    await fleet.shared.transact([], {"epoch": b"nonsense", "leases/x": b"", "instances/n/s/i": b"no lease"})
    one = await fleet.add()
    assert [(record.value, record.lease_id) for record in one.view.values()] == [(b"no lease", "")]


# ---- what writes wait for, and what they cost


async def test_renewals_that_come_together_are_one_transaction(fleet: Fleet) -> None:
    one = await fleet.add()
    leases = [(await one.store.grant(TTL_S)).id for _ in range(100)]
    one.link.answers.clear()
    renewing = [asyncio.create_task(one.renew(lease)) for lease in leases]
    await one.run.seen.stays(lambda: True, 0.01)
    before = len(one.link.transactions)
    one.link.answers.set()
    assert {await renewal for renewal in renewing} == {Outcome.RENEWED}
    assert len(one.link.transactions) - before <= 1


async def test_one_that_is_gone_keeps_no_other_from_being_renewed(fleet: Fleet) -> None:
    one = await fleet.add()
    leases = [(await one.store.grant(TTL_S)).id for _ in range(3)]
    await fleet.shared.transact([], {lease_name(leases[1]): None})
    renewals = await one.store.keep_alive(leases)
    assert [renewal.outcome for renewal in renewals] == [Outcome.RENEWED, Outcome.UNKNOWN, Outcome.RENEWED]


async def test_a_lease_that_another_replica_granted_is_renewed_before_it_is_told(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    two.link.hears.clear()
    lease = (await one.store.grant(TTL_S)).id
    assert await two.renew(lease) is Outcome.RENEWED
    two.link.hears.set()


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_grant_that_nobody_waits_for_leaves_no_lease(
    is_there: bool, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, asked = await fleet.add(), asyncio.Event()
    transact = one.link.transact

    async def unanswered(checks: Any, writes: Any) -> int:
        if is_there:
            await transact(checks, writes)
        monkeypatch.setattr(one.link, "transact", transact)
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody comes here")

    monkeypatch.setattr(one.link, "transact", unanswered)
    before = set(one.link.shared.items)
    granting = asyncio.create_task(one.store.grant(3600.0))
    await asked.wait()
    granting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await granting
    assert set(one.link.shared.items) == before


async def test_release_sees_what_was_just_written(fleet: Fleet) -> None:
    one = await fleet.add()
    lease = (await one.store.grant(TTL_S)).id
    await one.told()
    one.link.hears.clear()
    await one.store.commit(Commit(puts=(Put(key(), b"", lease, 0),)))
    releasing = asyncio.create_task(one.store.release(lease))
    await one.run.seen.stays(lambda: not releasing.done(), 0.05)
    one.link.hears.set()
    await releasing
    assert await one.renew(lease) is Outcome.RENEWED


async def test_release_of_one_that_is_renewed_elsewhere_leaves_it(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    lease = (await one.store.grant(TTL_S)).id
    await one.told()
    one.link.hears.clear()
    assert await two.renew(lease) is Outcome.RENEWED
    await one.store.release(lease)
    one.link.hears.set()
    assert await two.renew(lease) is Outcome.RENEWED


async def test_a_commit_checks_what_the_backend_has_and_not_what_was_told(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    await one.holding(key())
    await two.told()
    revision = two.view[key()].revision
    two.link.hears.clear()
    await one.run.delete(key())
    with pytest.raises(StoreError):
        await two.store.commit(Commit(deletes=(Delete(key(), revision),)))
    two.link.hears.set()


async def test_a_backend_that_says_nothing_of_what_failed_is_away(fleet: Fleet) -> None:
    one = await fleet.add()
    lease = await one.holding(key(), ttl_s=0.6)
    one.link.fails_without_names = True
    with pytest.raises(StoreAway):
        await one.store.commit(Commit(deletes=(Delete(key(), one.view[key()].revision),)))
    assert await one.renew(lease) is Outcome.HELD
    one.link.fails_without_names = False
