"""CORE: what may be asked of a registry. Each check returns the value as it is sent, or says what is wrong with it.

The rules are those of registry.proto. They are applied here as well so that a mistake is told where it was made, at
once, and with the registry away too. All raise InvalidArgument, in one line, with the field and how to write it.
"""

from __future__ import annotations

import ipaddress
import operator
import re
import reprlib
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from numbers import Real
from typing import Any, TypeVar

from registry_api.limits import (
    ENDS_IN_NUMBER,
    HOST,
    MAX_DRAIN_S,
    MAX_LABEL_BYTES,
    MAX_NAME,
    MAX_TTL_S,
    MAX_WEIGHT,
    MIN_TTL_S,
    NAME,
    NAME_RULE,
)
from registry_client.errors import InvalidArgument, WrongType

_Kind = TypeVar("_Kind", bound=StrEnum)
_Any = TypeVar("_Any")

MAX_TIMEOUT_S = 30_000_000.0  # about a year; a round number, as messages show it
MAX_INT64 = 2**63 - 1
MAX_PATH = 300  # of a path that is shown as it is

# These stand for many, for none, or mean nothing without a zone: nobody can call them.
_NOBODYS = tuple(map(ipaddress.ip_network, ("0.0.0.0/8", "224.0.0.0/3", "::/128", "ff00::/8", "fe80::/10")))
_WITH_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:/]+):(?P<port>\d+)", re.ASCII)
# What may have a password in it, of what is shown: before the @ of a URL, or of an address without a scheme, and what
# a URL asks for.
_URL_USER, _ASKED, _USER = map(re.compile, (r"://.*@", r"(://[^?]*\?)[^'\"]*", r"[^\s'\"\[({]+:(?!//)[^\s'\"]*@"))
_SHOW = reprlib.Repr()
_SHOW.maxstring = _SHOW.maxother = _SHOW.maxlong = 60


# ---- values


def text(field: str, value: object, what: str = "") -> str:
    """A string that can be sent. `what` names the part of the field that it is."""
    if not isinstance(value, str):
        raise wrong_type(field, f"{what}must be a string", value, _as_text(value))
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise wrong(field, f"{what}must be text without lone surrogates, is {shown(value)}") from None
    return value


def name(field: str, value: object, *, empty: bool = False) -> str:
    """The name of a namespace, a service or an instance; empty only where that is allowed."""
    given = text(field, value)
    if NAME.fullmatch(given) is None and (given or not empty):
        if not given:
            raise wrong(field, "is required")
        raise wrong(field, f"{NAME_RULE}, is {shown(given)}")
    return given


def whole(field: str, value: object, least: int, most: int) -> int:
    """A whole number within bounds."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise wrong_type(field, "must be an int", value, _as_int(value))
    number = operator.index(value)  # type: ignore[arg-type]
    if not least <= number <= most:
        raise wrong(field, f"must be {least} to {most}, is {shown(number)}")
    return number


def yes_or_no(field: str, value: object) -> bool:
    """True or False, and nothing that merely counts as such."""
    if not isinstance(value, bool):
        raise wrong_type(field, "must be True or False", value)
    return value


def seconds(field: str, value: object, least: float, most: float) -> float:
    """A number of seconds within bounds."""
    return number(field, value, least, most, " of seconds", " seconds")


def number(field: str, value: object, least: float, most: float, of: str = "", unit: str = "") -> float:
    """A number within bounds. `of` and `unit` say what it counts."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise wrong_type(field, f"must be a number{of}", value, _as_number(value))
    try:
        given = float(value)
    except OverflowError:
        given = float("inf")
    if not least <= given <= most:  # which is so for nan, too
        raise wrong(field, f"must be {least:.9g} to {most:.9g}{unit}, is {given:g}")
    return given


def ttl(value: object) -> float:
    """How long an instance lives without a renewal, in seconds."""
    return seconds("ttl", value, MIN_TTL_S, MAX_TTL_S)


def drain(value: object) -> float:
    """How long an instance drains before it leaves, in seconds."""
    return seconds("drain", value, 0.0, MAX_DRAIN_S)


def timeout(value: object) -> float:
    """How long something may take, in seconds: more than nothing."""
    number = seconds("timeout", value, 0.0, MAX_TIMEOUT_S)
    if not number:
        raise wrong("timeout", "must be more than 0 seconds")
    return number


def wait(value: object) -> float | None:
    """How long to wait, in seconds: 0 only looks, None waits for ever."""
    return None if value is None else seconds("timeout", value, 0.0, MAX_TIMEOUT_S)


