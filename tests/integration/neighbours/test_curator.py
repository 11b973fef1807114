"""A registry beside Curator's service discovery, on a real ZooKeeper and by a real Curator: each shows the other's."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterator

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.config import Config
from registry_server.neighbours import bridge
from registry_server.server import serve
from registry_server.stores.zookeeper.url import ZooKeeperURL
from registry_server.stores.zookeeper.znodes import Denied, NoSuchNode, Znodes
from tests.support.raw import RawClient
from tests.support.stores import MAY_BUILD, Backends, backends
from tests.support.waiting import always_async, eventually_async, until
from tests.support.zookeeper import Curator

__all__ = ["backends"]

pytestmark = MAY_BUILD

WAIT_S = 20.0


@pytest.fixture
def chroot(backends: Backends, numbers: Iterator[int]) -> str:
    """The URL of a part of ZooKeeper that is this test's alone."""
    return backends.zookeeper().url(f"/curator-{next(numbers)}")


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
async def znodes(chroot: str) -> AsyncIterator[Znodes]:
    session = Znodes(ZooKeeperURL.parse(chroot), 0)
    await session.open()
    yield session
    await session.aclose()


@pytest.fixture
def curator(backends: Backends, chroot: str) -> Iterator[Curator]:
    url = ZooKeeperURL.parse(chroot)
    with Curator(backends.zookeeper().hosts, url.services) as made:
        yield made


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "WARM_UP_S", 0.6)


@contextlib.asynccontextmanager
async def server(neighbour: str, store: str = "memory:") -> AsyncIterator[RawClient]:
    async with (
        serve(Config(listen="127.0.0.1:0", store=store, neighbours=neighbour)) as address,
        RawClient(address) as client,
    ):
        yield client


async def test_curator_sees_ours_and_we_see_its(chroot: str, curator: Curator) -> None:
    """The store's own ZooKeeper is a neighbour without being told so."""
    await curator.asked_async("register player theirs 10.0.0.9 7009")
    async with server("", store=chroot) as client, client.watching() as watch:
        await watch.wait_ids("theirs")
        it = watch.view["player", "theirs"]
        assert (it.origin, it.host, it.port, it.weight) == ("zookeeper", "10.0.0.9", 7009, 100)

        await client.register("ours", 7001, host="10.0.0.5")
        shown = "ours 10.0.0.5 7001 true DYNAMIC null"
        await until(lambda: lists(curator, "player", shown, "theirs 10.0.0.9 7009 true DYNAMIC null"), timeout_s=WAIT_S)
        await client.update("ours", weight=0)
        await until(
            lambda: lists(curator, "player", shown.replace("true", "false"), "theirs 10.0.0.9 7009 true DYNAMIC null")
        )
        assert watch.view["player", "ours"].origin == ""

        await curator.asked_async("register player later 10.0.0.9 7010")
        await watch.wait_ids("theirs", "ours", "later")
        await curator.asked_async("unregister player theirs")
        await watch.wait_ids("ours", "later")
        await client.deregister("ours")
        await until(lambda: lists(curator, "player", "later 10.0.0.9 7010 true DYNAMIC null"), timeout_s=WAIT_S)


async def lists(curator: Curator, service: str, *expected: str) -> bool:
    return sorted(await curator.asked_async(f"list {service}")) == sorted(expected)


async def test_what_is_written_there_by_others(chroot: str, znodes: Znodes) -> None:
    """Spring Cloud's metadata, instances that are not to be used, and what is none."""
    top = ZooKeeperURL.parse(chroot).services
    spring = {"@class": "x.ZookeeperInstance", "metadata": {"instance_status": "UP", "zone": "eu"}}
    nodes: dict[str, bytes] = {
        "player/spring": json.dumps({"address": "10.0.0.1", "port": 7001, "payload": spring}).encode(),
        "player/secure": json.dumps({"address": "10.0.0.2", "port": None, "sslPort": 7443, "payload": None}).encode(),
        "player/off": json.dumps({"address": "10.0.0.3", "port": 7001, "enabled": False}).encode(),
        "player/down": json.dumps(
            {"address": "10.0.0.4", "port": 7001, "payload": {"metadata": {"instance_status": "OUT_OF_SERVICE"}}}
        ).encode(),
        "player/größe 1": json.dumps({"address": "10.0.0.5", "port": 7001, "payload": {"a": "b", "c": 1}}).encode(),
        "player/no-port": json.dumps({"address": "10.0.0.6"}).encode(),
        "player/text": b"hello",
        "player/deep": b"[" * 100_000,
        "player/list": b"[]",
        "player/types": json.dumps({"address": 7, "port": "x", "payload": [], "enabled": 1}).encode(),
        "bad name/one": json.dumps({"address": "10.0.0.7", "port": 7001}).encode(),
    }
    for path, data in nodes.items():
        await znodes.ensure(f"{top}/{path.partition('/')[0]}")
        await znodes.create(f"{top}/{path}", data)
    async with server(chroot) as client, client.watching() as watch:
        await eventually_async(lambda: len(watch.ids) == 5, timeout_s=WAIT_S)
        view = {id_.partition("-")[0]: it for (_, id_), it in watch.view.items()}
        assert set(view) == {"spring", "secure", "off", "down", "gr"}
        assert dict(view["spring"].metadata) == {"instance_status": "UP", "zone": "eu"}
        assert view["secure"].port == 7443
        assert [view[id_].weight for id_ in ("spring", "off", "down")] == [100, 0, 0]
        assert dict(view["gr"].metadata) == {"a": "b"}
        await znodes.set(f"{top}/player/text", json.dumps({"address": "10.0.0.8", "port": 7001}).encode())
        await eventually_async(lambda: "text" in watch.ids, timeout_s=WAIT_S)
        await znodes.delete(f"{top}/player/spring")
        await eventually_async(lambda: "spring" not in watch.ids, timeout_s=WAIT_S)


