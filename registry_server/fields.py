"""CORE: what may stand in the fields of an instance: the same rules for a request and for what a store holds.

Each check names the field it finds wrong by raising InvalidField, and returns the value as it is kept.
"""

import contextlib
import ipaddress
import re

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from registry_api.limits import (
    DEFAULT_NAMESPACE,
    DEFAULT_VERSION,
    DEFAULT_WEIGHT,
    ENDS_IN_NUMBER,
    HOST,
    MAX_GENERATION,
    MAX_LABEL_BYTES,
    MAX_NAME,
    MAX_WEIGHT,
    NAME,
    NAME_RULE,
)
from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.errors import InvalidField

# Tags and metadata as they are encoded, where a few bytes more go with each: then an instance with checks and all that
# they found is never larger than what is read of a record (model.MAX_VALUE_BYTES).
MAX_ENCODED_LABELS = 40 * 1024
# What google.protobuf.Timestamp can say, in seconds since 1970.
_YEAR_1_S, _YEAR_10000_S = -62_135_596_800, 253_402_300_800

_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rf"{_BYTE}(?:\.{_BYTE}){{3}}", re.ASCII)
# The first numbers of IPv4 addresses of which some cannot be called: 0, and all from the multicast ones on.
_NEVER, _FROM = 0, 224
_ANY = (ipaddress.ip_network("0.0.0.0/8"), ipaddress.ip_network("::/128"))
_NOBODY = (ipaddress.ip_network("240.0.0.0/4"),)
_ZONED = (ipaddress.ip_network("fe80::/10"),)
_STATUSES = frozenset(pb.Status.values())
_HEALTHS = frozenset(pb.Health.values())


# ---- names and addresses


def name(field: str, value: str) -> str:
    """The name of a namespace, service or instance."""
    if NAME.fullmatch(value) is None:
        raise InvalidField(field, "is required" if not value else NAME_RULE)
    return value


def namespace(field: str, value: str) -> str:
    """The namespace, the default one if it is empty."""
    return name(field, value) if value else DEFAULT_NAMESPACE


def host(field: str, value: str) -> str:
    """An IP address or a DNS name; an IPv6 address in the one form that all its spellings share (RFC 5952)."""
    if _IPV4.fullmatch(value) is not None:
        return value
    if not value:
        raise InvalidField(field, "is required")
    if ":" in value:
        return _ipv6(field, value)
    if HOST.fullmatch(value) is None or ENDS_IN_NUMBER.search(value) is not None:
        raise InvalidField(field, "must be an IP address or a DNS name")
    return value


def _ipv6(field: str, value: str) -> str:
    # A zone (fe80::1%eth0) means nothing to anybody else, and may hold anything.
    with contextlib.suppress(ValueError):
        if "%" not in value:
            return str(ipaddress.IPv6Address(value))
    raise InvalidField(field, "must be an IP address or a DNS name, without a port")


def callable_host(field: str, value: str) -> str:
    """A host as above that somebody can call: no address that stands for many, or for none."""
    found = host(field, value)
    if _is_doubtful(found):
        reason = _why_not_callable(found)
        if reason:
            raise InvalidField(field, f"{reason}; write an address or a DNS name that callers reach, such as 10.0.0.5")
    return found


def _is_doubtful(found: str) -> bool:
    """Whether it may be an address that nobody can call: most are not, and to look closer takes long."""
    first = found.partition(".")[0]
    return ":" in found or (first.isdecimal() and not _NEVER < int(first) < _FROM)


def _why_not_callable(found: str) -> str:
    """Why nobody can call that IP address; empty if somebody can, or if it is a name."""
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return ""
    address = getattr(address, "ipv4_mapped", None) or address
    if any(address in network for network in _ANY):
        return f"{found} stands for every address of a machine, and for none to its callers"
    if address.is_multicast:
        return f"{found} is a multicast address, which belongs to no single instance"
    if any(address in network for network in _NOBODY):
        return f"{found} is a broadcast or reserved address, which nobody can call"
    if any(address in network for network in _ZONED):
        return f"{found} is link-local, and means nothing without a zone of the caller's own"
    return ""


def port(field: str, value: int) -> int:
    """Where it listens."""
    if not 1 <= value <= 65535:
        raise InvalidField(field, f"must be 1 to 65535, is {value}")
    return value


# ---- times and numbers


def generation(field: str, value: int) -> int:
    """The generation of an instance, 0 for none."""
    if not 0 <= value <= MAX_GENERATION:
        raise InvalidField(field, f"must be 0 to {MAX_GENERATION}, is {value}")
    return value


def timestamp(field: str, value: Timestamp) -> Timestamp:
    """A time that JSON and every language can say."""
    if not (_YEAR_1_S <= value.seconds < _YEAR_10000_S and 0 <= value.nanos <= 999_999_999):
        raise InvalidField(field, "must be within the years 1 to 9999, with nanos within a second")
    return value


def duration_s(field: str, value: Duration, least_s: float, most_s: float) -> float:
    """A time span within bounds, in seconds."""
    if not -999_999_999 <= value.nanos <= 999_999_999:
        raise InvalidField(field, f"nanos must be within a second, is {value.nanos}")
    found = value.seconds + value.nanos / 1e9
    if not least_s <= found <= most_s:
        raise InvalidField(field, f"must be {least_s:g} s to {most_s:g} s, is {found:g} s")
    return found


# ---- what Register and Update both take


def settle(it: pb.Instance) -> None:
    """Check the fields that an Update can change too, and the locality, and fill in the defaults of those not set."""
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


def size(it: pb.Instance) -> None:
    """Tags and metadata together must not be too large."""
    if it.ByteSize() <= MAX_LABEL_BYTES:
        return
    tags = sum(len(tag.encode()) for tag in it.tags)
    total = tags + sum(len(label.encode()) + len(value.encode()) for label, value in it.metadata.items())
    if total > MAX_LABEL_BYTES:
        field = "instance.tags" if tags > MAX_LABEL_BYTES else "instance.metadata"
        raise InvalidField(field, f"tags and metadata together must be at most {MAX_LABEL_BYTES} bytes, are {total}")
    encoded = pb.Instance(tags=it.tags, metadata=it.metadata).ByteSize()
    if encoded > MAX_ENCODED_LABELS:
        reason = f"is of too many small pairs: encoded it must be at most {MAX_ENCODED_LABELS} bytes, is {encoded}"
        raise InvalidField("instance.metadata", reason)


def _labels(it: pb.Instance) -> None:
    tags = set(it.tags)
    if "" in tags or len(tags) != len(it.tags):
        raise InvalidField("instance.tags", "must be neither empty nor repeated")
    if "" in it.metadata:
        raise InvalidField("instance.metadata", "must have no empty key")
    size(it)


def _locality(it: pb.Locality) -> None:
    together = it.region + it.zone + it.sub_zone
    if len(together) <= MAX_NAME and together.isprintable():
        return
    for part in ("region", "zone", "sub_zone"):
        value = getattr(it, part)
        if len(value) > MAX_NAME or not value.isprintable():
            raise InvalidField(f"instance.locality.{part}", f"must be at most {MAX_NAME} printable characters")
