"""CORE. The view that every read is answered from, changed by events of the store alone.

Services are independent of one another: what a change costs depends on its own service alone. Beside the current state
stands a bounded log of what changed, by which a reader that knows an earlier state gets the difference. The log is an
economy and not the truth: a reader that it does not reach back to gets the full set.

Two numbers order changes: `revision` is the store's, public, and means the same on every replica; `seq` counts what
this process applied, and also orders the few changes that are not the store's (a removal that waited, see guard.py).
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from registry_server.holdings import Holdings
from registry_server.model import Address, BadRecord, Entry, Owner, Query
from registry_server.stores.base import Cause, Delete, Delta, Key, Record, Snapshot

LOG_LIMIT = 16_384
DEPARTED_LIMIT = 16_384


class Change(NamedTuple):
    """One instance before and after: it appeared (`before` is None), changed, or left (`after` is None)."""

    seq: int
    revision: int
    key: Key
    before: Entry | None
    after: Entry | None
    cause: Cause | None = None


class Flaw(NamedTuple):
    """A record of the store that is skipped, and why; `entry` is the instance it would be if that were let in."""

    key: Key
    revision: int
    reason: str
    entry: Entry | None = None


@dataclass(frozen=True, slots=True)
class CatalogStatistics:
    """What the catalog holds, in numbers."""

    services: int
    instances: int
    changes: int
    log: int


class _Log:
    """The latest changes of one service, or of one namespace, oldest first; all after `floor` are in it."""

    __slots__ = ("changes", "floor")

    def __init__(self, floor: int) -> None:
        self.changes: deque[Change] = deque()
        self.floor = floor

    def since(self, seq: int) -> list[Change] | None:
        """The changes after `seq`, oldest first, or None if some are forgotten."""
        if seq < self.floor:
            return None
        newer: list[Change] = []
        for change in reversed(self.changes):
            if change.seq <= seq:
                break
            newer.append(change)
        newer.reverse()
        return newer

    def forget_oldest(self) -> None:
        self.floor = self.changes.popleft().seq


class _Namespace:
    __slots__ = ("log", "names")

    def __init__(self, floor: int) -> None:
        self.log = _Log(floor)
        self.names: dict[str, None] = {}


class _Service:
    __slots__ = ("addresses", "entries", "log", "namespace", "ordered", "routable")

    def __init__(self, floor: int, namespace: _Namespace) -> None:
        self.namespace = namespace
        self.entries: dict[str, Entry] = {}
        self.addresses: dict[Address, str] = {}
        self.routable = 0
        self.log = _Log(floor)
        self.ordered: tuple[Entry, ...] | None = ()

    def replace(self, id_: str, before: Entry | None, after: Entry | None) -> None:
        self.ordered = None
        if before is not None:
            self.routable -= before.routable
            if self.addresses.get(before.address) == id_:
                del self.addresses[before.address]
        if after is None:
            del self.entries[id_]
            return
        self.entries[id_] = after
        self.addresses[after.address] = id_
        self.routable += after.routable


class Catalog:
    """All instances, by service, by address and by lease; and the latest changes."""

    def __init__(self, log_limit: int = LOG_LIMIT) -> None:
        self.epoch = ""
        self.fence = 0
        self.revision = 0
        self.seq = 0
        self._namespaces: dict[str, _Namespace] = {}
        self._services: dict[tuple[str, ...], _Service] = {}
        self._leases = Holdings()
        self._log: deque[Change] = deque()
        self._log_limit = log_limit
        self._forgotten_revision = 0
        self._departed: dict[Key, Owner] = {}
        self._flawed: dict[Key, Flaw] = {}
        self._new_flaws: list[Flaw] = []
        # Instances of an earlier order of changes, whose revisions mean nothing in this one.
        self._outlived: set[Key] = set()

    # ---- writing: by events alone

    def load(self, snapshot: Snapshot, keep: Collection[Key] = ()) -> list[Change]:
        """Become the snapshot, and return what that changed. The instances named by `keep` stay if it lacks them.

        Another epoch, or a revision before the current one, is another order of changes: no reader can go on from what
        it knows, so the log starts anew.
        """
        is_same_order = self.is_continued_by(snapshot)
        records = {record.key: record for record in snapshot.records}
        self.epoch, self.fence, self.revision = snapshot.epoch, snapshot.fence, snapshot.revision
        for key in [key for key in self._flawed if key not in records]:
            del self._flawed[key]
        gone = [key for key in self.keys() if key not in records and key not in keep]
        changes = [self._remove(key, Cause.EXPIRED) for key in gone]
        for record in sorted(records.values(), key=lambda record: record.revision):
            is_known = is_same_order and self.revision_of(record.key) == record.revision
            if not is_known or record.key in self._outlived:
                changes += self._put(record)
        if not is_same_order:
            self._forget_all()
            self._outlived = {key for key in self.keys() if key not in records}
        return changes

    def is_continued_by(self, snapshot: Snapshot) -> bool:
        """Whether the snapshot belongs to the same order of changes: of this epoch, and not before this revision."""
        return snapshot.epoch == self.epoch and snapshot.revision >= self.revision

    def apply(self, delta: Delta) -> list[Change]:
        """Take in what one revision changed, and return what that changed here."""
        self.revision = max(self.revision, delta.revision)
        changes = [self._remove(key, cause) for key, cause in _known(self, delta)]
        for deleted in delta.deletes:
            self._flawed.pop(deleted.key, None)
        for record in delta.puts:
            changes += self._put(record)
        return changes

    def remove(self, keys: Iterable[Key], cause: Cause) -> list[Change]:
        """Let instances go that the store has let go of before."""
        return [self._remove(key, cause) for key in keys if self.get(key) is not None]

    def progress(self, revision: int) -> None:
        """Note that nothing changed up to this revision."""
        self.revision = max(self.revision, revision)

    # ---- reading

    def get(self, key: Key) -> Entry | None:
        """The instance of that name."""
        service = self._services.get(key[:2])
        return service.entries.get(key.id) if service else None

    def at_address(self, namespace: str, service: str, address: Address) -> Entry | None:
        """The instance of the service that listens there."""
        found = self._services.get((namespace, service))
        if found is None or (id_ := found.addresses.get(address)) is None:
            return None
        return found.entries[id_]

    def of_lease(self, lease_id: str) -> tuple[Key, ...]:
        """The instances that a lease keeps alive."""
        return self._leases.of(lease_id)

    def count_of_lease(self, lease_id: str) -> int:
        """How many instances a lease keeps alive."""
        return self._leases.count(lease_id)

    def last_owner(self, key: Key) -> Owner | None:
        """Who has the id, or had it last; None if that is not known.

        The latest ids that left are remembered, so that who comes back too late finds that it has lost its id.
        """
        entry = self.get(key)
        return entry.owner if entry is not None else self._departed.get(key)

    def revision_of(self, key: Key) -> int:
        """The revision of what the store has under that name, even if that is no instance; 0 for nothing."""
        flaw = self._flawed.get(key)
        if flaw is not None:
            return flaw.revision
        entry = self.get(key)
        return entry.revision if entry is not None else 0

    @property
    def flaws(self) -> int:
        """How many records of the store are skipped because they are no instances."""
        return len(self._flawed)

    def take_new_flaws(self) -> Sequence[Flaw]:
        """The records that were skipped since this was last asked; anew when it is not by itself that they stay."""
        found, self._new_flaws = self._new_flaws, []
        return found

    def namespaces(self) -> tuple[str, ...]:
        """The names of the namespaces, in order."""
        return tuple(sorted(self._namespaces))

    def services(self, namespace: str) -> tuple[str, ...]:
        """The names of the services of a namespace that have instances, in order."""
        space = self._namespaces.get(namespace)
        return tuple(sorted(space.names)) if space else ()

    def count(self, namespace: str, service: str) -> tuple[int, int]:
        """How many instances a service has, and how many of them are routable."""
        found = self._services.get((namespace, service))
        return (len(found.entries), found.routable) if found else (0, 0)

    def of_service(self, namespace: str, service: str) -> tuple[Entry, ...]:
        """An immutable snapshot of a service, in the order of ids; made at most once per change."""
        found = self._services.get((namespace, service))
        if found is None:
            return ()
        if found.ordered is None:
            found.ordered = tuple(sorted(found.entries.values(), key=lambda entry: entry.key.id))
        return found.ordered

    def select(self, query: Query) -> Iterator[Entry]:
        """The instances that a query means, in the order of service and id."""
        takes_all = query.takes_all
        for service in sorted(query.services) or self.services(query.namespace):
            for entry in self.of_service(query.namespace, service):
                if takes_all or query.matches(entry):
                    yield entry

    def changes(self, query: Query, since: int) -> list[Change] | None:
        """What changed after `since` (a `seq`) in the services that a query means, oldest first; None if forgotten."""
        space = self._namespaces.get(query.namespace)
        if space is None:
            return [] if since >= self._floor else None
        if not query.services:
            return space.log.since(since)
        found = [self._changes_of(query.namespace, name, since) for name in query.services]
        if len(found) == 1:
            return found[0]
        merged: list[Change] = []
        for part in found:
            if part is None:
                return None
            merged += part
        merged.sort(key=lambda change: change.seq)
        return merged

    def seq_at(self, revision: int) -> int | None:
        """The `seq` after which everything is newer than `revision`; None if that is forgotten or yet to come."""
        if revision > self.revision:
            return None
        seq = self.seq
        for change in reversed(self._log):
            if change.revision <= revision:
                return seq
            seq = change.seq - 1
        return seq if revision >= self._forgotten_revision else None

    def keys(self) -> Iterator[Key]:
        """The names of all instances."""
        for service in self._services.values():
            yield from (entry.key for entry in service.entries.values())

    def statistics(self) -> CatalogStatistics:
        """What the catalog holds, in numbers."""
        return CatalogStatistics(
            services=sum(bool(service.entries) for service in self._services.values()),
            instances=sum(len(service.entries) for service in self._services.values()),
            changes=self.seq,
            log=len(self._log),
        )

    # ---- within

    @property
    def _floor(self) -> int:
        return self._log[0].seq - 1 if self._log else self.seq

    def _changes_of(self, namespace: str, name: str, since: int) -> list[Change] | None:
        service = self._services.get((namespace, name))
        if service is None:
            return [] if since >= self._floor else None
        return service.log.since(since)

    def _put(self, record: Record) -> list[Change]:
        """Take in a record. An address belongs to one instance: whoever held it before leaves, on every replica alike,
        even if the two registered at the same time on different ones. Only a record that somebody wrote by hand has no
        lease, and takes no address from one that has."""
        try:
            after = Entry.of(record, self.fence)
        except BadRecord as flaw:
            return self._skip(record, str(flaw))
        key = after.key
        service = self._services.get(key[:2]) or self._open(key.namespace, key.service)
        holder = service.addresses.get(after.address, key.id)
        if holder != key.id and service.entries[holder].lease_id and not after.lease_id:
            return self._skip(record, f"it has no lease, and the address of {holder}", after)
        self._flawed.pop(key, None)
        changes = []
        if holder != key.id:
            changes.append(self._change(service, service.entries[holder].key, None, Cause.REPLACED))
        changes.append(self._change(service, key, after, None))
        return changes

    def _skip(self, record: Record, reason: str, entry: Entry | None = None) -> list[Change]:
        """A record that is no instance is none for any reader. Where it was written over one, that one stays: whoever
        writes such a thing cannot know that it is gone. See mending.py for what becomes of it."""
        known = self._flawed.get(record.key)
        self._flawed[record.key] = flaw = Flaw(record.key, record.revision, reason, entry)
        if known is None or entry is not None or self.get(record.key) is not None:
            self._new_flaws.append(flaw)
        return []

    def _remove(self, key: Key, cause: Cause) -> Change:
        return self._change(self._services[key[:2]], key, None, cause)

    def _change(self, service: _Service, key: Key, after: Entry | None, cause: Cause | None) -> Change:
        before = service.entries.get(key.id)
        service.replace(key.id, before, after)
        self._outlived.discard(key)
        self._index_lease(key, before, after)
        if before is None or after is None:
            self._note_coming_or_going(service, key, before)
        self.seq += 1
        change = Change(self.seq, self.revision, key, before, after, cause)
        self._log.append(change)
        service.log.changes.append(change)
        service.namespace.log.changes.append(change)
        if len(self._log) > self._log_limit:
            self._forget_oldest()
        return change

    def _open(self, namespace: str, name: str) -> _Service:
        space = self._namespaces.get(namespace)
        if space is None:
            space = self._namespaces[namespace] = _Namespace(self._floor)
        service = self._services[namespace, name] = _Service(self._floor, space)
        return service

    def _index_lease(self, key: Key, before: Entry | None, after: Entry | None) -> None:
        if before is not None:
            if after is not None and after.lease_id == before.lease_id:
                return
            self._leases.remove(before.lease_id, key)
        if after is not None:
            self._leases.add(after.lease_id, key)

    def _note_coming_or_going(self, service: _Service, key: Key, before: Entry | None) -> None:
        if before is None:
            self._departed.pop(key, None)
            service.namespace.names[key.service] = None
            return
        self._departed[key] = before.owner
        if len(self._departed) > DEPARTED_LIMIT:
            del self._departed[next(iter(self._departed))]
        if not service.entries:
            del service.namespace.names[key.service]

    def _forget_oldest(self) -> None:
        """The oldest change of all is also the oldest of its namespace and of its service."""
        change = self._log.popleft()
        self._forgotten_revision = change.revision
        namespace, name, _ = change.key
        service = self._services[namespace, name]
        service.log.forget_oldest()
        service.namespace.log.forget_oldest()
        if not service.entries and not service.log.changes:
            del self._services[namespace, name]
            if not service.namespace.names and not service.namespace.log.changes:
                del self._namespaces[namespace]

    def _forget_all(self) -> None:
        while self._log:
            self._forget_oldest()
        self.seq += 1
        self._forgotten_revision = self.revision
        logs = [space.log for space in self._namespaces.values()] + [it.log for it in self._services.values()]
        for log in logs:
            log.floor = self.seq


def ghosts(changes: Sequence[Change], deleted: Collection[Key] = ()) -> tuple[Delete, ...]:
    """The records to delete from the store because another replica's registration took their address.

    `deleted` are those that the store deleted itself.
    """
    # In a full set a ghost takes the address first, and its owner takes it back: the last word counts.
    last = {change.key: change for change in changes}
    return tuple(
        Delete(change.key, change.before.revision)
        for change in last.values()
        if change.cause is Cause.REPLACED and change.before is not None and change.key not in deleted
    )


def _known(catalog: Catalog, delta: Delta) -> Iterator[tuple[Key, Cause]]:
    for deleted in delta.deletes:
        entry = catalog.get(deleted.key)
        if entry is not None:
            has_drained = deleted.cause is Cause.EXPIRED and entry.owner.is_leaving
            yield deleted.key, Cause.DRAINED if has_drained else deleted.cause
