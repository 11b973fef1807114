"""The core on a clock of the test's own: records, a hub's timeline, readers, and a client that folds a watch."""

import hashlib
import math
import random
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog
from registry_server.feed import Feed
from registry_server.hub import Chunks, Hub, Reader
from registry_server.illness import Pulse
from registry_server.leases.seal import Seal
from registry_server.observe.changes import ChangeLog
from registry_server.records import Cause, Deleted, Delta, Key, Kind, Record, Snapshot
from registry_server.registrar import Registrar
from registry_server.rpc.registry import RegistryService
from registry_server.rpc.table import Caller
from registry_server.stores.base import Store
from registry_server.stores.memory import MemoryStore

T = TypeVar("T")

NOON = 1_800_000_000.0
# Who calls, where that does not matter.
NOBODY = Caller("ipv4:192.0.2.1:1")
# By which lease ids are made, where that does not matter.
SEAL = Seal(b"k" * 32)


def key(id_: str = "one", service: str = "player", namespace: str = "default") -> Key:
    """The name of an instance."""
    return Key(namespace, service, id_)


def record(name: Key, revision: int, *, lease: str = "lease", created: int | None = None, **fields: Any) -> Record:
    """A record as a store tells of it. Without `host` and `port` every id has an address of its own."""
    a, b, c, d, e, *_ = hashlib.sha256(name.id.encode()).digest()
    address = {"host": f"10.{a}.{b}.{c}", "port": 1 + (d * 256 + e) % 65535}
    filled = {**address, "version": "1.0.0", "weight": 100, "generation": 1, "ttl": {"seconds": 15}, **fields}
    value = pb.Instance(namespace=name.namespace, service=name.service, id=name.id, **filled)
    return Record(name, value.SerializeToString(), lease, revision, revision if created is None else created)


def setting(id_: str = "one", service: str = "player", kind: Kind = Kind.POLICY) -> Key:
    """The name of a setting, which may be that of an instance as well."""
    return Key("default", service, id_, kind)


def setting_record(name: Key, revision: int, value: bytes = b"set", lease: str = "") -> Record:
    """A setting as a store tells of it."""
    return Record(name, value, lease, revision, revision)


def put(revision: int, *names: Key, **fields: Any) -> Delta:
    """A change that puts instances."""
    return Delta(revision, tuple(record(name, revision, **fields) for name in names))


def gone(revision: int, *names: Key, cause: Cause = Cause.DEREGISTERED) -> Delta:
    """A change that removes instances."""
    return Delta(revision, deletes=tuple(Deleted(name, cause) for name in names))


def loaded(*records: Record, epoch: str = "e1", revision: int = 10, fence: int = 0, **options: Any) -> Catalog:
    """A catalog that holds these."""
    catalog = Catalog(**options)
    catalog.load(Snapshot(epoch, revision, records, fence))
    return catalog


