"""What a pool says of each endpoint: connected, connecting, failed, ejected, not in the subset, of weight 0."""

from random import Random
from typing import Any

import pytest

from balancer import Endpoint, LoadBalancer, OutlierOptions, PoolOptions, Resolved
from balancer.endpoints import Absent, Failed
from balancer.policies import policy
from balancer.policies.base import ANY, ConnectivityState
from balancer.pool.picker import Choosing
from balancer.pool.pool import Pool

READY, FAILURE = ConnectivityState.READY, ConnectivityState.TRANSIENT_FAILURE


def pool(name: str = "round_robin", **options: Any) -> Pool:
    return Pool(policy(name), options=PoolOptions(shuffle=False, **options), rng=Random(1), now=0.0)


def endpoint(id_: str, **fields: Any) -> Endpoint:
    return Endpoint(f"10.0.0.{ord(id_)}:1", id=id_, **fields)


def state(of: Pool, id_: str, now: ConnectivityState, error: str = "") -> None:
    (node,) = (it for it in of._roster if it.endpoint.id == id_)
    of.on_state(node, now, 1.0, error)


def told(of: Pool, now: float = 1.0) -> dict[str, tuple[bool, str]]:
    return {it.id: (it.usable, it.why) for it in of.why(now).endpoints}


def test_what_becomes_of_a_connection_is_told() -> None:
    subject = pool()
    subject.apply(Resolved((endpoint("a"), endpoint("b"), endpoint("c"))), 0.0)
    state(subject, "a", READY)
    state(subject, "b", FAILURE, "refused")
    state(subject, "c", ConnectivityState.CONNECTING)
    assert told(subject) == {
        "a": (True, "it is connected"),
        "b": (False, "connecting failed: refused"),
        "c": (False, "it is being connected to"),
    }
    why = subject.why(1.0)
    assert (why.usable, why.verdict) == (True, "1 of 3 endpoints gets calls")
    found = why.of("b")
    assert found is not None
    assert (found.state, found.error, found.address) == (FAILURE, "refused", "10.0.0.98:1")
    assert why.of("10.0.0.97:1") is why.endpoints[0]
    assert why.of("z") is None
    assert str(why).splitlines()[1:] == [
        "a at 10.0.0.97:1 gets calls: it is connected",
        "b at 10.0.0.98:1 gets none: connecting failed: refused",
        "c at 10.0.0.99:1 gets none: it is being connected to",
    ]


def test_what_was_reached_once_is_still_failed_while_it_is_connected_to_again() -> None:
    subject = pool()
    subject.apply(Resolved((endpoint("a"),)), 0.0)
    state(subject, "a", FAILURE, "refused")
    state(subject, "a", ConnectivityState.CONNECTING)
    assert told(subject) == {"a": (False, "connecting failed: refused")}
    assert subject.why(1.0).verdict.startswith("no endpoint gets calls: failed to connect to all addresses")


def test_who_gets_nothing_whatever_its_connection() -> None:
    subject = pool(panic_threshold=0.0)
    subject.apply(Resolved((endpoint("a"), endpoint("b", weight=0), endpoint("c", routable=False))), 0.0)
    found = told(subject)
    assert found["b"] == (False, "its weight is 0")
    assert found["c"] == (False, "it drains or is ill, and others are well")


def test_who_is_not_in_the_subset() -> None:
    subject = pool(subset_size=2, subset_salt="me")
    subject.apply(Resolved(tuple(endpoint(id_) for id_ in "abcdef")), 0.0)
    reasons = [why for _, why in told(subject).values()]
    assert reasons.count("it is not in the subset of 2") == 4


def test_who_is_ejected_and_for_how_long() -> None:
    subject = pool(outlier=OutlierOptions(consecutive_failures=1, base_ejection_s=30.0, max_ejection_percent=50))
    subject.apply(Resolved(tuple(endpoint(id_) for id_ in "abc")), 0.0)
    for id_ in "abc":
        state(subject, id_, READY)
    (bad, *_) = subject.members
    bad.load.started(1.0)
    bad.load.finished(1.0, 0.1, ok=False)
    subject.tick(1.0)
    found = subject.why(11.0).of(bad.endpoint.id)
    assert found is not None
    assert (found.usable, found.why) == (False, "it failed more than others and is ejected for 20.0 s more")
    assert found.ejected_for_s == pytest.approx(20.0)
    subject.tick(31.5)
    assert told(subject, 32.0)[bad.endpoint.id] == (True, "it is connected")


def test_the_sick_are_used_when_too_many_are() -> None:
    subject = pool()
    subject.apply(Resolved((endpoint("a"),)), 0.0)
    state(subject, "a", READY)
    (node,) = subject.members
    subject.on_health(node, serving=False, now=1.0)
    assert told(subject) == {
        "a": (True, "its own health service says that it is not serving, and is used all the same: too many are")
    }


def test_lazy_ones_wait_for_a_call() -> None:
    subject = pool("consistent_hash")
    subject.apply(Resolved((endpoint("a"), endpoint("b"))), 0.0)
    assert set(told(subject).values()) == {(True, "it is connected when a call falls on it")}


def test_of_pick_first_one_takes_all() -> None:
    subject = pool("pick_first")
    subject.apply(Resolved((endpoint("a"), endpoint("b"))), 0.0)
    state(subject, "a", READY)
    assert told(subject) == {"a": (True, "it is connected"), "b": (False, "another one takes all calls")}


def test_an_idle_channel_says_so() -> None:
    subject = pool(idle_timeout_s=10.0)
    subject.apply(Resolved((endpoint("a"),)), 0.0)
    state(subject, "a", READY)
    subject.tick(60.0)
    assert told(subject) == {"a": (False, "nothing was called for long: the next call connects it")}
    assert subject.why(60.0).verdict == "no endpoint gets calls: nothing was called for long; the next call connects"


def test_why_there_is_nobody() -> None:
    subject = pool()
    assert subject.why(0.0).verdict == "no endpoint gets calls: it is not known yet which there are"
    subject.apply(Failed("the registry cannot be reached"), 0.0)
    assert subject.why(0.0).verdict == "no endpoint gets calls: the registry cannot be reached"
    subject.apply(Absent("no instance of player is registered"), 0.0)
    why = subject.why(0.0)
    assert (why.usable, why.verdict) == (False, "no endpoint gets calls: no instance of player is registered")


def test_a_balancer_knows_of_no_connections() -> None:
    balancer = LoadBalancer("round_robin")
    assert not balancer.why().usable
    balancer.select((endpoint("a"), endpoint("b", weight=0)))
    assert [(it.id, it.usable, it.why, it.state) for it in balancer.why().endpoints] == [
        ("a", True, "nothing speaks against it", None),
        ("b", False, "its weight is 0", None),
    ]


def test_the_usable_are_those_that_are_picked_from() -> None:
    subject = pool()
    subject.apply(Resolved(tuple(endpoint(id_) for id_ in "abcd")), 0.0)
    for id_ in "ab":
        state(subject, id_, READY)
    picker = subject.picker
    assert isinstance(picker, Choosing)
    picked = {node.endpoint.id for _ in range(20) if (node := picker.pick(ANY, 1.0))}  # type: ignore[union-attr]
    assert picked == {it.id for it in subject.why(1.0).endpoints if it.usable}
