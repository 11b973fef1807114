"""What keeps a client registered: every state with every input, every sequence, and the rules one by one."""

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from registry_client.backoff import Backoff
from registry_client.instance import Instance, Status
from registry_client.lease import (
    HOLDERS_AT_MOST,
    LONGEST_TTL_S,
    LOOK_UP_EVERY_S,
    PATIENCE_S,
    RENEW_AT_MOST,
    SHORTEST_TTL_S,
    TRANSITIONS,
    Holding,
    Input,
    Lease,
    Leases,
    LookUp,
    Register,
    Renewed,
    State,
)

TTL_S = 15.0
PLAYER = Instance(service="player", host="10.0.0.5", port=8001, namespace="default", id="p1")
TERMINAL = (State.LOST, State.LEFT)


def leases() -> Leases:
    return Leases(Backoff(), random.Random(1))


def registered(core: Leases, instance: Instance = PLAYER, lease_id: str = "L1", now: float = 0.0) -> Holding:
    """A registration that the registry has accepted."""
    holding = core.want(instance, TTL_S, now)
    [action] = core.due(now)
    assert isinstance(action, Register)
    stored = replace(instance, generation=1, revision=1, create_revision=1)
    core.accepted(holding, stored, lease_id, TTL_S, "e1", now)
    return holding


# ---- the table


@pytest.mark.parametrize("event", Input)
@pytest.mark.parametrize("state", State)
def test_every_state_answers_every_input(state: State, event: Input) -> None:
    holding = Holding(PLAYER, Lease(TTL_S), state=state)
    holding.take(event)
    assert holding.state is TRANSITIONS[state][event]


@pytest.mark.parametrize("event", Input)
def test_nothing_brings_back_what_is_lost_or_left(event: Input) -> None:
    assert TRANSITIONS[State.LEFT][event] is State.LEFT
    assert TRANSITIONS[State.LOST][event] is (State.LEFT if event is Input.LEAVE else State.LOST)


@pytest.mark.parametrize("state", State)
def test_only_a_newer_owner_or_an_operator_makes_it_lost(state: State) -> None:
    losing = {event for event in Input if TRANSITIONS[state][event] is State.LOST}
    assert losing == {
        State.LOST: set(Input) - {Input.LEAVE},
        State.LEFT: set(),
    }.get(state, {Input.REFUSED, Input.TAKEN, Input.DISMISSED})


@given(st.lists(st.sampled_from(Input), max_size=30))
def test_any_sequence_ends_where_something_is_to_be_done_or_nothing_can_be(events: list[Input]) -> None:
    """NeverGivesUp: no sequence of answers leaves a registration that is wanted without a next step."""
    core = leases()
    holding = core.want(PLAYER, TTL_S, 0.0)
    for event in events:
        holding.take(event)
    assert (core.wake_at() == float("inf")) == (holding.state in TERMINAL)


# ---- the rules


def test_what_is_wanted_is_registered_at_once() -> None:
    core = leases()
    holding = core.want(PLAYER, TTL_S, 5.0)
    assert core.due(5.0) == [Register(holding, "")]
    assert core.due(5.0) == []  # it is under way


def test_registrations_with_one_ttl_share_one_lease() -> None:
    core = leases()
    first, second = core.want(PLAYER, TTL_S, 0.0), core.want(replace(PLAYER, id="p2"), TTL_S, 0.0)
    assert core.due(0.0) == [Register(first, "")]  # the other waits for the lease
    core.accepted(first, PLAYER, "L1", TTL_S, "e1", 0.1)
    assert core.due(0.1) == [Register(second, "L1")]


def test_registrations_with_different_ttls_do_not() -> None:
    core = leases()
    first, second = core.want(PLAYER, TTL_S, 0.0), core.want(replace(PLAYER, id="p2"), 30.0, 0.0)
    assert core.due(0.0) == [Register(first, ""), Register(second, "")]


def test_the_lease_is_brought_by_another_if_the_first_fails() -> None:
    core = leases()
    first, second = core.want(PLAYER, TTL_S, 0.0), core.want(replace(PLAYER, id="p2"), TTL_S, 0.0)
    core.due(0.0)
    core.failed(first, 0.0)
    assert core.due(0.0) == [Register(second, "")]


