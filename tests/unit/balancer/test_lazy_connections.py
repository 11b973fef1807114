"""Connections that are opened when a pick falls on them, and closed when they are not used any more."""

from random import Random

from balancer.endpoints import Resolved
from balancer.policies import policy
from balancer.policies.base import ANY, ConnectivityState, Node, PickInfo
from balancer.pool.options import PoolOptions
from balancer.pool.picker import Fail, Open, Wait
from balancer.pool.pool import Moves, Pool
from tests.support.fleet import connect, endpoints

IDLE, CONNECTING, READY, FAILURE, _ = ConnectivityState
GIVEN = endpoints(5)


def started(name: str, **options: object) -> tuple[Pool, Moves]:
    subject = Pool(
        policy(name),
        options=PoolOptions(shuffle=False, **options),  # type: ignore[arg-type]
        rng=Random(1),
        now=0.0,
    )
    return subject, subject.apply(Resolved(GIVEN), 0.0)


def idle_node(subject: Pool, key: str) -> Node:
    answer = subject.picker.pick(PickInfo(key), 0.0)
    assert isinstance(answer, Open)
    (node,) = answer.nodes
    return node


def test_hashing_opens_only_what_keys_fall_on() -> None:
    subject, plan = started("consistent_hash")
    assert plan == Moves(swapped=True)
    assert subject.state is IDLE
    node = idle_node(subject, "k")
    subject.on_state(node, CONNECTING, 0.0)
    assert subject.picker.pick(PickInfo("k"), 0.0) == Wait()
    subject.on_state(node, READY, 0.0)
    assert subject.picker.pick(PickInfo("k"), 0.0) is node
    assert [other.state for other in subject.members if other is not node] == [IDLE] * 4


def test_key_of_a_failed_node_goes_to_the_next_on_the_ring() -> None:
    subject, _ = started("consistent_hash")
    node = idle_node(subject, "k")
    subject.on_state(node, FAILURE, 0.0, "refused")
    other = idle_node(subject, "k")
    assert other is not node
    connect(subject, Moves(open=(other,)))
    assert subject.picker.pick(PickInfo("k"), 0.0) is other
    subject.on_state(node, READY, 1.0)
    assert subject.picker.pick(PickInfo("k"), 1.0) is node


def test_failed_node_that_goes_idle_is_opened_again() -> None:
    """Nobody else would ask for it: no key falls on it while it is failing."""
    subject, _ = started("consistent_hash")
    node = idle_node(subject, "k")
    subject.on_state(node, FAILURE, 0.0, "refused")
    assert subject.on_state(node, IDLE, 1.0).open == (node,)


def test_ready_node_that_goes_idle_waits_for_a_pick() -> None:
    subject, _ = started("consistent_hash")
    node = idle_node(subject, "k")
    connect(subject, Moves(open=(node,)))
    assert subject.on_state(node, IDLE, 1.0).open == ()
    assert idle_node(subject, "k") is node


def test_all_failed_is_a_failure() -> None:
    subject, _ = started("consistent_hash")
    for node in subject.members:
        subject.on_state(node, FAILURE, 0.0, "refused")
    assert isinstance(subject.picker.pick(PickInfo("k"), 0.0), Fail)


def test_unused_connection_of_a_lazy_pool_is_closed_and_used_ones_are_not() -> None:
    subject, _ = started("consistent_hash", idle_timeout_s=60.0)
    nodes = list(subject.members)[:3]
    connect(subject, Moves(open=tuple(nodes)))
    nodes[0].load.started(1.0)
    nodes[0].load.finished(2.0, 1.0)
    nodes[1].load.started(1.0)  # and never ends
    nodes[2].load.started(58.0)
    nodes[2].load.finished(59.0, 1.0)
    assert run_until(subject, 90.0) == [nodes[0]]
    assert (nodes[0].state, nodes[1].state, nodes[2].state) == (IDLE, READY, READY)


def test_idle_pool_closes_everything_and_wakes_with_the_next_pick() -> None:
    subject, plan = started("round_robin", idle_timeout_s=60.0)
    connect(subject, plan)
    nodes = plan.open
    assert run_until(subject, 59.0) == []
    assert run_until(subject, 61.0) == list(nodes)
    assert subject.state is IDLE
    assert subject.picker.pick(ANY, 61.0) == Open(nodes)
    assert set(subject.on_state(nodes[0], CONNECTING, 61.0).open) == set(nodes)
    subject.on_state(nodes[0], READY, 61.0)
    assert subject.picker.pick(ANY, 61.0) is nodes[0]
    assert run_until(subject, 100.0) == []


def test_pool_with_a_call_under_way_is_not_idle() -> None:
    subject, plan = started("round_robin", idle_timeout_s=60.0)
    connect(subject, plan)
    plan.open[0].load.started(1.0)
    assert run_until(subject, 1_000.0) == []


def test_endpoints_that_come_while_the_pool_is_idle_are_not_connected() -> None:
    subject, plan = started("round_robin", idle_timeout_s=60.0)
    connect(subject, plan)
    run_until(subject, 61.0)
    plan = subject.apply(Resolved(endpoints(6)), 62.0)
    assert (plan.open, plan.swapped) == ((), True)
    answer = subject.picker.pick(ANY, 62.0)
    assert isinstance(answer, Open)
    assert len(answer.nodes) == 6


def test_lazy_round_robin_connects_one_after_the_other() -> None:
    subject, plan = started("round_robin", lazy=True)
    assert plan.open == ()
    opened = [subject.picker.pick(ANY, 0.0) for _ in range(5)]
    assert opened == [Open((node,)) for node in subject.members]


def run_until(subject: Pool, end: float) -> list[Node]:
    """Ticks as the pool wants it; the nodes it closed."""
    closed: list[Node] = []
    now = 0.0
    for _ in range(1_000):
        due = subject.next_tick(now)
        if due is None or due > end:
            return closed
        now = max(due, now)
        closed += subject.tick(now).close
    raise AssertionError("the pool asks for ticks without end")


def test_a_pick_without_a_key_goes_to_what_is_ready_and_has_another_connected() -> None:
    """gRFC A76: it waits for nobody, and yet all endpoints come to be connected."""
    subject, _ = started("consistent_hash")
    first = idle_node(subject, "k")
    subject.on_state(first, READY, 0.0)
    opened = set()
    for _ in range(50):
        assert subject.picker.pick(ANY, 0.0) is first
        first.load.started(0.0)
        if first.load.finished(0.0, 0.01):
            opened |= set(subject.tick(0.0).open)
    assert len(opened) > 1
    assert first not in opened


def test_no_more_than_one_is_connected_for_picks_without_a_key() -> None:
    subject, _ = started("consistent_hash")
    first = idle_node(subject, "k")
    subject.on_state(first, READY, 0.0)
    opened: list[Node] = []
    for _ in range(50):
        subject.picker.pick(ANY, 0.0)
        for node in subject.tick(0.0).open:
            opened.append(node)
            subject.on_state(node, CONNECTING, 0.0)
    assert len(opened) == 1
