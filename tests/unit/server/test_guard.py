"""After an outage of the store, removals that may be its fault wait one TTL; what somebody asked for never waits."""

from typing import Any

import pytest

from protos.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog
from registry_server.guard import RemovalGuard
from registry_server.stores.base import Cause, Key, Snapshot
from tests.support.core import gone, key, loaded, put, record

ONE, TWO = key("one"), key("two")
TTL_S = 15.0
BACK_AT = 1000.0


def some(revision: int = 5, **fields: Any) -> Catalog:
    fields.setdefault("ttl", {"seconds": int(TTL_S)})
    return loaded(*(record(name, revision, **fields) for name in (ONE, TWO)))


def after_outage(catalog: Catalog, **options: float) -> RemovalGuard:
    guard = RemovalGuard(catalog.get, **options)
    guard.store_away()
    guard.store_back(BACK_AT)
    return guard


def removed(guard: RemovalGuard, now: float, *names: Key, cause: Cause = Cause.EXPIRED) -> set[Key]:
    return {deleted.key for deleted in guard.filter_delta(gone(11, *names, cause=cause), now).deletes}


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


def test_nobody_waits_longer_than_a_minute() -> None:
    guard = after_outage(some(ttl={"seconds": 3600}))
    removed(guard, BACK_AT, ONE)
    assert guard.next_due == BACK_AT + 60.0


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
    guard = after_outage(some(status=pb.DRAINING))
    assert removed(guard, BACK_AT + 1, ONE) == {ONE}


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


def test_full_set_that_lacks_the_living_takes_nobody_away() -> None:
    catalog = some()
    guard = after_outage(catalog)
    kept = guard.keep(Snapshot("e2", 1, (record(TWO, 1),)), list(catalog.keys()), BACK_AT)
    assert kept == {ONE}
    assert guard.due(BACK_AT + TTL_S) == [ONE]


def test_full_set_that_has_it_again_ends_the_wait() -> None:
    catalog = some()
    guard = after_outage(catalog)
    guard.keep(Snapshot("e2", 1, ()), list(catalog.keys()), BACK_AT)
    guard.keep(Snapshot("e2", 5, (record(ONE, 4),)), list(catalog.keys()), BACK_AT + 5)
    assert guard.due(BACK_AT + TTL_S) == [TWO]


def test_second_full_set_that_lacks_it_makes_nobody_wait_longer() -> None:
    catalog = some()
    guard = after_outage(catalog)
    for now in (BACK_AT, BACK_AT + 10):
        assert guard.keep(Snapshot("e2", 1, ()), list(catalog.keys()), now) == {ONE, TWO}
    assert guard.next_due == BACK_AT + TTL_S


def test_full_set_without_an_outage_is_believed() -> None:
    catalog = some()
    assert RemovalGuard(catalog.get).keep(Snapshot("e1", 20, ()), list(catalog.keys()), 5.0) == frozenset()


def test_store_that_is_told_back_twice_was_ill_until_the_first() -> None:
    guard = after_outage(some())
    guard.store_back(BACK_AT + 10)
    removed(guard, BACK_AT + 11, ONE)
    assert guard.next_due == BACK_AT + TTL_S


def test_second_outage_counts_anew() -> None:
    guard = after_outage(some())
    guard.store_away()
    guard.store_back(BACK_AT + 100)
    assert removed(guard, BACK_AT + 101, ONE) == set()
    assert guard.next_due == BACK_AT + 100 + TTL_S


def test_store_that_could_not_renew_was_ill_too() -> None:
    guard = RemovalGuard(some().get)
    guard.store_ill(BACK_AT)
    assert removed(guard, BACK_AT + 1, ONE) == set()


def test_released_waits_no_more() -> None:
    guard = after_outage(some())
    removed(guard, BACK_AT + 1, ONE)
    assert guard.release([ONE, TWO]) == [ONE]
    assert guard.due(BACK_AT + 100) == []


class NeverSearched(dict[Key, float]):
    def __iter__(self) -> Any:
        raise AssertionError("all that waits is searched")

    keys = values = items = __iter__


def test_change_costs_the_same_however_many_wait() -> None:
    """Tens of thousands come back after an outage, and each of them is a change."""
    guard = after_outage(some())
    removed(guard, BACK_AT + 1, ONE)
    guard._held = NeverSearched(guard._held)
    removed(guard, BACK_AT + 2, TWO)
    assert guard.next_due == BACK_AT + TTL_S
    guard.filter_delta(put(12, ONE, TWO), BACK_AT + 3)
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
