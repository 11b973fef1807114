"""CORE of the etcd store: names of keys and leases, transactions, and what watch responses add up to."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from aetcd.rpc import kv_pb2, rpc_pb2

from registry_server.stores.base import (
    Cause,
    Commit,
    Delete,
    Deleted,
    Delta,
    Key,
    Progress,
    Put,
    Record,
    Snapshot,
)

VERSION = "v1"
_LEASE = re.compile(r"[0-9a-f]{16}")
_EPOCH = re.compile(r"([0-9a-f]{16}) ([0-9]{1,16})")


class EpochChanged(Exception):
    """Somebody wrote a new epoch, or removed it: what was told belongs to another order."""


# ---- leases


def lease_name(number: int) -> str:
    """The id of a lease as `etcdctl` prints it."""
    return f"{number:016x}"


def lease_number(name: str) -> int | None:
    """The number behind a lease id; None when no lease of etcd can have that id."""
    if not _LEASE.fullmatch(name):
        return None
    number = int(name, 16)
    return number if 0 < number < 1 << 63 else None


def whole_seconds(ttl_s: float) -> int:
    """etcd counts in whole seconds; a lease must not end before its time."""
    return max(1, math.ceil(ttl_s))


# ---- keys


def _escape(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F")


def _unescape(name: str) -> str:
    return name.replace("%2F", "/").replace("%25", "%")


@dataclass(frozen=True, slots=True)
class Layout:
    """What is where below the prefix; docs/etcd.md is the manual page of it."""

    root: bytes

    @classmethod
    def below(cls, prefix: str) -> "Layout":
        """The layout below `prefix`, such as `/grpc-registry`."""
        return cls(f"{prefix}/{VERSION}/".encode())

    @property
    def end(self) -> bytes:
        """The key just after all that start with `root` ("/" is followed by "0")."""
        return self.root[:-1] + b"0"

    @property
    def epoch(self) -> bytes:
        """Holds the token that tells this registry from an earlier one on the same cluster, and the fence."""
        return self.root + b"epoch"

    @property
    def cause(self) -> bytes:
        """Written with every asked-for delete, at the same revision."""
        return self.root + b"cause"

    def instance(self, key: Key) -> bytes:
        """Where the record of `key` is."""
        return self.root + ("instances/" + "/".join(map(_escape, key))).encode()

    def parse(self, name: bytes) -> Key | None:
        """The instance that `name` stands for; None for any other key."""
        try:
            kind, *names = name.removeprefix(self.root).decode().split("/")
        except UnicodeDecodeError:
            return None
        if kind != "instances" or len(names) != len(Key._fields):
            return None
        key = Key(*map(_unescape, names))
        return key if self.instance(key) == name else None

    def record(self, kv: Any) -> Record | None:
        """The record in a `KeyValue`; None when its key names no instance."""
        key = self.parse(kv.key)
        if key is None:
            return None
        return Record(key, kv.value, lease_name(kv.lease), kv.mod_revision, kv.create_revision)

    # ---- requests

    def create_epoch(self, token: str, fence: int, seen_revision: int) -> Any:
        """Begin an epoch if the key still has `seen_revision` (0: is absent). `token` is 16 hexadecimal digits."""
        value = f"{token} {fence}".encode()
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=self.epoch, value=value))
        return rpc_pb2.TxnRequest(compare=[_unchanged(self.epoch, seen_revision)], success=[put])

    def page(self, start: bytes, limit: int, revision: int) -> Any:
        """Everything from `start` on, `limit` keys of it, as of `revision` (0: now)."""
        return rpc_pb2.RangeRequest(key=start, range_end=self.end, limit=limit, revision=revision)

    def watch(self, start_revision: int) -> Any:
        """Everything that changed at `start_revision` and later."""
        return rpc_pb2.WatchRequest(
            create_request=rpc_pb2.WatchCreateRequest(
                key=self.root, range_end=self.end, start_revision=start_revision, progress_notify=True, fragment=True
            )
        )

    def txn(self, commit: Commit) -> Any:
        """The whole of `commit`; when a record has changed, the revisions of all of them instead."""
        expected = [(self.instance(item.key), item.expect) for item in _items(commit)]
        look = [rpc_pb2.RangeRequest(key=name, keys_only=True) for name, _ in expected]
        return rpc_pb2.TxnRequest(
            compare=[_unchanged(name, revision) for name, revision in expected],
            success=list(self._writes(commit)),
            failure=[rpc_pb2.RequestOp(request_range=request) for request in look],
        )

    def _writes(self, commit: Commit) -> Iterable[Any]:
        for delete in commit.deletes:
            request = rpc_pb2.DeleteRangeRequest(key=self.instance(delete.key))
            yield rpc_pb2.RequestOp(request_delete_range=request)
        if commit.deletes:
            request = rpc_pb2.PutRequest(key=self.cause, value=commit.cause.value.encode())
            yield rpc_pb2.RequestOp(request_put=request)
        for put in commit.puts:
            lease = lease_number(put.lease_id) or 0
            request = rpc_pb2.PutRequest(key=self.instance(put.key), value=put.value, lease=lease)
            yield rpc_pb2.RequestOp(request_put=request)


def _items(commit: Commit) -> list[Put | Delete]:
    return [*commit.puts, *commit.deletes]


def _unchanged(name: bytes, revision: int) -> Any:
    return rpc_pb2.Compare(key=name, target=rpc_pb2.Compare.MOD, result=rpc_pb2.Compare.EQUAL, mod_revision=revision)


def conflicts(commit: Commit, response: Any) -> list[Key]:
    """The keys of a refused `commit` that do not have the revision it expects."""
    items = _items(commit)
    found = (answer.response_range.kvs for answer in response.responses)
    return [
        item.key for item, kvs in zip(items, found, strict=True) if (kvs[0].mod_revision if kvs else 0) != item.expect
    ]


# ---- what etcd holds and tells


@dataclass(frozen=True, slots=True)
class Told:
    """How far the events have come: everything up to `revision` in the order that `epoch` names."""

    epoch: str
    revision: int
    fence: int = 0


@dataclass(frozen=True, slots=True)
class Epoch:
    """The epoch in force and its fence; `name` is empty when nobody wrote it yet, or something else is in its place.

    Beside it stand the revision of its key (0: there is none) and the revision that the cluster has reached.
    """

    name: str
    fence: int
    key_revision: int
    cluster_revision: int


def epoch_of(response: Any) -> Epoch:
    """The epoch in the answer to a Range of its key."""
    header = response.header
    if not response.kvs:
        return Epoch("", 0, 0, header.revision)
    kv = response.kvs[0]
    name, fence = _read_epoch(header.cluster_id, kv.value) or ("", 0)
    return Epoch(name, fence, kv.mod_revision, header.revision)


def _read_epoch(cluster_id: int, value: bytes) -> tuple[str, int] | None:
    """The name of an epoch and its fence. A wiped cluster that is started with the same flags has the same id, hence
    the token in the name."""
    match = _EPOCH.fullmatch(value.decode(errors="replace"))
    return (f"{cluster_id:x}.{match[1]}", int(match[2])) if match else None


def snapshot(layout: Layout, cluster_id: int, revision: int, kvs: Iterable[Any]) -> Snapshot:
    """The full set out of all keys below the prefix. Raises EpochChanged when the epoch is not among them."""
    records: list[Record] = []
    epoch = None
    for kv in kvs:
        record = layout.record(kv)
        if record is not None:
            records.append(record)
        elif kv.key == layout.epoch:
            epoch = _read_epoch(cluster_id, kv.value)
    if epoch is None:
        raise EpochChanged
    name, fence = epoch
    return Snapshot(name, revision, tuple(records), fence, revision)


class Telling:
    """Turns the responses of one watch into events: one Delta for each revision, complete and in order.

    etcd keeps revisions whole but may put several into one response, and with `fragment` one response into several
    messages. So the last revision of a message that is to be continued waits for the rest.
    """

    def __init__(self, layout: Layout, told: Told) -> None:
        self._layout = layout
        self._told = told
        self._rest: list[Any] = []

    @property
    def told(self) -> Told:
        """How far it has come."""
        return self._told

    def feed(self, response: Any) -> list[Delta | Progress]:
        """The events that `response` completes. Raises EpochChanged."""
        events = [*self._rest, *response.events]
        self._rest = _last_revision(events) if response.fragment else []
        complete = events[: len(events) - len(self._rest)]
        return [
            self._event(revision, list(group))
            for revision, group in groupby(complete, key=lambda event: event.kv.mod_revision)
            if revision > self._told.revision
        ]

    def progress(self, revision: int) -> Progress:
        """Notes that everything up to `revision` has been told, and says so."""
        self._advance(max(revision, self._told.revision))
        return Progress(self._told.revision)

    def _advance(self, revision: int) -> None:
        self._told = replace(self._told, revision=revision)

    def _event(self, revision: int, events: list[Any]) -> Delta | Progress:
        puts = [event.kv for event in events if event.type == kv_pb2.Event.PUT]
        gone = [event.kv.key for event in events if event.type == kv_pb2.Event.DELETE]
        if self._layout.epoch in gone or any(kv.key == self._layout.epoch for kv in puts):
            raise EpochChanged
        cause = next((_cause(kv.value) for kv in puts if kv.key == self._layout.cause), Cause.EXPIRED)
        records = tuple(filter(None, map(self._layout.record, puts)))
        deletes = tuple(Deleted(key, cause) for key in map(self._layout.parse, gone) if key is not None)
        self._advance(revision)
        return Delta(revision, records, deletes) if records or deletes else Progress(revision)


def _last_revision(events: list[Any]) -> list[Any]:
    last = events[-1].kv.mod_revision if events else 0
    return [event for event in events if event.kv.mod_revision == last]


def _cause(text: bytes) -> Cause:
    try:
        return Cause(text.decode())
    except ValueError:
        return Cause.DEREGISTERED


def asks_in_order(version: str) -> bool:
    """Whether the answer to a progress request comes after all events up to its revision.

    Before 3.4.25 and 3.5.8 it may overtake them (etcd's changelog, "progress notifications").
    """
    numbers = [int(part) for part in re.findall(r"\d+", version)[:3]]
    return numbers >= ([3, 4, 25] if numbers[:2] == [3, 4] else [3, 5, 8])
