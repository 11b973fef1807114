"""Traffic in parts: every part its share, a policy within it, whoever comes and goes."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.endpoints import Endpoint, Resolved
from balancer.policies import policy
from balancer.policies.base import ANY, Connect, ConnectivityState, Node, PickInfo, connect_of
from balancer.policies.split import Part, Split
from balancer.pool.options import PoolOptions
from balancer.pool.pool import Pool
from tests.support.fleet import connect

CALLS = 10_000
CANARY = (Part(90, version="1"), Part(10, version="2"))


def fleet(version: str, number: int = 3, **fields: object) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(f"v{version}-{n}:1", version=version, **fields) for n in range(number))  # type: ignore[arg-type]


def pool(parts: tuple[Part, ...], child: str, *endpoints: Endpoint, **options: object) -> Pool:
    made = PoolOptions(idle_timeout_s=None, **options)  # type: ignore[arg-type]
    subject = Pool(Split(parts, policy(child)), options=made, rng=Random(1), now=0.0)
    connect(subject, subject.apply(Resolved(endpoints), 0.0))
    return subject


def picks(subject: Pool, calls: int = CALLS) -> Counter[str]:
    picked = [subject.picker.pick(ANY, 1.0) for _ in range(calls)]
    return Counter(node.endpoint.address for node in picked if isinstance(node, Node))


def by_version(subject: Pool) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for address, count in picks(subject).items():
        counts[address[1]] += count
    return {version: count / CALLS for version, count in counts.items()}


def test_each_part_has_its_share_however_many_are_in_it() -> None:
    found = by_version(pool(CANARY, "round_robin", *fleet("1", 2), *fleet("2", 9)))
    assert found == {"1": pytest.approx(0.9, abs=0.01), "2": pytest.approx(0.1, abs=0.01)}


def test_within_a_part_the_policy_chooses() -> None:
    heavy = Endpoint("v1-9:1", version="1", weight=3)
    counts = picks(pool(CANARY, "weighted_round_robin", *fleet("1", 1), heavy, *fleet("2", 2)))
    assert counts["v1-9:1"] / counts["v1-0:1"] == pytest.approx(3, rel=0.02)
    assert counts["v2-0:1"] == pytest.approx(counts["v2-1:1"], abs=1)


def test_by_tag_and_the_rest() -> None:
    parts = Part(1, tag="canary"), Part(3)
    counts = picks(pool(parts, "round_robin", *fleet("1"), Endpoint("v9-0:1", tags=("x", "canary"))))
    assert counts["v9-0:1"] / CALLS == pytest.approx(0.25, abs=0.02)


def test_a_part_that_cannot_be_reached_leaves_its_share_to_the_others() -> None:
    canaries = fleet("2")
    subject = pool(CANARY, "round_robin", *fleet("1"), *canaries)
    for endpoint in canaries:
        node = subject.node(endpoint)
        assert node is not None
        subject.on_state(node, ConnectivityState.TRANSIENT_FAILURE, 1.0, "refused")
    assert by_version(subject) == {"1": 1.0}


def test_whom_no_part_fits_gets_calls_only_when_nobody_else_is_there() -> None:
    assert by_version(pool(CANARY, "round_robin", *fleet("1"), *fleet("3"))) == {"1": 1.0}
    assert by_version(pool(CANARY, "round_robin", *fleet("3"))) == {"3": 1.0}


def test_hashing_keeps_a_key_at_one_endpoint_of_the_part() -> None:
    subject = pool((Part(1, version="1"),), "consistent_hash", *fleet("1", 5))
    assert connect_of(Split(CANARY, policy("consistent_hash"))) is Connect.LAZY
    for key in map(str, range(50)):
        assert len({str(subject.picker.pick(PickInfo(key), 1.0)) for _ in range(5)}) == 1


def test_pick_first_in_parts_is_one_of_each() -> None:
    counts = picks(pool(CANARY, "pick_first", *fleet("1"), *fleet("2")))
    assert sorted(address[1] for address in counts) == ["1", "2"]


def test_a_subset_has_some_of_each_part() -> None:
    subject = pool(CANARY, "round_robin", *fleet("1", 500), *fleet("2", 3), subset_size=10)
    assert by_version(subject)["2"] == pytest.approx(0.1, abs=0.01)
    assert len(subject.members) == 13


def test_it_tells_why() -> None:
    subject = pool(CANARY, "round_robin", *fleet("1"))
    picks(subject, 1)
    assert "part 1, which gets 100%: " in subject.picker.explain()
    assert Split(CANARY, policy("round_robin")).name == "round_robin in 2 parts"


def test_no_part_without_a_share() -> None:
    with pytest.raises(ValueError, match="weight: must be above 0, is 0"):
        Part(0, version="1")


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 5), st.sampled_from("123"), st.integers(1, 3)), unique_by=lambda it: it[0])
    )
)
def test_after_any_history_it_is_as_if_it_was_made_anew(history: list[list[tuple[int, str, int]]]) -> None:
    """Endpoints come, go, and change their version and weight: the same are picked as by one that knows no past."""
    subject = pool(CANARY, "weighted_round_robin")
    for step in history:
        endpoints = tuple(Endpoint(f"e-{n}:1", version=version, weight=weight) for n, version, weight in step)
        connect(subject, subject.apply(Resolved(endpoints), 0.0))
        fresh = pool(CANARY, "weighted_round_robin", *endpoints)
        assert set(picks(subject, 400)) == set(picks(fresh, 400))
