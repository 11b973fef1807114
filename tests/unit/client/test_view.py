"""A watch folded into a view: steps, parts, checksums, epochs, and age."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from registry_api.registry.v1 import registry_pb2 as pb
from registry_client.instance import Cause, Instance, Key
from registry_client.steps import Asked, WatchLimits
from registry_client.view import (
    KEEP_AT_LEAST_S,
    KEEP_AT_MOST_S,
    LAG_AT_MOST_S,
    SILENCE_S,
    Changes,
    Folded,
    View,
    ViewFold,
    checksum_of,
)

TTL_S = 15.0


def player(name: str, revision: int = 1, *, port: int = 0, weight: int = 1, ttl_s: float = TTL_S) -> pb.Instance:
    """An instance as the server sends it; its port follows from its name unless it is given."""
    message = pb.Instance(
        namespace="default", service="player", id=name, host="10.0.0.5", port=port or 8000 + sum(name.encode())
    )
    message.revision, message.weight = revision, weight
    message.ttl.FromNanoseconds(int(ttl_s * 1e9))
    return message


def step(
    after: Iterable[pb.Instance],
    *,
    upserts: Iterable[pb.Instance] = (),
    removed: Iterable[str] = (),
    cause: pb.Departure.Cause = pb.Departure.CAUSE_UNSPECIFIED,
    reset: bool = False,
    epoch: str = "e1",
    revision: int = 1,
    token: str = "t",
) -> pb.WatchResponse:
    """A response that leads to the set `after`."""
    response = pb.WatchResponse(reset=reset, upserts=upserts, resume_token=token)
    response.removed.extend(
        pb.Departure(namespace="default", service="player", id=name, cause=cause) for name in removed
    )
    response.header.epoch, response.header.revision = epoch, revision
    response.checksum = sum(checksum_of(Instance.from_proto(it)) for it in after) % (1 << 64)
    return response


def full(*instances: pb.Instance, epoch: str = "e1", revision: int = 1, token: str = "t") -> pb.WatchResponse:
    return step(instances, upserts=instances, reset=True, epoch=epoch, revision=revision, token=token)


def following(*instances: pb.Instance, now: float = 0.0) -> ViewFold:
    """A fold that has the instances, at revision 1 of epoch e1."""
    fold = ViewFold()
    fold.on_connect()
    assert fold.on_response(full(*instances), now) is not Folded.REFUSED
    fold.take(now)
    return fold


def reconnect(fold: ViewFold, response: pb.WatchResponse, now: float) -> Folded:
    fold.on_disconnect(now)
    fold.on_connect()
    return fold.on_response(response, now)


def ids(view: View) -> list[str]:
    return [instance.id for instance in view.instances]


# ---- steps


def test_checksum_is_what_the_proto_says() -> None:
    # printf 'default/player/a@7' | sha256sum | cut -c 1-16
    assert checksum_of(Instance.from_proto(player("a", 7))) == 0xAAF2935635E1F053


def test_a_full_set_is_shown_with_everything_added() -> None:
    fold = ViewFold()
    fold.on_connect()
    assert fold.on_response(full(player("b"), player("a"), revision=7), 0.0) is Folded.CHANGED
    view = fold.take(0.0)
    assert ids(view) == ["a", "b"]
    assert [instance.id for instance in view.changes.added] == ["a", "b"]
    assert (view.epoch, view.revision, view.stale_for) == ("e1", 7, None)


def test_differences_are_folded_in() -> None:
    a, b, c = player("a"), player("b"), player("c", 2)
    fold = following(a, b)
    changed = player("a", 2, weight=9)
    assert fold.on_response(step([changed, c], upserts=[changed, c], removed=["b"], revision=2), 1.0) is Folded.CHANGED
    view = fold.take(1.0)
    assert ids(view) == ["a", "c"]
    assert [it.id for it in view.changes.added] == ["c"]
    assert [(it.id, it.weight) for it in view.changes.updated] == [("a", 9)]
    assert [it.id for it in view.changes.removed] == ["b"]


def test_a_bookmark_proves_and_changes_nothing() -> None:
    fold = following(player("a"))
    bookmark = step([player("a")], revision=5, token="t5")
    bookmark.bookmark = True
    assert fold.on_response(bookmark, 4.0) is Folded.PROVEN
    view = fold.take(4.0)
    assert (view.revision, bool(view.changes), fold.token) == (5, False, "t5")


def test_changes_cover_what_a_slow_reader_skipped() -> None:
    fold = following(player("a"))
    fold.on_response(step([player("a"), player("b", 2)], upserts=[player("b", 2)], revision=2), 1.0)
    fold.on_response(step([player("b", 2)], removed=["a"], revision=3), 2.0)
    fold.on_response(step([], removed=["b"], revision=4), 3.0)
    changes = fold.take(3.0).changes
    assert [it.id for it in changes.removed] == ["a"]  # b came and went unseen
    assert not changes.added


def test_who_left_says_why() -> None:
    a, b = player("a"), player("b")
    fold = following(a, b)
    fold.on_response(step([b], removed=["a"], cause=pb.Departure.DRAINED, revision=2), 1.0)
    fold.on_response(step([a, b], upserts=[a], revision=3), 2.0)
    fold.on_response(step([a], removed=["b"], cause=pb.Departure.REPLACED, revision=4), 3.0)
    fold.on_response(step([], removed=["a"], cause=pb.Departure.EXPIRED, revision=5), 4.0)
    assert [(it.id, it.cause) for it in fold.take(4.0).changes.removed] == [("a", "EXPIRED"), ("b", "REPLACED")]
    fold.on_response(step([b], upserts=[b], revision=6), 5.0)
    assert fold.take(5.0).changes.removed == ()
    assert (fold._causes, fold._told_causes) == ({}, {})


def test_who_is_not_there_after_a_full_set_left_for_no_reason_that_is_told() -> None:
    fold = following(player("a"), player("b"))
    fold.on_response(step([player("b")], removed=["a"], cause=pb.Departure.EXPIRED, revision=2), 1.0)
    reconnect(fold, full(player("a"), revision=3), 2.0)
    assert [(it.id, it.cause) for it in fold.take(2.0).changes.removed] == [("b", "UNSPECIFIED")]


@pytest.mark.parametrize("number", [99, -1])
def test_a_cause_of_a_newer_registry_is_none(number: int) -> None:
    fold = following(player("a"))
    fold.on_response(step([], removed=["a"], cause=number, revision=2), 1.0)  # type: ignore[arg-type]
    assert [it.cause for it in fold.take(1.0).changes.removed] == [Cause.UNSPECIFIED]


def test_what_changed_and_changed_back_is_no_change() -> None:
    fold = following(player("a", 1))
    fold.on_response(step([], removed=["a"], revision=2), 1.0)
    fold.on_response(step([player("a", 1)], upserts=[player("a", 1)], revision=3), 2.0)
    assert fold.take(2.0).changes == Changes()


def test_views_are_not_changed_by_what_follows() -> None:
    fold = following(player("a"))
    before = fold.peek(0.0)
    fold.on_response(step([], removed=["a"], revision=2), 1.0)
    assert ids(before) == ["a"]
    assert ids(fold.peek(1.0)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda view: view.by_key.clear(),
        lambda view: view.by_key.update(x=1),
        lambda view: setattr(view, "instances", ()),
        lambda view: setattr(view, "revision", 9),
        lambda view: view.instances[0].metadata.update(map="dust"),
        lambda view: view.changes.added[0].metadata.clear(),
        lambda view: view.endpoints[0].instance.metadata.pop("map"),
        lambda view: setattr(view.instances[0], "weight", 0),
        lambda view: setattr(view.endpoints[0], "address", ""),
        lambda view: view.instances[0].tags.append("x"),
        lambda view: view.unconfirmed.add("x"),
    ],
)
def test_a_view_is_immutable_through_and_through(change: Callable[[Any], object]) -> None:
    """What one reader does to its view must not reach another one, nor what is saved, nor a channel."""
    message = player("a")
    message.metadata["map"] = "arena"
    fold = ViewFold()
    fold.on_connect()
    fold.on_response(full(message), 0.0)
    view = fold.take(0.0)
    with pytest.raises((TypeError, AttributeError)):
        change(view)
    for one in (view, fold.peek(0.0)):
        assert [(it.id, it.weight, dict(it.metadata)) for it in one.instances] == [("a", 1, {"map": "arena"})]


def test_endpoints_are_those_that_get_traffic() -> None:
    draining, weightless, ill = player("b"), player("c", weight=0), player("d")
    draining.status, ill.health = pb.DRAINING, pb.CRITICAL
    view = following(player("a", port=8001), draining, weightless, ill).peek(0.0)
    assert [endpoint.address for endpoint in view.endpoints] == ["10.0.0.5:8001"]
    assert len(view.instances) == 4


# ---- parts


def test_parts_are_shown_together() -> None:
    fold = following(player("a"))
    first = step([], upserts=[player("b", 2)], revision=2, token="")
    first.more = True
    assert fold.on_response(first, 1.0) is Folded.PART
    assert ids(fold.peek(1.0)) == ["a"]
    last = step([player("b", 2), player("c", 2)], upserts=[player("c", 2)], removed=["a"], revision=2)
    assert fold.on_response(last, 1.0) is Folded.CHANGED
    assert ids(fold.take(1.0)) == ["b", "c"]


def test_parts_of_a_broken_stream_are_forgotten() -> None:
    fold = following(player("a"))
    part = full(player("x", 2), revision=2, token="")
    part.more = True
    fold.on_response(part, 1.0)
    bookmark = step([player("a")], revision=2)
    assert reconnect(fold, bookmark, 2.0) is Folded.PROVEN
    assert ids(fold.peek(2.0)) == ["a"]


# ---- checksums and tokens


def test_a_wrong_checksum_drops_the_token_and_shows_what_was_shown() -> None:
    fold = following(player("a"), player("b"))
    missed = step([player("b"), player("c", 3)], upserts=[player("c", 3)], revision=3)
    assert fold.on_response(missed, 1.0) is Folded.REFUSED
    assert fold.token == ""
    assert ids(fold.peek(1.0)) == ["a", "b"]
    assert reconnect(fold, full(player("b"), player("c", 3), revision=3), 2.0) is Folded.CHANGED
    changes = fold.take(2.0).changes
    assert ([it.id for it in changes.added], [it.id for it in changes.removed]) == (["c"], ["a"])


def test_a_difference_without_a_set_to_fold_it_onto_is_refused() -> None:
    fold = ViewFold()
    fold.on_connect()
    assert fold.on_response(step([player("a")], upserts=[player("a")]), 0.0) is Folded.REFUSED
    assert not fold.has_view


def test_a_difference_of_another_epoch_is_refused() -> None:
    fold = following(player("a"))
    assert reconnect(fold, step([player("a")], epoch="e2", revision=9), 1.0) is Folded.REFUSED
    assert ids(fold.peek(1.0)) == ["a"]


def test_a_stream_resumes_with_the_token() -> None:
    fold = following(player("a"))
    assert fold.token == "t"
    resumed = step([player("a"), player("b", 2)], upserts=[player("b", 2)], revision=2, token="t2")
    assert reconnect(fold, resumed, 1.0) is Folded.CHANGED
    assert fold.token == "t2"


# ---- replicas


def test_a_replica_that_lags_does_not_turn_back_time() -> None:
    fold = following(player("a"))
    fold.on_response(step([player("a"), player("b", 9)], upserts=[player("b", 9)], revision=9), 1.0)
    fold.take(1.0)
    assert reconnect(fold, full(player("a"), revision=5), 2.0) is Folded.PROVEN
    assert ids(fold.peek(2.0)) == ["a", "b"]
    assert not fold.is_settled
    news = [player("b", 9), player("c", 10)]
    caught_up = step([player("a"), *news], upserts=news, revision=10)
    assert fold.on_response(caught_up, 3.0) is Folded.CHANGED
    changes = fold.take(3.0).changes
    assert [it.id for it in changes.added] == ["c"]
    assert not changes.removed


def test_what_the_lagging_replica_never_had_is_removed_when_it_has_caught_up() -> None:
    fold = following(player("a"))
    fold.on_response(step([player("a"), player("b", 9)], upserts=[player("b", 9)], revision=9), 1.0)
    reconnect(fold, full(player("a"), revision=5), 2.0)
    bookmark = step([player("a")], revision=11)  # b was registered and removed between 5 and 11
    assert fold.on_response(bookmark, 3.0) is Folded.CHANGED
    assert ids(fold.take(3.0)) == ["a"]


def test_a_replica_that_stays_behind_is_believed_in_the_end() -> None:
    fold = following(player("a"))
    fold.on_response(step([player("a"), player("b", 9)], upserts=[player("b", 9)], revision=9), 0.0)
    reconnect(fold, full(player("a"), revision=5), 1.0)
    bookmark = step([player("a")], revision=5)
    assert fold.on_response(bookmark, LAG_AT_MOST_S) is Folded.PROVEN
    assert fold.on_response(bookmark, LAG_AT_MOST_S + 1.0) is Folded.CHANGED
    assert ids(fold.peek(99.0)) == ["a"]


# ---- epochs


def test_a_new_epoch_is_not_a_removal() -> None:
    """StaleBeatsEmpty: the registry came back without its memory."""
    fold = following(player("a"), player("b"))
    assert reconnect(fold, full(epoch="e2", revision=1), 10.0) is Folded.CHANGED
    view = fold.peek(10.0)
    assert ids(view) == ["a", "b"]
    assert view.unconfirmed == {Key("default", "player", "a"), Key("default", "player", "b")}
    assert (view.epoch, view.stale_for) == ("e2", None)


def test_who_registers_again_is_confirmed_and_who_does_not_goes_after_its_ttl() -> None:
    fold = following(player("a"), player("b"))
    reconnect(fold, full(epoch="e2", revision=1), 10.0)
    back = player("a", 2)
    assert fold.on_response(step([back], upserts=[back], epoch="e2", revision=2), 11.0) is Folded.CHANGED
    assert fold.peek(11.0).unconfirmed == {Key("default", "player", "b")}
    assert fold.next_due() == pytest.approx(10.0 + TTL_S)
    assert not fold.is_due(10.0 + TTL_S - 0.1)
    assert fold.is_due(10.0 + TTL_S)
    assert ids(fold.peek(25.0)) == ["a", "b"]
    assert reconnect(fold, step([back], epoch="e2", revision=2), 25.0) is Folded.CHANGED
    assert ids(fold.take(25.0)) == ["a"]
    assert fold.is_settled


def test_time_alone_removes_nobody() -> None:
    """What says that the owner is back may wait unread, after a standstill of this process above all."""
    fold = following(player("a"), player("b"))
    reconnect(fold, full(epoch="e2", revision=1), 10.0)
    assert fold.is_due(500.0)
    fold.on_response(step([], epoch="e2", revision=1), 500.0)  # a bookmark from before
    assert ids(fold.peek(500.0)) == ["a", "b"]
    back = player("a", 2)
    fold.on_response(step([back], upserts=[back], epoch="e2", revision=2), 500.0)
    assert ids(fold.peek(500.0)) == ["a", "b"]
    reconnect(fold, step([back], epoch="e2", revision=2), 500.0)
    assert ids(fold.peek(500.0)) == ["a"]


def test_those_whose_time_was_not_over_when_it_was_asked_stay() -> None:
    fold = following(player("a", ttl_s=10.0), player("b", ttl_s=11.0))
    reconnect(fold, full(epoch="e2"), 0.0)
    assert fold.is_due(10.5)
    fold.on_disconnect(10.5)
    fold.on_connect()
    assert fold.on_response(full(epoch="e2"), 12.0) is Folded.CHANGED
    assert ids(fold.peek(12.0)) == ["b"]


def test_an_answer_of_a_server_that_has_lost_its_store_lets_go_of_nobody() -> None:
    """Nobody can register with it, so that is no time in which to come back."""
    fold = following(player("a"))
    old = full(epoch="e2")
    old.header.stale_for.FromNanoseconds(10**9)
    reconnect(fold, old, 0.0)
    assert not fold.is_due(500.0)
    reconnect(fold, old, 500.0)
    assert ids(fold.peek(500.0)) == ["a"]
    reconnect(fold, full(epoch="e2"), 500.0)
    assert fold.next_due() == pytest.approx(500.0 + TTL_S)


def test_a_ttl_too_short_to_come_back_in_is_taken_as_one_that_is_not() -> None:
    fold = following(player("a", ttl_s=0.0), player("b", ttl_s=-5.0))
    reconnect(fold, full(epoch="e2"), 0.0)
    assert fold.next_due() == KEEP_AT_LEAST_S


def test_to_be_confirmed_is_a_change_even_if_nothing_else_is() -> None:
    """In the new order an instance may well have the revision that it had in the old one."""
    fold = following(player("a"))
    reconnect(fold, full(epoch="e2", revision=0), 10.0)
    assert fold.on_response(step([player("a")], upserts=[player("a")], epoch="e2"), 11.0) is Folded.CHANGED
    view = fold.take(11.0)
    assert not view.unconfirmed
    assert not view.changes


def test_nobody_is_kept_longer_than_a_minute() -> None:
    fold = following(player("a", ttl_s=3600.0))
    reconnect(fold, full(epoch="e2"), 0.0)
    assert fold.is_due(KEEP_AT_MOST_S)
    reconnect(fold, full(epoch="e2"), KEEP_AT_MOST_S)
    assert ids(fold.peek(KEEP_AT_MOST_S)) == []


def test_time_without_the_registry_does_not_count_against_the_kept() -> None:
    fold = following(player("a"))
    reconnect(fold, full(epoch="e2"), 0.0)
    fold.on_disconnect(5.0)
    fold.on_away()
    assert not fold.is_due(500.0)
    fold.on_connect()
    fold.on_response(full(epoch="e2"), 500.0)
    assert fold.next_due() == pytest.approx(500.0 + TTL_S - 5.0)


def test_an_address_registered_under_a_new_id_replaces_the_kept_one() -> None:
    fold = following(player("a", port=8001))
    reconnect(fold, full(epoch="e2"), 0.0)
    reborn = player("z", 2, port=8001)
    fold.on_response(step([reborn], upserts=[reborn], epoch="e2", revision=2), 1.0)
    assert ids(fold.peek(1.0)) == ["z"]


def test_an_address_in_the_first_set_of_the_new_epoch_replaces_the_kept_one_too() -> None:
    fold = following(player("a", port=8001), player("b"))
    assert reconnect(fold, full(player("z", 2, port=8001), epoch="e2", revision=2), 1.0) is Folded.CHANGED
    assert ids(fold.peek(1.0)) == ["b", "z"]


def test_a_removal_in_the_new_epoch_is_a_removal() -> None:
    fold = following(player("a"))
    reconnect(fold, full(epoch="e2"), 0.0)
    back = player("a", 2)
    fold.on_response(step([back], upserts=[back], epoch="e2", revision=2), 1.0)
    assert fold.on_response(step([], removed=["a"], epoch="e2", revision=3), 2.0) is Folded.CHANGED
    assert ids(fold.peek(2.0)) == []


def test_two_restarts_in_a_row_lose_nobody() -> None:
    fold = following(player("a"), player("b"))
    reconnect(fold, full(epoch="e2"), 0.0)
    back = player("a", 2)
    fold.on_response(step([back], upserts=[back], epoch="e2", revision=2), 1.0)
    reconnect(fold, full(epoch="e3"), 5.0)
    assert ids(fold.peek(5.0)) == ["a", "b"]
    assert not fold.is_due(5.0 + TTL_S - 0.1)


def test_an_empty_set_of_the_same_epoch_is_believed_at_once() -> None:
    fold = following(player("a"))
    assert reconnect(fold, full(revision=2), 1.0) is Folded.CHANGED
    assert ids(fold.peek(1.0)) == []


# ---- age


def test_nothing_is_stale_while_bookmarks_come() -> None:
    fold = following(player("a"))
    assert fold.stale_for(SILENCE_S) is None
    assert fold.stale_for(SILENCE_S + 1.0) == SILENCE_S + 1.0


def test_a_short_break_makes_nothing_stale_but_a_registry_out_of_reach_does() -> None:
    fold = following(player("a"), now=10.0)
    fold.on_disconnect(11.0)
    assert fold.stale_for(11.0) is None
    fold.on_away()
    assert fold.stale_for(13.0) == 3.0
    reconnect(fold, step([player("a")], revision=2), 14.0)
    assert fold.stale_for(14.0) is None


def test_the_age_of_the_servers_own_view_counts() -> None:
    fold = following(player("a"))
    old = step([player("a")], revision=1)
    old.header.stale_for.FromNanoseconds(7_000_000_000)
    fold.on_response(old, 100.0)
    assert fold.stale_for(101.0) == 8.0
    fold.on_response(step([player("a")], revision=1), 102.0)
    assert fold.stale_for(102.0) is None


def test_a_restored_view_has_its_age_and_yields_to_the_registry() -> None:
    """StaleBeatsEmpty: a cold start."""
    saved = following(player("a"), player("b")).peek(0.0)
    fold = ViewFold()
    assert not fold.has_view
    fold.restore(saved, "t", age_s=30.0, now=1000.0)
    view = fold.peek(1001.0)
    assert (ids(view), view.stale_for) == (["a", "b"], 31.0)
    fold.on_connect()
    assert fold.on_response(step([player("b")], removed=["a"], revision=2), 1002.0) is Folded.CHANGED
    assert ids(fold.peek(1002.0)) == ["b"]


def test_a_restored_view_that_was_given_out_outlives_a_registry_without_memory() -> None:
    saved = following(player("a")).peek(0.0)
    fold = ViewFold()
    fold.restore(saved, "t", age_s=30.0, now=0.0)
    assert ids(fold.take(0.0)) == ["a"]
    fold.on_connect()
    fold.on_response(full(epoch="e2"), 1.0)
    assert ids(fold.peek(1.0)) == ["a"]
    assert fold.is_due(1.0 + TTL_S)


def test_a_restored_view_that_nobody_saw_yields_to_whoever_answers() -> None:
    """Else a registry made anew on a familiar address would begin with the ghosts of another one."""
    saved = following(player("a")).peek(0.0)
    fold = ViewFold()
    fold.restore(saved, "t", age_s=3.0, now=0.0)
    fold.on_connect()
    assert fold.on_response(full(player("b"), epoch="e2"), 1.0) is Folded.CHANGED
    view = fold.take(1.0)
    assert ids(view) == ["b"]
    assert not view.unconfirmed
    assert ([it.id for it in view.changes.added], view.changes.removed) == (["b"], ())


def test_the_age_includes_the_time_in_which_this_process_stood_still() -> None:
    """Its deadlines do not: the clock of the fold stands still as well."""
    fold = following(player("a"), now=10.0)
    fold.on_standstill(60.0)
    assert fold.stale_for(11.0) is None
    assert fold.stale_for(10.0 + SILENCE_S + 1.0) == SILENCE_S + 1.0 + 60.0
    reconnect(fold, step([player("a")]), 30.0)
    fold.on_away()
    assert fold.stale_for(31.0) == 1.0


# ---- what is not taken


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epoch": ""}, "epoch"),
        ({"epoch": "e" * 100_000}, "epoch"),
        ({"revision": -1}, "revision"),
        ({"token": "t" * 1_000_000}, "resume_token"),
    ],
)
def test_answers_that_make_no_sense_are_refused(changes: dict[str, Any], reason: str) -> None:
    fold = following(player("a"))
    assert reconnect(fold, full(player("b"), **changes), 1.0) is Folded.REFUSED
    assert reason in fold.reason
    assert ids(fold.peek(1.0)) == ["a"]
    assert fold.token == ""
    assert reconnect(fold, full(player("b")), 2.0) is Folded.CHANGED


@pytest.mark.parametrize("other", [{"namespace": "prod"}, {"service": "chat"}, {"service": ""}])
def test_an_answer_to_another_question_is_refused(other: dict[str, str]) -> None:
    fold = ViewFold(Asked("default", frozenset({"player", "match"})))
    stray = player("x")
    for name, value in other.items():
        setattr(stray, name, value)
    fold.on_connect()
    assert fold.on_response(full(player("a"), stray), 0.0) is Folded.REFUSED
    assert "another question" in fold.reason
    assert not fold.has_view


def test_a_question_for_a_whole_namespace_takes_every_service_of_it() -> None:
    fold = ViewFold(Asked("default"))
    fold.on_connect()
    other = player("x")
    other.service = "chat"
    assert fold.on_response(full(player("a"), other), 0.0) is Folded.CHANGED


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(WatchLimits(size=1000), "bytes"), (WatchLimits(instances=20), "instances"), (WatchLimits(parts=3), "parts")],
)
def test_a_set_without_end_is_refused(limits: WatchLimits, reason: str) -> None:
    """By its first parts: it need not come to an end for that, and nothing of it is held after."""
    fold = ViewFold(limits=limits)
    fold.on_connect()
    for number in range(100):
        part = full(*(player(f"{number}-{i}") for i in range(2)))
        part.more, part.reset = True, number == 0
        if fold.on_response(part, 0.0) is Folded.REFUSED:
            break
    assert reason in fold.reason
    assert number < 20
    assert not fold.is_in_step


@pytest.mark.parametrize("limits", [WatchLimits(size=1000), WatchLimits(instances=20)])
def test_a_set_that_grows_without_end_is_refused(limits: WatchLimits) -> None:
    """Each step for itself is small."""
    fold = ViewFold(limits=limits)
    fold.on_connect()
    there: list[pb.Instance] = []
    for number in range(100):
        there.append(player(f"{number}"))
        if fold.on_response(step(there, upserts=there[-1:], reset=number == 0), 0.0) is Folded.REFUSED:
            break
    assert 5 < number < 25
    assert len(fold.peek(0.0).by_key) == number


def test_epochs_without_end_pile_nothing_up() -> None:
    fold = ViewFold(limits=WatchLimits(instances=20))
    fold.on_connect()
    for number in range(100):
        fold.on_response(full(*(player(f"{number}-{i}") for i in range(20)), epoch=f"e{number}"), 0.0)
        fold.take(0.0)
    assert len(fold.peek(0.0).by_key) <= 60


def test_parts_of_different_epochs_are_no_step() -> None:
    fold = ViewFold()
    fold.on_connect()
    first = full(player("a"))
    first.more = True
    fold.on_response(first, 0.0)
    assert fold.on_response(step([player("a")], epoch="e2"), 0.0) is Folded.REFUSED
    again = full(player("b"), epoch="e2")
    fold.on_response(first, 0.0)
    assert fold.on_response(again, 0.0) is Folded.REFUSED  # it begins anew in the middle


@pytest.mark.parametrize("wrong", [{"host": ""}, {"port": 70_000}, {"id": ""}])
def test_instances_that_nobody_can_call_are_left_out(wrong: dict[str, Any]) -> None:
    """And harm neither the others nor the checksum, which counts what was sent."""
    broken = player("x")
    for name, value in wrong.items():
        setattr(broken, name, value)
    fold = following(player("a"), broken)
    assert ids(fold.peek(0.0)) == ["a"]
    assert len(fold.useless) == 1
    mended = player("x", 2)
    removed = [broken.id]
    assert (
        fold.on_response(
            step([player("a"), mended], upserts=[mended], removed=removed if broken.id != "x" else []), 1.0
        )
        is Folded.CHANGED
    )
    assert ids(fold.peek(1.0)) == ["a", "x"]
    assert not fold.useless


def test_what_nobody_reads_is_held_once() -> None:
    """State, not a log: ids that come and go while a reader is stuck leave nothing behind."""
    fold = following(player("a"))
    for revision in range(2, 1000, 2):
        name = f"p{revision}"
        fold.on_response(step([player("a"), player(name)], upserts=[player(name)], revision=revision), 0.0)
        fold.on_response(step([player("a")], removed=[name], revision=revision + 1), 0.0)
    assert not fold._touched
    assert not fold.take(0.0).changes


# ---- any history


class Server:
    """A registry and its watch, by the .proto: sets, steps cut into parts, restarts, resumes."""

    def __init__(self) -> None:
        self.epoch, self.revision = 1, 0
        self.now: dict[str, pb.Instance] = {}
        self.sent: dict[str, pb.Instance] = {}

    def write(self, name: str) -> None:
        self.revision += 1
        if name in self.now and self.revision % 3 == 0:
            del self.now[name]
        else:
            self.now[name] = player(name, self.revision)

    def restart(self) -> None:
        self.epoch, self.revision, self.now, self.sent = self.epoch + 1, 0, {}, {}

    @property
    def token(self) -> str:
        return f"{self.epoch}-{self.revision}"

    def next_step(self, parts: int, *, reset: bool) -> list[pb.WatchResponse]:
        before = {} if reset else self.sent
        upserts = [it for name, it in self.now.items() if before.get(name) != it]
        removed = [name for name in before if name not in self.now]
        self.sent = dict(self.now)
        whole = step(self.now.values(), epoch=str(self.epoch), revision=self.revision, token=self.token)
        return list(self._cut(whole, upserts, removed, parts, reset))

    def _cut(
        self, whole: pb.WatchResponse, upserts: list[pb.Instance], removed: list[str], parts: int, reset: bool
    ) -> Iterable[pb.WatchResponse]:
        for index in range(parts):
            response = pb.WatchResponse()
            if index == parts - 1:
                response.CopyFrom(whole)
            response.header.CopyFrom(whole.header)
            response.more = index < parts - 1
            response.reset = reset and index == 0
            response.upserts.extend(upserts[index::parts])
            keys = (pb.Departure(namespace="default", service="player", id=name) for name in removed[index::parts])
            response.removed.extend(keys)
            yield response


class AnyHistory(RuleBasedStateMachine):
    """Whatever is lost, cut or restarted: the view ends up right, changes add up to it, and nothing empties it."""

    def __init__(self) -> None:
        super().__init__()
        self.server, self.fold, self.now = Server(), ViewFold(), 0.0
        self.seen: dict[Key, Instance] = {}
        self.lost = False
        self.connect(resume=False)
        self.read()

    def connect(self, *, resume: bool) -> None:
        self.lost = False
        self.fold.on_disconnect(self.now)
        resumes = resume and self.fold.token == self.server.token
        self.fold.on_connect()
        for response in self.server.next_step(2, reset=not resumes):
            assert self.fold.on_response(response, self.now) is not Folded.REFUSED

    @rule(name=st.sampled_from("abcdef"))
    def write(self, name: str) -> None:
        self.server.write(name)

    @rule(parts=st.integers(1, 4), loses_first=st.booleans())
    def send(self, parts: int, loses_first: bool) -> None:
        self.lost |= loses_first
        for response in self.server.next_step(parts, reset=False)[1 if loses_first else 0 :]:
            if self.fold.on_response(response, self.now) is Folded.REFUSED:
                assert self.lost
                self.connect(resume=False)
                return

    @rule(resume=st.booleans())
    def reconnect(self, resume: bool) -> None:
        self.connect(resume=resume)

    @rule()
    def restart(self) -> None:
        shown = self.fold.peek(self.now).by_key.keys()
        self.server.restart()
        self.connect(resume=True)
        assert self.fold.peek(self.now).by_key.keys() == shown

    @rule(seconds=st.sampled_from([0.5, 5.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.fold.is_due(self.now):
            before = self.fold.peek(self.now).by_key.keys()
            self.connect(resume=True)
            gone = before - self.fold.peek(self.now).by_key.keys()
            assert not {key.id for key in gone} & self.server.now.keys()

    @rule()
    def read(self) -> None:
        view = self.fold.take(self.now)
        for instance in (*view.changes.added, *view.changes.updated):
            self.seen[instance.key] = instance
        for instance in view.changes.removed:
            del self.seen[instance.key]
        assert self.seen == view.by_key

    def teardown(self) -> None:
        self.connect(resume=False)
        self.now += KEEP_AT_MOST_S
        self.fold.is_due(self.now)
        self.connect(resume=True)
        self.read()
        expected = {name: it.revision for name, it in self.server.now.items()}
        assert {key.id: instance.revision for key, instance in self.seen.items()} == expected


AnyHistory.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestAnyHistory = AnyHistory.TestCase
