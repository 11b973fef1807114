"""The values users see, and their way over the wire."""

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.v1 import registry_pb2 as pb
from registry_client.errors import InvalidTarget
from registry_client.instance import (
    Cause,
    Filters,
    Health,
    Instance,
    Key,
    Locality,
    Removed,
    Status,
    filter_to_proto,
    update_to_proto,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
INSTANCES = st.builds(
    Instance,
    service=TEXT,
    host=TEXT,
    port=st.integers(0, 65535),
    id=TEXT,
    namespace=TEXT.filter(bool),
    version=TEXT,
    weight=st.integers(0, 1_000_000),
    tags=st.lists(TEXT, max_size=3),
    metadata=st.dictionaries(TEXT, TEXT, max_size=3),
    locality=st.builds(Locality, TEXT, TEXT, TEXT),
    status=st.sampled_from(Status),
    health=st.sampled_from(Health),
    revision=st.integers(0, 2**62),
    create_revision=st.integers(0, 2**62),
    generation=st.integers(0, 2**62),
    registered_at=st.none() | st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    ttl_s=st.none() | st.integers(0, 3_600_000).map(lambda ms: ms / 1000),
)


@given(INSTANCES)
def test_the_way_over_the_wire_loses_nothing(instance: Instance) -> None:
    sent = pb.Instance.FromString(instance.to_proto().SerializeToString())
    assert Instance.from_proto(sent) == instance


@given(INSTANCES)
def test_instances_are_values(instance: Instance) -> None:
    assert pickle.loads(pickle.dumps(instance)) == instance
    assert hash(instance) == hash(replace(instance))
    assert asdict(instance)["metadata"] == instance.metadata


@given(INSTANCES, st.sampled_from(Cause))
def test_who_left_is_an_instance_with_a_cause(instance: Instance, cause: Cause) -> None:
    left = Removed.of(instance, cause)
    assert (left.cause, left.to_proto(), left.key, left.routable) == (
        cause, instance.to_proto(), instance.key, instance.routable,
    )  # fmt: skip
    assert pickle.loads(pickle.dumps(left)) == left == Removed.of(instance, cause)
    assert all(left != Removed.of(instance, other) for other in Cause if other is not cause)


def test_causes_are_those_of_the_proto() -> None:
    names = {name.removeprefix("CAUSE_"): number for name, number in pb.Departure.Cause.items()}
    assert {cause.value: names[cause.value] for cause in Cause} == names
    assert [Cause.from_proto(number) for number in names.values()] == list(names)


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.__setitem__("a", "c"),
        lambda it: it.__delitem__("a"),
        lambda it: it.__ior__({"b": "c"}),
        lambda it: it.update(b="c"),
        lambda it: it.setdefault("b", "c"),
        lambda it: it.pop("a"),
        lambda it: it.popitem(),
        lambda it: it.clear(),
    ],
)
def test_metadata_cannot_be_changed(change: Callable[[dict[str, str]], object]) -> None:
    given = {"a": "b"}
    instance = Instance("player", "h", 1, metadata=given, tags=["x"])
    with pytest.raises(TypeError, match="cannot be changed"):
        change(instance.metadata)  # type: ignore[arg-type]
    given["a"] = "c"
    assert instance.metadata == {"a": "b"}
    assert instance.tags == ("x",)


def test_metadata_is_a_dict_for_whoever_reads_it() -> None:
    metadata = Instance("player", "h", 1, metadata={"a": "b"}).metadata
    assert json.dumps(metadata) == '{"a": "b"}'
    for copied in (copy.copy(metadata), copy.deepcopy(metadata), pickle.loads(pickle.dumps(metadata))):
        assert copied == metadata
        with pytest.raises(TypeError):
            copied["a"] = "c"  # type: ignore[index]
    assert {**metadata, "c": "d"} == {"a": "b", "c": "d"}


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_absurd_times_of_an_instance_are_none(seconds: int, nanos: int) -> None:
    """Else one such record would stop every client that watches it."""
    message = pb.Instance(service="player", id="p1", host="h", port=1)
    message.registered_at.seconds, message.registered_at.nanos = seconds, nanos
    message.ttl.seconds, message.ttl.nanos = seconds, nanos
    instance = Instance.from_proto(message)
    assert instance.key == Key("default", "player", "p1")
    assert instance.ttl_s is None or 0 <= instance.ttl_s < 1e9
    assert Instance.from_proto(instance.to_proto()) == instance


