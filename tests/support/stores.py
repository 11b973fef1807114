"""The servers that stores need."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.building import BUILD_S
from tests.support.consul import ConsulAgent
from tests.support.etcd import EtcdCluster
from tests.support.zookeeper import Ensemble


class Backends:
    """Servers that are started when the first test wants them, and shared by all tests of one process.

    `newest`: of etcd, the newest is meant where nothing else is said, and not PyPI's.
    """

    def __init__(self, directory: Path, *, newest: bool = False) -> None:
        self._directory = directory
        self.newest = newest
        self._etcds: dict[bool, EtcdCluster] = {}
        self._zookeeper: Ensemble | None = None
        self._consul: ConsulAgent | None = None
        self._numbers = itertools.count(1)

    def etcd(self, *, newest: bool | None = None) -> EtcdCluster:
        """One etcd, of one node."""
        which = self.newest if newest is None else newest
        if which not in self._etcds:
            (home := self._directory / ("newest" if which else "packaged")).mkdir(exist_ok=True)
            self._etcds[which] = EtcdCluster(home, newest=which).start()
        return self._etcds[which]

    def etcd_url(self, *, newest: bool | None = None) -> str:
        """A store URL on that etcd with a prefix of its own."""
        return self.etcd(newest=newest).url(prefix=f"/test-{next(self._numbers)}")

    def zookeeper(self) -> Ensemble:
        """One ZooKeeper, of one node."""
        if self._zookeeper is None:
            (home := self._directory / "zookeeper").mkdir(exist_ok=True)
            self._zookeeper = Ensemble(home).start()
        return self._zookeeper

    def zookeeper_url(self) -> str:
        """A store URL on that ZooKeeper with a chroot of its own."""
        return self.zookeeper().url(f"/test-{next(self._numbers)}")

    def consul(self) -> ConsulAgent:
        """One Consul."""
        if self._consul is None:
            (home := self._directory / "consul").mkdir(exist_ok=True)
            self._consul = ConsulAgent(home).start()
        return self._consul

    def consul_url(self, **parameters: str) -> str:
        """A store URL on it with a prefix of its own; its catalog is shown if that is asked for."""
        return self.consul().url(**{"prefix": f"test-{next(self._numbers)}", "catalog": "false", **parameters})

    @property
    def log_text(self) -> str:
        """What the servers wrote."""
        logs = [etcd.log_text for etcd in self._etcds.values()]
        logs += [server.log_text for server in (self._zookeeper, self._consul) if server is not None]
        return "\n".join(logs)

    def close(self) -> None:
        """Ends them all."""
        for etcd in self._etcds.values():
            etcd.kill()
        if self._zookeeper is not None:
            self._zookeeper.kill()
        if self._consul is not None:
            self._consul.kill()


# The first test on the newest etcd may have to build it.
MAY_BUILD = pytest.mark.timeout(BUILD_S)

# Marks a test, or a module of tests, that has to hold on PyPI's etcd and on the newest.
EVERY_ETCD = [pytest.param(False, id="packaged"), pytest.param(True, id="newest", marks=MAY_BUILD)]
on_every_etcd = pytest.mark.parametrize("backends", EVERY_ETCD, indirect=True, scope="session")


@pytest.fixture(scope="session")
def backends(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Backends]:
    """The servers that stores need."""
    servers = Backends(tmp_path_factory.mktemp("backends"), newest=getattr(request, "param", False))
    yield servers
    servers.close()
