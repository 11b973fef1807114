"""What may stand in a request. Each check names the field it finds wrong, and changes nothing but defaults."""

import contextlib
import ipaddress
import re
from collections.abc import Callable, Iterable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from protos.registry.v1 import registry_pb2 as pb
from registry_server.errors import InvalidField
from registry_server.rules import UPDATABLE, check_size
from registry_server.stores.base import Key

DEFAULT_NAMESPACE = "default"
DEFAULT_VERSION = "1.0.0"
DEFAULT_WEIGHT = 100
DEFAULT_TTL_S = 15.0
MIN_TTL_S = 2.0
MAX_TTL_S = 3600.0
MAX_DRAIN_S = 3600.0
MAX_NAME = 128
MAX_WEIGHT = 1_000_000
# Leaves room to count on: each take-over adds one.
MAX_GENERATION = 2**53
# What google.protobuf.Timestamp can say, in seconds since 1970.
_YEAR_1_S, _YEAR_10000_S = -62_135_596_800, 253_402_300_800
MAX_LEASE_IDS = 10_000
MAX_SERVICES = 1_000
MAX_PAGE = 10_000
DEFAULT_PAGE = 1_000

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@~+-]{0,127}")
_HOST = re.compile(r"(?!.{254})[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?")
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rf"{_BYTE}(?:\.{_BYTE}){{3}}", re.ASCII)
# Such a name would be an IPv4 address, and a wrong one (https://url.spec.whatwg.org/#ends-in-a-number-checker).
_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)\d+\.?$")
_NAME_RULE = f"must be 1 to {MAX_NAME} letters, digits and any of _ . : @ ~ + -, beginning with a letter, a digit or _"
_STATUSES = frozenset(pb.Status.values())
_HEALTHS = frozenset(pb.Health.values())


def name(field: str, value: str) -> str:
    """The name of a namespace, service or instance."""
    if _NAME.fullmatch(value) is None:
        raise InvalidField(field, "is required" if not value else _NAME_RULE)
    return value


def namespace(field: str, value: str) -> str:
    """The namespace, the default one if it is empty."""
    return name(field, value) if value else DEFAULT_NAMESPACE


def key(field: str, value: pb.InstanceKey) -> Key:
    """The name of one instance, in full."""
    return Key(
        namespace(f"{field}.namespace", value.namespace),
        name(f"{field}.service", value.service),
        name(f"{field}.id", value.id),
    )


def new_instance(it: pb.Instance, make_id: Callable[[], str]) -> pb.Instance:
    """An instance to be registered, with its defaults filled in; `make_id` makes its id if it has none."""
    it.namespace = namespace("instance.namespace", it.namespace)
    name("instance.service", it.service)
    if it.id:
        name("instance.id", it.id)
    else:
        it.id = make_id()
    it.host = host("instance.host", it.host)
    if not 1 <= it.port <= 65535:
        raise InvalidField("instance.port", f"must be 1 to 65535, is {it.port}")
    generation("instance.generation", it.generation)
    if it.generation and it.HasField("registered_at"):
        _timestamp("instance.registered_at", it.registered_at)
    it.DiscardUnknownFields()  # they could be of any size, and nobody has looked at them
    it.ClearField("revision")
    it.ClearField("create_revision")
    it.ClearField("leaves_at")
    _changeable(it)
    return it


def changed_instance(it: pb.Instance, paths: Iterable[str]) -> tuple[str, ...]:
    """An instance to be updated, with its defaults filled in; returns the names of the fields, each once."""
    named = tuple(dict.fromkeys(paths))
    if not named:
        raise InvalidField("update_mask", f"must name one or more of {', '.join(UPDATABLE)}")
    for path in named:
        if path not in UPDATABLE:
            raise InvalidField("update_mask", f"{path[:MAX_NAME]!r} cannot be updated; only {', '.join(UPDATABLE)} can")
    it.namespace = namespace("instance.namespace", it.namespace)
    name("instance.service", it.service)
    name("instance.id", it.id)
    _changeable(it)
    return named


def host(field: str, value: str) -> str:
    """An IP address or a DNS name; an IPv6 address in the one form that all its spellings share (RFC 5952)."""
    if _IPV4.fullmatch(value) is not None:
        return value
    if not value:
        raise InvalidField(field, "is required")
    if ":" in value:
        return _ipv6(field, value)
    if _HOST.fullmatch(value) is None or _ENDS_IN_NUMBER.search(value) is not None:
        raise InvalidField(field, "must be an IP address or a DNS name")
    return value


