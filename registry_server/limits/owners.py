"""CORE: how many instances and leases each owner has: an identity on all replicas together, and who did not say who it
is of those that it registered by this server.

Listens to what changes in the catalog, so that what ends by itself counts no more.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from registry_server.catalog import Catalog
from registry_server.errors import LimitExceeded
from registry_server.history import Change
from registry_server.limits.quotas import NO_QUOTAS, Quotas
from registry_server.model import Entry
from registry_server.records import Key
from registry_server.settings import SettingChange


@dataclass(eq=False, slots=True)
class _Owner:
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
        self._owners: dict[str, _Owner] = {}
        self._of_lease: dict[str, _Owner] = {}
        # Who was the first in a service, or in a namespace, for as long as there is any instance.
        self._first: dict[tuple[str, ...], _Owner] = {}

    def __len__(self) -> int:
        """How many owners have something."""
        return len(self._owners)

    def instances_of(self, owner: str) -> int:
        """How many instances it has."""
        found = self._owners.get(owner)
        return found.instances if found is not None else 0

    @contextmanager
    def entering(self, name: str, key: Key, *, has_lease: bool) -> Iterator[None]:
        """The owner registers an instance, under a lease that it has or a new one. Raises LimitExceeded."""
        owner = self._owners.get(name)
        if owner is None:
            owner = self._owners[name] = _Owner(name)
        try:
            self._check(owner, key, has_lease=has_lease)
            new = self._new_names(key)
            self._check_names(owner, new)
            owner.coming += 1
            try:
                yield
            finally:
                owner.coming -= 1
            self._take(owner, key)
            self._open(owner, new)
        finally:
            self._forget_if_empty(owner)

    # ---- a Listener

    def changed(self, changes: Sequence[Change]) -> None:
        """See Listener."""
        lost: set[str] = set()
        for _, _, key, before, after, _ in changes:
            if before is not None and after is not None:
                if before.lease_id == after.lease_id:
                    continue
                if after.owner.is_leaving and after.lease_id not in self._of_lease:
                    self._inherit(before.lease_id, after.lease_id)
            if after is None:
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

    def _owner_of(self, entry: Entry) -> _Owner | None:
        """Whose lease it is under. That of an identity is known by what it registered, also elsewhere or long ago."""
        owner = self._of_lease.get(entry.lease_id)
        name = entry.owner.by
        if owner is None and name and entry.lease_id:
            owner = self._owners.get(name)
            if owner is None:
                owner = self._owners[name] = _Owner(name)
            self._of_lease[entry.lease_id] = owner
            owner.leases += 1
        return owner

    def _check(self, owner: _Owner, key: Key, *, has_lease: bool) -> None:
        known = self._catalog.get(key)
        if known is not None and self._of_lease.get(known.lease_id) is owner:
            return
        quotas = self._quotas
        if owner.instances + owner.coming >= quotas.max_instances_per_owner:
            most = f"one owner may have {quotas.max_instances_per_owner:,} instances"
            raise LimitExceeded("max_instances_per_owner", most)
        if not has_lease and owner.leases + owner.coming >= quotas.max_leases_per_owner:
            raise LimitExceeded("max_leases_per_owner", f"one owner may have {quotas.max_leases_per_owner:,} leases")

    def _new_names(self, key: Key) -> tuple[tuple[str, ...], ...]:
        """The service and the namespace, as far as nobody is there yet."""
        if self._catalog.count(key.namespace, key.service)[0]:
            return ()
        is_new_space = not self._catalog.size_of(key.namespace)[0]
        return (key[:2], key[:1]) if is_new_space else (key[:2],)

    def _check_names(self, owner: _Owner, new: Sequence[tuple[str, ...]]) -> None:
        quotas = self._quotas
        if new and owner.services >= quotas.max_services_per_owner:
            most = f"one owner may be the first in {quotas.max_services_per_owner:,} services"
            raise LimitExceeded("max_services_per_owner", most)
        if len(new) > 1 and owner.namespaces >= quotas.max_namespaces_per_owner:
            most = f"one owner may be the first in {quotas.max_namespaces_per_owner:,} namespaces"
            raise LimitExceeded("max_namespaces_per_owner", most)

    def _open(self, owner: _Owner, names: Sequence[tuple[str, ...]]) -> None:
        for name in names:
            if name not in self._first and self._is_there(name):
                self._first[name] = owner
                self._count(owner, name, 1)

    def _close(self, key: Key) -> None:
        for name in (key[:2], key[:1]):
            owner = self._first.get(name)
            if owner is not None and not self._is_there(name):
                del self._first[name]
                self._count(owner, name, -1)
                self._forget_if_empty(owner)

    def _is_there(self, name: tuple[str, ...]) -> bool:
        return bool(self._catalog.count(*name)[0] if len(name) > 1 else self._catalog.size_of(name[0])[0])

    def _count(self, owner: _Owner, name: tuple[str, ...], by: int) -> None:
        if len(name) > 1:
            owner.services += by
        else:
            owner.namespaces += by

    def _take(self, owner: _Owner, key: Key) -> None:
        """It has registered: the lease is its own."""
        entry = self._catalog.get(key)
        if entry is None or not entry.lease_id:
            return  # the view lags, or it has left again
        before = self._of_lease.get(entry.lease_id)
        if before is owner:
            return
        count = self._catalog.count_of_lease(entry.lease_id)
        if before is not None:
            before.instances -= count
            before.leases -= 1
            self._forget_if_empty(before)
        self._of_lease[entry.lease_id] = owner
        owner.instances += count
        owner.leases += 1

    def _inherit(self, from_lease: str, lease_id: str) -> None:
        owner = self._of_lease.get(from_lease)
        if owner is not None:
            self._of_lease[lease_id] = owner
            owner.leases += 1

    def _end(self, lease_id: str) -> None:
        owner = self._of_lease.pop(lease_id)
        owner.leases -= 1
        self._forget_if_empty(owner)

    def _forget_if_empty(self, owner: _Owner) -> None:
        if owner.has_nothing:
            self._owners.pop(owner.name, None)
