"""The Store contract against a naive model: whatever is done, in whatever order, both hold and tell the same."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from registry_server.illness import Pulse
from registry_server.records import Cause, Commit, Delete, Deleted, Key, Kind, Lease, Outcome, Put, Renewal, Snapshot
from registry_server.stores import memory
from registry_server.stores.backend import Backend
from registry_server.stores.base import Conflict, Emit, NoSuchLease, Store
from registry_server.stores.consul import backend, ledger
from registry_server.stores.consul.backend import ConsulBackend
from registry_server.stores.consul.url import ConsulURL
from registry_server.stores.etcd.store import EtcdStore
from registry_server.stores.leased import Leased
from registry_server.stores.leased import store as leased
from registry_server.stores.memory import MemoryStore
from registry_server.stores.mirror import member
from registry_server.stores.mirror.backend import MirrorBackend, Write
from registry_server.stores.sqlite.backend import SqliteBackend
from registry_server.stores.zookeeper.backend import ZooKeeperBackend
from registry_server.stores.zookeeper.url import ZooKeeperURL
from registry_server.testing import Recorder, Running
from tests.support.backend import DictBackend, Link
from tests.support.stores import MAY_BUILD, Backends, backends
from tests.support.waiting import eventually_async

__all__ = ["backends"]

T = TypeVar("T")

TTL_S = 600.0
NAMES = st.builds(
    Key,
    st.sampled_from(["default", "größe"]),
    st.sampled_from(["player", "a/b"]),
    st.sampled_from("xyz"),
    st.sampled_from([Kind.INSTANCE, Kind.INSTANCE, Kind.POLICY]),
)
# A name, what is done, and by how much the expected revision is wrong.
WRITES = st.lists(
    st.tuples(
        NAMES, st.sampled_from(["put", "bare put", "delete"]), st.binary(max_size=3), st.sampled_from([0, 0, 0, 0, 1])
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda write: write[0],
)


class Model:
    """What a store is, in the fewest words: leases, and records under them."""

    def __init__(self) -> None:
        self.leases: set[str] = set()
        self.records: dict[Key, tuple[bytes, str, int]] = {}

    def revision(self, key: Key) -> int:
        return self.records[key][2] if key in self.records else 0

    def conflicts(self, commit: Commit) -> set[Key]:
        writes: list[Put | Delete] = [*commit.puts, *commit.deletes]
        return {write.key for write in writes if self.revision(write.key) != write.expect}

    def commit(self, commit: Commit, revision: int) -> None:
        for delete in commit.deletes:
            del self.records[delete.key]
        for put in commit.puts:
            self.records[put.key] = (put.value, put.lease_id, revision)

    def held(self, lease_id: str) -> set[Key]:
        return {key for key, (_, holder, _) in self.records.items() if holder == lease_id}

    def end(self, lease_id: str) -> None:
        for key in self.held(lease_id):
            del self.records[key]
        self.leases.discard(lease_id)


class StoreMachine(RuleBasedStateMachine):
    """Grants, commits, renewals, releases, expiries, and telling anew. Time passes only when a rule says so."""

    leases = Bundle("leases")
    former = Bundle("former")

    def open(self) -> Store:
        raise NotImplementedError

    async def expire(self, lease_id: str) -> None:
        """Let the time of one lease pass, and of no other."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.loop = asyncio.Runner()
        self.run = Running(self.open())
        self.do(self.run.start())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work)

    def teardown(self) -> None:
        try:
            self.do(self.run.stop())
        finally:
            self.do(self.run.store.aclose())
            self.loop.close()

    # ---- leases

    @initialize(target=leases)
    def first_lease(self) -> str:
        return self.granted()

    @rule(target=leases)
    def grant(self) -> str:
        return self.granted()

    def granted(self) -> str:
        lease = self.do(self.run.store.grant(TTL_S))
        assert lease.id not in self.model.leases
        self.model.leases.add(lease.id)
        return lease.id

    @rule(asked=st.lists(leases | former, max_size=4))
    def renew(self, asked: list[str]) -> None:
        renewals = self.do(self.run.store.keep_alive(asked))
        expected = [Outcome.RENEWED if lease in self.model.leases else Outcome.UNKNOWN for lease in asked]
        assert [(renewal.lease_id, renewal.outcome) for renewal in renewals] == list(zip(asked, expected, strict=True))

    @rule(lease=leases | former)
    def release(self, lease: str) -> None:
        self.do(self.run.store.release(lease))
        if not self.model.held(lease):
            self.model.end(lease)

    @rule(target=former, lease=consumes(leases))
    def let_expire(self, lease: str) -> Any:
        if lease not in self.model.leases:
            return multiple()
        lost, before = self.model.held(lease), len(self.run.deleted)
        self.do(self.expire(lease))
        self.model.end(lease)
        if lost:
            self.do(self.run.seen.wait(lambda: len(self.run.deleted) > before, "the lease ends"))
        assert set(self.run.deleted[before:]) == {Deleted(key, Cause.EXPIRED) for key in lost}
        return lease

    # ---- commits

    @rule(lease=leases | former, writes=WRITES, cause=st.sampled_from(Cause))
    def commit(self, lease: str, writes: list[tuple[Key, str, bytes, int]], cause: Cause) -> None:
        puts, deletes = [], []
        for key, kind, value, off_by in writes:
            expect = self.model.revision(key) + off_by
            if kind != "delete":
                is_bare = kind == "bare put" and key.kind is not Kind.INSTANCE
                puts.append(Put(key, value, "" if is_bare else lease, expect))
            elif expect:  # to delete what is not there is no write
                deletes.append(Delete(key, expect))
        if puts or deletes:
            self.attempt(Commit(tuple(puts), tuple(deletes), cause))

    def attempt(self, commit: Commit) -> None:
        conflicts = self.model.conflicts(commit)
        no_lease = any(put.lease_id and put.lease_id not in self.model.leases for put in commit.puts)
        if conflicts or no_lease:
            with pytest.raises((Conflict,) * bool(conflicts) + (NoSuchLease,) * no_lease) as refused:
                self.do(self.run.store.commit(commit))
            assert not isinstance(refused.value, Conflict) or set(refused.value.keys) == conflicts
        else:
            before = self.run.seen.revision
            revision = self.do(self.run.commit(commit))
            assert revision > before
            assert {left.cause for left in self.run.seen.at(revision).deletes} <= {commit.cause}
            self.model.commit(commit, revision)

    # ---- the telling

    @rule()
    def tell_anew(self) -> None:
        epoch, revision = self.run.seen.epoch, self.run.seen.revision
        self.do(self.run.stop())
        self.do(self.run.start())
        first = self.run.seen.events[0]
        assert isinstance(first, Snapshot)
        assert first.epoch == epoch
        assert first.revision >= revision

    @invariant()
    def view_is_the_model(self) -> None:
        view = {key: (record.value, record.lease_id, record.revision) for key, record in self.run.seen.view.items()}
        assert view == self.model.records
        self.run.seen.check()


