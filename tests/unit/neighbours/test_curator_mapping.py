"""Nodes of Curator's service discovery as instances: whatever is in them, from whoever wrote it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.neighbours.curator.written import MARK, taken, written
from registry_server.neighbours.sides import taken_in

TEXT = st.text(st.characters(), max_size=20)  # halves of characters as well
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
OURS = st.fixed_dictionaries(
    {"registry": JSON}, optional={"version": JSON, "weight": JSON, "tags": JSON, "metadata": JSON}
)


def node(**fields: object) -> bytes:
    return json.dumps({"name": "player", "id": "one", "address": "10.0.0.9", "port": 7001, **fields}).encode()


def the_one(data: bytes) -> pb.Instance:
    found = taken("player", "one", data, "mine", "default")
    assert found is not None
    return found


def test_what_is_written_is_read_by_another_registry_as_it_was() -> None:
    it = pb.Instance(
        namespace="default",
        service="player",
        id="one",
        host="10.0.0.9",
        port=7001,
        version="2.0.0",
        weight=7,
        tags=["eu"],
        metadata={"map": "wüste"},
    )
    assert taken("player", "one", written(it, "mine"), "mine", "default") is None
    assert the_one(written(it, "theirs")) == it


@pytest.mark.parametrize(
    "fields",
    [
        {"address": "\ud800"},
        {"payload": {"metadata": {"\ud800": "x", "y": "\udfff"}}},
        {MARK: {"registry": "theirs", "tags": ["\ud800"], "metadata": {"a": "\ud800"}, "version": "\ud800"}},
    ],
)
def test_halves_of_characters_are_replaced(fields: dict[str, object]) -> None:
    assert "?" in str(the_one(node(**fields))) or the_one(node(**fields)).version == "?"


def test_what_is_no_number_is_no_port() -> None:
    assert taken("player", "one", node(port=True), "mine", "default") is None


@given(st.binary(max_size=50))
def test_whatever_is_in_a_node(data: bytes) -> None:
    assert taken("player", "one", data, "mine", "default") is None


@given(
    st.dictionaries(st.sampled_from(["address", "port", "sslPort", "payload", "enabled"]), JSON),
    st.none() | JSON | OURS,
    TEXT,
)
def test_whatever_is_in_an_instance(fields: dict[str, object], ours: object, id_: str) -> None:
    """It is an instance that can be registered, or is left out."""
    found = taken("player", id_, node(**fields, **{MARK: ours}), "mine", "default")
    wanted, refused = taken_in([] if found is None else [found], "curator")
    assert len(wanted) + len(refused) == (found is not None)
