"""CORE: the view that every read is answered from, changed by events of the store alone.

Services are independent of one another: what a change costs depends on its own service alone. Beside the current state
of each stands a bounded log of what changed (changes.py), by which a reader that knows an earlier state gets the
difference. The log is an economy and not the truth: a reader that it does not reach back to gets the full set.

Two numbers order changes: `revision` is the store's, public, and means the same on every replica; `seq` counts what
this process applied, and also orders the few changes that are not the store's (a removal that waited, see guard.py).
"""

import sys
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from operator import attrgetter
from typing import NamedTuple

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.changes import Change, Log, Logs, Point, merged
from registry_server.drafts import Drafts
from registry_server.holdings import Holdings
from registry_server.model import CHECKSUM_MODULUS, Address, BadRecord, Entry, Owner, Query
from registry_server.records import (
    NAMES_FOR_ONE,
    UNSAID,
    Author,
    Cause,
    Delete,
    Deleted,
    Delta,
    Key,
    Kind,
    Record,
    Snapshot,
    parts,
)
from registry_server.rows import Block, Rows
from registry_server.settings import Settings

# How many changes are known: of one service, and of all.
LOG_LIMIT = 16_384
LOG_LIMIT_IN_ALL = 32_768
# How many services are remembered that have no instance any more.
GONE_LIMIT = 4_096
DEPARTED_LIMIT = 16_384
# The changes of a whole namespace, or of all, are known as far back as those of the latest services are, of so many.
MAX_LOGS = 1_000


class Flaw(NamedTuple):
    """A record of the store that is skipped, and why; `entry` is the instance it would be if that were let in."""

    key: Key
    revision: int
    reason: str
    entry: Entry | None = None


class Count(NamedTuple):
    """A service in numbers: instances, those that are routable, those of each health, and those that are draining."""

    instances: int = 0
    routable: int = 0
    healthy: int = 0
    unhealthy: int = 0
    critical: int = 0
    draining: int = 0


class Size(NamedTuple):
    """How many there are of each; of namespaces, services and leases those that have instances."""

    namespaces: int
    services: int
    instances: int
    leases: int


@dataclass(frozen=True, slots=True)
class CatalogStatistics:
    """What the catalog holds, in numbers."""

    services: int
    instances: int
    changes: int
    log: int


class _Recent:
    """Services that are known, by their latest changes. What others did that are known no more was done up to
    `floor`."""

    __slots__ = ("_last", "_services", "floor")

    def __init__(self, floor: Point) -> None:
        self.floor = floor
        self._last: _Service | None = None
        self._services: dict[_Service, None] = {}

    def __bool__(self) -> bool:
        return bool(self._services)

    def __iter__(self) -> Iterator["_Service"]:
        """Those that changed last come first."""
        return reversed(self._services)

    def note(self, service: "_Service") -> None:
        """The service changes."""
        if service is not self._last:
            self._services.pop(service, None)
            self._services[service] = None
            self._last = service

    def forget(self, service: "_Service") -> None:
        """The service is known no more."""
        del self._services[service]
        self.floor = max(self.floor, Point(service.log.latest.seq, service.log.latest.revision))
        if self._last is service:
            self._last = None


class _Namespace:
    """`names` are the services that have instances; there are so many of these, and `digest` is the sum of theirs."""

    __slots__ = ("digest", "instances", "names", "recent")

    def __init__(self, floor: Point) -> None:
        self.digest = 0
        self.instances = 0
        self.names: dict[str, None] = {}
        self.recent = _Recent(floor)


class _Service:
    __slots__ = ("addresses", "draining", "entries", "healths", "log", "name", "namespace", "routable", "rows")

    def __init__(self, name: str, namespace: _Namespace, log: Log) -> None:
        self.name = name
        self.namespace = namespace
        self.entries: dict[str, Entry] = {}
        self.addresses: dict[Address, str] = {}
        self.rows = Rows()
        self.routable = 0
        self.draining = 0
        self.healths = [0] * len(pb.Health.values())
        self.log = log

    def replace(self, id_: str, before: Entry | None, after: Entry | None) -> None:
        if before is not None:
            self._count(before, -1)
            if self.addresses.get(before.address) == id_:
                del self.addresses[before.address]
        if after is not None:
            self.entries[id_] = after
            self.addresses[after.address] = id_
            self._count(after, 1)
            self.rows.put(before, after)
        elif before is not None:
            del self.entries[id_]
            self.rows.remove(before)

    def _count(self, entry: Entry, by: int) -> None:
        self.routable += by * entry.routable
        self.draining += by * (entry.traits.status == pb.DRAINING)
        self.healths[entry.traits.health] += by


