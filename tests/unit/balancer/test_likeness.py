"""What stands in place of an endpoint: the objects of a registry's client, and anything that looks like one."""

from collections import Counter
from dataclasses import dataclass, field, replace
from enum import Enum
from random import Random
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

import balancer
from balancer import LoadBalancer, NodeSet, NoEndpointError
from balancer.likeness import as_endpoint
from registry_client import Endpoint, Health, Instance, Locality, Status
from tests.support.fleet import POLICIES

WELL = Instance(
    "player", "10.0.0.5", 8001, id="p1", version="2.0.0", weight=3, tags=["eu"], metadata={"price": "2"},
    locality=Locality("eu", "a", "1"),
)  # fmt: skip
KEPT_AWAY: list[dict[str, Any]] = [
    {"status": Status.DRAINING},
    {"status": Status.DOWN},
    {"health": Health.CRITICAL},
    {"health": Health.UNHEALTHY},
    {"weight": 0},
]


def other(**fields: Any) -> Instance:
    return replace(WELL, id="p2", port=8002, **fields)


def shown(instance: Instance) -> Endpoint:
    """As a view shows it."""
    return Endpoint(instance.address, instance)


def test_an_instance_and_an_endpoint_of_a_view_are_taken_with_all_they_have() -> None:
    expected = balancer.Endpoint(
        "10.0.0.5:8001", 3, "p1", "2.0.0", balancer.Locality("eu", "a", "1"), 0, ("eu",), {"price": "2"}, True
    )
    assert as_endpoint(WELL) == as_endpoint(shown(WELL)) == expected


@pytest.mark.parametrize("shape", [lambda it: it, shown], ids=["instance", "endpoint"])
@pytest.mark.parametrize("fields", KEPT_AWAY, ids=str)
@pytest.mark.parametrize("name", [*POLICIES, "locality_aware"])
def test_who_gets_no_traffic_is_not_selected_beside_one_that_is_well(name: str, fields: Any, shape: Any) -> None:
    subject, given = LoadBalancer(name), (shape(WELL), shape(other(**fields)))
    for kind in (tuple, list):
        assert {id(subject.select(kind(given), key=f"10.0.0.{n}")) for n in range(40)} == {id(given[0])}


@pytest.mark.parametrize("fields", KEPT_AWAY[:-1], ids=str)
def test_where_nobody_is_well_some_answer_beats_none(fields: Any) -> None:
    given = (replace(WELL, **fields), other(**fields))
    subject = LoadBalancer("round_robin")
    assert {subject.select(given).id for _ in range(4)} == {"p1", "p2"}


def test_all_of_weight_0_are_none_and_the_error_says_so() -> None:
    with pytest.raises(NoEndpointError, match="of 2 known, 2 of weight 0"):
        LoadBalancer().select((replace(WELL, weight=0), other(weight=0)))


def test_an_instance_that_becomes_well_is_selected_again() -> None:
    subject, ill = LoadBalancer("round_robin"), other(health=Health.CRITICAL)
    assert {subject.select([WELL, ill]).id for _ in range(4)} == {"p1"}
    assert {subject.select([WELL, replace(ill, health=Health.HEALTHY, revision=9)]).id for _ in range(4)} == {
        "p1",
        "p2",
    }
    assert {subject.select([replace(WELL, status=Status.DRAINING), ill]).id for _ in range(4)} == {"p1", "p2"}


def test_a_policy_that_reads_metadata_tags_and_version_finds_them() -> None:
    class Cheapest:
        def chooser(self, nodes: NodeSet, _rng: Random) -> Any:
            assert all(node.endpoint.tags == ("eu",) and node.endpoint.version == "2.0.0" for node in nodes.usable)
            best = min(nodes.usable, key=lambda node: float(node.endpoint.metadata["price"]))
            return lambda _info, _now: best

    cheap = other(metadata={"price": "1"})
    assert LoadBalancer(Cheapest()).select([WELL, cheap]) is cheap


@pytest.mark.parametrize("shape", [lambda it: it, shown], ids=["instance", "endpoint"])
def test_locality_aware_keeps_to_its_own_zone(shape: Any) -> None:
    given = tuple(
        map(shape, (WELL, other(locality=Locality("eu", "b")), replace(other(locality=Locality("us")), id="p3")))
    )
    subject = LoadBalancer("locality_aware?region=eu&zone=a")
    assert Counter(subject.select(given) is given[0] for _ in range(60)) == {True: 60}


class Colour(Enum):
    DOWN = "down"
    RED = "red"


@dataclass
class Theirs:
    """Somebody's own."""

    address: str = "a:1"
    status: object = "ACTIVE"
    health: object = None
    tags: list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    ("given", "routable"),
    [
        (Theirs(), True),
        (Theirs(status="draining"), False),
        (Theirs(status=Colour.DOWN), False),
        (Theirs(status=Colour.RED), True),
        (Theirs(status=200, health="good enough"), True),
        (Theirs(health="Critical"), False),
        (SimpleNamespace(address="a:1", routable=False), False),
        (SimpleNamespace(address="a:1", routable=True, status="DOWN"), True),
        (SimpleNamespace(address="a:1", instance=None), True),
    ],
)
def test_what_an_object_says_of_itself(given: object, routable: bool) -> None:
    assert as_endpoint(given).routable is routable
    assert as_endpoint(given) == balancer.Endpoint("a:1", routable=routable)


def test_a_read_only_mapping_is_as_good_as_a_dictionary() -> None:
    subject = LoadBalancer("round_robin")
    frozen = SimpleNamespace(address="a:1", metadata=MappingProxyType({"a": "b"}))
    assert subject.select([frozen]) is frozen
    assert as_endpoint(frozen) == balancer.Endpoint("a:1", metadata={"a": "b"})


def test_a_value_that_makes_no_sense_is_named() -> None:
    with pytest.raises(ValueError, match=r"^weight: must be a whole number"):
        LoadBalancer().select([SimpleNamespace(address="a:1", weight="much")])
