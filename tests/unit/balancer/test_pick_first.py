"""pick_first: one attempt at a time in the order of the list; the first that connects takes all."""

from random import Random

from balancer.endpoints import Resolved
from balancer.policies import policy
from balancer.policies.base import ANY, ConnectivityState, Node
from balancer.pool.picker import Fail, Wait
from balancer.pool.pool import Moves, Pool
from tests.support.fleet import endpoints

IDLE, CONNECTING, READY, FAILURE, SHUTDOWN = ConnectivityState
GIVEN = endpoints(3)


def started(spec: str = "pick_first", seed: int = 1) -> tuple[Pool, list[Node], Moves]:
    subject = Pool(policy(spec), rng=Random(seed), now=0.0)
    plan = subject.apply(Resolved(GIVEN), 0.0)
    nodes = [node for node in map(subject.node, GIVEN) if node is not None]
    return subject, nodes, plan


def test_first_of_the_list_is_tried_first_and_used() -> None:
    subject, (first, *others), plan = started()
    assert plan.open == (first,)
    assert subject.on_state(first, CONNECTING, 0.0).open == ()
    assert subject.picker.pick(ANY, 0.0) == Wait()
    subject.on_state(first, READY, 0.0)
    assert subject.picker.pick(ANY, 0.0) is first
    assert all(node.state is IDLE for node in others)


def test_next_is_tried_when_one_fails_and_the_failed_one_is_closed_then() -> None:
    subject, (first, second, third), _ = started()
    assert subject.on_state(first, FAILURE, 0.0, "refused").open == (second,)
    assert subject.picker.pick(ANY, 0.0) == Wait()
    plan = subject.on_state(second, READY, 1.0)
    assert plan == Moves(close=(first,), swapped=True)
    assert subject.picker.pick(ANY, 1.0) is second
    assert third.state is IDLE


def test_all_failed_fails_and_whoever_comes_back_takes_over() -> None:
    subject, (first, second, third), _ = started()
    subject.on_state(first, FAILURE, 0.0, "refused")
    subject.on_state(second, FAILURE, 0.0, "refused")
    plan = subject.on_state(third, FAILURE, 0.0, "refused")
    assert plan.swapped
    assert isinstance(subject.picker.pick(ANY, 0.0), Fail)
    assert subject.state is FAILURE
    assert subject.on_state(second, IDLE, 1.0).open == (second,)
    plan = subject.on_state(second, READY, 2.0)
    assert set(plan.close) == {first, third}
    assert subject.picker.pick(ANY, 2.0) is second


def test_connection_that_ends_begins_at_the_top_of_the_list() -> None:
    subject, (first, second, _), _ = started()
    subject.on_state(first, FAILURE, 0.0, "refused")
    subject.on_state(second, READY, 0.0)
    plan = subject.on_state(second, IDLE, 1.0)
    assert plan == Moves(open=(first,), close=(second,), swapped=True)


def test_only_connection_that_ends_is_opened_again() -> None:
    subject, (first, *_), _ = started()
    subject.on_state(first, READY, 0.0)
    assert subject.on_state(first, IDLE, 1.0) == Moves(open=(first,), swapped=True)


def test_broken_connection_goes_on_with_the_next() -> None:
    subject, (first, second, _), _ = started()
    subject.on_state(first, READY, 0.0)
    assert subject.on_state(first, FAILURE, 1.0, "reset").open == (second,)


def test_it_stays_where_it_is_while_that_is_in_the_list() -> None:
    subject, (first, *_), _ = started()
    subject.on_state(first, READY, 0.0)
    assert subject.picker.pick(ANY, 0.0) is first
    assert subject.apply(Resolved((*GIVEN[1:], GIVEN[0])), 1.0) == Moves()
    plan = subject.apply(Resolved(GIVEN[1:]), 2.0)
    assert plan.close == (first,)
    assert [node.endpoint for node in plan.open] == [GIVEN[1]]


def test_shuffled_lists_begin_anywhere() -> None:
    begun = {started("pick_first?shuffle", seed)[2].open[0].endpoint for seed in range(40)}
    assert begun == set(GIVEN)


def test_lists_are_not_shuffled_unasked() -> None:
    begun = {started("pick_first", seed)[2].open[0].endpoint for seed in range(40)}
    assert begun == {GIVEN[0]}


def test_next_is_tried_beside_one_that_takes_long() -> None:
    """gRFC A61: after 250 ms, and the one that is ready first is used."""
    subject, (first, second, third), _ = started()
    subject.on_state(first, CONNECTING, 0.0)
    assert subject.next_tick(0.0) == 0.25
    assert subject.tick(0.2).open == ()
    assert subject.tick(0.25).open == (second,)
    subject.on_state(second, CONNECTING, 0.25)
    assert subject.next_tick(0.3) == 0.5
    assert subject.tick(0.5).open == (third,)
    plan = subject.on_state(second, READY, 0.6)
    assert set(plan.close) == {first, third}
    assert subject.picker.pick(ANY, 0.6) is second
    assert subject.tick(9.0).open == ()