def test_the_lease_is_brought_by_another_if_the_first_leaves() -> None:
    core = leases()
    first, second = core.want(PLAYER, TTL_S, 0.0), core.want(replace(PLAYER, id="p2"), TTL_S, 0.0)
    core.due(0.0)
    core.leave(first)
    core.accepted(first, PLAYER, "L1", TTL_S, "e1", 0.1)  # the answer comes late
    assert first.state is State.LEFT
    assert core.due(0.1) == [Register(second, "")]


def test_a_lease_is_renewed_after_a_third_of_its_ttl() -> None:
    core = leases()
    registered(core)
    assert core.renew_at() == TTL_S / 3
    assert core.renewals(4.9) == []
    assert core.renewals(5.0) == ["L1"]


def test_a_lease_lives_since_it_was_asked_for_and_not_since_that_was_read() -> None:
    """Who is stopped before it reads an answer has so much less time."""
    core = leases()
    holding = core.want(PLAYER, TTL_S, 0.0)
    core.due(0.0)
    core.accepted(holding, replace(PLAYER, generation=1, revision=1), "L1", TTL_S, "e1", 7.0, 0.0)
    assert core.renewals(7.0) == ["L1"]
    core.renewed("L1", Renewed.RENEWED, TTL_S, 1, "e1", 13.0, asked_at_s=7.0)
    assert core.renew_at() == 12.0


def test_leases_that_are_due_soon_are_renewed_together() -> None:
    core = leases()
    registered(core)
    core.want(replace(PLAYER, id="p2"), 16.0, 1.0)
    [other] = core.due(1.0)
    core.accepted(other.holding, PLAYER, "L2", 16.0, "e1", 1.0)
    assert core.renewals(5.0) == ["L1", "L2"]


@pytest.mark.parametrize(("outcome", "renew_at"), [(Renewed.RENEWED, 10.0), (Renewed.HELD, 7.5)])
def test_an_answered_lease_is_renewed_again(outcome: Renewed, renew_at: float) -> None:
    core = leases()
    holding = registered(core)
    core.renewed("L1", outcome, TTL_S, 1, "e1", 5.0)
    assert holding.state is State.REGISTERED
    assert core.renew_at() == renew_at


def test_a_raised_ttl_is_taken_up() -> None:
    core = leases()
    holding = registered(core)
    core.renewed("L1", Renewed.RENEWED, 60.0, 1, "e1", 5.0)
    assert holding.lease.ttl_s == 60.0
    assert core.renew_at() == 25.0


def test_held_without_a_ttl_keeps_the_one_known() -> None:
    core = leases()
    holding = registered(core)
    core.renewed("L1", Renewed.HELD, 0.0, 0, "e1", 5.0)
    assert holding.lease.ttl_s == TTL_S
    assert holding.state is State.REGISTERED


def test_an_unknown_lease_leads_to_a_look_and_a_new_registration_with_the_generation_held() -> None:
    core = leases()
    holding = registered(core)
    core.renewed("L1", Renewed.UNKNOWN, 0.0, 0, "e1", 5.0)
    assert core.due(5.0) == [LookUp(holding)]
    core.missing(holding)
    assert core.due(5.0) == [Register(holding, "")]
    assert holding.instance.generation == 1
    assert holding.instance.id == "p1"


def test_a_registry_that_has_begun_anew_is_not_asked_what_became_of_it() -> None:
    core = leases()
    holding = registered(core)
    core.renewed("L1", Renewed.UNKNOWN, 0.0, 0, "e2", 5.0)
    assert core.due(5.0) == [Register(holding, "")]


def test_what_is_there_without_its_lease_is_registered_again() -> None:
    core = leases()
    holding = registered(core)
    core.renewed("L1", Renewed.UNKNOWN, 0.0, 0, "e1", 5.0)
    core.due(5.0)
    core.seen(holding, holding.instance, "e1", 5.1)
    assert core.due(5.1) == [Register(holding, "")]


def test_what_is_there_is_not_taken_for_held_by_a_lease_that_came_later() -> None:
    core = leases()
    first, second = registered(core), core.want(replace(PLAYER, id="p2"), TTL_S, 0.0)
    core.due(0.0)
    core.accepted(second, replace(PLAYER, id="p2"), "L1", TTL_S, "e1", 0.0)
    core.renewed("L1", Renewed.UNKNOWN, 0.0, 0, "e1", 5.0)
    core.due(5.0)
    core.missing(first)
    core.due(5.0)
    core.accepted(first, first.instance, "L2", TTL_S, "e1", 5.1)
    core.seen(second, second.instance, "e1", 5.2)
    assert core.due(5.2) == [Register(second, "L2")]


