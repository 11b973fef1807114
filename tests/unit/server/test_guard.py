"""After an outage of the store, removals that may be its fault wait one TTL; what somebody asked for never waits."""

import math
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog
from registry_server.guard import MAX_STEP, RemovalGuard
from registry_server.illness import PARTS, RETURN_S, whole_s
from registry_server.records import Cause, Key, Snapshot
from tests.support.core import gone, key, loaded, put, record

ONE, TWO = key("one"), key("two")
TTL_S = 15.0
BACK_AT = 1000.0


def some(revision: int = 5, **fields: Any) -> Catalog:
    fields.setdefault("ttl", {"seconds": int(TTL_S)})
    return loaded(*(record(name, revision, **fields) for name in (ONE, TWO)))


def after_outage(catalog: Catalog) -> RemovalGuard:
    guard = RemovalGuard(catalog.get)
    guard.store_away()
    guard.store_back(BACK_AT)
    return guard


def removed(guard: RemovalGuard, now: float, *names: Key, cause: Cause = Cause.EXPIRED) -> set[Key]:
    return {deleted.key for deleted in guard.filter_delta(gone(11, *names, cause=cause), now).deletes}


def kept(guard: RemovalGuard, catalog: Catalog, now: float, *present: Key) -> frozenset[Key]:
    records = tuple(record(name, 4) for name in present)
    return guard.keep(Snapshot("e2", 5, records), list(catalog.keys()), now)


def test_without_an_outage_nothing_waits() -> None:
    guard = RemovalGuard(some().get)
    assert removed(guard, 5.0, ONE) == {ONE}
    assert len(guard) == 0
    assert guard.next_due is None


def test_expired_after_an_outage_waits_one_ttl() -> None:
    guard = after_outage(some())
    assert removed(guard, BACK_AT + 1, ONE) == set()
    assert ONE in guard
    assert guard.next_due == BACK_AT + TTL_S
    assert guard.due(BACK_AT + TTL_S - 0.001) == []
    assert guard.due(BACK_AT + TTL_S) == [ONE]
    assert ONE not in guard


def test_expired_one_ttl_after_the_outage_leaves_at_once() -> None:
    guard = after_outage(some())
    assert removed(guard, BACK_AT + TTL_S, ONE) == {ONE}


@pytest.mark.parametrize(
    ("ttl", "waits_s"),
    [
        ({"seconds": 600}, 600),
        ({"seconds": 6, "nanos": 1}, 7),
        ({"seconds": 2}, RETURN_S),
        (None, 15),
    ],
)
def test_wait_is_one_ttl_in_whole_seconds(ttl: dict[str, int] | None, waits_s: float) -> None:
    """At least the time that owners take who were refused until now."""
    guard = after_outage(some(ttl=ttl))
    removed(guard, BACK_AT, ONE)
    assert guard.next_due == BACK_AT + waits_s


@pytest.mark.parametrize("cause", [Cause.DEREGISTERED, Cause.REPLACED, Cause.DRAINED])
def test_what_was_asked_for_passes(cause: Cause) -> None:
    guard = after_outage(some())
    assert removed(guard, BACK_AT + 1, ONE, cause=cause) == {ONE}


def test_what_was_asked_for_ends_a_wait() -> None:
    guard = after_outage(some())
    removed(guard, BACK_AT + 1, ONE)
    assert removed(guard, BACK_AT + 2, ONE, cause=Cause.DEREGISTERED) == {ONE}
    assert len(guard) == 0


def test_end_of_a_drain_passes() -> None:
    guard = after_outage(some(status=pb.DRAINING, leaves_at={"seconds": 1}))
    assert removed(guard, BACK_AT + 1, ONE) == {ONE}


def test_who_only_calls_itself_draining_is_an_owner_like_any_other() -> None:
    guard = after_outage(some(status=pb.DRAINING))
    assert removed(guard, BACK_AT + 1, ONE) == set()


def test_put_again_ends_the_wait() -> None:
    guard = after_outage(some())
    removed(guard, BACK_AT + 1, ONE, TWO)
    guard.filter_delta(put(12, ONE), BACK_AT + 2)
    assert guard.due(BACK_AT + TTL_S) == [TWO]


