"""CORE: who carries writes out: a protocol. `Registrar` does it by a store; a relay would ask another registry.

Such a relay is no store, as nobody can commit by revision there: the rules are applied where the truth is.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.limits.peers import REMEMBERED, host_of
from registry_server.model import Entry
from registry_server.records import UNSAID, Author, Key, Lease, Renewal


def _anybody_may(namespace: str, service: str, /) -> bool:
    return True


class Claimant(NamedTuple):
    """Who writes: its identity, if it has one, from where, and what it may do that others own."""

    identity: str = ""
    peer: str = ""
    may_operate: Callable[[str, str], bool] = _anybody_may  # of a namespace and a service
    if_absent: bool = False  # it takes nothing over

    @property
    def author(self) -> Author:
        """The same, as it stands in what is written."""
        return _author(self.identity, self.peer)

    def may_have(self, entry: Entry) -> bool:
        """Whether an instance is its own, or nobody's, or it may operate its service."""
        return entry.owner.by in ("", self.identity) or self.may_operate(entry.key.namespace, entry.key.service)


@lru_cache(maxsize=REMEMBERED)
def _author(identity: str, peer: str) -> Author:
    return Author(identity, str(host_of(peer) or peer.partition(":")[0]))


NOBODY = Claimant()


class Registered(NamedTuple):
    """The instance as stored, the revision of the write, and the lease that holds the instance."""

    entry: Entry
    revision: int
    lease: Lease


class Left(NamedTuple):
    """How many instances leave, and the revision of the last write."""

    removed: int
    revision: int


class Updated(NamedTuple):
    """The instance as it is now, and the revision of the write."""

    entry: Entry
    revision: int


class Writer(Protocol):
    """All writes. What is given has been checked, field by field, and has its defaults filled in (rpc/validate.py): it
    is stored as it is, and shown without being looked at again. Raises the errors of errors.py alone.

    A write is answered when the view of this server shows it, or a moment later where the view lags.
    """

    async def register(self, wanted: pb.Instance, ttl_s: float, lease_id: str, by: Claimant = NOBODY) -> Registered:
        """Register under a lease, a new one of `ttl_s` seconds if `lease_id` is empty.

        Raises NotFound for a lease that does not exist, OwnershipLost if another owner has the id,
        PermissionDenied if that or the address belongs to another identity.
        """

    async def deregister(self, key: Key, generation: int, drain_s: float, by: Claimant = NOBODY) -> Left:
        """Remove an instance, after so many seconds of draining; only of this generation, unless it is 0.

        Raises NotFound, OwnershipLost if it has another generation, PermissionDenied if it is another identity's.
        """

    async def end_lease(self, lease_id: str, drain_s: float, author: Author = UNSAID) -> Left:
        """Remove all instances of a lease, after so many seconds of draining. Raises NotFound if it holds none."""

    async def update(self, wanted: pb.Instance, paths: Sequence[str], by: Claimant = NOBODY) -> Updated:
        """Change the named fields of an instance. Raises NotFound, PermissionDenied if it is another identity's."""

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        """Renew leases, answering in their order. Raises Unavailable when another replica should be asked."""

    def instances_of(self, lease_id: str) -> int:
        """How many instances a lease that was just renewed keeps alive."""


class SettingWriter(Protocol):
    """Writes what is set beside the instances. The last write wins: what is there is written over, whoever wrote it.

    All give the revision of the write. Raise Unavailable, Contended, or LimitExceeded if the store refuses it.
    """

    async def set(self, key: Key, value: bytes) -> int:
        """Set it until it is unset."""

    async def set_if(self, key: Key, value: bytes, revision: int) -> int:
        """Set it if what is there has that revision, 0 for nothing. Raises Contended if it has another."""

    async def unset(self, key: Key) -> int:
        """Remove it. Raises NotFound."""