def test_a_lease_with_too_few_instances_makes_all_on_it_look_themselves_up() -> None:
    core = leases()
    first, second = registered(core), core.want(replace(PLAYER, id="p2"), TTL_S, 0.0)
    core.due(0.0)
    core.accepted(second, replace(PLAYER, id="p2"), "L1", TTL_S, "e1", 0.0)
    core.renewals(5.0)
    core.renewed("L1", Renewed.RENEWED, TTL_S, 1, "e1", 5.0)
    assert core.due(5.0) == [LookUp(first), LookUp(second)]
    core.seen(first, first.instance, "e1", 5.1)
    core.missing(second)
    assert first.state is State.REGISTERED
    assert core.due(5.1) == [Register(second, "L1")]


def test_who_registers_while_the_answer_is_under_way_is_not_missed_in_it() -> None:
    core = leases()
    first = registered(core)
    assert core.renewals(5.0) == ["L1"]
    second = core.want(replace(PLAYER, id="p2"), TTL_S, 5.0)
    core.due(5.0)
    core.accepted(second, replace(PLAYER, id="p2"), "L1", TTL_S, "e1", 5.1)
    core.renewed("L1", Renewed.RENEWED, TTL_S, 1, "e1", 5.2)
    assert first.state is second.state is State.REGISTERED


def test_more_instances_than_expected_are_no_reason_to_worry() -> None:
    core = leases()
    holding = registered(core)
    core.renewals(5.0)
    core.renewed("L1", Renewed.RENEWED, TTL_S, 2, "e1", 5.0)
    assert holding.state is State.REGISTERED


def test_a_lease_that_is_gone_at_register_is_replaced() -> None:
    core = leases()
    first, second = registered(core), core.want(replace(PLAYER, id="p2"), TTL_S, 1.0)
    assert core.due(1.0) == [Register(second, "L1")]
    core.lease_missing(second, "L1", 1.0)
    assert first.state is State.DOUBTED
    assert core.due(1.0) == [LookUp(first), Register(second, "")]


def test_a_refused_registration_is_lost_and_left_alone() -> None:
    core = leases()
    holding = registered(core)
    core.renewed("L1", Renewed.UNKNOWN, 0.0, 0, "e1", 5.0)
    core.due(5.0)
    core.missing(holding)
    core.due(5.0)
    core.refused(holding, "taken")
    assert holding.state is State.LOST
    assert holding.reason == "taken"
    assert core.due(1e9) == []
    assert core.wake_at() == float("inf")


def test_a_higher_generation_in_the_same_order_is_a_newer_owner() -> None:
    core = leases()
    holding = registered(core)
    core.renewals(5.0)
    core.renewed("L1", Renewed.RENEWED, TTL_S, 0, "e1", 5.0)
    core.due(5.0)
    core.seen(holding, replace(holding.instance, generation=2), "e1", 5.1)
    # Whether that is for good the registry says: to who claims by the generation it had.
    assert core.due(5.1) == [Register(holding, "L1")]
    assert holding.instance.generation == 1
    core.refused(holding, "taken over by generation 2")
    assert holding.state is State.LOST
    assert "generation 2" in holding.reason


def test_what_somebody_wrote_under_its_lease_by_hand_is_registered_anew() -> None:
    core = leases()
    holding = registered(core)
    core.renewals(LOOK_UP_EVERY_S - 1)
    core.renewed("L1", Renewed.RENEWED, TTL_S, 1, "e1", LOOK_UP_EVERY_S - 1)
    assert core.due(LOOK_UP_EVERY_S) == [LookUp(holding)]
    edited = replace(holding.instance, port=9, generation=2, revision=7)
    core.seen(holding, edited, "e1", LOOK_UP_EVERY_S)
    assert core.due(LOOK_UP_EVERY_S) == [Register(holding, "L1")]
    assert (holding.instance.generation, holding.instance.port) == (1, PLAYER.port)
    # If it was no hand but a newer owner after all, the registry says so.
    core.refused(holding, "taken")
    assert holding.state is State.LOST


def test_generations_of_another_epoch_are_not_compared() -> None:
    core = leases()
    holding = registered(core)
    core.renewed("L1", Renewed.UNKNOWN, 0.0, 0, "e1", 5.0)
    core.due(5.0)
    core.seen(holding, replace(holding.instance, generation=9), "e2", 5.1)
    assert core.due(5.1) == [Register(holding, "")]


