"""CORE: what is known of a backend, and which leases have to end.

Every replica has a view of its own and ends leases by it: a lease lives its whole time from when this replica was told
that it was last written. That is later than it was written, so no lease ends early; and that it ends takes a
transaction which checks that it has not been written since, so a renewal that comes first wins, whoever carried it out.
"""

from collections.abc import Container, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from registry_server.records import Delta, Key, Progress, Record
from registry_server.stores.backend import Changed, Check, Everything, Item
from registry_server.stores.epoch import OrderLost
from registry_server.stores.leased import layout
from registry_server.stores.leases import LeaseTable
from registry_server.stores.names import key_of, path_of
from registry_server.stores.pace import Pace


class Known(NamedTuple):
    """What is known of a record."""

    revision: int
    lease_id: str


class Ending(NamedTuple):
    """A lease that ends with what it holds, or, without one, records whose lease is gone. All of it is checked."""

    lease_id: str | None
    checks: tuple[Check, ...]


class View:
    """Leases and records as far as they were told. All times are of one monotonic clock, in seconds."""

    def __init__(self, pace: Pace) -> None:
        self.leases = LeaseTable()
        self._pace = pace
        self._lease_revisions: dict[str, int] = {}
        self._records: dict[Key, Known] = {}
        # Records under a lease that is no more: it was so large that it ended in steps, or a write came between.
        self._bereft: dict[Key, None] = {}
        self._revision = 0

    # ---- what is told

    def load(self, everything: Everything, now: float) -> tuple[Record, ...]:
        """Take in all that there is; only for a view that is new. The records of it."""
        self._revision = everything.revision
        self._take_leases(everything.items, now)
        return tuple(filter(None, map(self._take_record, everything.items)))

    def difference(self, everything: Everything) -> Changed:
        """What changed between what is known and all that there is, as far as that can be told."""
        known = {*map(layout.lease_name, self._lease_revisions), *map(path_of, self._records)}
        new = [item for item in everything.items if item.revision > self._revision and item.name != layout.EPOCH]
        return Changed(everything.revision, tuple(new), tuple(known.difference(item.name for item in everything.items)))

    def take(self, change: Changed, now: float) -> Iterator[Delta | Progress]:
        """The events that a change makes, at each revision one. Raises OrderLost when it begins another epoch."""
        if layout.EPOCH in change.deletes or any(item.name == layout.EPOCH for item in change.puts):
            raise OrderLost
        self._revision = change.revision
        why = next((layout.Ended.read(item.value) for item in change.puts if item.name == layout.LEFT), layout.NOBODY)
        self._take_leases(change.puts, now)
        puts = sorted(filter(None, map(self._take_record, change.puts)), key=lambda record: record.revision)
        gone = tuple([why.of(key, name) for key, name in self._drop_records(change.deletes)])
        self._drop_leases(change.deletes)
        for revision, group in groupby(puts, key=lambda record: record.revision):
            if revision < change.revision:
                yield Delta(revision, tuple(group))
            else:
                yield Delta(revision, tuple(group), gone)
                return
        yield Delta(change.revision, (), gone) if gone else Progress(change.revision)

    def _take_leases(self, items: Iterable[Item], now: float) -> None:
        for item in items:
            lease_id = layout.lease_at(item.name)
            if lease_id is None:
                continue
            self._lease_revisions[lease_id] = item.revision
            if lease_id in self.leases:
                self.leases.renew(lease_id, now)
            else:
                ttl_s = layout.ttl_of(lease_id) or 0.0
                self._pace.uses(ttl_s)
                self.leases.grant(lease_id, ttl_s, now)

    def _take_record(self, item: Item) -> Record | None:
        key = key_of(item.name)
        if key is None:
            return None
        lease_id, value = layout.unpacked(item.value)
        self._forget(key)
        self._records[key] = Known(item.revision, lease_id)
        if lease_id in self.leases:
            self.leases.attach(lease_id, key)
        elif lease_id:
            self._bereft[key] = None
        return Record(key, value, lease_id, item.revision, item.created)

    def _drop_records(self, names: Iterable[str]) -> Iterator[tuple[Key, str]]:
        for name in names:
            key = key_of(name)
            if key is not None and self._forget(key):
                yield key, name

    def _forget(self, key: Key) -> bool:
        known = self._records.pop(key, None)
        if known is None:
            return False
        self.leases.detach(known.lease_id, key)
        self._bereft.pop(key, None)
        return True

    def _drop_leases(self, names: Iterable[str]) -> None:
        for lease_id in map(layout.lease_at, names):
            if lease_id is not None and self._lease_revisions.pop(lease_id, 0):
                self._bereft.update(dict.fromkeys(self.leases.keys(lease_id)))
                self.leases.drop(lease_id)

    # ---- what has to end

    def check(self, lease_id: str) -> Check:
        """That a lease which is known has not been written since."""
        return Check(layout.lease_name(lease_id), self._lease_revisions[lease_id])

    def endings(self, now: float, most: int, spared: Container[str]) -> list[Ending]:
        """What has to end now, at most so many names of it, all of which will be tried: it is not listed again.

        `spared` are leases that somebody is about to renew.
        """
        found, left = [], most
        if self._bereft:
            keys = [key for key, _ in zip(self._bereft, range(left), strict=False)]
            found.append(self._ending(None, keys))
            left -= len(keys)
            for key in keys:
                del self._bereft[key]
        wanted = []
        while left > 1 and self.leases.may_be_due(now):
            for lease_id in self.leases.expire(now, 1):
                if lease_id in spared:
                    wanted.append(lease_id)
                    continue
                found.append(self._ending(lease_id, self.leases.keys(lease_id)[: left - 1]))
                left -= len(found[-1].checks)
        for lease_id in wanted:
            self.leases.again(lease_id)
        return found

    def _ending(self, lease_id: str | None, keys: Iterable[Key]) -> Ending:
        checks = [] if lease_id is None else [self.check(lease_id)]
        return Ending(lease_id, (*checks, *(Check(path_of(key), self._records[key].revision) for key in keys)))

    def put_back(self, ending: Ending) -> None:
        """It did not end: look at it again."""
        if ending.lease_id is not None:
            self.leases.again(ending.lease_id)
            return
        for check in ending.checks:
            key = key_of(check.name)
            if key is not None and self._is_bereft(key):
                self._bereft[key] = None

    def _is_bereft(self, key: Key) -> bool:
        known = self._records.get(key)
        return known is not None and bool(known.lease_id) and known.lease_id not in self.leases
