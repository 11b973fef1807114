"""CORE: one instance as the server sees it, and the questions that can be asked about instances."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from sys import intern
from typing import NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from registry_api.limits import DEFAULT_TTL_S, MAX_TTL_S
from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import fields
from registry_server.errors import InvalidField
from registry_server.records import Author, Key, Record
from registry_server.rights import EVERY, UNRESTRICTED, Rights

CHECKSUM_MODULUS = 1 << 64
# More than an instance with every field at its limit takes; so much of a store's value is looked at.
MAX_VALUE_BYTES = 64 * 1024
# What is larger is not kept once for all who are alike: a pair of metadata in characters, a value in bytes.
MAX_SHARED, MAX_SHARED_VALUE = 128, 1024
# No JSON says a longer span.
MAX_SPAN_S = 315_576_000_000
_SPANS = ("interval", "timeout", "initial_delay", "critical_after", "deregister_after")


Address = tuple[str, int]
"""Where an instance listens: host and port."""


class BadRecord(Exception):
    """A record of the store that is no instance. The text says why, and quotes nothing of the value."""


class Traits(NamedTuple):
    """What filters ask of an instance, but for its metadata. Most instances of a service are alike in it."""

    version: str
    status: int
    health: int
    tags: frozenset[str]
    locality: tuple[str, str, str]
    ttl_s: float


class Owner(NamedTuple):
    """Who has an id, or had it last: its generation, where and since when (in ns) it is registered, whether it is
    deregistered (it leaves, or left, at the end of a drain), its health, and which identity it is."""

    generation: int
    address: Address
    registered_ns: int
    is_leaving: bool
    health: int = pb.UNKNOWN
    by: str = ""


class Entry(NamedTuple):
    """An instance with what is derived from it, each derived once.

    It is kept encoded, as most readers want it: a parsed message takes several times the memory. What is asked often
    stands beside it, so that nobody parses it for that.
    """

    key: Key
    encoded: bytes
    lease_id: str
    revision: int
    digest: int
    routable: bool
    address: Address
    owner: Owner
    traits: Traits
    metadata: frozenset[tuple[str, str]]
    has_checks: bool
    author: Author  # who made it what it is

    def parse(self) -> pb.Instance:
        """The instance, parsed anew each time: the caller's to change."""
        return pb.Instance.FromString(self.encoded)

    @classmethod
    def of(cls, record: Record, fence: int = 0) -> "Entry":
        """Read a record of the store, whatever anybody wrote there. Raises BadRecord if it is no instance.

        The key decides what it is called and the store what its revisions are; what it does not say has its default.
        """
        return cls.made(_parsed(record.key, record.value), record, fence)

    @classmethod
    def made(cls, it: pb.Instance, record: Record, fence: int) -> "Entry":
        """The entry of a record which says `it`, under the name of its key and with nothing missing. That is changed.

        This is the one place where an instance is encoded for its readers.
        """
        key, value, lease_id, revision, created = record
        generation = _generation(it.generation, revision, fence)
        it.revision, it.create_revision, it.generation = revision, created, generation
        address = (it.host, it.port)
        return cls(
            _interned(key),
            it.SerializeToString(),
            lease_id,
            revision,
            digest(key, revision),
            is_routable(it),
            address,
            Owner(
                generation,
                address,
                nanoseconds(it.registered_at),
                it.HasField("leaves_at"),
                it.health,
                intern(it.registered_by),
            ),
            _traits(it, is_small=len(value) <= MAX_SHARED_VALUE),
            _metadata(it) if it.metadata else _NOTHING,
            bool(it.checks),
            _shared_author(it.changed_by[:MAX_SHARED], it.changed_from[:MAX_SHARED]),
        )


def _interned(key: Key) -> Key:
    """The same, whose names take the memory of one for all instances of a service."""
    namespace, service = intern(key.namespace), intern(key.service)
    if namespace is key.namespace and service is key.service:
        return key
    return Key(namespace, service, key.id)