def test_an_address_registered_under_another_id_is_lost() -> None:
    core = leases()
    holding = registered(core)
    core.renewed("L1", Renewed.UNKNOWN, 0.0, 0, "e1", 5.0)
    core.due(5.0)
    core.displaced(holding, replace(PLAYER, id="p9"))
    # It is claimed once: who still answers there may have it back.
    assert core.due(5.0) == [Register(holding, "")]
    assert holding.instance.generation == 1
    core.refused(holding, "registered as p9 since")
    assert holding.state is State.LOST
    assert "p9" in holding.reason


def test_who_cannot_claim_an_address_has_lost_it() -> None:
    """The registry does not know the generation any more: there is nothing to claim by."""
    core = leases()
    holding = registered(core)
    core.renewed("L1", Renewed.UNKNOWN, 0.0, 0, "e1", 5.0)
    core.due(5.0)
    core.unclaimed(holding, 5.0)
    core.due(10.0)
    core.displaced(holding, replace(PLAYER, id="p9"))
    assert holding.state is State.LOST
    assert "p9" in holding.reason


def test_what_an_operator_changed_is_registered_again() -> None:
    core = leases()
    holding = registered(core)
    core.due(LOOK_UP_EVERY_S)
    changed = replace(holding.instance, status=Status.DRAINING, weight=7, revision=5)
    core.seen(holding, changed, "e1", LOOK_UP_EVERY_S)
    assert holding.instance.status is Status.DRAINING
    assert holding.instance.weight == 7


def test_an_older_view_of_a_replica_changes_nothing() -> None:
    core = leases()
    holding = registered(core)
    holding.instance = replace(holding.instance, weight=7, revision=5)
    core.due(LOOK_UP_EVERY_S)
    core.seen(holding, replace(holding.instance, weight=3, revision=4), "e1", LOOK_UP_EVERY_S)
    assert holding.instance.weight == 7


def test_it_looks_itself_up_now_and_then_whatever_the_renewals_say() -> None:
    core = leases()
    holding = registered(core)
    for now in (5.0, 10.0, 15.0, 20.0, 25.0):
        core.renewed("L1", Renewed.RENEWED, TTL_S, 1, "e1", now)
        assert core.due(now) == []
    assert core.due(LOOK_UP_EVERY_S) == [LookUp(holding)]


def test_failures_pause_longer_and_longer_but_never_longer_than_a_quarter_of_the_ttl() -> None:
    core = leases()
    holding = core.want(PLAYER, 6.0, 0.0)
    now = 0.0
    for _ in range(200):
        assert core.due(now) == [Register(holding, "")]
        core.failed(holding, now)
        assert core.due(now) == [] or holding.not_before_s == now
        assert 0 <= holding.not_before_s - now <= 1.5
        now = holding.not_before_s


def test_an_answer_ends_the_pauses() -> None:
    core = leases()
    holding = core.want(PLAYER, TTL_S, 0.0)
    for _ in range(5):
        core.due(1e3)
        core.failed(holding, 0.0)
    core.due(1e3)
    core.accepted(holding, PLAYER, "L1", TTL_S, "e1", 1e3)
    assert holding.attempt == 0


def test_a_broken_stream_makes_every_lease_due() -> None:
    core = leases()
    registered(core)
    core.stream_lost(1.0)
    assert core.renewals(1.0) == ["L1"]


@pytest.mark.parametrize(("ttl_s", "patience_s"), [(2.0, 2.0 / 3), (12.0, 4.0), (3600.0, PATIENCE_S)])
def test_patience_is_a_third_of_the_shortest_ttl_or_a_few_seconds(ttl_s: float, patience_s: float) -> None:
    core = leases()
    holding = registered(core)
    core.renewed("L1", Renewed.RENEWED, ttl_s, 1, "e1", 1.0)
    assert holding.lease.ttl_s == ttl_s
    assert core.patience_s() == patience_s


def test_renewals_pause_no_longer_than_a_quarter_of_the_shortest_ttl() -> None:
    core = leases()
    registered(core)
    core.renewed("L1", Renewed.RENEWED, 2.0, 1, "e1", 1.0)
    assert core.longest_pause_s() == 0.5


