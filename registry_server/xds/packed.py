"""CORE: one resource as it travels: encoded once, under a version that is a hash of what it says."""

import hashlib
import re
from typing import NamedTuple

from registry_server import wire
from registry_server.xds.kinds import TYPE_PREFIX, ResourceType

_TYPE_URL, _VALUE = 1, 2
_VERSION = re.compile(r"[0-9a-f]{16}")


class Packed(NamedTuple):
    """A resource. Its version is the same on every replica, and after a restart."""

    name: str
    digest: int
    any: bytes  # an encoded google.protobuf.Any

    @property
    def version(self) -> str:
        """The digest as it is written."""
        return written(self.digest)


def packed(kind: ResourceType, name: str, encoded: bytes) -> Packed:
    """The resource of that name which an encoded message is."""
    digest = hashlib.blake2b(encoded, digest_size=8, key=name.encode()[:64]).digest()
    return Packed(name, int.from_bytes(digest, "big"), any_of(kind.value, encoded))


def any_of(name: str, encoded: bytes) -> bytes:
    """A google.protobuf.Any of a message, encoded, by the name of its type."""
    return wire.message_field(_TYPE_URL, (TYPE_PREFIX + name).encode()) + wire.message_field(_VALUE, encoded)


def written(digest: int) -> str:
    """A digest as a version."""
    return f"{digest:016x}"


def read_version(version: str) -> int:
    """The digest that a version is; of one that we never gave, a digest that nothing has."""
    return int(version, 16) if _VERSION.fullmatch(version) else 1