async def test_an_id_of_somebody_else_is_left_alone(chroot: str, znodes: Znodes) -> None:
    top = ZooKeeperURL.parse(chroot).services
    await znodes.ensure(f"{top}/player")
    theirs = json.dumps({"address": "10.0.0.9", "port": 7009}).encode()
    await znodes.create(f"{top}/player/one", theirs)
    async with server(chroot) as client:
        await client.register("one", 7001)
        await client.register("two", 7002)
        await until(lambda: znodes.exists(f"{top}/player/two"), timeout_s=WAIT_S)
        assert (await znodes.get(f"{top}/player/one")).data == theirs


async def test_another_replica_goes_on_without_a_gap(chroot: str, znodes: Znodes) -> None:
    """The session of the one that stops is left behind, and its nodes are replaced by those of the other."""
    path = f"{ZooKeeperURL.parse(chroot).services}/player/ours"
    gaps: list[float] = []

    async def look() -> None:
        while True:
            try:
                await znodes.get(path)
            except NoSuchNode:
                gaps.append(asyncio.get_running_loop().time())

    async with contextlib.AsyncExitStack() as first:
        one = await first.enter_async_context(server("", store=chroot))
        async with server("", store=chroot) as two, asyncio.TaskGroup() as tasks:
            await one.register("ours", 7001)
            await until(lambda: znodes.exists(path), timeout_s=WAIT_S)
            looking = tasks.create_task(look())
            await first.aclose()
            await two.update("ours", weight=5)
            await until(lambda: has_weight(znodes, path, 5), timeout_s=WAIT_S)
            await two.update("ours", weight=6)
            await until(lambda: has_weight(znodes, path, 6), timeout_s=WAIT_S)
            looking.cancel()
    assert gaps == []


async def has_weight(znodes: Znodes, path: str, weight: int) -> bool:
    return bool(json.loads((await znodes.get(path)).data)["grpcRegistry"]["weight"] == weight)


async def test_what_somebody_removes_is_shown_again(
    chroot: str, znodes: Znodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry_server.neighbours.curator.neighbour import CuratorNeighbour

    monkeypatch.setattr(CuratorNeighbour, "refresh_s", 0.5)
    path = f"{ZooKeeperURL.parse(chroot).services}/player/ours"
    async with server(chroot) as client:
        await client.register("ours", 7001)
        for _ in range(2):
            await until(lambda: znodes.exists(path), timeout_s=WAIT_S)
            await znodes.delete(path)
        await until(lambda: znodes.exists(path), timeout_s=WAIT_S)


async def test_who_is_no_user_of_ours_reads_and_writes_beside(chroot: str, znodes: Znodes) -> None:
    """What is ours is read by everybody, and changed by nobody else; everybody may register there."""
    top = ZooKeeperURL.parse(chroot).services
    async with server(f"{chroot}?user=game&password=geheim") as client, client.watching() as watch:
        await client.register("ours", 7001)
        await until(lambda: znodes.exists(f"{top}/player/ours"), timeout_s=WAIT_S)
        assert json.loads((await znodes.get(f"{top}/player/ours")).data)["port"] == 7001
        with pytest.raises(Denied):
            await znodes.set(f"{top}/player/ours", b"{}")
        theirs = json.dumps({"address": "10.0.0.9", "port": 7009}).encode()
        await znodes.create(f"{top}/player/theirs", theirs, ephemeral=True)
        await watch.wait_ids("ours", "theirs")


async def test_catalog_false_shows_nothing(chroot: str, znodes: Znodes) -> None:
    async with server("", store=f"{chroot}?catalog=false") as client:
        await client.register("ours", 7001)
        await always_async(lambda: not_there(znodes, ZooKeeperURL.parse(chroot).services), for_s=1.5)


async def not_there(znodes: Znodes, path: str) -> bool:
    return not await znodes.exists(path)


def test_two_registries_are_told_from_each_other() -> None:
    from registry_server.neighbours.curator.written import is_of, taken, written

    it = pb.Instance(
        service="player", id="one", host="h", port=1, version="2", weight=7, tags=["a"], metadata={"k": "v"}
    )
    data = written(it, "eu")
    assert is_of(data, "eu")
    assert not is_of(data, "us")
    assert taken("player", "one", data, "eu", "default") is None
    it.namespace = "default"
    assert taken("player", "one", data, "us", "default") == it