def test_invisible_for_counts_from_the_last_proof() -> None:
    core = leases()
    holding = core.want(PLAYER, TTL_S, 0.0)
    assert holding.invisible_for(3.0) == 3.0
    core.due(0.0)
    core.accepted(holding, PLAYER, "L1", TTL_S, "e1", 4.0)
    assert holding.invisible_for(4.0 + TTL_S) is None
    assert holding.invisible_for(5.0 + TTL_S) == 1.0 + TTL_S
    core.renewed("L1", Renewed.RENEWED, TTL_S, 1, "e1", 20.0)
    assert holding.invisible_for(21.0) is None
    core.renewed("L1", Renewed.UNKNOWN, 0.0, 0, "e1", 25.0)
    assert holding.invisible_for(26.0) == 6.0


def test_the_last_to_leave_takes_the_lease_along() -> None:
    core = leases()
    holding = registered(core)
    core.leave(holding)
    assert core.renew_at() == float("inf")
    assert core.wake_at() == float("inf")


# ---- nobody can tell


def test_held_for_a_third_of_the_ttl_means_another_address() -> None:
    core = leases()
    registered(core)
    core.renewed("L1", Renewed.RENEWED, TTL_S, 1, "e1", 5.0)
    assert not core.is_held_too_long(10.0)
    core.renewed("L1", Renewed.HELD, TTL_S, 0, "e1", 10.0)
    core.renewed("L1", Renewed.HELD, TTL_S, 0, "e1", 12.5)
    assert not core.is_held_too_long(14.9)
    assert core.is_held_too_long(15.0)
    core.stream_lost(15.0)  # the next one gets as long as the first
    assert core.renewals(15.0) == ["L1"]
    assert not core.is_held_too_long(19.9)


def test_an_answer_that_tells_ends_the_hold() -> None:
    core = leases()
    registered(core)
    core.renewed("L1", Renewed.HELD, TTL_S, 0, "e1", 5.0)
    core.renewed("L1", Renewed.RENEWED, TTL_S, 1, "e1", 7.5)
    assert not core.is_held_too_long(100.0)


@pytest.mark.parametrize("outcome", Renewed)
def test_an_answer_of_somebody_out_of_touch_proves_nothing(outcome: Renewed) -> None:
    core = leases()
    holding = registered(core)
    core.renewals(5.0)
    core.renewed("L1", outcome, TTL_S, 0, "e1", 5.0, stale=True)
    assert (holding.lease.id, holding.state, holding.shown_at_s) == ("L1", State.REGISTERED, 0.0)
    assert core.is_held_too_long(10.0)


def test_what_nobody_could_tell_for_a_ttl_is_in_doubt_and_says_so() -> None:
    core = leases()
    holding = registered(core)
    for now in (5.0, 7.5, 10.0, 12.5):
        core.renewed("L1", Renewed.HELD, TTL_S, 0, "e1", now)
        assert core.due(now) == []
    assert core.wake_at() == TTL_S
    assert core.due(TTL_S) == [LookUp(holding)]
    assert holding.state is State.DOUBTED
    assert holding.invisible_for(20.0) == 20.0
    core.failed(holding, 20.0)
    core.renewed("L1", Renewed.RENEWED, TTL_S, 1, "e1", 20.0)  # somebody can tell again: it is looked up at once
    assert core.due(20.0) == [LookUp(holding)]
    core.seen(holding, holding.instance, "e1", 20.1)
    assert holding.state is State.REGISTERED
    assert holding.invisible_for(20.1) is None


def test_a_look_at_an_older_view_proves_nothing() -> None:
    core = leases()
    holding = registered(core)
    holding.instance = replace(holding.instance, revision=7)
    core.due(TTL_S)
    core.seen(holding, replace(holding.instance, revision=6, generation=9), "e1", TTL_S)
    assert holding.state is State.DOUBTED
    assert holding.attempt == 1


# ---- told to leave, and told nonsense


def test_what_somebody_else_has_leave_is_lost_with_the_reason() -> None:
    core = leases()
    holding = registered(core)
    core.renewals(5.0)
    core.renewed("L1", Renewed.RENEWED, TTL_S, 0, "e1", 5.0)
    core.due(5.0)
    draining = replace(holding.instance, status=Status.DRAINING, leaves_at=datetime(2026, 1, 1, tzinfo=UTC), revision=2)
    core.seen(holding, draining, "e1", 5.1)
    assert holding.state is State.LOST
    assert "deregistered by somebody else" in holding.reason
    assert core.due(1e9) == []