def test_put_passes_while_a_removal_of_the_same_change_waits() -> None:
    guard = after_outage(some())
    delta = put(12, key("three"))._replace(deletes=gone(12, ONE, cause=Cause.EXPIRED).deletes)
    filtered = guard.filter_delta(delta, BACK_AT + 1)
    assert (filtered.revision, filtered.puts, filtered.deletes) == (12, delta.puts, ())


# ---- full sets


def test_full_set_that_lacks_the_living_takes_nobody_away() -> None:
    catalog = some()
    guard = after_outage(catalog)
    assert kept(guard, catalog, BACK_AT, TWO) == {ONE}
    assert guard.due(BACK_AT + TTL_S) == [ONE]


def test_full_set_that_has_it_again_ends_the_wait() -> None:
    catalog = some()
    guard = after_outage(catalog)
    kept(guard, catalog, BACK_AT)
    kept(guard, catalog, BACK_AT + 5, ONE)
    assert guard.due(BACK_AT + 5 + TTL_S) == [TWO]


def test_full_set_is_an_illness_whatever_was_before() -> None:
    """A store that tells the full set could not tell what changed: it was compacted, wiped, or put back."""
    catalog = some()
    guard = RemovalGuard(catalog.get)
    assert kept(guard, catalog, BACK_AT) == {ONE, TWO}
    assert guard.next_due == BACK_AT + TTL_S


def test_ill_from_the_first_full_set_on() -> None:
    catalog = some()
    guard = RemovalGuard(catalog.get)
    guard.keep(Snapshot("e1", 10, ()), [], BACK_AT)
    assert removed(guard, BACK_AT + 1, ONE) == set()


# ---- the store is away again


def test_no_wait_ends_while_the_store_is_away() -> None:
    guard = after_outage(some())
    removed(guard, BACK_AT + 0.1, ONE)
    guard.store_away()
    assert guard.next_due is None
    assert guard.due(BACK_AT + 100 * TTL_S) == []
    assert ONE in guard


def test_every_wait_begins_anew_at_each_return() -> None:
    guard = after_outage(some())
    removed(guard, BACK_AT + 0.1, ONE)
    guard.store_away()
    guard.store_back(BACK_AT + 20)
    assert guard.due(BACK_AT + 20 + TTL_S - 0.001) == []
    assert guard.due(BACK_AT + 20 + TTL_S) == [ONE]


@pytest.mark.parametrize("how", ["full set", "ill"])
def test_every_wait_begins_anew_at_each_illness(how: str) -> None:
    catalog = some()
    guard = after_outage(catalog)
    removed(guard, BACK_AT + 1, ONE)
    if how == "ill":
        guard.store_ill(BACK_AT + 10)
    else:
        kept(guard, catalog, BACK_AT + 10, TWO)
    assert guard.due(BACK_AT + 10 + TTL_S - 0.001) == []
    assert guard.due(BACK_AT + 10 + TTL_S) == [ONE]


def test_back_without_having_been_away_is_no_return() -> None:
    guard = after_outage(some())
    guard.store_back(BACK_AT + 10)
    removed(guard, BACK_AT + 11, ONE)
    assert guard.due(BACK_AT + TTL_S) == [ONE]


# ---- a store that is reached and ill


def test_store_that_could_not_renew_was_ill_too() -> None:
    guard = RemovalGuard(some().get)
    guard.store_ill(BACK_AT)
    assert removed(guard, BACK_AT + 1, ONE) == set()


def test_short_silence_matters_to_short_leases_alone() -> None:
    short, long = record(ONE, 5, ttl={"seconds": 2}), record(TWO, 5, ttl={"seconds": 60})
    guard = RemovalGuard(loaded(short, long).get)
    guard.store_ill(BACK_AT, silence_s=1.0)
    assert removed(guard, BACK_AT + 1, ONE, TWO) == {TWO}
    assert guard.due(BACK_AT + 2) == [ONE]


