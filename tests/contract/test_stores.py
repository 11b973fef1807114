"""Every store keeps the contract, which is a class of tests that other people's stores may inherit from as well."""

import re
from pathlib import Path

import pytest

from registry_server.stores import memory, open_store
from registry_server.stores.base import Store
from registry_server.stores.etcd.backend import EtcdBackend
from registry_server.stores.etcd.store import EtcdStore
from registry_server.stores.etcd.url import EtcdURL
from registry_server.stores.leased import Leased
from registry_server.stores.memory import MemoryStore
from registry_server.stores.mirror.backend import MirrorBackend, Write
from registry_server.stores.sqlite.backend import SqliteBackend
from registry_server.testing import StoreContract
from tests.support.backend import DictBackend, Documented, Link
from tests.support.source import ROOT
from tests.support.stores import MAY_BUILD, Backends

DOCUMENT = ROOT / "docs" / "stores.md"


class TestMemory(StoreContract):
    short_ttl_s = 0.8
    slack_s = memory.TICK_S + 0.9

    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestLeased(Documented):
    """On the backend that docs/stores.md shows, and as it says."""


class TestSqlite(StoreContract):
    short_ttl_s = 0.8
    slack_s = 1.0

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return open_store(f"sqlite:{tmp_path / 'registry.db'}")


class TestMirror(StoreContract):
    """Of a dict, a file and an etcd: none of them counts as the others do."""

    short_ttl_s = 0.8
    slack_s = 1.5

    @pytest.fixture
    def store(self, backends: Backends, tmp_path: Path) -> Store:
        parts = {
            "dict": Link(DictBackend()),
            "file": SqliteBackend(tmp_path / "registry.db"),
            "etcd": EtcdBackend(EtcdURL.parse(backends.etcd_url(newest=False))),
        }
        return Leased(MirrorBackend(parts, Write.QUORUM))


class TestEtcdAsABackend(StoreContract):
    """As a mirror has it: without leases of its own."""

    short_ttl_s = 0.8
    slack_s = 1.5

    @pytest.fixture
    def store(self, backends: Backends) -> Store:
        return Leased(EtcdBackend(EtcdURL.parse(backends.etcd_url(newest=False))))


def test_what_differs_is_documented() -> None:
    rows = re.findall(r"^\| `(\w+):` \| ([\d.]+) s \| ([\d.]+) s \|$", DOCUMENT.read_text(), re.MULTILINE)
    suites = {"memory": TestMemory, "sqlite": TestSqlite, "etcd": TestEtcd, "consul": TestConsul}
    suites |= {"zookeeper": TestZooKeeper, "mirror": TestMirror}
    differs = {name: (suite.short_ttl_s, suite.slack_s) for name, suite in suites.items()}
    assert {name: (float(short), float(slack)) for name, short, slack in rows} == differs


def test_documented_kind_of_store_is_one() -> None:
    assert isinstance(open_store("dict:"), Leased)


class TestEtcd(StoreContract):
    """etcd looks for leases to end twice a second, and ends them through its log."""

    slack_s = 0.5 + 1.5

    @pytest.fixture
    def store(self, backends: Backends) -> Store:
        return EtcdStore.from_url(backends.etcd_url(newest=False))


class TestEtcdByGrpc(TestEtcd):
    """As on a machine for which there is no `ngh2`."""

    @pytest.fixture
    def store(self, backends: Backends) -> Store:
        return EtcdStore.from_url(backends.etcd_url(newest=False) + "&client=grpc")


@MAY_BUILD
class TestNewestEtcd(TestEtcd):
    @pytest.fixture
    def store(self, backends: Backends) -> Store:
        return EtcdStore.from_url(backends.etcd_url(newest=True))


@MAY_BUILD
class TestZooKeeper(StoreContract):
    short_ttl_s = 0.8
    slack_s = 1.5

    @pytest.fixture
    def store(self, backends: Backends) -> Store:
        return open_store(backends.zookeeper_url())


@MAY_BUILD
class TestConsul(StoreContract):
    """Leases are ours; every write goes through Consul's log."""

    short_ttl_s = 1.0
    slack_s = 1.5

    @pytest.fixture
    def store(self, backends: Backends) -> Store:
        return open_store(backends.consul_url())