class MemoryMachine(StoreMachine):
    """The embedded store, on a clock of the test's own."""

    def open(self) -> Store:
        self.now = 0.0
        self.store = MemoryStore(lambda: self.now)
        return self.store

    async def expire(self, lease_id: str) -> None:
        for part in (0.6 * TTL_S, 0.6 * TTL_S):
            await self.store.keep_alive(sorted(self.model.leases - {lease_id}))
            self.now += part
            self.store.tick(self.now)


class LeasedMachine(StoreMachine):
    """Two replicas on one backend, of which one looks only now and then. They take turns; both have to be the model."""

    def both(self) -> Sequence[Backend]:
        shared = DictBackend()
        return Link(shared), Link(shared, looks_now_and_then=True)

    def open(self) -> Store:
        self.now = 0.0
        self.replicas = Replicas([Leased(backend, lambda: self.now) for backend in self.both()])
        return self.replicas

    async def expire(self, lease_id: str) -> None:
        for part in (0.6 * TTL_S, 0.6 * TTL_S):
            await self.replicas.keep_alive(sorted(self.model.leases - {lease_id}))
            await self.replicas.is_told()
            self.now += part
            for store in self.replicas.stores:
                await store.tick()

    @invariant()
    def other_view_is_the_model(self) -> None:
        self.do(self.replicas.is_told())
        seen = self.replicas.other
        view = {key: (record.value, record.lease_id, record.revision) for key, record in seen.view.items()}
        assert view == self.model.records
        seen.check()