def test_end_of_a_lease_before_its_time_is_an_illness() -> None:
    """Its owner was told that it lives. What ends with it is in doubt as well."""
    guard = RemovalGuard(
        loaded(record(ONE, 5, lease="renewed", ttl={"seconds": 15}), record(TWO, 5, lease="other")).get
    )
    guard.store_renewed("renewed", until=BACK_AT + 10)
    assert removed(guard, BACK_AT, ONE, TWO) == set()
    assert guard.due(BACK_AT + TTL_S) == [ONE, TWO]


def test_end_of_a_lease_when_its_time_is_over_is_none() -> None:
    guard = RemovalGuard(some(lease="renewed").get)
    guard.store_renewed("renewed", until=BACK_AT)
    assert removed(guard, BACK_AT, ONE) == {ONE}


def test_what_is_remembered_of_renewals_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry_server.guard.MAX_PROMISED", 2)
    guard = RemovalGuard(some().get)
    for lease_id in "abac":
        guard.store_renewed(lease_id, until=BACK_AT)
    assert sorted(guard._promised) == ["a", "c"]


# ---- what others ask


def test_released_waits_no_more() -> None:
    guard = after_outage(some())
    removed(guard, BACK_AT + 1, ONE)
    assert guard.release([ONE, TWO]) == [ONE]
    assert guard.due(BACK_AT + 100) == []


def test_lease_is_told_apart_from_what_only_waits() -> None:
    guard = after_outage(some(lease="held"))
    removed(guard, BACK_AT + 1, ONE, TWO)
    assert guard.count_of_lease("held") == 2
    guard.filter_delta(put(12, ONE), BACK_AT + 2)
    assert guard.count_of_lease("held") == 1
    guard.due(BACK_AT + TTL_S)
    assert guard.count_of_lease("held") == 0


# ---- what it costs


class NeverSearched(dict[Any, Any]):
    def __iter__(self) -> Any:
        raise AssertionError("all that waits is searched")

    keys = values = items = __iter__


def test_change_costs_the_same_however_many_wait() -> None:
    """Tens of thousands come back after an outage, and each of them is a change."""
    guard = after_outage(some())
    removed(guard, BACK_AT + 1, ONE)
    guard._waiting = NeverSearched(guard._waiting)
    guard._by_ttl = NeverSearched(guard._by_ttl)
    removed(guard, BACK_AT + 2, TWO)
    guard.store_ill(BACK_AT + 3)
    guard.filter_delta(put(12, ONE, TWO), BACK_AT + 3)
    assert guard.next_due is None


def test_many_leave_in_steps() -> None:
    names = [key(f"{number}") for number in range(2 * MAX_STEP + 1)]
    catalog = loaded(*(record(name, 5, ttl={"seconds": 5 + place % 2}) for place, name in enumerate(names)))
    guard = after_outage(catalog)
    removed(guard, BACK_AT, *names)
    left: list[Key] = []
    for _ in range(3):
        assert guard.next_due is not None
        assert guard.next_due <= BACK_AT + 6
        step = guard.due(BACK_AT + 6)
        assert len(step) <= MAX_STEP
        left += step
    assert sorted(left) == sorted(names)
    assert guard.next_due is None


def test_due_is_found_again_after_the_first_has_left() -> None:
    catalog = loaded(record(ONE, 5, ttl={"seconds": 5}), record(TWO, 5, ttl={"seconds": 9}))
    guard = after_outage(catalog)
    removed(guard, BACK_AT + 1, ONE, TWO)
    assert guard.next_due == BACK_AT + 5
    assert guard.due(BACK_AT + 5) == [ONE]
    assert guard.next_due == BACK_AT + 9
    assert guard.due(BACK_AT + 9) == [TWO]
    assert guard.next_due is None


# ---- all of it, against a model that remembers everything


NAMES = {"a": 2, "b": 3, "c": 15, "d": 60}
SUBSETS = st.sets(st.sampled_from(sorted(NAMES)), max_size=4)


def keys_of(names: Iterable[str]) -> list[Key]:
    return [key(name) for name in sorted(names)]


