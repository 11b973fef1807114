"""Reflection answers as grpcio's own does, to right and to wrong requests; fields have their JSON names beside it."""

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha._base import BaseReflectionServicer

from registry_server.rpc.reflection import NAMES, Reflection
from tests.support.core import NOBODY, drive

NAME = "registry.v1.Registry"
Request, Response = pb.ServerReflectionRequest, pb.ServerReflectionResponse


def ask(request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
    return Response.FromString(drive(Reflection([NAME]).answer(request, NOBODY)))


def extension(name: str, number: int) -> pb.ServerReflectionRequest:
    return Request(file_containing_extension=pb.ExtensionRequest(containing_type=name, extension_number=number))


def grpcio(request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
    """The answer of grpcio's own reflection."""
    theirs = BaseReflectionServicer([NAME, *NAMES])
    match request.WhichOneof("message_request"):
        case "list_services":
            return theirs._list_services(request)
        case "file_by_filename":
            return theirs._file_by_filename(request, request.file_by_filename)
        case "file_containing_symbol":
            return theirs._file_containing_symbol(request, request.file_containing_symbol)
        case "file_containing_extension":
            asked = request.file_containing_extension
            return theirs._file_containing_extension(request, asked.containing_type, asked.extension_number)
        case _:
            return theirs._all_extension_numbers_of_type(request, request.all_extension_numbers_of_type)


def files(answer: pb.ServerReflectionResponse) -> Iterator[FileDescriptorProto]:
    for encoded in answer.file_descriptor_response.file_descriptor_proto:
        file = FileDescriptorProto.FromString(encoded)
        messages = list(file.message_type)
        for message in messages:
            messages += message.nested_type
            for field in message.field:
                field.ClearField("json_name")
        yield file


@pytest.mark.parametrize(
    "request_",
    [
        Request(list_services="*"),
        Request(list_services="*", host="somewhere"),
        Request(file_by_filename="registry/v1/registry.proto"),
        Request(file_by_filename="google/protobuf/timestamp.proto"),
        Request(file_by_filename="nothing.proto"),
        Request(file_by_filename=""),
        Request(file_containing_symbol=NAME),
        Request(file_containing_symbol="registry.v1.Instance"),
        Request(file_containing_symbol="grpc.reflection.v1alpha.ServerReflection"),
        Request(file_containing_symbol="registry.v1.Nothing"),
        Request(file_containing_symbol=""),
        Request(file_containing_symbol="."),
        Request(file_containing_symbol="\u00e4\n"),
        Request(all_extension_numbers_of_type="google.protobuf.MessageOptions"),
        Request(all_extension_numbers_of_type="registry.v1.Nothing"),
        extension("google.protobuf.MessageOptions", 7),
        extension("google.protobuf.MessageOptions", -(2**31)),
        extension("registry.v1.Nothing", 1),
    ],
    ids=str,
)
def test_answers_are_those_of_grpcio(request_: pb.ServerReflectionRequest) -> None:
    ours, theirs = ask(request_), grpcio(request_)
    assert {it.name: it for it in files(ours)} == {it.name: it for it in files(theirs)}
    for answer in (ours, theirs):
        answer.file_descriptor_response.Clear()
    assert ours == theirs


def test_request_for_nothing_is_answered_as_grpcio_does() -> None:
    answer = ask(Request(host="somewhere"))
    assert (answer.error_response.error_code, answer.error_response.error_message) == (3, "invalid argument")
    assert answer.original_request.host == "somewhere"


@pytest.mark.parametrize("symbol", [f"{NAME}.Register", "registry.v1.Instance.port"])
def test_a_method_and_a_field_are_found_too(symbol: str) -> None:
    assert ask(Request(file_containing_symbol=symbol)).file_descriptor_response.file_descriptor_proto


def test_v1_describes_itself_with_the_fields_of_v1alpha() -> None:
    (v1,) = files(ask(Request(file_containing_symbol="grpc.reflection.v1.ServerReflection")))
    (v1alpha,) = files(ask(Request(file_containing_symbol="grpc.reflection.v1alpha.ServerReflection")))
    assert v1.service[0].method[0].input_type == ".grpc.reflection.v1.ServerReflectionRequest"
    assert str(v1alpha.message_type).replace(".v1alpha.", ".v1.") == str(v1.message_type)


def test_every_field_has_its_json_name() -> None:
    answer = ask(Request(file_containing_symbol="registry.v1.RegisterRequest"))
    (file,) = (
        it
        for it in map(FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
        if it.package == "registry.v1"
    )
    (asked,) = (it for it in file.message_type if it.name == "RegisterRequest")
    assert [(it.name, it.json_name) for it in asked.field if "_" in it.name] == [
        ("lease_id", "leaseId"),
        ("if_absent", "ifAbsent"),
    ]