def test_a_registration_whose_answer_was_lost_is_not_somebody_elses() -> None:
    """It is there under a newer generation, at the same place and since the same moment: it registered itself."""
    core = leases()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    holding = registered(core, replace(PLAYER, registered_at=at))
    core.renewed("L1", Renewed.UNKNOWN, 0.0, 0, "e1", 5.0)
    core.due(5.0)
    core.missing(holding)
    core.due(5.0)
    core.failed(holding, 5.1)  # the answer got lost
    core.due(20.0)
    core.failed(holding, 20.0)
    holding.take(Input.LEASE_GONE)
    core.seen(holding, replace(holding.instance, generation=5, revision=9), "e1", 21.0)
    assert holding.instance.generation == 5
    assert holding.state is State.WANTED
    core.seen(holding, replace(holding.instance, generation=6, revision=9, port=9), "e1", 22.0)
    assert holding.instance.generation == 5  # by which it asks, and is told
    assert holding.state is State.WANTED


@pytest.mark.parametrize("found_again", [True, False])
def test_a_generation_that_the_registry_never_gave_is_claimed_no_more(found_again: bool) -> None:
    """A registry that came back without its memory, and with its clock set back."""
    core = leases()
    holding = registered(core, replace(PLAYER, registered_at=datetime(2026, 1, 1, tzinfo=UTC)))
    core.renewed("L1", Renewed.UNKNOWN, 0.0, 0, "e2", 5.0)
    assert core.due(5.0) == [Register(holding, "")]
    core.unclaimed(holding, 5.0)
    assert core.due(6.0) == [LookUp(holding)]
    if found_again:
        core.seen(holding, replace(holding.instance, generation=3), "e2", 6.0)
    else:
        core.missing(holding)
    assert core.due(6.0) == [Register(holding, "")]
    assert holding.instance.generation == (3 if found_again else 0)


def test_a_generation_that_the_registry_never_gave_displaces_nobody() -> None:
    core = leases()
    holding = registered(core, replace(PLAYER, registered_at=datetime(2026, 1, 1, tzinfo=UTC)))
    core.renewed("L1", Renewed.UNKNOWN, 0.0, 0, "e2", 5.0)
    core.due(5.0)
    core.unclaimed(holding, 5.0)
    core.due(6.0)
    core.seen(holding, replace(PLAYER, port=9, generation=1), "e2", 6.0)
    assert holding.state is State.LOST


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, -1e18, 1e-9, 0.5, 1e18, 3601.0])
def test_a_ttl_that_makes_no_sense_is_not_believed(ttl_s: float) -> None:
    """Else it would be renewed without a pause, or never."""
    core = leases()
    holding = core.want(PLAYER, TTL_S, 0.0)
    core.due(0.0)
    core.accepted(holding, replace(PLAYER, generation=1), "L1", ttl_s, "e1", 0.0)
    assert SHORTEST_TTL_S <= holding.lease.ttl_s <= LONGEST_TTL_S
    assert (holding.lease.ttl_s == TTL_S) == (ttl_s <= 0)
    core.renewed("L1", Renewed.RENEWED, ttl_s, 1, "e1", 1.0)
    assert 0.3 <= core.renew_at() - 1.0 <= 1200.0


def test_a_registry_that_gives_leases_and_knows_none_is_not_asked_without_pause() -> None:
    core = leases()
    first, second = registered(core), core.want(replace(PLAYER, id="p2"), TTL_S, 0.0)
    asked, now = 0, 0.0
    while now < 60.0:
        for action in core.due(now):
            asked += 1
            if isinstance(action, LookUp):
                core.seen(action.holding, action.holding.instance, "e1", now)
            elif action.lease_id:
                core.lease_missing(action.holding, action.lease_id, now)
            else:
                core.accepted(action.holding, action.holding.instance, f"L{asked}", TTL_S, "e1", now)
        now += 0.01
    assert {first.state, second.state} <= {State.WANTED, State.REGISTERED, State.DOUBTED}
    assert asked < 200


def test_what_is_there_without_its_lease_is_put_back_under_it() -> None:
    """Somebody has rewritten the record: the lease holds too few, and yet all are seen, again and again."""
    core = leases()
    holding = registered(core)
    acted = []
    for count in range(1, 10):
        core.renewals(5.0 * count)
        core.renewed("L1", Renewed.RENEWED, TTL_S, 0, "e1", 5.0 * count)
        assert core.due(5.0 * count) == [LookUp(holding)]
        core.seen(holding, holding.instance, "e1", 5.0 * count)
        if holding.state is State.WANTED:
            acted.append(count)
            assert core.due(5.0 * count) == [Register(holding, "L1")]
            core.accepted(holding, holding.instance, "L1", TTL_S, "e1", 5.0 * count)
    assert acted == [2, 4, 8]


