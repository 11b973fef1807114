"""Leases of the embedded stores: they end when their time has passed, not before, and cost no more than they must."""

import time

from hypothesis import example, given
from hypothesis import strategies as st

from registry_server.illness import PARTS, RETURN_S, whole_s
from registry_server.records import Cause, Commit, Delta, Outcome, Put, StoreEvent
from registry_server.stores.leases import LeaseTable
from registry_server.stores.memory import MemoryStore
from registry_server.testing import running
from tests.support.core import drive, key


def test_no_early_expiry() -> None:
    table = LeaseTable()
    table.grant("a", 15, 100)
    assert table.expire(114.999) == []
    assert table.expire(115) == []
    assert "a" in table


def test_expiry_within_one_tick() -> None:
    table = LeaseTable()
    table.grant("a", 15, 100)
    assert table.expire(115.000001) == ["a"]


def test_renew_wins_ties() -> None:
    table = LeaseTable()
    table.grant("a", 15, 100)
    assert table.renew("a", 115) == 15
    assert table.expire(115.1) == []
    assert table.expire(130) == []
    assert table.expire(130.1) == ["a"]


def test_renewal_never_shortens_the_wait_for_the_next_look() -> None:
    table = LeaseTable()
    table.grant("a", 15, 100)
    table.grant("b", 5, 100)
    assert not table.may_be_due(105)
    assert table.may_be_due(105.1)
    table.renew("b", 104)
    assert table.expire(105.5) == []
    assert not table.may_be_due(105.5)
    assert table.may_be_due(109.1)


def test_a_lease_that_is_gone_is_not_renewed() -> None:
    table = LeaseTable()
    table.grant("a", 15, 100)
    table.drop("a")
    assert table.renew("a", 101) is None
    assert len(table) == 0
    assert table.expire(1000) == []


def test_leases_end_in_the_order_of_their_deadlines_also_after_renewals() -> None:
    table = LeaseTable()
    for name, ttl_s in (("a", 10), ("b", 20), ("c", 30)):
        table.grant(name, ttl_s, 0)
    table.renew("a", 9)  # now due at 19
    table.renew("b", 15)  # now due at 35
    assert table.expire(100) == ["a", "c", "b"]


def test_time_in_which_nobody_could_renew_does_not_count() -> None:
    table = LeaseTable()
    table.grant("a", 15, 100)
    table.grant("b", 20, 100)
    table.stood_still(1.5, 110)
    assert table.expire(116.5) == []
    assert table.expire(116.6) == ["a"]
    table.drop("a")
    assert table.expire(121.5) == []
    assert table.expire(121.6) == ["b"]


def test_long_standstill_gives_the_whole_time_again() -> None:
    """The connections of the owners did not outlive it, and it takes them time to come back."""
    table = LeaseTable()
    table.grant("a", 15, 100)
    table.grant("b", 60, 100)
    table.stood_still(5, 114)
    assert table.expire(129) == []
    assert table.expire(129.1) == ["a"]
    table.drop("a")
    assert table.expire(165.1) == ["b"]


def test_short_lease_has_time_to_come_back_after_a_long_standstill() -> None:
    table = LeaseTable()
    table.grant("a", 2, 100)
    table.stood_still(60, 160)
    table.renew("a", 160.5)
    assert table.expire(160 + RETURN_S) == []
    assert table.expire(160 + RETURN_S + 0.1) == ["a"]


def test_what_a_long_standstill_gave_a_short_one_does_not_take() -> None:
    table = LeaseTable()
    table.grant("a", 2, 100)
    table.stood_still(60, 160)
    table.stood_still(0.4, 161)
    assert table.expire(160 + RETURN_S) == []
    assert table.expire(160 + RETURN_S + 0.1) == ["a"]


def test_a_lease_that_did_not_end_is_looked_at_again() -> None:
    table = LeaseTable()
    table.grant("a", 15, 100)
    assert table.expire(115.1) == ["a"]
    assert table.expire(115.2) == []
    table.again("a")
    assert table.expire(115.3) == ["a"]
    table.drop("a")
    table.again("a")
    assert not table.may_be_due(1000)


def test_no_lease_gets_more_than_its_whole_time() -> None:
    """It was renewed after the standstill, before anybody looked at the clock."""
    table = LeaseTable()
    table.grant("a", 60, 100)
    table.renew("a", 108)
    table.stood_still(5, 108)
    assert table.expire(168) == []
    assert table.expire(168.1) == ["a"]