class GuardMachine(RuleBasedStateMachine):
    """A view kept by the guard, and a model that keeps the whole history and answers by looking through it.

    The model: who ran out or is lacking stays until its time is over that any spell gives it that matters to it,
    looked at whenever somebody may leave, and never while the store is away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.away = False
        self.spells: list[tuple[float, float]] = []
        self.unfelt: list[float] = []  # full sets when nobody was there, who would need time to come back
        self.revision = 10
        self.catalog = loaded(*(record(key(name), 5, ttl={"seconds": ttl_s}) for name, ttl_s in NAMES.items()))
        self.guard = RemovalGuard(self.catalog.get)
        self.stored = set(NAMES)
        self.shown = set(NAMES)

    def end(self, name: str) -> float:
        ttl_s = NAMES[name]
        ends = [at + whole_s(ttl_s, length_s) for at, length_s in self.spells if length_s * PARTS >= ttl_s]
        return max(ends + [at + ttl_s for at in self.unfelt], default=-math.inf)

    def look(self) -> None:
        """Those leave in the model whose time has come; in the view, too."""
        while due := self.guard.due(self.now, limit=1):
            self.catalog.remove(due, Cause.EXPIRED)
        if not self.away:
            self.shown = {name for name in self.shown if name in self.stored or self.now < self.end(name)}

    @rule(by_s=st.sampled_from([0.0, 0.5, 1.0, 1.999, 2.0, 3.0, 14.0, 61.0]))
    def time_passes(self, by_s: float) -> None:
        self.now += by_s
        self.look()

    @rule()
    def goes_away(self) -> None:
        self.away = True
        self.guard.store_away()

    @rule()
    def comes_back(self) -> None:
        if self.away:
            self.spells.append((self.now, math.inf))
        self.away = False
        self.guard.store_back(self.now)
        self.look()

    @precondition(lambda self: not self.away)
    @rule(length_s=st.sampled_from([0.5, 4.0, 16.0, math.inf]))
    def was_ill(self, length_s: float) -> None:
        self.spells.append((self.now, length_s))
        self.guard.store_ill(self.now, length_s)
        self.look()

    @precondition(lambda self: not self.away)
    @rule(names=SUBSETS, cause=st.sampled_from([Cause.EXPIRED, Cause.EXPIRED, Cause.DEREGISTERED]), comes=SUBSETS)
    def changes(self, names: set[str], cause: Cause, comes: set[str]) -> None:
        self.revision += 1
        leaves = names & self.stored - comes
        delta = put(self.revision, *keys_of(comes))._replace(
            puts=tuple(record(key(name), self.revision, ttl={"seconds": NAMES[name]}) for name in sorted(comes)),
            deletes=gone(self.revision, *keys_of(leaves), cause=cause).deletes,
        )
        self.catalog.apply(self.guard.filter_delta(delta, self.now))
        self.stored = self.stored - leaves | comes
        self.shown |= comes
        if cause is not Cause.EXPIRED:
            self.shown -= leaves
        self.look()

    @rule(names=SUBSETS)
    def tells_the_full_set(self, names: set[str]) -> None:
        self.revision += 1
        self.away = False
        if self.shown:
            self.spells.append((self.now, math.inf))
        self.unfelt.append(self.now)
        records = tuple(record(key(name), self.revision, ttl={"seconds": NAMES[name]}) for name in sorted(names))
        snapshot = Snapshot("e1", self.revision, records)
        self.catalog.load(snapshot, self.guard.keep(snapshot, list(self.catalog.keys()), self.now))
        self.stored = set(names)
        self.shown |= names
        self.look()

    @rule(names=SUBSETS)
    def somebody_asks_for_the_end(self, names: set[str]) -> None:
        self.catalog.remove(self.guard.release(keys_of(names)), Cause.DEREGISTERED)
        self.shown -= names - self.stored

    @invariant()
    def view_is_the_model(self) -> None:
        assert set(map(attrgetter("id"), self.catalog.keys())) == self.shown
        assert {it.id for it in map(key, NAMES) if it in self.guard} == self.shown - self.stored
        assert len(self.guard) == len(self.shown - self.stored)

    @invariant()
    def nobody_waits_for_ever_and_nobody_is_looked_for_too_late(self) -> None:
        due = self.guard.next_due
        assert (due is None) == (self.away or not len(self.guard))
        ends = [self.end(name) for name in self.shown - self.stored]
        assert due is None or due <= min(ends)


TestGuard = GuardMachine.TestCase
TestGuard.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