def test_so_many_leases_are_renewed_in_one_message() -> None:
    core = leases()
    for number in range(RENEW_AT_MOST + 5):
        lease = core.want(replace(PLAYER, id=f"p{number}"), 10.0 + number / 1e5, 0.0).lease
        lease.granted(f"L{number}", 10.0, 0.0)
    now = 9.0
    first = core.renewals(now)
    assert len(first) == RENEW_AT_MOST
    for lease_id in first[:10]:
        core.renewed(lease_id, Renewed.RENEWED, 10.0, 0, "e1", now)
    assert not set(first[:10]) & set(core.renewals(now))


def test_a_lease_holds_as_many_as_a_registry_lets_it() -> None:
    """Further registrations have another one, which lives by itself."""
    core = leases()
    holdings = [core.want(replace(PLAYER, id=f"p{number}"), 10.0, 0.0) for number in range(HOLDERS_AT_MOST + 2)]
    first, second = holdings[0].lease, holdings[-1].lease
    assert [it.lease for it in holdings] == [first] * HOLDERS_AT_MOST + [second] * 2
    first.granted("L1", 10.0, 0.0)
    second.granted("L2", 10.0, 0.0)
    assert core.renewals(9.0) == ["L1", "L2"]
    for it in holdings[:HOLDERS_AT_MOST]:
        core.leave(it)
    core.renewed("L2", Renewed.RENEWED, 10.0, 0, "e1", 9.0)
    assert core.renewals(19.0) == ["L2"]
    assert core.want(PLAYER, 10.0, 19.0).lease is second
    core.leave_all()
    assert core.want(PLAYER, 10.0, 19.0).lease not in (first, second)


def test_renewals_of_unknown_names_are_ignored() -> None:
    core = leases()
    registered(core)
    core.renewed("nobody's", Renewed.UNKNOWN, 0.0, 0, "e1", 1.0)
    assert core.renewals(5.0) == ["L1"]


# ---- any history


@dataclass
class FakeRegistry:
    """The rules of the registry that matter to a lease, in a few lines."""

    epoch: int = 1
    leases: dict[str, set[str]] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    records: dict[str, Instance] = field(default_factory=dict)
    made: int = 0

    def register(self, action: Register) -> tuple[Instance, str] | str:
        """Who proves by its lease that it is the owner keeps its generation; all others get a new one."""
        wanted, lease_id = action.holding.instance, action.lease_id
        if lease_id and lease_id not in self.leases:
            return "no lease"
        latest = self.generations.get(wanted.id, 0)
        there = self.records.get(wanted.id)
        is_own = there is not None and wanted.is_same_owner(there)
        if wanted.generation and wanted.generation < latest and not is_own:
            return "taken"
        self.made += 1
        keeps = lease_id and wanted.id in self.leases.get(lease_id, ())
        generation = latest if keeps else self.epoch * 1000 + self.made
        self.drop(wanted.id)
        lease_id = lease_id or f"{self.epoch}-{self.made}"
        self.leases.setdefault(lease_id, set()).add(wanted.id)
        self.generations[wanted.id] = generation
        began = wanted.registered_at or datetime(2026, 1, 1, tzinfo=UTC) + timedelta(
            seconds=self.epoch * 1000 + self.made
        )
        stored = replace(wanted, generation=generation, revision=self.made, registered_at=began)
        self.records[wanted.id] = stored
        return stored, lease_id

    def drop(self, name: str) -> None:
        for lease_id in list(self.leases):
            self.leases[lease_id].discard(name)
            if not self.leases[lease_id]:
                del self.leases[lease_id]

    def has(self, name: str) -> bool:
        return any(name in names for names in self.leases.values())


