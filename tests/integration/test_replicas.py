"""Two servers on one etcd are one registry: what one takes the other shows, and either may be killed at any moment."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import registry_client
from registry_client import Instance, RegistryClient, RegistryError, View
from tests.conftest import ServerFactory
from tests.support.etcd import EtcdCluster
from tests.support.servers import RegistryServer
from tests.support.waiting import always_async

WAIT_S = 30.0
TTL_S = 3.0
FLEET = 20


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture
def replicas(etcd: EtcdCluster, server_factory: ServerFactory, tmp_path: Path) -> list[RegistryServer]:
    """Two of them, with keys of their own below a prefix of this test."""
    store = etcd.url(prefix=f"/{tmp_path.name}")
    return [server_factory(name=name, store=store).start() for name in ("first", "second")]


@contextlib.asynccontextmanager
async def client_of(*servers: RegistryServer) -> AsyncIterator[RegistryClient]:
    addresses = [server.address for server in servers]
    async with registry_client.connect(addresses, cache_dir=None) as client:
        yield client


def player(number: int) -> Instance:
    return Instance(service="player", id=f"player-{number:02}", host=f"10.0.0.{number + 1}", port=8001)


async def until_seen(registry: RegistryClient, count: int) -> View:
    async with asyncio.timeout(WAIT_S):
        async for view in registry.watch("player"):
            if len(view.instances) == count:
                return view
    raise AssertionError("a watch does not end")


class Lengths:
    """How many instances each view of a watch had, in order."""

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry
        self.seen: list[int] = []

    async def run(self) -> None:
        async for view in self._registry.watch("player"):
            self.seen.append(len(view.instances))

    @contextlib.asynccontextmanager
    async def recorded(self) -> AsyncIterator[list[int]]:
        task = asyncio.create_task(self.run())
        try:
            yield self.seen
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_registered_on_one_seen_on_the_other(replicas: list[RegistryServer]) -> None:
    first, second = replicas
    async with client_of(first) as writer, client_of(second) as reader:
        async with writer.register(player(1), ttl=TTL_S):
            view = await until_seen(reader, 1)
            assert view.instances[0].id == "player-01"
            assert await reader.get("player", "player-01") == await writer.get("player", "player-01")
        await until_seen(reader, 0)


async def test_both_answer_with_the_same_epoch_and_revision(replicas: list[RegistryServer]) -> None:
    first, second = replicas
    async with client_of(first) as one, client_of(second) as other, one.register(player(1), ttl=TTL_S):
        views = await asyncio.gather(until_seen(one, 1), until_seen(other, 1))
        assert views[0].epoch == views[1].epoch
        assert views[0].instances == views[1].instances


@pytest.mark.parametrize("victim", [0, 1], ids=["first", "second"])
async def test_either_killed_under_load_and_no_list_gets_shorter(replicas: list[RegistryServer], victim: int) -> None:
    """Owners and watchers know both addresses. While one server is dead for longer than two TTLs, writes go on."""
    async with contextlib.AsyncExitStack() as stack:
        owners = [await stack.enter_async_context(client_of(*order)) for order in (replicas, replicas[::-1])]
        for number in range(FLEET):
            owner = owners[number % len(owners)]
            await stack.enter_async_context(owner.register(player(number), ttl=TTL_S))
        watchers = [await stack.enter_async_context(client_of(*order)) for order in (replicas, replicas[::-1])]
        for watcher in watchers:
            await until_seen(watcher, FLEET)
        records = [Lengths(watcher) for watcher in watchers]
        seen = [await stack.enter_async_context(record.recorded()) for record in records]

        replicas[victim].kill()
        updates = await constant_updates(watchers[0], seconds=2 * TTL_S + 1)
        assert updates > FLEET
        for watcher in watchers:
            assert len((await until_seen(watcher, FLEET)).instances) == FLEET
        await replicas[victim].restart_async()
        async with client_of(replicas[victim]) as returned:
            await until_seen(returned, FLEET)
        assert all(set(lengths) == {FLEET} for lengths in seen), seen


async def constant_updates(registry: RegistryClient, seconds: float) -> int:
    """Changes metadata round the fleet for a while; returns how many were taken, which is all."""
    loop, taken = asyncio.get_running_loop(), 0
    deadline = loop.time() + seconds
    while loop.time() < deadline:
        try:
            await registry.update("player", player(taken % FLEET).id, metadata={"turn": str(taken)}, timeout=5)
        except RegistryError as error:
            pytest.fail(f"an update was not taken although one server lives: {error!r}")
        taken += 1
    return taken


async def test_lease_outlives_the_server_that_granted_it(replicas: list[RegistryServer]) -> None:
    """The owner goes on with the other server, under the same lease and generation: nobody took anything over."""
    first, second = replicas
    async with (
        client_of(first, second) as owner,
        client_of(second) as reader,
        owner.register(player(1), ttl=TTL_S) as registration,
    ):
        before, lease = await reader.get("player", "player-01"), registration.lease_id
        first.kill()

        async def is_as_before() -> bool:
            return await reader.get("player", "player-01") == before

        await always_async(is_as_before, for_s=2 * TTL_S, what="the instance is as it was")
        assert registration.lease_id == lease
