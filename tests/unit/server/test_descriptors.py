"""What reflection says of fields: the JSON names that protobuf gives them, which generated Python code lacks."""

from collections.abc import Iterable, Iterator

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import DescriptorProto

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.rpc.descriptors import Descriptors, json_name


def described(messages: Iterable[DescriptorProto], prefix: str) -> Iterator[tuple[str, str]]:
    """Full name and JSON name of every field."""
    for message in messages:
        yield from ((f"{prefix}{message.name}.{field.name}", field.json_name) for field in message.field)
        yield from described(message.nested_type, f"{prefix}{message.name}.")


def known(messages: Iterable[Descriptor]) -> Iterator[tuple[str, str]]:
    """The same by protobuf's own word."""
    for message in messages:
        yield from ((field.full_name, field.json_name) for field in message.fields)
        yield from known(message.nested_types)


@pytest.mark.parametrize("symbol", ["registry.v1.Registry", "registry.v1.Registry.List", "registry.v1.Filter.tags"])
def test_every_field_has_its_json_name(symbol: str) -> None:
    file = Descriptors().file_of(symbol)
    assert dict(described(file.proto().message_type, "registry.v1.")) == dict(
        known(pb.DESCRIPTOR.message_types_by_name.values())
    )
    assert {it.name for it in file.dependencies} == {it.name for it in pb.DESCRIPTOR.dependencies}


def test_unknown_symbol_and_file() -> None:
    with pytest.raises(KeyError):
        Descriptors().file_of("registry.v1.Nothing.at_all")
    with pytest.raises(KeyError):
        Descriptors().file("nothing.proto")


@pytest.mark.parametrize(
    ("name", "json"),
    [("lease_id", "leaseId"), ("id", "id"), ("a_b_c", "aBC"), ("a__b", "aB"), ("a_", "a"), ("a_1", "a1")],
)
def test_rule(name: str, json: str) -> None:
    assert json_name(name) == json
