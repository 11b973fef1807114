"""CORE: what reflection looks names up in."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

_AFTER_UNDERSCORE = re.compile(r"_+(.?)")

Found = TypeVar("Found")


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

    def proto(self) -> FileDescriptorProto:
        """The description itself."""
        proto = FileDescriptorProto()
        self._file.CopyToProto(proto)
        for field in (*proto.extension, *_fields(proto.message_type)):
            if not field.HasField("json_name"):
                field.json_name = json_name(field.name)
        return proto


class Descriptors:
    """All that is known in this process, and some files that only reflection needs. What is unknown is a KeyError."""

    def __init__(self, *files: FileDescriptorProto) -> None:
        own = DescriptorPool()
        for file in files:
            own.AddSerializedFile(file.SerializeToString())
        self._pools = (descriptor_pool.Default(), own)

    def file(self, name: str) -> DescribedFile:
        """The file of that name."""
        return DescribedFile(self._find(lambda pool: pool.FindFileByName(name)))

    def file_of(self, symbol: str) -> DescribedFile:
        """The file in which the symbol is defined, or what it is a part of: a method, a field."""
        owner = symbol.rpartition(".")[0]
        return DescribedFile(self._find(_file_of(symbol), _file_of(owner)))

    def file_of_extension(self, extended: str, number: int) -> DescribedFile:
        """The file in which the extension of a message with that number is defined."""
        return DescribedFile(self._find(lambda pool: _file_of_extension(pool, extended, number)))

    def extensions(self, extended: str) -> Sequence[int]:
        """The numbers of all extensions of a message."""
        found = self._find(lambda pool: pool.FindAllExtensions(pool.FindMessageTypeByName(extended)))
        return sorted(extension.number for extension in found)

    def _find(self, *ways: Callable[[DescriptorPool], Found]) -> Found:
        for way in ways:
            for pool in self._pools:
                try:
                    return way(pool)
                except KeyError:
                    continue
        raise KeyError


def json_name(name: str) -> str:
    """The name of a field in JSON, by protobuf's rule: `lease_id` is `leaseId`."""
    return _AFTER_UNDERSCORE.sub(lambda match: match[1].upper(), name)


def _file_of(symbol: str) -> Callable[[DescriptorPool], FileDescriptor]:
    return lambda pool: pool.FindFileContainingSymbol(symbol)


def _file_of_extension(pool: DescriptorPool, extended: str, number: int) -> FileDescriptor:
    extension = pool.FindExtensionByNumber(pool.FindMessageTypeByName(extended), number)
    return pool.FindFileContainingSymbol(extension.full_name)


def _fields(messages: Iterable[DescriptorProto]) -> Iterator[FieldDescriptorProto]:
    for message in messages:
        yield from (*message.field, *message.extension)
        yield from _fields(message.nested_type)
