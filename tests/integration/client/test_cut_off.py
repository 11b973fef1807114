"""A registry whose replicas disagree: one is cut off from the store, hangs, or is behind, and the others are not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import RegistryClient, State
from tests.conftest import ServerFactory
from tests.integration.client.conftest import ids, player, recording
from tests.support.etcd import EtcdCluster
from tests.support.fake_registry import FakeRegistry, Store, fail, header, serving
from tests.support.proxy import Proxy
from tests.support.waiting import eventually_async, passed

TTL_S = 6.0
NAMES = [f"p{number}" for number in range(8)]


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path) as cluster:
        yield cluster


@pytest.mark.parametrize("how", ["cut", "freeze"])
async def test_held_on_one_replica_is_renewed_on_another(
    etcd: EtcdCluster, server_factory: ServerFactory, how: str
) -> None:
    """The first replica loses its way to the store, the second does not. Nobody is thrown out, on either."""
    async with contextlib.AsyncExitStack() as stack:
        url = etcd.url()
        host = url.partition("://")[2].partition(",")[0].partition("?")[0].rstrip("/")
        way = await stack.enter_async_context(Proxy(host))
        first = await server_factory(store=url.replace(host, way.address)).start_async()
        second = server_factory(store=url)
        await second.start_async()
        second.pause()  # so that all begin at the first
        clients = [
            await stack.enter_async_context(
                registry_client.connect([first.address, second.address], cache_dir=None, timeout=20)
            )
            for _ in NAMES
        ]
        registrations = [
            await stack.enter_async_context(client.register(player(name, port), ttl=TTL_S))
            for port, (name, client) in enumerate(zip(NAMES, clients, strict=True), 8001)
        ]
        second.resume()
        observer = await stack.enter_async_context(registry_client.connect(second.address, cache_dir=None))
        recorder = await stack.enter_async_context(recording(observer.watch("player")))
        await recorder.wait(lambda view: ids(view) == NAMES)
        recorder.views.clear()
        if how == "cut":
            await way.cut()
        else:
            way.freeze()
        await passed(3 * TTL_S)
        assert [ids(view) for view in recorder.views if ids(view) != NAMES] == []
        assert [it.state for it in registrations] == [State.REGISTERED] * len(NAMES)
        assert [it.invisible_for for it in registrations] == [None] * len(NAMES)
        await way.restore()


# ---- with replicas that say what they are told to


def held(answer: pb.KeepAliveResponse, _: object) -> None:
    for renewal in answer.renewals:
        renewal.state = pb.Renewal.HELD


def stale(answer: pb.KeepAliveResponse | pb.GetResponse | pb.ListResponse, _: object) -> None:
    answer.header.CopyFrom(header(answer.header.revision, stale_s=30))


@pytest.fixture
async def replicas() -> list[FakeRegistry]:
    """Two that share what is registered."""
    store = Store()
    return [FakeRegistry(store=store), FakeRegistry(store=store)]


@pytest.fixture
async def client(replicas: list[FakeRegistry]) -> AsyncIterator[RegistryClient]:
    async with (
        serving(replicas[0]) as one,
        serving(replicas[1]) as other,
        registry_client.connect([one, other], cache_dir=None) as client,
    ):
        yield client
        for replica in replicas:
            replica.spoil.clear()


def renewed_at(replicas: list[FakeRegistry]) -> FakeRegistry:
    return max(replicas, key=lambda replica: replica.calls["renewal"])


CUT_OFF = {
    "held": {"renewal": held},
    "stale": {"renewal": stale},
    "unavailable": {"renewal": fail(grpc.StatusCode.UNAVAILABLE)},
}


@pytest.mark.parametrize("what", CUT_OFF)
async def test_who_cannot_tell_for_a_third_of_a_ttl_is_left_for_another(
    replicas: list[FakeRegistry], client: RegistryClient, what: str
) -> None:
    async with client.register(player("p1"), ttl=3, drain=0) as registration:
        await eventually_async(lambda: renewed_at(replicas).calls["renewal"] > 0)
        one = renewed_at(replicas)
        [other] = [replica for replica in replicas if replica is not one]
        one.spoil |= CUT_OFF[what]
        async with asyncio.timeout(3.0):  # a ttl
            await eventually_async(lambda: other.calls["renewal"] > 0)
        await passed(3.5)
        assert registration.state is State.REGISTERED
        assert registration.invisible_for is None
        # It stays with the one that can tell.
        assert one.calls["KeepAlive"] <= 3


@pytest.mark.parametrize("what", CUT_OFF)
async def test_when_nobody_can_tell_the_client_does_not_say_that_all_is_well(
    replicas: list[FakeRegistry], client: RegistryClient, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All are asked in turn, with pauses; after a ttl it says what it knows, which is nothing."""
    async with client.register(player("p1"), ttl=3, drain=0) as registration:
        for replica in replicas:
            replica.spoil |= {**CUT_OFF[what], "Get": stale, "List": stale}
        await eventually_async(lambda: registration.state is State.DOUBTED)
        assert (registration.invisible_for or 0) >= 2.9
        await passed(3.0)
        assert registration.state is State.DOUBTED
        assert registration.trouble
        assert all(replica.calls["KeepAlive"] >= 1 for replica in replicas)
        assert sum(replica.calls["KeepAlive"] for replica in replicas) <= 40
        assert len([it for it in caplog.records if it.levelname == "WARNING"]) == 1
        for replica in replicas:
            replica.spoil.clear()
        await eventually_async(lambda: registration.state is State.REGISTERED and registration.invisible_for is None)
        assert sum(replica.calls["Register"] for replica in replicas) == 1  # nothing was lost


async def test_a_look_at_a_view_that_is_old_or_behind_proves_nothing(
    replicas: list[FakeRegistry], client: RegistryClient
) -> None:
    def short(answer: pb.KeepAliveResponse, _: object) -> None:
        for renewal in answer.renewals:
            renewal.instances = 0

    def behind(answer: pb.GetResponse, _: object) -> None:
        answer.header.revision = 0

    async with client.register(player("p1"), ttl=3, drain=0) as registration:
        for replica, spoil in zip(replicas, (stale, behind), strict=True):
            replica.spoil |= {"renewal": short, "Get": spoil, "List": spoil}
        await eventually_async(lambda: all(replica.calls["Get"] > 0 for replica in replicas))
        assert registration.state is State.DOUBTED
        assert sum(replica.calls["Register"] for replica in replicas) == 1
        replicas[1].spoil.clear()  # one that knows is found
        await eventually_async(lambda: registration.state is State.REGISTERED)


async def test_who_answers_tells_how_old_its_view_is(replicas: list[FakeRegistry], client: RegistryClient) -> None:
    assert client.stale_for is None
    for replica in replicas:
        replica.spoil["List"] = stale
    await client.list("player")
    assert 30.0 <= (client.stale_for or 0) < 31.0
    for replica in replicas:
        replica.spoil.clear()
    await client.list("player")
    assert client.stale_for is None