def drive(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    work.close()
    raise AssertionError("it waits")


# ---- time


class Timeline:
    """A hub, and a clock that stands still between the calls that it asks for."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.alarm: float | None = None
        self.hub = Hub(lambda: self.now, self._set)

    def advance(self, by_s: float) -> None:
        """Let time pass."""
        end = self.now + by_s
        while self.alarm is not None and self.alarm <= end:
            self.now, self.alarm = max(self.now, self.alarm), None
            self.hub.run()
        self.now = end

    def settle(self) -> None:
        """Let the hub do whatever it wants to do."""
        for _ in range(1000):
            if self.alarm is None:
                return
            self.advance(max(0.0, self.alarm - self.now))
        raise AssertionError("the hub never rests")

    def _set(self, at: float) -> None:
        self.alarm = at


class Sink:
    """The writing end of a stream; the test says when it has written. Two sends at a time are a mistake."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.chunks: list[Chunks] = []  # the same, as it was handed out
        self.sends = 0
        self.is_writing = False

    def send(self, chunks: Chunks) -> None:
        assert not self.is_writing, "the hub sends to a reader that still writes"
        assert chunks, "the hub sends nothing"
        self.is_writing = True
        self.sends += 1
        self.sent.append(b"".join(chunks))
        self.chunks.append(chunks)

    def take(self) -> list[bytes]:
        """What came since the last take."""
        taken, self.sent = self.sent, []
        return taken


# ---- a client


def sum_of(instances: Iterable[pb.Instance]) -> int:
    """`WatchResponse.checksum`, by the words of registry.proto."""
    total = 0
    for it in instances:
        text = f"{it.namespace}/{it.service}/{it.id}@{it.revision}"
        total += int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")
    return total % 2**64


@dataclass
class Fold:
    """A client of Watch, by the words of registry.proto. It also minds what a watch promises."""

    instances: dict[Key, pb.Instance] = field(default_factory=dict)
    token: str = ""
    epoch: str = ""
    revision: int = 0
    is_whole: bool = True
    resets: int = 0
    steps: int = 0
    bookmarks: int = 0
    is_first: bool = True

    def take(self, parts: Iterable[bytes]) -> None:
        """Fold some responses in."""
        for part in parts:
            self._step(pb.WatchResponse.FromString(part))

    def reopen(self, *, keep: bool) -> str:
        """Start over, with the last token (and what is known), or with nothing. Gives the token to use."""
        if not keep:
            self.instances, self.token, self.epoch, self.revision = {}, "", "", 0
        self.is_first = self.is_whole = True
        return self.token

    def _step(self, it: pb.WatchResponse) -> None:
        self._check_order(it)
        if it.reset:
            self.resets += 1
            self.instances.clear()
        for instance in it.upserts:
            name = Key(instance.namespace, instance.service, instance.id)
            assert instance != self.instances.get(name), f"{name} is told twice"
            self.instances[name] = instance
        for gone_ in it.removed:
            del self.instances[Key(gone_.namespace, gone_.service, gone_.id)]
        self.is_whole = not it.more
        self.bookmarks += it.bookmark
        if self.is_whole:
            self._end_step(it)

    def _check_order(self, it: pb.WatchResponse) -> None:
        assert it.reset or not (self.is_first and not self.token), "the first response is a full set"
        assert not (it.reset and not self.is_whole), "a reset in the middle of a step"
        assert not (it.bookmark and (it.upserts or it.removed or it.reset or it.more))
        if not it.reset:
            assert it.header.epoch == self.epoch
            assert it.header.revision >= self.revision
        self.epoch, self.revision = it.header.epoch, it.header.revision
        self.is_first = False

    def _end_step(self, it: pb.WatchResponse) -> None:
        assert it.checksum == sum_of(self.instances.values())
        assert it.resume_token
        self.steps += 1
        self.token = it.resume_token


# ---- all of the core, without a port


class Core:
    """Feed, catalog, hub and service as the server joins them, over a store that the test speaks for or drives."""

    def __init__(self, store: Store | None = None) -> None:
        self.timeline = Timeline()
        self.hub = self.timeline.hub
        self.store = store or MemoryStore(lambda: self.timeline.now)
        self.catalog = Catalog()
        now, told = lambda: self.timeline.now, (self.hub, ChangeLog())
        self.feed = Feed(self.store, self.catalog, told, now, hold=self.hub.hold)
        # The timeline jumps, and the process that it stands for runs on meanwhile.
        self.feed._pulse = Pulse(self.timeline.now, math.inf, 0.0)
        self.registrar = Registrar(self.store, self.feed, lambda: NOON, random.Random(1))
        self.service = RegistryService(self.registrar, self.feed, self.hub, lambda: SEAL)

    def guard_due(self) -> list[Key]:
        """The removals that have waited long enough."""
        return self.feed.guard.due(self.timeline.now)

    def watch(self, sink: Sink, token: str = "", **question: Any) -> Reader:
        """A reader that asks a question."""
        return self.service.watch(pb.WatchRequest(resume_token=token, **question), NOBODY, sink)

    def list(self, **question: Any) -> pb.ListResponse:
        """The answer to the same question."""
        question.setdefault("page_size", 10_000)
        return pb.ListResponse.FromString(drive(self.service.list(pb.ListRequest(**question), NOBODY)))


class Watcher:
    """A reader with a client behind it, which folds what it gets as soon as it is written."""

    def __init__(self, core: Core, **question: Any) -> None:
        self.core = core
        self.question = question
        self.sink = Sink()
        self.fold = Fold()
        self.reader: Reader | None = core.watch(self.sink, **question)

    def write(self) -> None:
        """The stream has written what it has: the client takes it, the hub hears of it."""
        if self.reader is not None and self.sink.is_writing:
            self.sink.is_writing = False
            self.fold.take(self.sink.take())
            self.reader.free()

    def leave(self) -> None:
        """The stream ends; what was being written is lost."""
        if self.reader is not None:
            self.reader.leave()
            self.reader = None

    def join(self, *, resume: bool = True) -> None:
        """Watch again."""
        token = self.fold.reopen(keep=resume)
        self.sink = Sink()
        self.reader = self.core.watch(self.sink, token, **self.question)

    def catch_up(self) -> None:
        """Take all there is to take."""
        self.write()
        for _ in range(1000):
            if self.core.timeline.alarm is None and not self.sink.is_writing:
                return
            self.core.timeline.settle()
            self.write()
        raise AssertionError("the hub never rests")


def settle(core: Core, watchers: Iterable[Watcher]) -> None:
    """Everybody who is not stuck takes all there is to take."""
    waiting = list(watchers)
    for _ in range(1000):
        for watcher in waiting:
            watcher.write()
        if core.timeline.alarm is None and not any(watcher.sink.is_writing for watcher in waiting if watcher.reader):
            return
        core.timeline.settle()
    raise AssertionError("the hub never rests")


def counted(monkeypatch: Any, owner: Any, name: str) -> list[Any]:
    """Collects the results of every call of `owner.name` from now on."""
    results: list[Any] = []
    real: Callable[..., Any] = getattr(owner, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        results.append(real(*args, **kwargs))
        return results[-1]

    monkeypatch.setattr(owner, name, wrapper)
    return results
