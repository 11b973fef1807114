"""How a pool answers picks as connections come up, fail and end: gRPC's rules for waiting and failing."""

from random import Random

import pytest

from balancer.endpoints import Absent, Endpoint, Failed, Pending, Resolved
from balancer.policies import policy
from balancer.policies.base import ANY, ConnectivityState, Node, PickInfo
from balancer.pool.options import PoolOptions
from balancer.pool.picker import Fail, Open, Wait
from balancer.pool.pool import Moves, Pool
from tests.support.fleet import connect, endpoints

IDLE, CONNECTING, READY, FAILURE, SHUTDOWN = ConnectivityState
GIVEN = endpoints(3)


def pool(name: str = "round_robin", **options: object) -> Pool:
    return Pool(
        policy(name),
        options=PoolOptions(shuffle=False, **options),  # type: ignore[arg-type]
        rng=Random(1),
        now=0.0,
    )


def resolved(name: str = "round_robin", **options: object) -> tuple[Pool, tuple[Node, ...]]:
    subject = pool(name, **options)
    subject.apply(Resolved(GIVEN), 0.0)
    nodes = tuple(node for node in map(subject.node, GIVEN) if node is not None)
    return subject, nodes


def pick(subject: Pool, *exclude: Node) -> object:
    return subject.picker.pick(PickInfo(exclude=exclude) if exclude else ANY, 0.0)


def test_before_any_resolution_calls_wait() -> None:
    subject = pool()
    assert pick(subject) == Wait()
    assert subject.state is CONNECTING
    assert subject.apply(Pending(), 0.0) == Moves()


def test_failed_before_any_good_one_fails() -> None:
    subject = pool()
    assert subject.apply(Failed("no such host"), 0.0) == Moves(swapped=True)
    assert pick(subject) == Fail("no such host")
    assert subject.state is FAILURE
    subject.apply(Failed("timed out"), 1.0)
    assert pick(subject) == Fail("timed out")


def test_failed_after_a_good_one_changes_nothing() -> None:
    subject, nodes = resolved()
    subject.on_state(nodes[0], READY, 0.0)
    assert pick(subject) is nodes[0]
    assert subject.apply(Failed("timed out"), 1.0) == Moves()
    assert pick(subject) is nodes[0]


def test_failed_after_an_empty_one_changes_nothing() -> None:
    subject = pool()
    subject.apply(Resolved(()), 0.0)
    assert subject.apply(Failed("timed out"), 1.0) == Moves()
    assert pick(subject) == Fail("the target has no endpoints")


@pytest.mark.parametrize(
    ("nothing", "reason"), [(Resolved(()), "the target has no endpoints"), (Absent("no service x"), "no service x")]
)
def test_nothing_closes_everything_and_fails(nothing: Resolved | Absent, reason: str) -> None:
    subject, nodes = resolved()
    subject.on_state(nodes[0], READY, 0.0)
    plan = subject.apply(nothing, 1.0)
    assert set(plan.close) == set(nodes)
    assert (plan.open, plan.swapped) == ((), True)
    assert pick(subject) == Fail(reason)
    assert {node.state for node in nodes} == {SHUTDOWN}


def test_all_are_opened_at_once_and_the_first_ready_one_is_used() -> None:
    subject = pool()
    plan = subject.apply(Resolved(GIVEN), 0.0)
    assert [node.endpoint for node in plan.open] == list(GIVEN)
    assert pick(subject) == Wait()
    assert subject.state is IDLE
    subject.on_state(plan.open[0], CONNECTING, 0.0)
    assert subject.state is CONNECTING
    assert subject.on_state(plan.open[0], READY, 0.0).swapped
    assert subject.state is READY
    assert {pick(subject) for _ in range(6)} == {plan.open[0]}


def test_only_when_all_have_failed_calls_fail() -> None:
    subject, nodes = resolved()
    for number, node in enumerate(nodes):
        assert pick(subject) == Wait()
        subject.on_state(node, FAILURE, 0.0, f"refused {number}")
    assert subject.state is FAILURE
    assert pick(subject) == Fail("failed to connect to all addresses; last error: 10.0.0.2:80: refused 2", nodes[2])


def test_connecting_again_does_not_make_a_failed_one_well() -> None:
    """gRPC's sticky failure: calls do not wait for another attempt of what has just failed."""
    subject, nodes = resolved()
    for node in nodes:
        subject.on_state(node, FAILURE, 0.0, "refused")
    assert not subject.on_state(nodes[0], CONNECTING, 1.0).swapped
    assert subject.state is FAILURE
    assert isinstance(pick(subject), Fail)
    subject.on_state(nodes[0], READY, 1.0)
    assert pick(subject) is nodes[0]


