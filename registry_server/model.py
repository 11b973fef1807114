"""CORE. One instance as the server sees it, and the questions that can be asked about instances."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from sys import intern
from typing import NamedTuple

from protos.registry.v1 import registry_pb2 as pb
from registry_server.stores.base import Key, Record

CHECKSUM_MODULUS = 1 << 64


Address = tuple[str, int]
"""Where an instance listens: host and port."""


class Entry(NamedTuple):
    """An instance with what is derived from it, each derived once.

    It is kept encoded, as most readers want it: a parsed message takes several times the memory.
    """

    key: Key
    encoded: bytes
    lease_id: str
    revision: int
    digest: int
    routable: bool
    address: Address

    @property
    def instance(self) -> pb.Instance:
        """The instance, parsed anew: the caller's to change."""
        return pb.Instance.FromString(self.encoded)

    @classmethod
    def of(cls, record: Record) -> "Entry":
        """Read a record of the store. This is the one place where an instance is encoded for its readers."""
        instance = pb.Instance.FromString(record.value)
        instance.revision = record.revision
        instance.create_revision = record.create_revision
        namespace, service, id_ = record.key
        return cls(
            Key(intern(namespace), intern(service), id_),
            instance.SerializeToString(),
            record.lease_id,
            record.revision,
            digest(record.key, record.revision),
            is_routable(instance),
            (instance.host, instance.port),
        )


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


@dataclass(frozen=True, slots=True)
class Query:
    """A question about the instances of a namespace: of which services, and which of them.

    Equal questions are equal values, so that all who ask the same share one answer. `services` is empty for all of the
    namespace.
    """

    namespace: str
    services: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    metadata: frozenset[tuple[str, str]] = frozenset()
    version: str = ""
    statuses: frozenset[int] = frozenset()
    healths: frozenset[int] = frozenset()
    locality: tuple[str, str, str] = ("", "", "")
    routable_only: bool = False

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

    @property
    def takes_all(self) -> bool:
        """Whether every instance of the services is meant."""
        return self == Query(self.namespace, self.services)

    def matches(self, entry: Entry) -> bool:
        """Whether the instance, of a service that is meant, is meant too."""
        it = entry.instance
        return (
            (not self.routable_only or entry.routable)
            and (not self.version or it.version == self.version)
            and (not self.statuses or it.status in self.statuses)
            and (not self.healths or it.health in self.healths)
            and (not self.tags or self.tags.issubset(it.tags))
            and all(it.metadata.get(name) == value for name, value in self.metadata)
            and _is_within(self.locality, it.locality)
        )

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that differ for different questions, the same in every process."""
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


def _is_within(wanted: tuple[str, str, str], actual: pb.Locality) -> bool:
    region, zone, sub_zone = wanted
    return (
        (not region or actual.region == region)
        and (not zone or actual.zone == zone)
        and (not sub_zone or actual.sub_zone == sub_zone)
    )
