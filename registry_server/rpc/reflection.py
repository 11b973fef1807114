"""Reflection: tools ask for the descriptions of what is served here. Both names of the protocol, and all its answers.

The messages of `grpc.reflection.v1` are those of `v1alpha` under another name.
"""

from collections.abc import Iterable

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc import code_pb2
from grpc_reflection.v1alpha import reflection_pb2 as pb

from registry_server.rpc.descriptors import DescribedFile, Descriptors
from registry_server.rpc.table import Caller, Conversation, Needs, Service
from registry_server.xds import described

V1, V1ALPHA = "grpc.reflection.v1", "grpc.reflection.v1alpha"
NAMES = (f"{V1}.ServerReflection", f"{V1ALPHA}.ServerReflection")

_NEEDS = Needs("read", is_some=True)

_Request = pb.ServerReflectionRequest
_Response = pb.ServerReflectionResponse


def services(names: Iterable[str]) -> tuple[Service, ...]:
    """The entries of a table that has services of these names beside them."""
    reflection = Reflection((*names, *NAMES))
    return tuple(
        Service(name, {"ServerReflectionInfo": Conversation(_Request, reflection.answer, needs=_NEEDS)})
        for name in NAMES
    )


class Reflection:
    """Answers about services, files, symbols and extensions."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = sorted(names)
        self._known = Descriptors(_v1(), *described.files())

    async def answer(self, request: _Request, caller: Caller) -> bytes:
        """One request on a ServerReflectionInfo stream. What is wrong with it is part of the answer."""
        try:
            answer = self._answer(request)
        except KeyError:
            answer = _error(code_pb2.NOT_FOUND, "not found")
        answer.original_request.CopyFrom(request)
        return bytes(answer.SerializeToString())

    def _answer(self, request: _Request) -> _Response:
        known = self._known
        match request.WhichOneof("message_request"):
            case "list_services":
                listed = [pb.ServiceResponse(name=name) for name in self._names]
                return _Response(list_services_response=pb.ListServiceResponse(service=listed))
            case "file_by_filename":
                return _file(known.file(request.file_by_filename))
            case "file_containing_symbol":
                return _file(known.file_of(request.file_containing_symbol))
            case "file_containing_extension":
                asked = request.file_containing_extension
                return _file(known.file_of_extension(asked.containing_type, asked.extension_number))
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                numbers = pb.ExtensionNumberResponse(base_type_name=name, extension_number=known.extensions(name))
                return _Response(all_extension_numbers_response=numbers)
            case _:
                return _error(code_pb2.INVALID_ARGUMENT, "invalid argument")


def _error(code: int, text: str) -> _Response:
    return _Response(error_response=pb.ErrorResponse(error_code=code, error_message=text))


def _file(file: DescribedFile) -> _Response:
    """A file, and all that it imports, itself or by others."""
    found: dict[str, DescribedFile] = {}
    due = [file]
    while due:
        it = due.pop()
        if it.name not in found:
            found[it.name] = it
            due += it.dependencies
    encoded = [it.proto().SerializeToString() for it in found.values()]
    return _Response(file_descriptor_response=pb.FileDescriptorResponse(file_descriptor_proto=encoded))


def _v1() -> FileDescriptorProto:
    """The file of `v1`: that of `v1alpha`, renamed."""
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", V1
    for field in (field for message in file.message_type for field in message.field if field.type_name):
        field.type_name = _renamed(field.type_name)
    for method in (method for service in file.service for method in service.method):
        method.input_type, method.output_type = _renamed(method.input_type), _renamed(method.output_type)
    file.ClearField("options")
    return file


def _renamed(name: str) -> str:
    return name.replace(f".{V1ALPHA}.", f".{V1}.", 1)