class AnyHistory(RuleBasedStateMachine):
    """NeverGivesUp: whatever happened, once the registry answers again everything not taken over is back."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Leases(Backoff(), random.Random(3))
        self.registry = FakeRegistry()
        self.holdings: list[Holding] = []
        self.taken: set[str] = set()
        self.ever_taken: set[str] = set()
        self.now = 0.0

    @rule(ttl_s=st.sampled_from([2.0, 15.0]))
    def want(self, ttl_s: float) -> None:
        instance = replace(PLAYER, id=f"p{len(self.holdings)}")
        self.holdings.append(self.core.want(instance, ttl_s, self.now))

    @precondition(lambda self: self.holdings)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        holding = data.draw(st.sampled_from(self.holdings))
        self.core.leave(holding)
        self.registry.drop(holding.instance.id)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def registry_forgets(self) -> None:
        self.registry = FakeRegistry(epoch=self.registry.epoch + 1)
        self.taken.clear()

    @precondition(lambda self: self.registry.leases)
    @rule(data=st.data())
    def lease_expires(self, data: st.DataObject) -> None:
        del self.registry.leases[data.draw(st.sampled_from(sorted(self.registry.leases)))]

    @precondition(lambda self: self.holdings)
    @rule(data=st.data())
    def somebody_takes_over(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.holdings)).instance.id
        if self.registry.has(name):
            self.registry.drop(name)
            self.registry.made += 1
            generation = self.registry.epoch * 1000 + self.registry.made
            self.registry.generations[name] = generation
            theirs = replace(PLAYER, id=name, port=9, generation=generation, revision=self.registry.made)
            self.registry.records[name] = theirs
            self.registry.leases.setdefault("theirs", set()).add(name)
            self.taken.add(name)
            self.ever_taken.add(name)

    @precondition(lambda self: self.holdings)
    @rule(data=st.data())
    def operator_removes(self, data: st.DataObject) -> None:
        self.registry.drop(data.draw(st.sampled_from(self.holdings)).instance.id)

    @rule(reached=st.booleans(), told=st.booleans())
    def work(self, reached: bool, told: bool = True) -> None:
        """Every call is carried out and answered, or carried out and its answer is lost, or neither."""
        for action in self.core.due(self.now):
            if reached and told:
                self.answer(action)
            else:
                if reached and isinstance(action, Register):
                    self.take_back(self.registry.register(action))
                self.core.failed(action.holding, self.now)

    @rule(reached=st.booleans(), stale=st.booleans(), held=st.booleans())
    def renew(self, reached: bool, stale: bool = False, held: bool = False) -> None:
        if not reached:
            self.core.stream_lost(self.now)
            return
        for lease_id in self.core.renewals(self.now):
            names = self.registry.leases.get(lease_id, set())
            outcome = Renewed.HELD if held else Renewed.RENEWED if names else Renewed.UNKNOWN
            self.core.renewed(lease_id, outcome, 0.0, len(names), str(self.registry.epoch), self.now, stale=stale)
        if self.core.is_held_too_long(self.now):
            self.core.stream_lost(self.now)

    def take_back(self, answer: tuple[Instance, str] | str) -> None:
        """Somebody registered: whatever others had taken of it is theirs no more."""
        if not isinstance(answer, str):
            self.taken.discard(answer[0].id)

    def answer(self, action: Register | LookUp) -> None:
        holding = action.holding
        if isinstance(action, LookUp):
            self.look_up(holding)
            return
        answer = self.registry.register(action)
        if answer == "no lease":
            self.core.lease_missing(holding, action.lease_id, self.now)
        elif isinstance(answer, str):
            self.core.refused(holding, answer)
        else:
            self.take_back(answer)
            stored, lease_id = answer
            ttl_s = holding.lease.wanted_ttl_s
            self.core.accepted(holding, stored, lease_id, ttl_s, str(self.registry.epoch), self.now)

    def look_up(self, holding: Holding) -> None:
        name = holding.instance.id
        if self.registry.has(name):
            self.core.seen(holding, self.registry.records[name], str(self.registry.epoch), self.now)
        else:
            self.core.missing(holding)

    @invariant()
    def there_is_always_a_next_step(self) -> None:
        open_ones = [holding for holding in self.holdings if holding.state not in TERMINAL]
        assert (self.core.wake_at() < float("inf")) == bool(open_ones)

    @invariant()
    def nothing_stays_busy(self) -> None:
        assert not any(holding.busy for holding in self.holdings)

    def teardown(self) -> None:
        for _ in range(40):
            self.now += 20.0
            self.renew(reached=True)
            self.work(reached=True)
        for holding in self.holdings:
            name = holding.instance.id
            if holding.state is State.LOST:
                assert name in self.ever_taken
            elif holding.state is State.LEFT:
                assert name in self.taken or not self.registry.has(name)
            else:
                assert holding.state is State.REGISTERED
                assert holding.invisible_for(self.now) is None
                assert self.registry.has(name)
                assert name not in self.taken


AnyHistory.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyHistory = AnyHistory.TestCase