def test_connection_that_ends_is_opened_again() -> None:
    subject, nodes = resolved()
    for node in nodes:
        subject.on_state(node, READY, 0.0)
    plan = subject.on_state(nodes[1], IDLE, 1.0)
    assert plan == Moves(open=(nodes[1],), swapped=True)
    assert {pick(subject) for _ in range(6)} == {nodes[0], nodes[2]}


def test_connection_that_broke_is_not_picked() -> None:
    subject, nodes = resolved()
    for node in nodes:
        subject.on_state(node, READY, 0.0)
    subject.on_state(nodes[1], FAILURE, 1.0, "reset")
    assert {pick(subject) for _ in range(6)} == {nodes[0], nodes[2]}


def test_identical_set_is_an_empty_plan() -> None:
    subject, nodes = resolved()
    connect(subject, Moves(open=nodes))
    before = subject.picker
    equal = tuple(Endpoint(endpoint.address) for endpoint in GIVEN)
    for same in (GIVEN, equal, GIVEN[::-1], (*GIVEN, GIVEN[0])):
        assert subject.apply(Resolved(same), 1.0) == Moves()
    assert subject.picker is before


def test_survivors_keep_their_nodes() -> None:
    subject, nodes = resolved()
    connect(subject, Moves(open=nodes))
    nodes[1].load.started(0.0)
    plan = subject.apply(Resolved((Endpoint(GIVEN[1].address, weight=9), Endpoint("new:1"))), 1.0)
    assert set(plan.close) == {nodes[0], nodes[2]}
    assert [node.endpoint.address for node in plan.open] == ["new:1"]
    survivor = subject.node(Endpoint(GIVEN[1].address))
    assert survivor is nodes[1]
    assert (survivor.load.in_flight, survivor.state, survivor.weight) == (1, READY, 9.0)


def test_same_address_under_another_id_is_another_process() -> None:
    subject = pool()
    old = subject.apply(Resolved((Endpoint("a:1", id="x"),)), 0.0).open
    plan = subject.apply(Resolved((Endpoint("a:1", id="y"),)), 1.0)
    assert plan.close == old
    assert plan.open != old


def test_of_two_with_one_key_the_first_counts() -> None:
    subject = pool("weighted_round_robin")
    plan = subject.apply(Resolved((Endpoint("a:1", weight=2), Endpoint("a:1", weight=5))), 0.0)
    assert [node.weight for node in plan.open] == [2.0]


def test_news_of_a_node_that_has_left_is_ignored() -> None:
    subject, nodes = resolved()
    subject.apply(Resolved(GIVEN[1:]), 0.0)
    assert subject.on_state(nodes[0], READY, 1.0) == Moves()
    assert nodes[0].state is SHUTDOWN


def test_excluded_node_is_avoided_while_there_is_another() -> None:
    subject, nodes = resolved()
    connect(subject, Moves(open=nodes))
    assert {pick(subject, nodes[0]) for _ in range(10)} == {nodes[1], nodes[2]}
    assert {pick(subject, *nodes[:2]) for _ in range(10)} == {nodes[2]}
    assert pick(subject, *nodes) in nodes


def test_not_serving_back_end_is_not_picked_and_comes_back() -> None:
    subject, nodes = resolved(panic_threshold=0.0)
    connect(subject, Moves(open=nodes))
    assert subject.on_health(nodes[0], False, 1.0).swapped
    assert {pick(subject) for _ in range(6)} == {nodes[1], nodes[2]}
    for node in nodes[1:]:
        subject.on_health(node, False, 1.0)
    assert pick(subject) == Fail("all endpoints are ejected or not serving")
    assert subject.state is FAILURE
    subject.on_health(nodes[0], True, 2.0)
    assert pick(subject) is nodes[0]


def test_panic_uses_those_that_say_they_do_not_serve() -> None:
    """Two of three not serving is less than half well: the word of the health service is worth nothing then."""
    subject, nodes = resolved()
    connect(subject, Moves(open=nodes))
    subject.on_health(nodes[0], False, 1.0)
    assert len({pick(subject) for _ in range(6)}) == 2
    subject.on_health(nodes[1], False, 1.0)
    assert subject.statistics(1.0).panic
    assert {pick(subject) for _ in range(6)} == set(nodes)


def test_panic_does_not_begin_while_the_others_connect() -> None:
    """The first to be connected says it does not serve: the others are not ill, they only are not there yet."""
    subject, nodes = resolved()
    subject.on_health(nodes[0], False, 0.0)
    subject.on_state(nodes[0], READY, 0.0)
    subject.on_state(nodes[1], CONNECTING, 0.0)
    assert not subject.statistics(0.0).panic
    assert pick(subject) == Wait()
    subject.on_state(nodes[1], READY, 0.0)
    assert {pick(subject) for _ in range(6)} == {nodes[1]}