def _parsed(key: Key, value: bytes) -> pb.Instance:
    """The instance in a value, complete, under the name of its key."""
    if len(value) > MAX_VALUE_BYTES:
        raise BadRecord(f"its value has {len(value)} bytes, an instance has at most {MAX_VALUE_BYTES}")
    try:
        it = pb.Instance.FromString(value)
        it.namespace = fields.name("namespace", key.namespace)
        it.service = fields.name("service", key.service)
        it.id = fields.name("id", key.id)
        it.host = fields.host("host", it.host)
        fields.port("port", it.port)
        fields.settle(it)
        _mend_checks(it)
        check_times(it)
    except DecodeError:
        raise BadRecord("its value is not an encoded registry.v1.Instance") from None
    except InvalidField as wrong:
        raise BadRecord(str(wrong)) from None
    return it


def check_times(it: pb.Instance) -> None:
    """Raises InvalidField where it has a time that JSON cannot say. What says no time to live gets the usual one."""
    if it.HasField("ttl"):
        fields.duration_s("ttl", it.ttl, 1e-9, MAX_TTL_S)
        _check_span("ttl", it.ttl)
    else:
        it.ttl.seconds = int(DEFAULT_TTL_S)
    if it.HasField("registered_at"):
        fields.timestamp("registered_at", it.registered_at)
    if it.HasField("leaves_at"):
        fields.timestamp("leaves_at", it.leaves_at)
    for check in it.checks:
        for name in _SPANS:
            _check_span(f"checks.{name}", getattr(check, name))
    for result in it.check_results:
        fields.timestamp("check_results.checked_at", result.checked_at)


def _check_span(field: str, span: Duration) -> None:
    fields.duration_s(field, span, -MAX_SPAN_S, MAX_SPAN_S)
    if span.seconds * span.nanos < 0:
        raise InvalidField(field, "seconds and nanos must have one sign")


def _mend_checks(it: pb.Instance) -> None:
    """A time of a check that JSON cannot say becomes one that no check has: it is not carried out, and its instance is
    none the less one."""
    for check in it.checks:
        for name in _SPANS:
            span = getattr(check, name)
            try:
                _check_span(name, span)
            except InvalidField:
                span.Clear()
                span.seconds = -1


def _generation(stored: int, revision: int, fence: int) -> int:
    """The generation of a record: a number that no other owner of the id has, had, or will have.

    A new owner's record holds minus the fence of the epoch in which it was written (`new_generation`), to which the
    revision of the commit that wrote it is added: that grows with every owner. Every later write for the same owner
    holds the number itself. One greater than anything that can have been given out so far was not written by us.
    """
    greatest = fence + revision
    number = revision - stored if stored < 0 else stored
    return number if 0 < number <= greatest else greatest


def new_generation(fence: int) -> int:
    """What the record of a new owner holds as its generation, until the store has said its revision."""
    return -fence


def nanoseconds(at: Timestamp) -> int:
    """A time as one number, which can be compared."""
    return at.seconds * 10**9 + at.nanos


def _traits(it: pb.Instance, *, is_small: bool) -> Traits:
    where, ttl = it.locality, it.ttl
    make = _shared_traits if is_small else _shared_traits.__wrapped__
    place = (where.region, where.zone, where.sub_zone)
    return make(it.version, it.status, it.health, tuple(it.tags), place, ttl.seconds + ttl.nanos / 1e9)


def _metadata(it: pb.Instance) -> frozenset[tuple[str, str]]:
    found = it.metadata  # by its keys, which takes a fifth of the time of its items
    return frozenset([_pair(key, found[key]) for key in found])


def _pair(key: str, value: str) -> tuple[str, str]:
    return _shared_pair(key, value) if len(key) + len(value) <= MAX_SHARED else (key, value)


# Equal values are one object and take the memory of one. The caches are bounded in number, and what is in them in size.


