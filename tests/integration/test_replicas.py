"""A lease belongs to the registry and not to the server that granted it. (More of two servers: guarantees/.)"""

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import registry_client
from registry_client import Instance, RegistryClient
from tests.conftest import ServerFactory
from tests.support.etcd import EtcdCluster
from tests.support.servers import RegistryServer
from tests.support.waiting import always_async

TTL_S = 3.0
PLAYER = Instance(service="player", id="anna", host="10.0.0.5", port=8001)


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


async def test_lease_outlives_the_server_that_granted_it(replicas: list[RegistryServer]) -> None:
    """The owner goes on with the other server, under the same lease and generation: nobody took anything over."""
    first, second = replicas
    second.kill()  # so that it is the first who grants
    async with (
        client_of(first, second) as owner,
        owner.register(PLAYER, ttl=TTL_S) as registration,
        await second.start_async(),
        client_of(second) as reader,
    ):
        before, lease = await reader.get("player", PLAYER.id), registration.lease_id
        first.kill()

        async def is_as_before() -> bool:
            return await reader.get("player", PLAYER.id) == before

        await always_async(is_as_before, for_s=2 * TTL_S, what="the instance is as it was")
        assert registration.lease_id == lease
