"""What every guarantee is tested on: a real server process, on each kind of store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from registry_server.stores import mirror_of
from tests.conftest import ServerFactory
from tests.support.etcd import EtcdCluster
from tests.support.raw import RawClient
from tests.support.servers import RegistryServer
from tests.support.stores import MAY_BUILD, Backends, backends

__all__ = ["backends"]


REAL = [pytest.param(kind, marks=MAY_BUILD) for kind in ("consul", "zookeeper")]


@pytest.fixture(params=["memory", "sqlite", "etcd", *REAL])
def store(request: pytest.FixtureRequest) -> str:
    """The kind of store."""
    kind: str = request.param
    return kind


@pytest.fixture
def store_url(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that holds nothing yet."""
    if store == "memory":
        return "memory:"
    if store == "sqlite":
        return f"sqlite:{tmp_path / 'registry.db'}"
    if store == "mirror":
        return mirror_of([f"sqlite:{tmp_path / f'registry-{number}.db'}" for number in (1, 2, 3)])
    servers: Backends = request.getfixturevalue("backends")
    urls = {"etcd": servers.etcd_url, "consul": servers.consul_url, "zookeeper": servers.zookeeper_url}
    return urls[store]()


@pytest.fixture
def server(server_factory: ServerFactory, store_url: str) -> RegistryServer:
    """A registry server on that store, ready."""
    return server_factory(store=store_url).start()


@pytest.fixture
async def client(server: RegistryServer) -> AsyncIterator[RawClient]:
    """A connection to it."""
    async with RawClient(server.address) as connected:
        yield connected


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EtcdCluster]:
    """An etcd of this test alone, to be killed."""
    cluster = EtcdCluster(tmp_path)
    try:
        yield await cluster.start_async()
    finally:
        cluster.kill()


@pytest.fixture
async def replicas(server_factory: ServerFactory, backends: Backends) -> list[RegistryServer]:
    """Two registry servers on one etcd."""
    url = backends.etcd_url()
    return [await server_factory(store=url, name=f"replica-{number}").start_async() for number in (1, 2)]