@lru_cache(maxsize=2048)
def _shared_traits(
    version: str, status: int, health: int, tags: tuple[str, ...], place: tuple[str, str, str], ttl_s: float
) -> Traits:
    return Traits(version, status, health, frozenset(tags), place, ttl_s)


@lru_cache(maxsize=2048)
def _shared_author(identity: str, peer: str) -> Author:
    return Author(identity, peer)


@lru_cache(maxsize=8192)
def _shared_pair(key: str, value: str) -> tuple[str, str]:
    return key, value


def digest(key: Key, revision: int) -> int:
    """What one instance adds to a checksum; defined at `WatchResponse.checksum` in registry.proto."""
    text = f"{key.namespace}/{key.service}/{key.id}@{revision}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def checksum(entries: Iterable[Entry]) -> int:
    """The checksum of a set of instances."""
    return sum(entry.digest for entry in entries) % CHECKSUM_MODULUS


def is_routable(instance: pb.Instance) -> bool:
    """Whether the instance gets traffic."""
    return instance.status == pb.ACTIVE and instance.health in (pb.UNKNOWN, pb.HEALTHY) and instance.weight > 0


_ANYWHERE = ("", "", "")
_NOTHING: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Query:
    """A question about instances: of which namespace, of which services, and which of them.

    Equal questions are equal values, so that all who ask the same share one answer. `namespace` is empty for all of
    them, `services` is empty for all that there are.
    """

    namespace: str
    services: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    metadata: frozenset[tuple[str, str]] = frozenset()
    version: str = ""
    statuses: frozenset[int] = frozenset()
    healths: frozenset[int] = frozenset()
    locality: tuple[str, str, str] = _ANYWHERE
    routable_only: bool = False
    rights: Rights = UNRESTRICTED  # of who asks: what these do not let him read is not meant

    @classmethod
    def of(cls, namespace: str, services: Iterable[str] = (), filter_: pb.Filter | None = None) -> "Query":
        """The question that a request asks."""
        if filter_ is None:
            return cls(namespace, frozenset(services))
        where = filter_.locality
        return cls(
            namespace,
            frozenset(services),
            frozenset(filter_.tags),
            frozenset(filter_.metadata.items()),
            filter_.version,
            frozenset(filter_.statuses),
            frozenset(filter_.healths),
            (where.region, where.zone, where.sub_zone),
            filter_.routable_only,
        )

    def within(self, rights: Rights) -> "Query":
        """The same question, of somebody with these rights."""
        if all(rights.may("read", self.namespace or EVERY, service) for service in self.services or (EVERY,)):
            return self
        return replace(self, rights=rights)

    @property
    def names_services(self) -> bool:
        """Whether it says one by one which services it means: by name, in one namespace."""
        return bool(self.namespace and self.services)

    @property
    def takes_all(self) -> bool:
        """Whether every instance of the services is meant."""
        return self == Query(self.namespace, self.services)

    def matches(self, entry: Entry) -> bool:
        """Whether the instance, of a service that is meant, is meant too."""
        it = entry.traits
        return (
            (not self.routable_only or entry.routable)
            and (not self.version or it.version == self.version)
            and (not self.statuses or it.status in self.statuses)
            and (not self.healths or it.health in self.healths)
            and self.tags <= it.tags
            and self.metadata <= entry.metadata
            and _is_within(self.locality, it.locality)
            and (self.rights is UNRESTRICTED or self.rights.may("read", entry.key.namespace, entry.key.service))
        )

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that differ for different questions, whoever asks; the same in every process."""
        parts = (
            self.namespace,
            sorted(self.services),
            sorted(self.tags),
            sorted(self.metadata),
            self.version,
            sorted(self.statuses),
            sorted(self.healths),
            self.locality,
            self.routable_only,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _is_within(wanted: tuple[str, str, str], actual: tuple[str, str, str]) -> bool:
    return wanted == _ANYWHERE or all(not part or part == is_ for part, is_ in zip(wanted, actual, strict=True))