def test_what_a_lease_holds() -> None:
    table = LeaseTable()
    table.grant("a", 15, 100)
    table.attach("a", key("one"))
    table.attach("a", key("two"))
    table.detach("a", key("one"))
    table.detach("a", key("three"))
    assert table.keys("a") == (key("two"),)
    table.detach("a", key("two"))
    assert table.keys("a") == ()
    table.attach("a", key("one"))
    table.drop("a")
    assert table.keys("a") == ()


def test_heap_stays_bounded_when_leases_come_and_go() -> None:
    table, most = LeaseTable(), 0
    for number in range(20_000):
        table.grant(f"{number}", 3600, number)
        if number >= 10:
            table.drop(f"{number - 10}")
        most = max(most, len(table._heap))
    assert len(table) == 10
    assert most < 1100


def test_heap_does_not_grow_by_renewals() -> None:
    table = LeaseTable()
    table.grant("a", 15, 0)
    for now in range(10_000):
        table.renew("a", now)
        table.expire(now)
    assert len(table._heap) == 1


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("grds"), st.integers(0, 9)), max_size=60))
@example([("a", "g", 0), ("a", "s", 4), ("a", "s", 1), ("a", "r", 0)])
@example([("d", "g", 0), ("a", "s", 5), ("d", "r", 0)])
@example([("a", "g", 0), ("a", "s", 1), ("a", "s", 0)])
@example([("a", "g", 2), ("a", "s", 9), ("a", "s", 1)])
def test_table_ends_what_a_plain_dict_of_deadlines_ends(steps: list[tuple[str, str, int]]) -> None:
    table, ends, ttls, now = LeaseTable(), dict[str, int](), dict[str, int](), 0
    latest: dict[str, str] = {}
    for place, (letter, step, number) in enumerate(steps):
        now += number % 4
        name = latest.get(letter, "")
        if step == "g":
            name = latest[letter] = f"{letter}{place}"  # no id is given out twice
            table.grant(name, number, now)
            ends[name], ttls[name] = now + number, number
        elif step == "r":
            assert table.renew(name, now) == ttls.get(name)
            if name in ends:
                ends[name] = max(ends[name], now + ttls[name])
        elif step == "d" and name in ends:
            table.drop(name)
            del ends[name], ttls[name]
        elif step == "s":
            table.stood_still(number, now)
            for lease, ttl_s in ttls.items():
                excused = now + int(whole_s(ttl_s, number))
                given = excused if ttl_s <= number * PARTS else min(ends[lease] + number, now + ttl_s)
                ends[lease] = max(given, ends[lease])  # a second standstill takes nothing that the first one gave
        over = table.expire(now)
        assert sorted(over) == sorted(lease for lease, end in ends.items() if end < now)
        for lease in over:
            table.drop(lease)
            del ends[lease], ttls[lease]
        assert table.may_be_due(1000) >= bool(ends)


# ---- the embedded store's tick


class Told:
    """A store on a clock of its own that holds one instance for 15 s from 0, and what it told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[StoreEvent] = []
        self.store = MemoryStore(lambda: self.now)
        self.store._emit = self.events.append
        self.lease = drive(self.store.grant(15.0))
        drive(self.store.commit(Commit((Put(key(), b"", self.lease.id, 0),))))
        self.events.clear()


def test_stopped_process_gives_the_time_again() -> None:
    told = Told()
    told.store.tick(60.0, 50.0)
    assert told.events == []
    told.store.tick(75.0)
    assert told.events == []
    told.store.tick(75.1)
    assert [event.deletes[0].cause for event in told.events if isinstance(event, Delta)] == [Cause.EXPIRED]


async def test_store_that_is_stopped_notices_it_itself() -> None:
    """A callback that blocks the loop is a standstill like any other."""
    store = MemoryStore()
    async with running(store) as run:
        lease = await store.grant(0.6)
        await store.commit(Commit((Put(key(), b"", lease.id, 0),)))
        began = time.monotonic()
        while time.monotonic() < began + 1.2:
            pass
        await run.seen.stays(lambda: key() in run.seen.view, 0.4)
        (renewal,) = await store.keep_alive([lease.id])
        assert renewal.outcome is Outcome.RENEWED


def test_lease_takes_all_it_holds_at_one_revision() -> None:
    told = Told()
    drive(told.store.commit(Commit((Put(key("two"), b"", told.lease.id, 0),))))
    told.events.clear()
    told.store.tick(15.1)
    (delta,) = told.events
    assert isinstance(delta, Delta)
    assert {deleted.key for deleted in delta.deletes} == {key("one"), key("two")}


def test_empty_lease_ends_without_a_word() -> None:
    told = Told()
    drive(told.store.grant(2.0))
    told.store.tick(2.5)
    assert told.events == []
