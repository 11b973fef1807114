"""One service or node of a neighbour's that cannot be read or written keeps no other out."""

import json
from collections.abc import Callable
from typing import Any

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.model import Entry
from registry_server.neighbours.consul.neighbour import ConsulNeighbour
from registry_server.neighbours.curator.neighbour import CuratorNeighbour, _Tree
from registry_server.records import Key, Record
from registry_server.stores.consul.http import Answer
from registry_server.stores.zookeeper.url import ZooKeeperURL
from registry_server.stores.zookeeper.znodes import Denied


class OddConsul:
    """It has a service whose name is no path, so that asking for it is sent elsewhere."""

    async def ask(self, method: str, path: str, *more: object) -> Answer:
        if path.endswith("/services"):
            return Answer(200, 1, json.dumps({"..": [], "player": []}).encode())
        if path.endswith(".."):
            return Answer(301, 0, b"<a href='/v1/health/'>Moved Permanently</a>.")
        service = {"ID": "one", "Service": "player", "Address": "10.0.0.5", "Port": 7001}
        return Answer(200, 1, json.dumps([{"Node": {"Node": "n"}, "Service": service, "Checks": []}]).encode())


async def test_a_service_of_consul_that_cannot_be_asked_for() -> None:
    consul: Any = OddConsul()
    assert [it.id for it in await ConsulNeighbour(consul, "consul", "mine", "default")._read()] == ["n:one"]


class Znode:
    data = json.dumps({"address": "10.0.0.5", "port": 7001}).encode()


class Guarded:
    """A ZooKeeper in which the service `theirs` may neither be read nor written by us."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.lost = self

    def done(self) -> bool:
        return False

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        pass

    async def children(self, path: str, changed: object = None) -> list[str]:
        _check(path)
        return ["open", "theirs"] if path.endswith("/services") else ["one", "theirs"]

    async def get(self, path: str, changed: object = None) -> Znode:
        _check(path)
        return Znode()

    async def create(self, path: str, data: bytes, *, ephemeral: bool) -> None:
        _check(path)
        self.made.append(path)


def _check(path: str) -> None:
    if "theirs" in path:
        raise Denied("not for us")


async def test_what_an_acl_keeps_from_us_of_curator() -> None:
    znodes: Any = Guarded()
    tree = _Tree(znodes, "/services")
    assert await tree.read()
    while await tree.read():
        pass
    assert [(service, id_) for service, id_, _ in tree.nodes()] == [("open", "one")]


async def test_what_an_acl_keeps_us_from_showing_in_curator() -> None:
    znodes: Any = Guarded()
    neighbour = CuratorNeighbour(ZooKeeperURL.parse("zookeeper://127.0.0.1:2181/x"))
    neighbour._session = znodes
    it = pb.Instance(host="10.0.0.5", port=7001)
    keys = [Key("default", service, "one") for service in ("theirs", "player")]
    ours = {key: Entry.of(Record(key, it.SerializeToString(), "lease", 5, 5)) for key in keys}
    await neighbour.publish(ours, is_whole=True)
    assert [path.rpartition("/services/")[2] for path in znodes.made] == ["player/one"]
