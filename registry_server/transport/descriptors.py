"""What reflection looks symbols up in."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

_AFTER_UNDERSCORE = re.compile(r"_+(.?)")


class DescribedFile:
    """A file as protoc describes it: with the JSON name of every field, which generated Python code lacks.

    Tools that print messages by reflection take it from there: `leaseId`, as in the JSON of every other language.
    """

    def __init__(self, file: FileDescriptor) -> None:
        self._file = file
        self.name = file.name

    @property
    def dependencies(self) -> "list[DescribedFile]":
        """The files that it imports."""
        return [DescribedFile(file) for file in self._file.dependencies]

    def CopyToProto(self, proto: FileDescriptorProto) -> None:  # noqa: N802 - protobuf's name
        """Write the description into `proto`."""
        self._file.CopyToProto(proto)
        for field in (*proto.extension, *_fields(proto.message_type)):
            if not field.HasField("json_name"):
                field.json_name = json_name(field.name)


class Descriptors:
    """The default pool, which also finds the file of a method or of a field, as `grpcurl describe` asks for them."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def FindFileByName(self, name: str) -> DescribedFile:  # noqa: N802 - protobuf's name
        """The file of that name. Raises KeyError."""
        return DescribedFile(self._pool.FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> DescribedFile:  # noqa: N802 - protobuf's name
        """The file in which the symbol, or what it is a part of, is defined. Raises KeyError."""
        try:
            return DescribedFile(self._pool.FindFileContainingSymbol(symbol))
        except KeyError:
            return DescribedFile(self._pool.FindFileContainingSymbol(symbol.rpartition(".")[0]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def json_name(name: str) -> str:
    """The name of a field in JSON, by protobuf's rule: `lease_id` is `leaseId`."""
    return _AFTER_UNDERSCORE.sub(lambda match: match[1].upper(), name)


def _fields(messages: Iterable[DescriptorProto]) -> Iterator[FieldDescriptorProto]:
    for message in messages:
        yield from (*message.field, *message.extension)
        yield from _fields(message.nested_type)