class SqliteMachine(StoreMachine):
    """A file, which is opened anew by a process that knows nothing of it whenever it is told anew."""

    def open(self) -> Store:
        self.now = 0.0
        self.folder = TemporaryDirectory()
        self.store = Reopened(Path(self.folder.name) / "registry.db", lambda: self.now)
        return self.store

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()

    async def expire(self, lease_id: str) -> None:
        for part in (0.6 * TTL_S, 0.6 * TTL_S):
            await self.store.keep_alive(sorted(self.model.leases - {lease_id}))
            assert await self.store.inner.is_told(await self.store.commit(Commit()), 10)
            self.now += part
            await self.store.inner.tick()


class MirrorMachine(StoreMachine):
    """Three backends, of which one may be away at any time, and another one next; in the end all hold the same."""

    def open(self) -> Store:
        self.now = 0.0
        self.backends = [DictBackend() for _ in range(3)]
        self.links = [Link(backend) for backend in self.backends]
        parts = {f"part {number}": link for number, link in enumerate(self.links)}
        self.store = Leased(MirrorBackend(parts, Write.QUORUM), lambda: self.now)
        return self.store

    async def expire(self, lease_id: str) -> None:
        for part in (0.6 * TTL_S, 0.6 * TTL_S):
            await self.store.keep_alive(sorted(self.model.leases - {lease_id}))
            assert await self.store.is_told(await self.store.commit(Commit()), 10)
            self.now += part
            await self.store.tick()

    @rule(which=st.integers(0, 2))
    def cut(self, which: int) -> None:
        self.do(self.alike())
        self.links[which].cut()

    async def alike(self) -> None:
        for link in self.links:
            link.mend()
        await self.store.commit(Commit())  # so that who was away lacks something until it is caught up
        await eventually_async(lambda: len(set(map(values_of, self.backends))) == 1, what="all hold the same")

    def teardown(self) -> None:
        try:
            self.do(self.alike())
        finally:
            super().teardown()


def values_of(backend: Any) -> frozenset[tuple[str, bytes]]:
    return frozenset((name, item.value) for name, item in backend.items.items())