class Catalog:
    """All instances, by service, by address and by lease; the latest changes; and beside them the settings."""

    def __init__(self, log_limit: int = LOG_LIMIT, log_limit_in_all: int = LOG_LIMIT_IN_ALL) -> None:
        self.epoch = ""
        self.fence = 0
        self.revision = 0
        self.seq = 0
        self.settings = Settings()
        self.drafts = Drafts()
        self._namespaces: dict[str, _Namespace] = {}
        self._services: dict[tuple[str, ...], _Service] = {}
        self._leases = Holdings()
        # Of namespaces and services, those that have instances; and all instances.
        self._living_namespaces = self._living_services = self._instances = 0
        self._all_logs = Logs(log_limit, log_limit_in_all)
        self._gone: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._recent = _Recent(Point(0, 0))
        # Of namespaces that are known no more.
        self._floor = Point(0, 0)
        # Ordered, because the first of a dict is searched for among all that were deleted before it.
        self._departed: OrderedDict[Key, Owner] = OrderedDict()
        # The generations of the latest that took their address from another instance.
        self._takers: OrderedDict[Key, int] = OrderedDict()
        self._flawed: dict[Key, Flaw] = {}
        self._new_flaws: list[Flaw] = []
        # Instances of an earlier order of changes, whose revisions mean nothing in this one.
        self._outlived: set[Key] = set()

    # ---- writing: by events alone

    def load(self, snapshot: Snapshot, keep: Collection[Key] = ()) -> list[Change]:
        """Become the snapshot, and return what that changed. The instances named by `keep` stay if it lacks them; why
        the others left that it lacks is not known.

        Another epoch, or a revision before the current one, is another order of changes: no reader can go on from what
        it knows, so the log starts anew.
        """
        return list(chain.from_iterable(self.loading(snapshot, keep)))

    def loading(
        self, snapshot: Snapshot, keep: Collection[Key] = (), at_once: int = sys.maxsize
    ) -> Iterator[list[Change]]:
        """The same, so many records at a time, as that is asked for: what these changed. In between the view is neither
        what it was nor the snapshot, and only `remove` may be called."""
        is_same_order = self.is_continued_by(snapshot)
        self.settings.load(snapshot)
        self.epoch, self.fence, self.revision = snapshot.epoch, snapshot.fence, snapshot.revision
        records: dict[Key, Record] = {}
        for part in parts(snapshot.records, at_once * NAMES_FOR_ONE):
            yield []
            records.update({record.key: record for record in part if record.key.kind is Kind.INSTANCE})
        for key in [key for key in self._flawed if key not in records]:
            del self._flawed[key]
        for names in parts(list(self.keys()), at_once * NAMES_FOR_ONE):
            gone = [key for key in names if key not in records and key not in keep]
            for keys in parts(gone, at_once):
                yield [self._remove(key, None) for key in keys if self.get(key) is not None]
            yield []
        ordered = sorted(records.values(), key=attrgetter("revision"))
        yield []
        for some in parts(ordered, at_once):
            yield list(chain.from_iterable([self._put(it) for it in some if not is_same_order or self._is_news(it)]))
        if not is_same_order:
            outlived = set[Key]()
            for keys in parts(list(self.keys()), at_once * NAMES_FOR_ONE):
                yield []
                outlived.update([key for key in keys if key not in records])
            self._forget_all()
            self._outlived = outlived

    def _is_news(self, record: Record) -> bool:
        return self.revision_of(record.key) != record.revision or record.key in self._outlived

    def is_continued_by(self, snapshot: Snapshot) -> bool:
        """Whether the snapshot belongs to the same order of changes: of this epoch, and not before this revision."""
        return snapshot.epoch == self.epoch and snapshot.revision >= self.revision

    def apply(self, delta: Delta) -> list[Change]:
        """Take in what one revision changed, and return what that changed here."""
        changes = self._apply(delta)
        if len(changes) > 1:
            self._note_takers(changes)
        return changes

    def applying(self, deltas: Iterable[Delta]) -> Iterator[list[Change]]:
        """The same of a delta in parts, one at a time as that is asked for. In between the view has a part of that
        revision, and only `remove` may be called."""
        changes: list[Change] = []
        for part in deltas:
            some = self._apply(part)
            changes += some
            yield some
        self._note_takers(changes)

    def _apply(self, delta: Delta) -> list[Change]:
        self.revision = max(self.revision, delta.revision)
        self.settings.apply(delta)
        changes = []
        if delta.deletes:
            changes += [self._remove(*it) for it in _known(self, delta)]
            for deleted in delta.deletes:
                self._flawed.pop(deleted.key, None)
        for record in delta.puts:
            if record.key.kind is Kind.INSTANCE:
                changes += self._put(record)
        return changes

    def remove(self, keys: Iterable[Key], cause: Cause, author: Author = UNSAID) -> list[Change]:
        """Let instances go that the store has let go of before."""
        return [self._remove(key, cause, author) for key in keys if self.get(key) is not None]

    def progress(self, revision: int) -> None:
        """Note that nothing changed up to this revision."""
        self.revision = max(self.revision, revision)

    # ---- reading

    def get(self, key: Key) -> Entry | None:
        """The instance of that name; None for the name of a setting."""
        service = self._services.get(key[:2])
        return service.entries.get(key.id) if service and key.kind is Kind.INSTANCE else None

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

    def took_its_address(self, key: Key, generation: int) -> bool:
        """Whether the instance, of that generation, took its address from another one; as far as that is remembered."""
        return self._takers.get(key) == generation

    def log_of(self, namespace: str, service: str) -> Sequence[Change]:
        """The latest changes of a service, oldest first, as far as they are known: to be looked at, and not kept."""
        found = self._services.get((namespace, service))
        return found.log.changes if found is not None else ()

    def is_known(self, namespace: str, service: str) -> bool:
        """Whether a service has an instance, or is remembered to have had one."""
        return (namespace, service) in self._services

    def flaw(self, key: Key) -> Flaw | None:
        """The record of the store under that name, if it is skipped."""
        return self._flawed.get(key)

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
        if not self._new_flaws:
            return ()
        found, self._new_flaws = self._new_flaws, []
        return found

    def namespaces(self) -> tuple[str, ...]:
        """The names of the namespaces that have instances, in order."""
        return tuple(sorted(name for name, space in self._namespaces.items() if space.names))

    @property
    def size(self) -> Size:
        """All of it in numbers, which are at hand."""
        return Size(self._living_namespaces, self._living_services, self._instances, len(self._leases))

    def is_below(self, size: Size) -> bool:
        """Whether there are fewer of each."""
        return (
            self._instances < size.instances
            and len(self._leases) < size.leases
            and self._living_services < size.services
            and self._living_namespaces < size.namespaces
        )

    def size_of(self, namespace: str) -> tuple[int, int]:
        """How many services of a namespace have instances, and how many instances these have."""
        space = self._namespaces.get(namespace)
        return (len(space.names), space.instances) if space else (0, 0)

    def services(self, namespace: str) -> tuple[str, ...]:
        """The names of the services of a namespace that have instances, in order."""
        space = self._namespaces.get(namespace)
        return tuple(sorted(space.names)) if space else ()

    def count(self, namespace: str, service: str) -> tuple[int, int]:
        """How many instances a service has, and how many of them are routable."""
        found = self._services.get((namespace, service))
        return (len(found.entries), found.routable) if found else (0, 0)

    def summary(self, namespace: str, service: str) -> Count:
        """A service in numbers."""
        found = self._services.get((namespace, service))
        if found is None:
            return Count()
        _, healthy, unhealthy, critical = found.healths
        return Count(len(found.entries), found.routable, healthy, unhealthy, critical, found.draining)

    def of_service(self, namespace: str, service: str) -> tuple[Entry, ...]:
        """An immutable snapshot of a service, in the order of ids; made at most once per change."""
        found = self._services.get((namespace, service))
        if found is None:
            return ()
        return found.rows.flat()

    def blocks(self, query: Query) -> tuple[Block, ...]:
        """An immutable snapshot of the services that a query means, in the order of namespace, service and id, whatever
        else the query says. What did not change is shared with other snapshots."""
        found = [it.rows.snapshot() for it in self._in_order(query)]
        return found[0] if len(found) == 1 else tuple(chain.from_iterable(found))

    def checksum(self, query: Query) -> int:
        """The checksum of all instances of the services that a query means, whatever else it says."""
        if query.services:
            return sum(it.rows.digest for it in self._in_order(query)) % CHECKSUM_MODULUS
        return sum(space.digest for space in self._known_namespaces(query)) % CHECKSUM_MODULUS

    def select(self, query: Query) -> Iterator[Entry]:
        """The instances that a query means, in the order of namespace, service and id."""
        takes_all = query.takes_all
        for service in self._in_order(query):
            for entry in service.rows.flat():
                if takes_all or query.matches(entry):
                    yield entry

    def changes(self, query: Query, since: int) -> list[Change] | None:
        """What changed after `since` (a `seq`) in the services that a query means, oldest first; None if forgotten."""
        if since < self._floor_of(query).seq:
            return None
        logs = self._logs(query)
        if not query.names_services:
            logs = takewhile(lambda log: log.latest.seq > since, logs)
        return merged(logs, since)

    def seq_at(self, query: Query, revision: int) -> int | None:
        """The `seq` after which everything is newer than `revision` in the services that a query means; None if that is
        forgotten or yet to come."""
        if not self._floor_of(query).revision <= revision <= self.revision:
            return None
        seq = self.seq
        for log in self._logs(query):
            if log.latest.revision > revision:
                first = log.first_after(revision)
                if first is None:
                    return None
                seq = min(seq, first - 1)
            elif not query.names_services:
                break
        return seq

    def known_since(self, query: Query) -> int:
        """The first `seq` for which `changes` can be told."""
        floor = self._floor_of(query).seq
        if query.names_services:
            return max([floor, *(log.floor.seq for log in self._logs(query))])
        # Of a whole namespace, or of all, as far as the latest of its services go; there may be very many.
        for number, log in enumerate(self._logs(query)):
            if number == MAX_LOGS:
                return max(floor, log.latest.seq)
            floor = max(floor, log.floor.seq)
        return floor

    def keys(self) -> Iterator[Key]:
        """The names of all instances."""
        for service in self._services.values():
            yield from (entry.key for entry in service.entries.values())

    def statistics(self) -> CatalogStatistics:
        """What the catalog holds, in numbers."""
        return CatalogStatistics(
            services=self._living_services,
            instances=self._instances,
            changes=self.seq,
            log=len(self._all_logs),
        )

    # ---- within

    def _known_namespaces(self, query: Query) -> Iterable[_Namespace]:
        if not query.namespace:
            return self._namespaces.values()
        space = self._namespaces.get(query.namespace)
        return (space,) if space is not None else ()

    def _in_order(self, query: Query) -> Iterator[_Service]:
        """The services that a query means, in the order of namespace and name."""
        for namespace in (query.namespace,) if query.namespace else self.namespaces():
            for name in sorted(query.services) or self.services(namespace):
                service = self._services.get((namespace, name))
                if service is not None:
                    yield service

    def _logs(self, query: Query) -> Iterator[Log]:
        """The logs of the services that a query means; unless it names them, those that changed last come first."""
        if query.names_services:
            named = (self._services.get((query.namespace, name)) for name in query.services)
            return (service.log for service in named if service is not None)
        if query.namespace:
            return (service.log for space in self._known_namespaces(query) for service in space.recent)
        return (it.log for it in self._recent if not query.services or it.name in query.services)

    def _floor_of(self, query: Query) -> Point:
        """Up to where services that a query means may have changed that are known no more."""
        if not query.namespace:
            return self._recent.floor
        space = self._namespaces.get(query.namespace)
        if space is None:
            return self._floor
        if query.services and all((query.namespace, name) in self._services for name in query.services):
            return Point(0, 0)  # each has a floor of its own
        return space.recent.floor

    def _put(self, record: Record) -> list[Change]:
        """Take in a record. An address belongs to one instance: whoever held it before leaves, on every replica alike,
        even if the two registered at the same time on different ones. Only a record that somebody wrote by hand has no
        lease, and takes no address from one that has."""
        try:
            after = self.drafts.entry(record, self.fence)
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
            by = after.author._replace(detail=key.id)
            changes.append(self._change(service, service.entries[holder].key, None, Cause.REPLACED, by))
        changes.append(self._change(service, key, after, None))
        return changes

    def _note_takers(self, changes: Sequence[Change]) -> None:
        """Remember who of those that came or changed in one step has the address of one that was replaced."""
        replaced = {(it.key[:2], it.before.address) for it in changes if it.before and it.cause is Cause.REPLACED}
        for key, after in [(it.key, it.after) for it in changes if it.after] if replaced else ():
            if (key[:2], after.address) in replaced:
                self._takers.pop(key, None)
                self._takers[key] = after.owner.generation
        while len(self._takers) > DEPARTED_LIMIT:
            self._takers.popitem(last=False)

    def _skip(self, record: Record, reason: str, entry: Entry | None = None) -> list[Change]:
        """A record that is no instance is none for any reader. Where it was written over one, that one stays: whoever
        writes such a thing cannot know that it is gone. See mending.py for what becomes of it."""
        known = self._flawed.get(record.key)
        self._flawed[record.key] = flaw = Flaw(record.key, record.revision, reason, entry)
        if known is None or entry is not None or self.get(record.key) is not None:
            self._new_flaws.append(flaw)
        return []

    def _remove(self, key: Key, cause: Cause | None, author: Author = UNSAID) -> Change:
        return self._change(self._services[key[:2]], key, None, cause, author)

    def _change(
        self, service: _Service, key: Key, after: Entry | None, cause: Cause | None, author: Author = UNSAID
    ) -> Change:
        before = service.entries.get(key.id)
        service.replace(key.id, before, after)
        if self._outlived:
            self._outlived.discard(key)
        self._index_lease(key, before, after)
        service.namespace.digest += (after.digest if after else 0) - (before.digest if before else 0)
        if before is None or after is None:
            self._note_coming_or_going(service, key, before)
        self.seq += 1
        change = Change(self.seq, self.revision, key, before, after, cause, author)
        service.namespace.recent.note(service)
        self._recent.note(service)
        for name in self._all_logs.add(service.log, change):
            self._forget(name)
        return change

    def _open(self, namespace: str, name: str) -> _Service:
        space = self._namespaces.get(namespace)
        if space is None:
            space = self._namespaces[namespace] = _Namespace(self._floor)
        log = self._all_logs.open((namespace, name), space.recent.floor)
        service = self._services[namespace, name] = _Service(name, space, log)
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
            self._instances += 1
            if len(service.entries) == 1:
                self._living_services += 1
                self._living_namespaces += not service.namespace.names
            service.namespace.names[key.service] = None
            service.namespace.instances += 1
            self._gone.pop(key[:2], None)
            return
        service.namespace.instances -= 1
        self._instances -= 1
        self._departed[key] = before.owner
        if len(self._departed) > DEPARTED_LIMIT:
            self._departed.popitem(last=False)
        if not service.entries:
            del service.namespace.names[key.service]
            self._living_services -= 1
            self._living_namespaces -= not service.namespace.names
            self._gone[key.namespace, key.service] = None
            if len(self._gone) > GONE_LIMIT:
                self._forget(next(iter(self._gone)))

    def _forget(self, name: tuple[str, str]) -> None:
        """Forget all that a service did, and the service itself if it has no instance."""
        service = self._services[name]
        if service.entries:
            return
        self._gone.pop(name, None)
        space = service.namespace
        self._all_logs.close(service.log)
        del self._services[name]
        space.recent.forget(service)
        self._recent.forget(service)
        if not space.recent:
            del self._namespaces[name[0]]
            self._floor = max(self._floor, space.recent.floor)

    def _forget_all(self) -> None:
        self.seq += 1
        self._floor = Point(self.seq, self.revision)
        for name in list(self._gone):
            self._forget(name)
        self._recent.floor = self._floor
        for space in self._namespaces.values():
            space.recent.floor = self._floor
        for service in self._services.values():
            self._all_logs.drop(service.log, self._floor)


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


def _known(catalog: Catalog, delta: Delta) -> Iterator[Deleted]:
    for deleted in delta.deletes:
        entry = catalog.get(deleted.key)
        if entry is not None:
            has_drained = deleted.cause is Cause.EXPIRED and entry.owner.is_leaving
            yield deleted._replace(cause=Cause.DRAINED) if has_drained else deleted