def test_a_weight_of_zero_is_not_the_default() -> None:
    assert Instance.from_proto(Instance("player", "h", 1, weight=0).to_proto()).weight == 0
    assert Instance.from_proto(pb.Instance(service="player")).weight == 100


@pytest.mark.parametrize(
    ("host", "address"), [("10.0.0.5", "10.0.0.5:1"), ("h.example", "h.example:1"), ("::1", "[::1]:1")]
)
def test_addresses_are_grpc_targets(host: str, address: str) -> None:
    assert Instance("player", host, 1).address == address


@pytest.mark.parametrize(
    ("fields", "routable"),
    [
        ({}, True),
        ({"health": Health.HEALTHY}, True),
        ({"health": Health.UNHEALTHY}, False),
        ({"health": Health.CRITICAL}, False),
        ({"status": Status.DRAINING}, False),
        ({"status": Status.DOWN}, False),
        ({"weight": 0}, False),
    ],
)
def test_who_gets_traffic(fields: dict[str, object], routable: bool) -> None:
    assert Instance("player", "h", 1, **fields).routable is routable  # type: ignore[arg-type]


def test_what_a_newer_registry_invented_gets_no_traffic() -> None:
    message = Instance("player", "h", 1).to_proto()
    for number, kind in ((12, Health.CRITICAL), (11, Status.DOWN)):
        newer = pb.Instance.FromString(message.SerializeToString() + bytes([number << 3, 99]))
        assert kind in (Instance.from_proto(newer).health, Instance.from_proto(newer).status)
        assert not Instance.from_proto(newer).routable


def test_names_may_be_given_as_text() -> None:
    instance = Instance("player", "h", 1, status="DRAINING", health="HEALTHY")  # type: ignore[arg-type]
    assert instance.status is Status.DRAINING
    assert instance.health is Health.HEALTHY
    with pytest.raises(ValueError, match="SLEEPY"):
        Instance("player", "h", 1, status="SLEEPY")  # type: ignore[arg-type]


def test_one_string_is_not_a_list_of_tags() -> None:
    with pytest.raises(TypeError, match="tags"):
        Instance("player", "h", 1, tags="game")


def test_nobody_can_change_an_instance_through_what_it_was_made_of() -> None:
    metadata, tags = {"k": "v"}, ["a"]
    instance = Instance("player", "h", 1, tags=tags, metadata=metadata)
    metadata["k"], tags[0] = "w", "b"
    assert (instance.metadata, instance.tags) == ({"k": "v"}, ("a",))


def test_filters() -> None:
    filters = Filters(
        tags=["a"], statuses=["DOWN"], healths=[Health.HEALTHY], locality=Locality("eu"), healthy_only=True
    )
    message = filter_to_proto(**filters)
    assert list(message.tags) == ["a"]
    assert list(message.statuses) == [pb.DOWN]
    assert list(message.healths) == [pb.HEALTHY]
    assert message.locality.region == "eu"
    assert message.routable_only
    assert filter_to_proto() == pb.Filter()
    assert list(filter_to_proto(tags="one").tags) == ["one"]


def test_updates_name_what_they_change() -> None:
    request = update_to_proto(Key("default", "player", "p1"), {"weight": 5, "status": "DRAINING"})
    assert list(request.update_mask.paths) == ["status", "weight"]
    assert (request.instance.weight, request.instance.status) == (5, pb.DRAINING)
    with pytest.raises(TypeError, match="name one or more"):
        update_to_proto(Key("default", "player", "p1"), {})
    with pytest.raises(TypeError, match="host"):
        update_to_proto(Key("default", "player", "p1"), {"host": "h"})  # type: ignore[typeddict-unknown-key]


def test_an_address_in_one_string() -> None:
    instance = Instance.at("player", "10.0.0.5:8001", weight=3)
    assert instance == Instance("player", "10.0.0.5", 8001, weight=3)
    assert Instance.at("player", "[::1]:8001").address == "[::1]:8001"


@pytest.mark.parametrize("address", ["10.0.0.5", "10.0.0.5:0", "::1:8001", ":8001", "h:x", "", 7, None, b"h:1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidTarget) as wrong:
        Instance.at("player", address)
    assert "\n" not in str(wrong.value)
