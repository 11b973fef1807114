"""etcd as its operators run it: members replaced, restored from a snapshot, full, compacted, changed by hand. Real
servers, a real owner and a watcher in the middle of it: the owner stays or comes back, and no list is ever empty."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import Instance, Registration, RegistryClient, RegistryError, State, View
from tests.conftest import ServerFactory
from tests.support.etcd import EtcdCluster
from tests.support.servers import RegistryServer
from tests.support.waiting import always_async, eventually_async

TTL_S = 4.0
SOON_S = 30.0
ANNA = Instance("player", "10.0.0.5", 8001, id="anna")
BERT = Instance("player", "10.0.0.6", 8001, id="bert")
KEY = "/grpc-registry/v1/instances/default/player/anna"


@dataclass
class Life:
    """Two servers on one cluster, an owner that is registered with both, and all that a watcher of both is told."""

    etcd: EtcdCluster
    servers: list[RegistryServer]
    client: RegistryClient
    anna: Registration
    views: list[View] = field(default_factory=list)

    @property
    def shown(self) -> set[str]:
        return {instance.id for instance in self.views[-1].instances}

    async def is_told(self, condition: Callable[[], object], what: str) -> None:
        await eventually_async(condition, timeout_s=SOON_S, what=what)

    async def goes_on(self) -> None:
        """Writes work, at each server; the owner never left, and the watcher never saw nobody."""
        for server in self.servers:
            assert server.is_running
            async with registry_client.connect(server.address, cache_dir=None) as client:
                await eventually_async(lambda it=client: takes_a_write(it), timeout_s=SOON_S, what="writes work")
        await self.is_told(lambda: "anna" in self.shown and not self.views[-1].stale_for, "all is as it was")
        assert self.anna.state is State.REGISTERED
        assert all(view.instances for view in self.views)


async def takes_a_write(client: RegistryClient) -> bool:
    try:
        async with asyncio.timeout(5), client.register(Instance("other", "10.0.0.9", 1), ttl=TTL_S):
            return True
    except (RegistryError, TimeoutError):
        return False


@contextlib.asynccontextmanager
async def lived(etcd: EtcdCluster, server_factory: ServerFactory) -> AsyncIterator[Life]:
    servers = [server_factory(name=name, store=etcd.url()).start() for name in ("first", "second")]
    addresses = [server.address for server in servers]
    async with (
        registry_client.connect(addresses, cache_dir=None) as client,
        client.register(ANNA, ttl=TTL_S) as anna,
        client.watch("player") as watch,
        asyncio.TaskGroup() as tasks,
    ):
        life = Life(etcd, servers, client, anna)

        async def look() -> None:
            async for view in watch:
                life.views.append(view)

        looking = tasks.create_task(look())
        await life.is_told(lambda: life.views and "anna" in life.shown, "the owner is there")
        yield life
        looking.cancel()


@pytest.fixture
async def life(tmp_path: Path, server_factory: ServerFactory) -> AsyncIterator[Life]:
    """On three members."""
    with EtcdCluster(tmp_path, size=3) as etcd:
        async with lived(etcd, server_factory) as begun:
            yield begun


async def test_every_member_is_replaced_one_after_the_other(life: Life) -> None:
    for node in life.etcd.nodes:
        await asyncio.to_thread(life.etcd.replace, node)
        await life.goes_on()
    epochs = {view.epoch for view in life.views}
    assert len(epochs) == 1, "for clients nothing has begun anew"


async def test_the_leader_is_killed_over_and_over(life: Life) -> None:
    for _ in range(3):
        leader = await asyncio.to_thread(life.etcd.leader)
        leader.kill()
        await life.goes_on()
        await life.etcd.start_async()
    await life.goes_on()


async def test_restored_from_a_snapshot(life: Life, tmp_path: Path) -> None:
    """Who came since comes back by itself; who left since, and is in the snapshot, is gone one time to live later."""
    async with life.client.register(Instance("player", "10.0.0.7", 8001, id="cleo"), ttl=TTL_S):
        await life.is_told(lambda: "cleo" in life.shown, "she is there")
        await asyncio.to_thread(life.etcd.save, tmp_path / "snapshot")
    async with life.client.register(BERT, ttl=TTL_S):
        await life.is_told(lambda: life.shown == {"anna", "bert"}, "she has left, and he has come")
        await asyncio.to_thread(life.etcd.restore, tmp_path / "snapshot")
        await life.goes_on()
        await life.is_told(lambda: life.shown == {"anna", "bert"}, "nobody is missing, and no ghost is left")
        since = next(number for number, view in enumerate(life.views) if "bert" in {it.id for it in view.instances})
        assert all({"anna", "bert"} <= {it.id for it in view.instances} for view in life.views[since:-1])
    assert len({view.epoch for view in life.views}) > 1


async def test_full_and_mended(tmp_path: Path, server_factory: ServerFactory) -> None:
    with EtcdCluster(tmp_path, flags=["--quota-backend-bytes=1000000"]) as etcd:
        async with lived(etcd, server_factory) as life:
            await asyncio.to_thread(fill, etcd)
            with pytest.raises(RegistryError, match="the store is full"):
                async with asyncio.timeout(SOON_S), life.client.register(BERT, ttl=TTL_S, timeout=2):
                    pass
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(stays(life.client, BERT, until := asyncio.Event()))
                await always_async(lambda: life.shown == {"anna"}, for_s=2 * TTL_S, what="who is there stays")
                assert life.anna.state is State.REGISTERED
                await asyncio.to_thread(mend, etcd)
                await life.is_told(lambda: life.shown == {"anna", "bert"}, "who waited comes in by himself")
                until.set()
                await waiting
            await life.goes_on()
            assert any("database space exceeded" in server.log_text for server in life.servers)


async def stays(client: RegistryClient, instance: Instance, until: asyncio.Event) -> None:
    async with client.register(instance, ttl=TTL_S):
        await until.wait()


def fill(etcd: EtcdCluster) -> None:
    with contextlib.suppress(AssertionError):
        for _ in range(100):
            etcd.etcdctl("put", "somebody-else", stdin=b"x" * 100_000)


def mend(etcd: EtcdCluster) -> None:
    """What etcd's own manual says: compact, defragment, disarm."""
    etcd.etcdctl("del", "somebody-else")
    etcd.etcdctl("compact", header_revision(etcd), "--physical")
    etcd.etcdctl("defrag")
    etcd.etcdctl("alarm", "disarm")


