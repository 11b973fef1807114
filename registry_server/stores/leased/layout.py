"""CORE: what stands where in a backend, beside the records (stores/names.py), and what is in it.

docs/stores.md is the manual page of it.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from registry_server.records import UNSAID, Author, Cause, Commit, Deleted, Key
from registry_server.stores import parting

# The registry's own names: the epoch; who left by the last write that deletes, and why; and a value that is written to
# see how far the backend is.
EPOCH, LEFT, BEAT = "epoch", "left", "beat"

_LEASES = "leases/"
_LEASE_ID = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,9})")


# ---- leases


def lease_id(ttl_s: float, token: str) -> str:
    """The id of a new lease. `token` is 32 hexadecimal digits that nobody guesses; the time to live is in it."""
    return f"{token}-{max(1, math.ceil(ttl_s * 1000))}"


def ttl_of(lease_id: str) -> float | None:
    """The time to live of a lease, in seconds; None if that is no id of one."""
    match = _LEASE_ID.fullmatch(lease_id)
    return int(match[1]) / 1000 if match else None


def lease_name(lease_id: str) -> str:
    """Where a lease is. Its value has no meaning; what counts is when it was last written."""
    return _LEASES + lease_id


def lease_at(name: str) -> str | None:
    """The lease that is there; None if it is the name of something else."""
    id_ = name.removeprefix(_LEASES)
    return id_ if name.startswith(_LEASES) and ttl_of(id_) is not None else None


# ---- records


def packed(lease_id: str, value: bytes) -> bytes:
    """A record as it is kept: the lease that holds it on the first line, the rest is its value."""
    return lease_id.encode() + b"\n" + value


def unpacked(value: bytes) -> tuple[str, bytes]:
    """Lease and value of a record as it is kept. What somebody else wrote is a value without a lease."""
    head, line, rest = value.partition(b"\n")
    lease = head.decode("ascii", errors="replace")
    if line and (not lease or ttl_of(lease) is not None):
        return lease, rest
    return "", value


# ---- who left, and why


class Ended(NamedTuple):
    """The names that the last write that was asked for deleted, why, and by whom. Others have run out."""

    cause: Cause
    names: frozenset[str]
    author: Author = UNSAID

    @classmethod
    def read(cls, value: bytes) -> "Ended":
        """What is written there."""
        cause, *names = value.decode(errors="replace").split("\n")
        try:
            by, *names = names if names and parting.is_author(names[0]) else ["", *names]
            return cls(Cause(cause), frozenset(names), parting.author(by))
        except ValueError:
            return cls(Cause.EXPIRED, frozenset())

    def of(self, key: Key, name: str) -> Deleted:
        """What is told of this one, that left."""
        return Deleted(key, self.cause, self.author) if name in self.names else Deleted(key, Cause.EXPIRED)


def left(commit: Commit, names: Iterable[str]) -> bytes:
    """What is written with a write that deletes."""
    by = (parting.line(commit.author),) if commit.author != UNSAID else ()
    return "\n".join((commit.cause.value, *by, *names)).encode()


NOBODY = Ended(Cause.EXPIRED, frozenset())
