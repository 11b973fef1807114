"""The .proto files as pages of the site: what their descriptors have, with the comments that stand at each part.

Pure: descriptors in, Markdown out. `hooks.py` has protoc read the files, and puts the pages into the site.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

Path = tuple[int, ...]

# The numbers by which descriptor.proto finds comments: of a part in what it stands in.
_SYNTAX = 12
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6  # of a file
_FIELDS, _NESTED, _NESTED_ENUMS = 2, 3, 4  # of a message
_METHODS, _VALUES = 2, 2  # of a service, of an enum

_CODE = re.compile(r"(`[^`]*`)")
_MARKUP = re.compile(r"([\\*_<>\[\]{}#|&])")
_PAGE_OF_DOCS = re.compile(r"\bdocs/([\w-]+)\.md\b")
_LIST = re.compile(r"- |\d+\. ")


def page_name(file: FileDescriptorProto) -> str:
    """`registry/v1/policies.proto` is on the page `policies.md`."""
    return PurePosixPath(file.name).stem + ".md"


def pages(files: Iterable[FileDescriptorProto]) -> dict[str, str]:
    """A page of Markdown for each file, by its name; what several files use is a link to the page that has it."""
    files = list(files)
    where = {name: page_name(file) for file in files for name in _type_names(file)}
    return {page_name(file): _Page(file, where).text() for file in files}


def _type_names(file: FileDescriptorProto) -> Iterator[str]:
    """The full names of all messages and enums, as descriptors write them: `.registry.v1.Instance`."""
    scope = f".{file.package}"
    yield from (f"{scope}.{enum.name}" for enum in file.enum_type)
    for message in file.message_type:
        yield from _names_within(message, scope)


def _names_within(message: DescriptorProto, scope: str) -> Iterator[str]:
    name = f"{scope}.{message.name}"
    yield name
    yield from (f"{name}.{enum.name}" for enum in message.enum_type)
    for nested in message.nested_type:
        yield from _names_within(nested, name)


class _Page:
    def __init__(self, file: FileDescriptorProto, where: Mapping[str, str]) -> None:
        self._file = file
        self._where = where
        self._comments = {tuple(it.path): it.leading_comments for it in file.source_code_info.location}

    def text(self) -> str:
        name = PurePosixPath(self._file.name).name
        parts = [f"# {name}\n", f"`package {self._file.package};` in `protos/{self._file.name}`\n", self._said(_SYNTAX)]
        for number, service in enumerate(self._file.service):
            parts += self._service(service, (_SERVICES, number))
        for number, message in enumerate(self._file.message_type):
            parts += self._message(message, "", (_MESSAGES, number), self._file.package)
        for number, enum in enumerate(self._file.enum_type):
            parts += self._enum(enum, "", (_ENUMS, number))
        return "\n".join(part for part in parts if part)

    def _said(self, *path: int, indent: str = "") -> str:
        return prose(self._comments.get(path, ""), indent)

    def _service(self, service: ServiceDescriptorProto, path: Path) -> Iterator[str]:
        yield f"## service {service.name} {{ #{service.name} }}\n"
        yield self._said(*path)
        for number, method in enumerate(service.method):
            yield f"### {service.name}.{method.name} {{ #{service.name}.{method.name} }}\n"
            yield self._signature(method)
            yield self._said(*path, _METHODS, number)

    def _signature(self, method: MethodDescriptorProto) -> str:
        asks = ("stream of " if method.client_streaming else "") + self._link(method.input_type)
        answers = ("stream of " if method.server_streaming else "") + self._link(method.output_type)
        return f"{asks} → {answers}\n"

    def _message(self, message: DescriptorProto, outer: str, path: Path, scope: str) -> Iterator[str]:
        name, full = f"{outer}{message.name}", f"{scope}.{message.name}"
        yield f"{'###' if outer else '##'} {name} {{ #{name} }}\n"
        yield self._said(*path)
        entries = {f".{full}.{it.name}": it for it in message.nested_type if it.options.map_entry}
        for number, field in enumerate(message.field):
            yield self._field(field, message, entries)
            yield self._said(*path, _FIELDS, number, indent="    ")
        for number, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from self._message(nested, f"{name}.", (*path, _NESTED, number), full)
        for number, enum in enumerate(message.enum_type):
            yield from self._enum(enum, f"{name}.", (*path, _NESTED_ENUMS, number))

    def _field(
        self, field: FieldDescriptorProto, message: DescriptorProto, entries: Mapping[str, DescriptorProto]
    ) -> str:
        if entry := entries.get(field.type_name):
            key, value = map(self._type, entry.field)
            kind = f"map of {key} to {value}"
        else:
            repeated = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
            kind = ("optional " if field.proto3_optional else repeated) + self._type(field)
        if field.HasField("oneof_index") and not field.proto3_optional:
            kind += f", one of `{message.oneof_decl[field.oneof_index].name}`"
        return f"- `{field.name}` ({kind}; {field.number})\n"

    def _type(self, field: FieldDescriptorProto) -> str:
        if field.type_name:
            return self._link(field.type_name)
        return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()

    def _link(self, name: str) -> str:
        """To a type of ours; others' are named."""
        if name not in self._where:
            return f"`{name.removeprefix('.')}`"
        short = name.removeprefix(f".{self._file.package}.")
        page = self._where[name]
        return f"[{short}]({'' if page == page_name(self._file) else page}#{short})"

    def _enum(self, enum: EnumDescriptorProto, outer: str, path: Path) -> Iterator[str]:
        name = f"{outer}{enum.name}"
        yield f"{'###' if outer else '##'} {name} {{ #{name} }}\n"
        yield self._said(*path)
        for number, value in enumerate(enum.value):
            yield f"- `{value.name}` ({value.number})\n"
            yield self._said(*path, _VALUES, number, indent="    ")


def prose(comment: str, indent: str = "") -> str:
    """A comment as Markdown. Paragraphs further in are shown as they stand; it may have backticks and lists."""
    text = "\n".join(line.removeprefix(" ").rstrip() for line in comment.splitlines())
    parts = [_paragraph(part.splitlines()) for part in re.split(r"\n{2,}", text.strip("\n")) if part.strip()]
    lines = "\n\n".join(parts).splitlines()
    return "".join(f"{indent}{line}".rstrip() + "\n" for line in lines)


def _paragraph(lines: list[str]) -> str:
    if all(line.startswith("  ") for line in lines):
        return "\n".join(["```text", *(line.removeprefix("  ") for line in lines), "```"])
    return "\n".join(_prose_lines(lines))


def _prose_lines(lines: list[str]) -> Iterator[str]:
    """Where a list begins, and what is needed, Markdown has a blank line."""
    in_list = False
    for line in lines:
        begins = bool(_LIST.match(line))
        if line.startswith("Needs: ") or (begins and not in_list):
            yield ""
        in_list = begins or (in_list and line.startswith(" "))
        yield escaped(line)


def escaped(line: str) -> str:
    """A line of prose that means in Markdown what it says; backticks stay, and pages that it names are links."""
    parts = _CODE.split(line)
    return "".join(part if number % 2 else _plain(part) for number, part in enumerate(parts))


def _plain(text: str) -> str:
    text = _MARKUP.sub(r"\\\1", text)
    text = _PAGE_OF_DOCS.sub(r"[docs/\1.md](../\1.md)", text)
    return re.sub(r"^Needs: ", "**Needs:** ", text)