def space(namespace: object, all_namespaces: object, usual: str) -> str:
    """The namespace that a question is about, by default the usual one; empty when it is about all of them."""
    named = name("namespace", namespace, empty=True)
    if not yes_or_no("all_namespaces", all_namespaces):
        return named or usual
    if named:
        raise wrong("namespace", "must be empty with all_namespaces", named)
    return ""


def one_of(field: str, kind: type[_Kind], value: object) -> _Kind:
    """A member of an enum, which may be given by its name."""
    for member in kind:
        if value is member or (isinstance(value, str) and value == member.value):
            return member
    rule = f"must be one of {', '.join(kind)}"
    if not isinstance(value, str):
        raise wrong_type(field, rule, value)
    near = f"; write {value.upper()!r}" if value.upper() in list(kind) else ""
    raise InvalidArgument(f"{field}: {rule}, is {shown(value)}{near}", field)


def some_of(field: str, kind: type[_Kind], value: object) -> list[_Kind]:
    """Members of an enum; one alone may stand for a list of one."""
    if isinstance(value, str):
        return [one_of(field, kind, value)]
    return [one_of(field, kind, member) for member in _each(field, value, f"a list of {', '.join(kind)}")]


def tags(field: str, value: object) -> tuple[str, ...]:
    """A sequence of strings, and not one string, which would be a sequence of letters, nor one without an end."""
    if isinstance(value, Mapping):
        write = "metadata={…} for what has values" if field == "instance.tags" else ""
        raise wrong_type(field, "must be a list of strings", value, write)
    return tuple(text(field, tag, "each ") for tag in _each(field, value, "a list of strings"))


def metadata(field: str, value: object) -> dict[str, str]:
    """A mapping of strings to strings."""
    if not isinstance(value, Mapping):
        raise wrong_type(field, "must be a dict of strings, such as {'map': 'dust'}", value)
    return {
        text(field, label, "each key "): text(field, content, f"the value of {shown(label)} ")
        for label, content in value.items()
    }


def instance_of(field: str, kind: type[_Any], value: object) -> _Any | None:
    """An object of a class, or None."""
    if value is not None and not isinstance(value, kind):
        raise wrong_type(field, f"must be a {kind.__name__} or None", value)
    return value


def all_of(field: str, kind: type[_Any], value: object) -> tuple[_Any, ...]:
    """Objects of a class, in a collection that has an end."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Collection):
        raise wrong_type(field, f"must be a list of {kind.__name__}", value)
    for it in value:
        if not isinstance(it, kind):
            raise wrong_type(field, f"each must be a {kind.__name__}", it)
    return tuple(value)


def call_key(value: object) -> str | bytes | int | None:
    """What hashing policies go by."""
    if value is not None and not isinstance(value, str | bytes | int):
        raise wrong_type("key", "must be a string, bytes, an int, or None", value)
    return value


def call_metadata(value: object) -> tuple[tuple[str, str | bytes], ...]:
    """What goes with a call, as gRPC takes it: pairs of a name and a value."""
    pairs = tuple(_each("metadata", value, "a list of pairs, such as [('name', 'value')]"))
    for pair in pairs:
        match pair:
            case (str(), str() | bytes()):
                continue
        raise wrong_type("metadata", "each must be a pair, such as ('name', 'value')", pair)
    return pairs  # type: ignore[return-value]  # which was looked at


def channel_options(value: object) -> dict[str, Any]:
    """gRPC's channel options, by their names."""
    pairs = [] if value is None else value
    if isinstance(pairs, list | tuple) and all(
        isinstance(it, tuple | list) and len(it) == 2 and isinstance(it[0], str) for it in pairs
    ):
        return dict(pairs)
    raise wrong_type("options", "must be a list of (name, value)", value, "[('grpc.keepalive_time_ms', 10_000)]")


def moment(field: str, value: object) -> datetime | None:
    """A point in time, or None."""
    return instance_of(field, datetime, value)


# ---- rules of an instance


def host(field: str, value: object) -> str:
    """An IP address or a DNS name, without anything around it."""
    given = text(field, value)
    if not given:
        raise wrong(field, "is required")
    if not (_is_ip(given) or (HOST.fullmatch(given) and not ENDS_IN_NUMBER.search(given))):
        raise wrong(field, f"must be an IP address or a DNS name{_host_hint(given)}, is {shown(given)}")
    if _is_ip(given) and not _is_callable(given):
        raise wrong(field, "must be an address that callers reach, such as '10.0.0.5', or a DNS name", given)
    return given


def _is_callable(given: str) -> bool:
    address = ipaddress.ip_address(given)
    address = getattr(address, "ipv4_mapped", None) or address
    return not any(address in network for network in _NOBODYS)


