"""Policies by name, by object, and from other packages."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

import balancer
from balancer import Endpoint, LoadBalancer
from balancer.policies import names, policy
from balancer.policies.base import ANY, Chooser, Connect, NodeSet, connect_of, policy_name
from balancer.policies.round_robin import RoundRobin
from tests.support.fleet import POLICIES, endpoints, pool_of

BUILT_IN = [
    "pick_first",
    "round_robin",
    "random",
    "weighted_round_robin",
    "weighted_random",
    "least_connections",
    "consistent_hash",
    "ip_hash",
    "response_time",
]
WITH_LOCALITY = [*BUILT_IN, "locality_aware"]


class Last:
    """A policy in the smallest form there is."""

    def chooser(self, nodes: NodeSet, _rng: Random) -> Chooser:
        return lambda _info, _now: nodes.usable[-1]


def test_names() -> None:
    assert names()[: len(WITH_LOCALITY)] == WITH_LOCALITY
    assert balancer.policy_names() == names()


@pytest.mark.parametrize("name", BUILT_IN)
def test_policy_has_the_name_it_is_found_by(name: str) -> None:
    assert policy_name(policy(name)) == name


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown policy 'best'") as caught:
        LoadBalancer("best")
    assert all(name in str(caught.value) for name in WITH_LOCALITY)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("round_robin?speed=9", "round_robin"),
        ("least_connections?choices=3", "choices"),
        ("consistent_hash?table=heap", "table"),
        ("consistent_hash?virtual_nodes=0", "virtual_nodes"),
        ("consistent_hash?virtual_nodes=many", "virtual_nodes"),
        ("consistent_hash?table=maglev&table_size=65536", "table_size"),
        ("consistent_hash?load_factor=0.5", "load_factor"),
        ("consistent_hash?load_factor=nan", "load_factor"),
        ("consistent_hash?hash_on=moon", "hash_on"),
        ("ip_hash?prefix=33", "prefix"),
        ("ip_hash?prefix=x", "prefix"),
        ("ip_hash?virtual_nodes=0", "virtual_nodes"),
    ],
)
def test_wrong_option_is_named(spec: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        policy(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "consistent_hash?foo=1",
            "unknown option 'foo'; known are table, virtual_nodes, load_factor, table_size, hash_on",
        ),
        ("round_robin?foo", "unknown option 'foo'; known are none"),
        ("locality_aware?make=1", "unknown option 'make'; known are child, region, zone, overprovisioning"),
    ],
)
def test_unknown_option_lists_the_known_ones(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^policy {spec.partition('?')[0]}: {message}$"):
        policy(spec)


def test_options_beside_the_name_are_those_in_it() -> None:
    assert policy("least_connections", {"choices": "full"})._full  # type: ignore[attr-defined]
    assert policy("least_connections?choices=full")._full  # type: ignore[attr-defined]


def test_an_object_is_a_policy() -> None:
    subject = Last()
    assert policy(subject) is subject
    assert policy_name(subject) == "Last"
    assert connect_of(subject) is Connect.ALL
    chosen = LoadBalancer(subject).select([Endpoint("a:1"), Endpoint("b:1")])
    assert chosen == Endpoint("b:1")


def test_a_function_is_a_policy() -> None:
    """It is asked for every call, with the key, and need not know of what the call has failed on."""
    keys: list[object] = []

    def first(given: Sequence[Endpoint], key: str | bytes | None) -> Endpoint:
        keys.append(key)
        return given[0]

    one, two = endpoints(2)
    lb = LoadBalancer(first)
    assert [lb.select((one, two), "k"), lb.select((one, two)), lb.select((one, two), exclude=[one])] == [one, one, two]
    assert keys[:2] == ["k", None]
    assert policy_name(policy(first)) == "first"
    assert lb.stats().last_pick


@pytest.mark.parametrize("chosen", [Endpoint("10.9.9.9:80"), None, "10.0.0.0:80"])
def test_a_function_that_chooses_none_of_them_is_told(chosen: object) -> None:
    with pytest.raises(ValueError, match=r"policy <lambda>: .* is none of the endpoints that it was given"):
        LoadBalancer(lambda given, key: chosen).select(endpoints(1))  # type: ignore[arg-type, return-value]


def test_an_object_without_explanations_is_told_as_chosen() -> None:
    subject = LoadBalancer(Last())
    subject.select([Endpoint("a:1")])
    assert subject.stats().last_pick == "a:1: chosen by the policy"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package that brings a policy."""
    (tmp_path / "their_policies.py").write_text(
        "class Cheapest:\n"
        "    name = 'cheapest'\n"
        "    def __init__(self, *, currency='eur'):\n"
        "        self.currency = currency\n"
        "    def chooser(self, nodes, rng):\n"
        "        best = min(nodes.usable, key=lambda node: float(node.endpoint.metadata[self.currency]))\n"
        "        return lambda info, now: best\n"
    )
    metadata = tmp_path / "their_policies-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-policies\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[grpc_registry.policies]\ncheapest = their_policies:Cheapest\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed")
def test_entry_points_bring_policies() -> None:
    given = [Endpoint("a:1", metadata={"usd": "2", "eur": "1"}), Endpoint("b:1", metadata={"usd": "1", "eur": "2"})]
    assert "cheapest" in names()
    assert LoadBalancer("cheapest").select(given) is given[0]
    assert LoadBalancer("cheapest?currency=usd").select(given) is given[1]
    with pytest.raises(ValueError, match="cheapest"):
        LoadBalancer("worst")


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_tells_why(name: str) -> None:
    pool = pool_of(name, endpoints(3))
    assert pool.statistics(0.0).last_pick == ""
    chosen = pool.picker.pick(ANY, 0.0)
    told = pool.statistics(0.0).last_pick
    assert told.startswith(f"{chosen.endpoint.address}: ")  # type: ignore[union-attr]
    assert "nothing" not in told


def test_what_is_no_policy_is_a_mistake_at_once() -> None:
    with pytest.raises(TypeError):
        policy(RoundRobin)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        policy(7)  # type: ignore[arg-type]
