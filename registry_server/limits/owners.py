"""CORE: how many instances and leases each owner has: an identity on all replicas together, and who did not say who it
is of those that it registered by this server.

Listens to what changes in the catalog, so that what ends by itself counts no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog
from registry_server.changes import Change
from registry_server.errors import LimitExceeded
from registry_server.limits.quotas import NO_QUOTAS, Quotas
from registry_server.model import Entry
from registry_server.records import Key
from registry_server.settings import SettingChange


@dataclass(eq=False, slots=True)
class Owning:
    """What it has, and what it is about to have."""

    name: str
    instances: int = 0
    leases: int = 0
    coming: int = 0
    services: int = 0
    namespaces: int = 0

    @property
    def has_nothing(self) -> bool:
        return not (self.instances or self.leases or self.coming or self.services or self.namespaces)


class Owners:
    """A Listener. A lease belongs to who registered by it last; one that is only drained by belongs to who had it."""

    def __init__(self, catalog: Catalog, quotas: Quotas = NO_QUOTAS) -> None:
        self._catalog = catalog
        self._quotas = quotas
        self._owners: dict[str, Owning] = {}
        self._of_lease: dict[str, Owning] = {}
        # Who was the first in a service, or in a namespace, for as long as there is any instance.
        self._first: dict[tuple[str, ...], Owning] = {}

    def __len__(self) -> int:
        """How many owners have something."""
        return len(self._owners)

    def instances_of(self, owner: str) -> int:
        """How many instances it has."""
        found = self._owners.get(owner)
        return found.instances if found is not None else 0

    def enter(self, name: str, wanted: pb.Instance, *, has_lease: bool) -> Owning:
        """The owner is about to register an instance, under a lease that it has or a new one; `has` or `gave_up` is to
        follow. Raises LimitExceeded."""
        owner, quotas = self._owners.get(name), self._quotas
        if owner is None:
            owner = Owning(name)
        elif (
            owner.instances + owner.coming >= quotas.max_instances_per_owner
            or owner.leases + owner.coming >= quotas.max_leases_per_owner
        ):
            self._check(owner, _key(wanted), has_lease=has_lease)
        if owner.services >= quotas.max_services_per_owner or owner.namespaces >= quotas.max_namespaces_per_owner:
            self._check_names(owner, _key(wanted))
        self._owners[name] = owner
        owner.coming += 1
        return owner

    def gave_up(self, owner: Owning) -> None:
        """It did not come to it."""
        owner.coming -= 1
        self._forget_if_empty(owner)

    def has(self, owner: Owning, key: Key, lease_id: str) -> None:
        """It has registered: the lease is its own, and so are the names in which it is alone."""
        owner.coming -= 1
        before = self._of_lease.get(lease_id)
        count = self._catalog.count_of_lease(lease_id) if before is not owner else 0
        if count:  # else the view lags, or it has left again
            if before is not None:
                before.instances -= count
                before.leases -= 1
                self._forget_if_empty(before)
            self._of_lease[lease_id] = owner
            owner.instances += count
            owner.leases += 1
        if key[:2] not in self._first:
            self._open(owner, key)
        self._forget_if_empty(owner)

    # ---- a Listener

    def changed(self, changes: Sequence[Change]) -> None:
        """See Listener."""
        lost: set[str] = set()
        for _, _, key, before, after, *_ in changes:
            if before is not None and after is not None:
                if before.lease_id == after.lease_id:
                    continue
                if after.owner.is_leaving and after.lease_id not in self._of_lease:
                    self._inherit(before.lease_id, after.lease_id)
            if after is None and self._first:
                self._close(key)
            if before is not None and (owner := self._of_lease.get(before.lease_id)) is not None:
                owner.instances -= 1
                lost.add(before.lease_id)
            if after is not None and (owner := self._owner_of(after)) is not None:
                owner.instances += 1
        for lease_id in lost:
            if not self._catalog.count_of_lease(lease_id):
                self._end(lease_id)

    def settings_changed(self, changes: Sequence[SettingChange]) -> None:
        """See Listener."""

    def refresh_all(self) -> None:
        """See Listener."""

    # ---- within

    def _owner_of(self, entry: Entry) -> Owning | None:
        """Whose lease it is under. That of an identity is known by what it registered, also elsewhere or long ago."""
        owner = self._of_lease.get(entry.lease_id)
        name = entry.owner.by
        if owner is None and name and entry.lease_id:
            owner = self._owners.get(name)
            if owner is None:
                owner = self._owners[name] = Owning(name)
            self._of_lease[entry.lease_id] = owner
            owner.leases += 1
        return owner

    def _check(self, owner: Owning, key: Key, *, has_lease: bool) -> None:
        known, quotas = self._catalog.get(key), self._quotas
        if known is not None and self._of_lease.get(known.lease_id) is owner:
            return
        if owner.instances + owner.coming >= quotas.max_instances_per_owner:
            most = f"one owner may have {quotas.max_instances_per_owner:,} instances"
            raise LimitExceeded("max_instances_per_owner", most)
        if not has_lease:
            raise LimitExceeded("max_leases_per_owner", f"one owner may have {quotas.max_leases_per_owner:,} leases")

    def _check_names(self, owner: Owning, key: Key) -> None:
        quotas = self._quotas
        if self._is_there(key[:2]):
            return
        if owner.services >= quotas.max_services_per_owner:
            most = f"one owner may be the first in {quotas.max_services_per_owner:,} services"
            raise LimitExceeded("max_services_per_owner", most)
        if not self._is_there(key[:1]):
            most = f"one owner may be the first in {quotas.max_namespaces_per_owner:,} namespaces"
            raise LimitExceeded("max_namespaces_per_owner", most)

    def _open(self, owner: Owning, key: Key) -> None:
        """It is the first in a service, and in a namespace, if it is alone there."""
        if self._catalog.count(key.namespace, key.service)[0] == 1:
            self._first[key[:2]] = owner
            owner.services += 1
            if self._catalog.size_of(key.namespace) == (1, 1):
                self._first[key[:1]] = owner
                owner.namespaces += 1

    def _close(self, key: Key) -> None:
        for name in (key[:2], key[:1]):
            owner = self._first.get(name)
            if owner is not None and not self._is_there(name):
                del self._first[name]
                owner.services -= len(name) > 1
                owner.namespaces -= len(name) == 1
                self._forget_if_empty(owner)

    def _is_there(self, name: tuple[str, ...]) -> bool:
        return bool(self._catalog.count(*name)[0] if len(name) > 1 else self._catalog.size_of(name[0])[0])

    def _inherit(self, from_lease: str, lease_id: str) -> None:
        owner = self._of_lease.get(from_lease)
        if owner is not None:
            self._of_lease[lease_id] = owner
            owner.leases += 1

    def _end(self, lease_id: str) -> None:
        owner = self._of_lease.pop(lease_id)
        owner.leases -= 1
        self._forget_if_empty(owner)

    def _forget_if_empty(self, owner: Owning) -> None:
        if owner.has_nothing:
            self._owners.pop(owner.name, None)


def _key(wanted: pb.Instance) -> Key:
    return Key(wanted.namespace, wanted.service, wanted.id)