def _is_ip(given: str) -> bool:
    # A zone (fe80::1%eth0) means nothing to anybody else.
    try:
        ipaddress.ip_address(given)
    except ValueError:
        return False
    return "%" not in given


def _host_hint(given: str) -> str:
    if "://" in given:
        return " without a scheme"
    found = _WITH_PORT.fullmatch(given)
    if found is not None:
        return f" without a port (write host={found['host'].strip('[]')!r}, port={found['port']})"
    return " without brackets" if given.startswith("[") else ""


def port(field: str, value: object) -> int:
    """A TCP port that can be called."""
    return whole(field, value, 1, 65535)


def weight(field: str, value: object) -> int:
    """A share of the traffic."""
    return whole(field, value, 0, MAX_WEIGHT)


def printable(field: str, value: object) -> str:
    """Text for people, of no more than a line."""
    given = text(field, value)
    if len(given) > MAX_NAME or not given.isprintable():
        raise wrong(field, f"must be at most {MAX_NAME} printable characters, is {shown(given)}")
    return given


def labels(named: Iterable[str], pairs: Mapping[str, str]) -> None:
    """What tags and metadata must keep to beyond their types."""
    listed = list(named)
    if "" in listed or len(set(listed)) != len(listed):
        raise wrong("instance.tags", f"must be neither empty nor repeated, are {shown(listed)}")
    if "" in pairs:
        raise wrong("instance.metadata", "must have no empty key")
    of_tags = sum(len(tag.encode()) for tag in listed)
    size = of_tags + sum(len(label.encode()) + len(content.encode()) for label, content in pairs.items())
    if size > MAX_LABEL_BYTES:
        field = "instance.tags" if of_tags > MAX_LABEL_BYTES else "instance.metadata"
        raise wrong(field, f"tags and metadata together must be at most {MAX_LABEL_BYTES} bytes, are {size}")


# ---- saying what is wrong


def wrong(field: str, rule: str, value: object = None) -> InvalidArgument:
    """The exception for a value that cannot be."""
    return InvalidArgument(f"{field}: {rule}" + ("" if value is None else f", is {shown(value)}"), field)


def wrong_type(field: str, rule: str, value: object, write: str = "") -> WrongType:
    """The exception for a value of another type, with how to write it where that can be told."""
    given = "None" if value is None else f"{shown(value)} ({type(value).__name__})"
    return WrongType(f"{field}: {rule}, is {given}" + (f"; write {write}" if write else ""), field)


def shown(value: object) -> str:
    """The value in a line of bounded length, whatever it is; of URLs and addresses without who asks and what for."""
    try:
        return without_secrets(" ".join(_SHOW.repr(value).split()))
    except Exception:  # a number of more digits than Python writes out, a subclass that cannot be shown
        return f"something that cannot be shown ({type(value).__name__})"


def without_secrets(text: str, *, asks: bool = True) -> str:
    """Who mistakes one thing for another may have put in a URL with a password; messages go to logs.

    asks: false shows what a URL asks for, after its question mark.
    """
    if "@" not in text and "://" not in text:
        return text
    hidden = _USER.sub("…@", _URL_USER.sub("://…@", text))
    return _ASKED.sub(r"\1…", hidden) if asks else hidden


def shown_path(value: object) -> str:
    """A path in a line of bounded length."""
    text = str(value)
    return text if text.isprintable() and len(text) <= MAX_PATH else shown(text)


def _each(field: str, value: object, needed: str) -> Iterable[object]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        write = f"[{shown(value)}]" if isinstance(value, str) and len(value) < MAX_NAME else ""
        raise wrong_type(field, f"must be {needed}", value, write)
    found = list(islice(value, MAX_LABEL_BYTES + 1))
    if len(found) > MAX_LABEL_BYTES:
        raise wrong(field, f"must be {needed}, and at most {MAX_LABEL_BYTES} of them")
    return found


def _as_text(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        return "its .decode()"
    if isinstance(value, bool) or value is None or isinstance(value, Iterable):
        return ""
    is_short = isinstance(value, float) or (isinstance(value, int) and abs(value) <= MAX_INT64)
    return repr(str(value)) if is_short else "str(…) of it"


def _as_int(value: object) -> str:
    if isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) < MAX_NAME:
        return value.lstrip("0") or "0"
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else ""


def _as_number(value: object) -> str:
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}"
    try:
        return f"{float(value):g}" if isinstance(value, str) and len(value) < MAX_NAME else ""
    except Exception:  # a subclass may do as it likes
        return ""
