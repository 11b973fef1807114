"""Subsets: bounded, the same every time, even over many clients, and barely moved by a change."""

from collections import Counter
from random import Random

import pytest

from balancer.endpoints import Endpoint, Resolved
from balancer.policies import policy
from balancer.policies.base import ANY, Node
from balancer.pool.options import PoolOptions
from balancer.pool.pool import Pool
from tests.support.fleet import connect, endpoints


def client(salt: str, given: tuple[Endpoint, ...], size: int = 20, name: str = "round_robin") -> Pool:
    options = PoolOptions(subset_size=size, subset_salt=salt)
    subject = Pool(policy(name), options=options, rng=Random(1), now=0.0)
    connect(subject, subject.apply(Resolved(given), 0.0))
    return subject


def used(subject: Pool) -> set[Endpoint]:
    return {node.endpoint for node in subject.members}


def test_ten_thousand_endpoints_are_twenty_connections() -> None:
    subject = Pool(policy("round_robin"), options=PoolOptions(subset_size=20), rng=Random(1), now=0.0)
    assert len(subject.apply(Resolved(endpoints(10_000)), 0.0).open) == 20


def test_small_sets_are_used_whole() -> None:
    assert used(client("a", endpoints(7))) == set(endpoints(7))


def test_same_client_same_subset_whatever_the_order() -> None:
    assert used(client("a", endpoints(100))) == used(client("a", endpoints(100)[::-1]))


def test_other_clients_other_subsets() -> None:
    assert used(client("a", endpoints(1_000))) != used(client("b", endpoints(1_000)))


def test_many_clients_load_all_endpoints_alike() -> None:
    """500 clients of 20 out of 100: each endpoint is in 100 subsets with a standard deviation of 9; 4.5 of them is
    40."""
    counts = Counter(endpoint for n in range(500) for endpoint in used(client(f"client-{n}", endpoints(100))))
    assert len(counts) == 100
    assert max(abs(count - 100) for count in counts.values()) <= 40


def test_one_that_leaves_is_replaced_and_nobody_else_moves() -> None:
    given = endpoints(100)
    subject = client("a", given)
    before = used(subject)
    gone = next(iter(before))
    plan = subject.apply(Resolved(tuple(endpoint for endpoint in given if endpoint is not gone)), 1.0)
    assert [node.endpoint for node in plan.close] == [gone]
    assert len(plan.open) == 1
    assert len(used(subject) - before) == 1


def test_one_that_leaves_from_outside_changes_nothing() -> None:
    given = endpoints(100)
    subject = client("a", given)
    outside = next(endpoint for endpoint in given if endpoint not in used(subject))
    plan = subject.apply(Resolved(tuple(endpoint for endpoint in given if endpoint is not outside)), 1.0)
    assert (plan.open, {node.endpoint for node in plan.close}) == ((), {outside})


def test_one_that_joins_takes_at_most_one_place() -> None:
    subject = client("a", endpoints(100))
    for number in range(101, 200):
        plan = subject.apply(Resolved(endpoints(number)), 1.0)
        assert len(plan.open) == len(plan.close) <= 1


def test_every_priority_has_a_subset_of_its_own() -> None:
    given = (*endpoints(50), *(Endpoint(f"back-{n}:1", priority=1) for n in range(50)))
    counts = Counter(endpoint.priority for endpoint in used(client("a", given)))
    assert counts == {0: 20, 1: 20}


def test_unroutable_endpoints_take_no_places() -> None:
    given = (*endpoints(30), *(Endpoint(f"ill-{n}:1", routable=False) for n in range(100)))
    assert all(endpoint.routable for endpoint in used(client("a", given)))


def test_calls_stay_within_the_subset() -> None:
    subject = client("a", endpoints(100))
    picks = [subject.picker.pick(ANY, 0.0) for _ in range(100)]
    assert {node.endpoint for node in picks if isinstance(node, Node)} == used(subject)


def test_size_must_be_one_at_least() -> None:
    with pytest.raises(ValueError, match=r"^subset_size:"):
        PoolOptions(subset_size=0)