def _ipv6(field: str, value: str) -> str:
    # A zone (fe80::1%eth0) means nothing to anybody else, and may hold anything.
    with contextlib.suppress(ValueError):
        if "%" not in value:
            return str(ipaddress.IPv6Address(value))
    raise InvalidField(field, "must be an IP address or a DNS name, without a port")


def filter_(it: pb.Filter) -> None:
    """The conditions of a question."""
    for status in it.statuses:
        if status not in _STATUSES:
            raise InvalidField("filter.statuses", f"has no value {status}")
    for health in it.healths:
        if health not in _HEALTHS:
            raise InvalidField("filter.healths", f"has no value {health}")


def ttl_s(it: pb.RegisterRequest) -> float:
    """The time to live asked for, in seconds."""
    if not it.HasField("ttl"):
        return DEFAULT_TTL_S
    value = _seconds("ttl", it.ttl)
    if not MIN_TTL_S <= value <= MAX_TTL_S:
        raise InvalidField("ttl", f"must be {MIN_TTL_S:g} s to {MAX_TTL_S:g} s, is {value:g} s")
    return value


def drain_s(it: pb.DeregisterRequest) -> float:
    """How long to drain, in seconds."""
    value = _seconds("drain", it.drain)
    if not 0 <= value <= MAX_DRAIN_S:
        raise InvalidField("drain", f"must be 0 s to {MAX_DRAIN_S:g} s, is {value:g} s")
    return value


def lease_id(field: str, value: str) -> str:
    """The name of a lease, as a server made it."""
    return name(field, value)


def generation(field: str, value: int) -> int:
    """The generation of an instance, 0 for none."""
    if not 0 <= value <= MAX_GENERATION:
        raise InvalidField(field, f"must be 0 to {MAX_GENERATION}, is {value}")
    return value


def page_size(value: int) -> int:
    """How much a page holds."""
    if not 0 <= value <= MAX_PAGE:
        raise InvalidField("page_size", f"must be 0 to {MAX_PAGE}, is {value}")
    return value or DEFAULT_PAGE


def _seconds(field: str, value: Duration) -> float:
    if not -999_999_999 <= value.nanos <= 999_999_999:
        raise InvalidField(field, f"nanos must be within a second, is {value.nanos}")
    return value.seconds + value.nanos / 1e9


def _timestamp(field: str, value: Timestamp) -> None:
    if not (_YEAR_1_S <= value.seconds < _YEAR_10000_S and 0 <= value.nanos <= 999_999_999):
        raise InvalidField(field, "must be within the years 1 to 9999, with nanos within a second")


def _changeable(it: pb.Instance) -> None:
    """The fields that both Register and Update take."""
    version = it.version
    if not version:
        it.version = DEFAULT_VERSION
    elif len(version) > MAX_NAME or not version.isprintable():
        raise InvalidField("instance.version", f"must be at most {MAX_NAME} printable characters")
    if not it.HasField("weight"):
        it.weight = DEFAULT_WEIGHT
    elif it.weight > MAX_WEIGHT:
        raise InvalidField("instance.weight", f"must be at most {MAX_WEIGHT}, is {it.weight}")
    if it.status not in _STATUSES:
        raise InvalidField("instance.status", f"has no value {it.status}")
    if it.health not in _HEALTHS:
        raise InvalidField("instance.health", f"has no value {it.health}")
    if it.tags or it.metadata:
        _labels(it)
    if it.HasField("locality"):
        _locality(it.locality)


def _labels(it: pb.Instance) -> None:
    tags_ = list(it.tags)
    if "" in tags_ or len(set(tags_)) != len(tags_):
        raise InvalidField("instance.tags", "must be neither empty nor repeated")
    if "" in it.metadata:
        raise InvalidField("instance.metadata", "must have no empty key")
    check_size(it)


def _locality(it: pb.Locality) -> None:
    for part in ("region", "zone", "sub_zone"):
        value = getattr(it, part)
        if len(value) > MAX_NAME or not value.isprintable():
            raise InvalidField(f"instance.locality.{part}", f"must be at most {MAX_NAME} printable characters")