def test_panic_begins_once_the_others_have_failed() -> None:
    subject, nodes = resolved()
    subject.on_health(nodes[0], False, 0.0)
    subject.on_state(nodes[0], READY, 0.0)
    subject.on_state(nodes[1], FAILURE, 0.0, "refused")
    assert subject.statistics(0.0).panic
    assert {pick(subject) for _ in range(6)} == {nodes[0]}


def test_panic_does_not_pick_those_that_cannot_be_reached() -> None:
    subject, nodes = resolved()
    connect(subject, Moves(open=nodes))
    subject.on_state(nodes[0], FAILURE, 1.0, "refused")
    subject.on_health(nodes[1], False, 1.0)
    assert subject.statistics(1.0).panic
    assert {pick(subject) for _ in range(6)} == {nodes[1], nodes[2]}


@pytest.mark.parametrize("name", ["round_robin", "pick_first", "consistent_hash"])
def test_another_policy_before_there_are_endpoints(name: str) -> None:
    subject, fresh = pool("random"), pool(name)
    subject.choose_by(policy(name), 0.0)
    changed, always = subject.apply(Resolved(GIVEN), 0.0), fresh.apply(Resolved(GIVEN), 0.0)
    assert [node.endpoint for node in changed.open] == [node.endpoint for node in always.open]
    assert type(pick(subject)) is type(pick(fresh))
    assert subject.statistics(0.0).policy == name


def test_another_policy_takes_the_nodes_over() -> None:
    subject, nodes = resolved("weighted_round_robin")
    connect(subject, Moves(open=nodes))
    nodes[0].load.started(0.0)
    plan = subject.choose_by(policy("least_connections?choices=full"), 1.0)
    assert plan == Moves(swapped=True)
    assert nodes[0] not in {pick(subject) for _ in range(6)}


def test_pick_first_keeps_one_connection_of_the_policy_before() -> None:
    subject, nodes = resolved()
    connect(subject, Moves(open=nodes))
    plan = subject.choose_by(policy("pick_first"), 1.0)
    assert (plan.open, plan.close, plan.swapped) == ((), nodes[1:], True)
    assert {pick(subject) for _ in range(6)} == {nodes[0]}
    assert set(subject.choose_by(policy("round_robin"), 2.0).open) == set(nodes[1:])
    assert {pick(subject) for _ in range(6)} == {nodes[0]}


def test_lazy_policy_takes_over_from_pick_first() -> None:
    subject, nodes = resolved("pick_first")
    subject.on_state(nodes[0], READY, 0.0)
    assert subject.choose_by(policy("consistent_hash"), 1.0).open == ()
    answers = [subject.picker.pick(PickInfo(key=str(key)), 1.0) for key in range(50)]
    assert {type(answer) for answer in answers} == {Node, Open}


def test_subset_is_drawn_anew_for_a_policy_that_has_one() -> None:
    subject, nodes = resolved("pick_first", subset_size=1)
    assert set(subject.members) == set(nodes)
    subject.choose_by(policy("round_robin"), 1.0)
    assert len(subject.members) == 1


def test_reported_weight_replaces_the_configured_one() -> None:
    subject, nodes = resolved("weighted_round_robin")
    connect(subject, Moves(open=nodes))
    assert subject.set_weight(nodes[0], 4.0, 0.0).swapped
    picks = [pick(subject) for _ in range(6)]
    assert picks.count(nodes[0]) == 4
    subject.set_weight(nodes[0], None, 0.0)
    assert [pick(subject) for _ in range(6)].count(nodes[0]) == 2


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_reported_weight_must_be_one(weight: float) -> None:
    subject, nodes = resolved()
    with pytest.raises(ValueError, match=r"^weight:"):
        subject.set_weight(nodes[0], weight, 0.0)


def test_pools_of_many_clients_begin_with_different_endpoints() -> None:
    firsts = set()
    for seed in range(40):
        subject = Pool(policy("round_robin"), rng=Random(seed), now=0.0)
        connect(subject, subject.apply(Resolved(GIVEN), 0.0))
        firsts.add(pick(subject).endpoint)  # type: ignore[attr-defined]
    assert firsts == set(GIVEN)


def test_open_is_what_a_pick_on_an_idle_node_says() -> None:
    subject, nodes = resolved(lazy=True)
    assert pick(subject) == Open((nodes[0],))
