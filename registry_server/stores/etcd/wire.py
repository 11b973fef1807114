"""CORE: what is where below the prefix, and the requests that read and write it."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_server.records import Commit, Key, Put
from registry_server.stores import names, parting
from registry_server.stores.base import Conflict
from registry_server.stores.epoch import Epoch
from registry_server.stores.etcd.leases import LeaseIds

VERSION = "v1"
_SECRET = re.compile(r"[0-9a-f]{64}")
_VOUCHED = re.compile(r"([0-9a-f]{16}) (0|[1-9][0-9]{0,18})")


def whole_seconds(ttl_s: float) -> int:
    """etcd counts in whole seconds; a lease must not end before its time."""
    return max(1, math.ceil(ttl_s))


def asks_in_order(version: str) -> bool:
    """Whether the answer to a progress request comes after all events up to its revision.

    Before 3.4.25 and 3.5.8 it may overtake them (etcd's changelog, "progress notifications").
    """
    numbers = [int(part) for part in re.findall(r"\d{1,9}", version)[:3]]
    return numbers >= ([3, 4, 25] if numbers[:2] == [3, 4] else [3, 5, 8])


# ---- what stands under the keys of the registry's own


def epoch_name(epoch: Epoch, cluster_id: int) -> str:
    """The epoch as clients see it. A wiped cluster that is started with the same flags has the same id, hence the
    token."""
    return f"{cluster_id:x}.{epoch.token}"


@dataclass(frozen=True, slots=True)
class Vouched:
    """The revision up to which some server has vouched for its view, and the token of the epoch that it belongs to."""

    token: str
    revision: int

    @property
    def value(self) -> bytes:
        """What is written under the key."""
        return f"{self.token} {self.revision}".encode()

    @classmethod
    def read(cls, value: bytes) -> "Vouched | None":
        """The promise in a value; None if there is none in it."""
        match = _match(_VOUCHED, value)
        return cls(match[1], int(match[2])) if match else None


def read_secret(value: bytes) -> bytes | None:
    """The secret in a value, see LeaseIds; None if there is none in it."""
    match = _match(_SECRET, value)
    return bytes.fromhex(match[0]) if match else None


def _match(pattern: re.Pattern[str], value: bytes) -> re.Match[str] | None:
    return pattern.fullmatch(value.decode("ascii", errors="replace"))


# ---- keys


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
        """Holds the Epoch that tells this registry from an earlier one on the same cluster."""
        return self.root + b"epoch"

    @property
    def cause(self) -> bytes:
        """Written with every asked-for delete, at the same revision."""
        return self.root + b"cause"

    @property
    def secret(self) -> bytes:
        """Holds the secret of LeaseIds, in hexadecimal digits."""
        return self.root + b"secret"

    @property
    def vouched(self) -> bytes:
        """Holds what was Vouched for last."""
        return self.root + b"vouched"

    @property
    def own(self) -> tuple[bytes, ...]:
        """All keys that name no record and belong to the registry all the same."""
        return self.epoch, self.cause, self.secret, self.vouched

    def record(self, key: Key) -> bytes:
        """Where the record of `key` is."""
        return self.root + names.path_of(key).encode()

    def parse(self, name: bytes) -> Key | None:
        """The record that `name` stands for; None for any other key."""
        try:
            return names.key_of(name.removeprefix(self.root).decode())
        except UnicodeDecodeError:
            return None

    # ---- requests

    def look(self, name: bytes, revision: int = 0) -> etcd.RangeRequest:
        """What is under one key, as of `revision` (0: now)."""
        return etcd.RangeRequest(key=name, revision=revision)

    def where(self, revision: int = 0) -> etcd.RangeRequest:
        """Nothing much, as of `revision` (0: now). Shows whether etcd still remembers that, and for now, how far it is.

        An empty transaction would not have it find out, and is refused when the database is full.
        """
        return etcd.RangeRequest(key=self.epoch, revision=revision, count_only=True)

    def replace(self, name: bytes, value: bytes, seen_revision: int) -> etcd.TxnRequest:
        """Write `value` under a key if that has still `seen_revision` (0: is absent); else look what is there."""
        put = etcd.RequestOp(put=etcd.PutRequest(key=name, value=value))
        return etcd.TxnRequest(compare=[_unchanged(name, seen_revision)], success=[put], failure=[_look(name)])

    def page(self, start: bytes, limit: int, revision: int) -> etcd.RangeRequest:
        """Everything from `start` on, `limit` keys of it, as of `revision` (0: now)."""
        return etcd.RangeRequest(key=start, range_end=self.end, limit=limit, revision=revision)

    def watch(self, start_revision: int) -> etcd.WatchRequest:
        """Everything that changed at `start_revision` and later."""
        create = etcd.WatchCreateRequest(
            key=self.root, range_end=self.end, start_revision=start_revision, progress_notify=True, fragment=True
        )
        return etcd.WatchRequest(create=create)

    def txn(self, commits: Sequence[Commit], leases: LeaseIds) -> etcd.TxnRequest:
        """Each of `commits` as a whole, or, when a record has changed, the revisions of all that it names.

        Several are a transaction each inside one, so that one that is refused takes nothing from the others.
        """
        request = etcd.TxnRequest()
        if len(commits) == 1:
            self._write_cause(request, commits)
            self._fill(request, commits[0], leases)
            return request
        self._write_cause(request, commits)
        for commit in commits:
            self._fill(request.success.add().txn, commit, leases)
        return request

    def _write_cause(self, request: etcd.TxnRequest, commits: Sequence[Commit]) -> None:
        if leaving := [it for it in commits if it.deletes]:
            put = request.success.add().put
            put.key, put.value = self.cause, parting.packed(leaving)

    def _fill(self, request: etcd.TxnRequest, commit: Commit, leases: LeaseIds) -> None:
        for item in commit.items:
            name = self.record(item.key)
            _expect(request.compare.add(), name, item.expect)
            operation = request.success.add()
            if isinstance(item, Put):
                put = operation.put
                put.key, put.value, put.lease = name, item.value, leases.find(item.lease_id) or 0
            else:
                operation.delete_range.key = name
            found = request.failure.add().range
            found.key, found.keys_only = name, True


def _look(name: bytes) -> etcd.RequestOp:
    return etcd.RequestOp(range=etcd.RangeRequest(key=name))


def _unchanged(name: bytes, revision: int) -> etcd.Compare:
    compare = etcd.Compare()
    _expect(compare, name, revision)
    return compare


def _expect(compare: etcd.Compare, name: bytes, revision: int) -> None:
    compare.key, compare.target, compare.result = name, etcd.Compare.MOD_REVISION, etcd.Compare.EQUAL
    compare.mod_revision = revision


# ---- answers


def outcomes(commits: Sequence[Commit], response: etcd.TxnResponse) -> list[int | Conflict]:
    """What became of each of the commits that one request holds: its revision, or why it was refused."""
    revision = response.header.revision
    if len(commits) == 1:
        return [_outcome(commits[0], response, revision)]
    # Before theirs may stand the answer to the cause.
    answers = response.responses[len(response.responses) - len(commits) :]
    return [_outcome(commit, answer.txn, revision) for commit, answer in zip(commits, answers, strict=True)]


def _outcome(commit: Commit, response: etcd.TxnResponse, revision: int) -> int | Conflict:
    return revision if response.succeeded else Conflict(conflicts(commit, response), revision)


def conflicts(commit: Commit, response: etcd.TxnResponse) -> list[Key]:
    """The keys of a refused `commit` that do not have the revision it expects."""
    items = commit.items
    found = (answer.range.kvs for answer in response.responses)
    return [
        item.key for item, kvs in zip(items, found, strict=True) if (kvs[0].mod_revision if kvs else 0) != item.expect
    ]


@dataclass(frozen=True, slots=True)
class Found:
    """One key of the registry's own: what can be read there, and its last revision (0: it is absent)."""

    value: bytes
    revision: int

    @classmethod
    def of(cls, kvs: Iterable[etcd.KeyValue]) -> "Found":
        """The first of what a Range of the key found."""
        return next((cls(kv.value, kv.mod_revision) for kv in kvs), cls(b"", 0))


def written_at(response: etcd.TxnResponse) -> int:
    """When the key of `Layout.replace` was last written, by this request or before it; 0 if it is absent."""
    if response.succeeded:
        return response.header.revision
    return Found.of(response.responses[0].range.kvs).revision
