"""CORE: full sets and changes, made out of what etcd answers and what its watch says."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_server.records import Cause, Deleted, Delta, Progress, Record, Snapshot
from registry_server.stores.epoch import Epoch, OrderLost
from registry_server.stores.etcd.leases import LeaseIds, ttl_of
from registry_server.stores.etcd.wire import Layout, Vouched, epoch_name, read_secret
from registry_server.stores.pace import Pace
from registry_server.stores.parting import NOBODY, Parting
from registry_server.stores.teller import Told

# So many records at the most leave in one event when nobody wrote that; a write of the registry's deletes fewer.
SLICE = 200

Odd = Callable[[bytes, str], None]
"""Takes note of a key that is skipped, and why."""


class Reading:
    """Makes records out of keys and values. What is no record is noted and skipped, whoever wrote it."""

    def __init__(self, layout: Layout, leases: LeaseIds, pace: Pace, odd: Odd) -> None:
        self.layout = layout
        self.leases = leases
        self._pace = pace
        self._odd = odd

    def record(self, kv: etcd.KeyValue) -> Record | None:
        """The record that a key holds. Its lease is empty if it has none, or one that the registry did not grant."""
        key = self.layout.parse(kv.key)
        if key is None:
            if kv.key not in self.layout.own:
                self._odd(kv.key, "is no key of the registry")
            return None
        lease_id = self.leases.id(kv.lease)
        if lease_id:
            self._pace.uses(ttl_of(kv.lease))
        return Record(key, kv.value, lease_id, kv.mod_revision, kv.create_revision)

    def parting(self, value: bytes) -> Parting:
        """Why instances left, and by whom."""
        found = Parting.read(value)
        if found is None:
            self._odd(self.layout.cause, "holds no cause")
        return found or Parting(Cause.DEREGISTERED)


class Loading:
    """Collects a full set, page by page."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._records: list[Record] = []
        self._epoch: Epoch | None = None

    def add(self, kvs: Iterable[etcd.KeyValue]) -> None:
        """Takes in what one page has."""
        for kv in kvs:
            if kv.key == self._reading.layout.epoch:
                self._epoch = Epoch.read(kv.value)
            elif (record := self._reading.record(kv)) is not None:
                self._records.append(record)

    def snapshot(self, cluster_id: int, revision: int, through: int) -> Snapshot:
        """The full set at a revision. Raises OrderLost when the epoch is not in it."""
        if self._epoch is None:
            raise OrderLost
        return Snapshot(epoch_name(self._epoch, cluster_id), revision, tuple(self._records), self._epoch.fence, through)


class Telling:
    """Turns the responses of one watch into events: one Delta for each revision, complete and in order.

    etcd keeps revisions whole but may put several into one response, and with `fragment` one response into several
    messages. So the last revision of a message that is to be continued waits for the rest.

    Only what nobody wrote is told in slices: where more records left at one revision than any write of the registry's
    deletes, their lease ran out. All slices but the last belong to the revision before, after which they came.
    """

    def __init__(self, reading: Reading, told: Told, secret: bytes) -> None:
        self._reading = reading
        self._layout = reading.layout
        self._told = told
        self._secret = secret
        self._rest: list[etcd.Event] = []
        self.vouched_at = 0

    @property
    def told(self) -> Told:
        """How far it has come."""
        return self._told

    def start(self) -> etcd.WatchRequest:
        """What to ask etcd for."""
        return self._layout.watch(self._told.revision)

    def feed(self, response: etcd.WatchResponse) -> Iterator[Delta | Progress]:
        """The events that `response` completes, each made when it is asked for. Raises OrderLost."""
        events, self._rest = [*self._rest, *response.events], []
        last = events[-1].kv.mod_revision if events and response.fragment else 0
        for revision, group in groupby(events, key=lambda event: event.kv.mod_revision):
            if revision > self._told.revision:
                yield from self._slices(revision, list(group), goes_on=revision == last)

    def _slices(self, revision: int, events: list[etcd.Event], *, goes_on: bool) -> Iterator[Delta | Progress]:
        if len(events) > SLICE and all(event.type == etcd.Event.DELETE for event in events):
            while len(events) > SLICE:
                some, events = events[:SLICE], events[SLICE:]
                yield self._expired(revision, some)
        if goes_on:
            self._rest = events
        else:
            yield self._event(revision, events)

    def _expired(self, revision: int, events: list[etcd.Event]) -> Delta:
        gone = [event.kv.key for event in events]
        self._heed_own_keys(revision, {}, gone)
        return Delta(revision - 1, deletes=self._deleted(gone, NOBODY))

    def progress(self, revision: int) -> Progress:
        """Notes that everything up to `revision` has been told, and says so."""
        self._advance(max(revision, self._told.revision))
        return Progress(self._told.revision)

    def _advance(self, revision: int) -> None:
        self._told = replace(self._told, revision=revision)

    def _event(self, revision: int, events: list[etcd.Event]) -> Delta | Progress:
        puts = [event.kv for event in events if event.type == etcd.Event.PUT]
        gone = [event.kv.key for event in events if event.type == etcd.Event.DELETE]
        self._heed_own_keys(revision, {kv.key: kv.value for kv in puts}, gone)
        said = next((kv.value for kv in puts if kv.key == self._layout.cause), None)
        why = NOBODY if said is None else self._reading.parting(said)
        records = tuple(filter(None, map(self._reading.record, puts)))
        deletes = self._deleted(gone, why)
        self._advance(revision)
        return Delta(revision, records, deletes) if records or deletes else Progress(revision)

    def _deleted(self, gone: list[bytes], why: Parting) -> tuple[Deleted, ...]:
        return tuple([why.of(key) for key in map(self._layout.parse, gone) if key is not None])

    def _heed_own_keys(self, revision: int, written: dict[bytes, bytes], gone: list[bytes]) -> None:
        if self._layout.epoch in written or self._layout.epoch in gone or self._layout.secret in gone:
            raise OrderLost
        secret = written.get(self._layout.secret)
        if secret is not None and read_secret(secret) != self._secret:
            raise OrderLost
        vouched = written.get(self._layout.vouched)
        if vouched is not None and Vouched.read(vouched) is not None:
            self.vouched_at = revision