def header_revision(etcd: EtcdCluster) -> str:
    return field_of(etcd.etcdctl("get", "none", "-w", "fields"), "Revision")


def field_of(said: str, name: str) -> str:
    return next(line.rpartition(" ")[2] for line in said.splitlines() if line.startswith(f'"{name}"'))


async def test_compacted_under_a_watch(life: Life) -> None:
    for weight in range(1, 101):
        await life.anna.update(weight=weight)
        if weight % 10 == 0:
            revision = await asyncio.to_thread(header_revision, life.etcd)
            await life.etcd.etcdctl_async("compact", revision, "--physical")
    await life.is_told(lambda: life.views[-1].instances[0].weight == 100, "the last is told")
    weights = [view.instances[0].weight for view in life.views[1:]]
    assert weights == sorted(weights)
    await life.goes_on()


# ---- by hand


@pytest.fixture
async def small(tmp_path: Path, server_factory: ServerFactory) -> AsyncIterator[Life]:
    """On one member."""
    with EtcdCluster(tmp_path) as etcd:
        async with lived(etcd, server_factory) as begun:
            yield begun


def other_instance() -> bytes:
    return pb.Instance(namespace="default", service="chat", id="x", host="h", port=1).SerializeToString()


async def test_keys_and_leases_changed_by_hand(small: Life) -> None:
    """The owner is back soon, whatever was done to its key; and what is no instance is shown to nobody."""
    etcd, client = small.etcd, small.client

    async def lease() -> str:
        return f"{int(field_of(await etcd.etcdctl_async('get', KEY, '-w', 'fields'), 'Lease')):x}"

    async def foreign_lease() -> str:
        return (await etcd.etcdctl_async("lease", "grant", "600")).split()[1]

    deeds = {
        "deleted": lambda lease, other: (("del", KEY), None),
        "revoked": lambda lease, other: (("lease", "revoke", lease), None),
        "no instance": lambda lease, other: (("put", KEY), b"\xff\xffwhat is this"),
        "empty": lambda lease, other: (("put", KEY, ""), None),
        "another's": lambda lease, other: (("put", KEY), other_instance()),
        "under another's lease": lambda lease, other: (("put", KEY, f"--lease={other}"), b"\x00"),
        "under its own lease": lambda lease, other: (("put", KEY, f"--lease={lease}"), b"\xff"),
    }
    for what, deed in deeds.items():
        args, stdin = deed(await lease(), await foreign_lease())
        await etcd.etcdctl_async(*args, stdin=stdin)

        async def is_back() -> bool:
            found = [instance for instance in await client.list("player") if instance.host == ANNA.host]
            return [it.id for it in found] == ["anna"] and small.anna.state is State.REGISTERED and await writes(small)

        await eventually_async(is_back, timeout_s=SOON_S, what=f"the owner is back: {what}")
        assert {(it.service, it.id) for view in small.views for it in view.instances} == {("player", "anna")}, what
    for server in small.servers:
        assert server.is_running
        assert "Traceback" not in server.log_text


async def writes(life: Life) -> bool:
    """Whether the owner can change what is its own, which it cannot while its key is not."""
    try:
        await life.anna.update(version="2")
        await life.anna.update(version="1")
    except RegistryError:
        return False
    return True