class Reopened(Store):
    """A store on a file, made anew for every `run`."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._make = lambda: Leased(SqliteBackend(path), clock)
        self.inner = self._make()

    async def run(self, emit: Emit) -> None:
        self.inner = self._make()
        await self.inner.run(emit)

    async def grant(self, ttl_s: float) -> Lease:
        return await self.inner.grant(ttl_s)

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        return await self.inner.keep_alive(lease_ids)

    async def release(self, lease_id: str) -> None:
        await self.inner.release(lease_id)

    async def commit(self, commit: Commit) -> int:
        return await self.inner.commit(commit)

    async def aclose(self) -> None:
        await self.inner.aclose()


class ZooKeeperMachine(LeasedMachine):
    """Two replicas on a real ZooKeeper, with a chroot of their own."""

    servers: Backends

    def both(self) -> Sequence[Backend]:
        url = ZooKeeperURL.parse(self.servers.zookeeper_url())
        return ZooKeeperBackend(url), ZooKeeperBackend(url)


class Replicas(Store):
    """Several stores that are one registry: whoever writes goes from one to the next. The last one has a recorder."""

    def __init__(self, stores: list[Leased]) -> None:
        self.stores = stores
        self.other = Recorder()
        self._turns = itertools.cycle(stores)

    async def run(self, emit: Emit) -> None:
        self.other = Recorder()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.stores[-1].run(self.other))
            await self.other.wait(lambda: bool(self.other.events), "a first event")
            tasks.create_task(self.stores[0].run(emit))

    async def is_told(self) -> None:
        """Everything that was written is told by both."""
        revision = await self.stores[0].commit(Commit())
        for store in self.stores:
            assert await store.is_told(revision, 10)

    async def grant(self, ttl_s: float) -> Lease:
        return await next(self._turns).grant(ttl_s)

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        return await next(self._turns).keep_alive(lease_ids)

    async def release(self, lease_id: str) -> None:
        await self.is_told()
        await next(self._turns).release(lease_id)

    async def commit(self, commit: Commit) -> int:
        return await next(self._turns).commit(commit)

    async def aclose(self) -> None:
        for store in self.stores:
            await store.aclose()


class ConsulMachine(LeasedMachine):
    """Two replicas on a real Consul, whose log is folded and written over all the time."""

    backends: Backends

    def open(self) -> Store:
        self.now = 0.0
        url = ConsulURL.parse(self.backends.consul_url())
        self.replicas = Replicas([Leased(ConsulBackend.of(url), lambda: self.now) for _ in range(2)])
        return self.replicas


class EtcdMachine(StoreMachine):
    """A prefix of its own on a real etcd. A revoked lease leaves as an expired one does."""

    backends: Backends

    def open(self) -> Store:
        return EtcdStore.from_url(self.backends.etcd_url())

    async def expire(self, lease_id: str) -> None:
        await self.backends.etcd().etcdctl_async("lease", "revoke", lease_id[:16])


@pytest.fixture
def no_stalls() -> Iterator[None]:
    """A clock that jumps looks like a process that was stopped; here it is not."""
    with pytest.MonkeyPatch.context() as patch:
        for store in (memory, leased):
            patch.setattr(store, "Pulse", partial(Pulse, late_s=float("inf")))
        patch.setattr(member, "BACKOFF_S", 0.01)
        patch.setattr(member, "BACKOFF_MAX_S", 0.02)
        yield


@pytest.fixture(scope="session")
def etcd_for_machine(backends: Backends) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EtcdMachine, "backends", backends, raising=False)
        yield


@pytest.fixture
def consul_for_machine(backends: Backends) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConsulMachine, "backends", backends, raising=False)
        patch.setattr(leased, "Pulse", partial(Pulse, late_s=float("inf")))
        for module in (ledger, backend):
            patch.setattr(module, "FOLD", 4)
        patch.setattr(ledger, "RING", 16)
        yield


@pytest.fixture
def zookeeper_for_machine(backends: Backends) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ZooKeeperMachine, "servers", backends, raising=False)
        patch.setattr(leased, "ANSWER_S", 20.0)  # how fast it is on a busy machine is not the question
        yield


def configured(machine: type[StoreMachine], max_examples: int, steps: int, *fixtures: str) -> Any:
    """The test of a machine."""
    test = machine.TestCase
    test.settings = settings(
        max_examples=max_examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )
    return pytest.mark.usefixtures(*fixtures)(test)


TestMemory = configured(MemoryMachine, 100, 40, "no_stalls")
TestLeased = configured(LeasedMachine, 100, 40, "no_stalls")
TestSqlite = configured(SqliteMachine, 25, 30, "no_stalls")
TestMirror = configured(MirrorMachine, 10, 30, "no_stalls")
TestEtcd = configured(EtcdMachine, 25, 30, "etcd_for_machine")
TestConsul = MAY_BUILD(configured(ConsulMachine, 20, 30, "consul_for_machine"))
TestZooKeeper = MAY_BUILD(configured(ZooKeeperMachine, 20, 30, "no_stalls", "zookeeper_for_machine"))
