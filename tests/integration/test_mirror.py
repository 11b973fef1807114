"""Servers on a mirror of real stores: an etcd and a file die and come back, and so does the server itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import grpc
import pytest

from tests.conftest import ServerFactory
from tests.support.etcd import EtcdCluster
from tests.support.raw import Owner, RawClient
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async, passed, until

TTL_S = 3.0


@pytest.fixture
async def etcds(tmp_path: Path) -> AsyncIterator[list[EtcdCluster]]:
    """Two of them, of one node each, to be killed."""
    made = []
    try:
        for name in ("one", "two"):
            (home := tmp_path / name).mkdir()
            made.append(await EtcdCluster(home).start_async())
        yield made
    finally:
        for etcd in made:
            etcd.kill()


def mirror(path: Path, etcds: list[EtcdCluster]) -> str:
    return f"mirror:{etcds[0].url()}|sqlite:{path / 'registry.db'}|{etcds[1].url()}"


async def takes(client: RawClient, name: str, port: int) -> bool:
    with contextlib.suppress(grpc.aio.AioRpcError):
        await client.register(name, port, ttl_s=600)
        return True
    return False


async def test_one_store_may_die_at_any_time(
    server_factory: ServerFactory, tmp_path: Path, etcds: list[EtcdCluster]
) -> None:
    """First one etcd, then the other: what was registered without the one is in it when the other is gone."""
    server = await server_factory(store=mirror(tmp_path, etcds)).start_async()
    async with (
        RawClient(server.address) as client,
        client.watching() as watch,
        Owner(client, "alive", 7001, ttl_s=TTL_S) as owner,
    ):
        for number, etcd in enumerate(etcds):
            etcd.kill()
            await until(partial(takes, client, f"without-{number}", 8001 + number), what="a registration")
            await etcd.restart_async()
            await eventually_async(partial(lost, server, number + 1), what="that it was noticed")
            await holds(etcd, f"without-{number}")
        await passed(1.5 * TTL_S)
        await watch.wait_ids("alive", "without-0", "without-1")
        assert owner.registrations == 1
        assert {step.epoch for step in watch.steps} == {watch.epoch}
        assert not any(step.removed for step in watch.steps)


def lost(server: RegistryServer, times: int) -> bool:
    return server.log_text.count("is away from the mirror") >= times


async def holds(etcd: EtcdCluster, name: str) -> None:
    """It comes to have the record of that instance."""

    async def look() -> bool:
        return name in await etcd.etcdctl_async("get", "--keys-only", "--prefix", "/")

    await until(look, what=f"{name} in an etcd that was away")


async def test_too_few_stores_empty_nobodys_list(
    server_factory: ServerFactory, tmp_path: Path, etcds: list[EtcdCluster]
) -> None:
    server = await server_factory(store=mirror(tmp_path, etcds)).start_async()
    async with (
        RawClient(server.address) as client,
        client.watching() as watch,
        Owner(client, "alive", 7001, ttl_s=TTL_S) as owner,
    ):
        await client.register("dead", 7002, ttl_s=TTL_S)
        await watch.wait_ids("alive", "dead")
        for etcd in etcds:
            etcd.kill()
        await passed(1.5 * TTL_S)
        assert not await takes(client, "new", 7003)
        assert watch.ids == {"alive", "dead"}
        await etcds[0].restart_async()
        await until(lambda: takes(client, "new", 7003), timeout_s=20, what="the end of the outage")
        await watch.wait_ids("alive", "new")
        assert owner.registrations == 1


async def test_a_server_that_stands_by_takes_over(server_factory: ServerFactory, etcds: list[EtcdCluster]) -> None:
    """With all that was registered; the first one finds out, and stands by in its turn."""
    url = f"mirror:{etcds[0].url()}|{etcds[1].url()}"  # a file is one server's
    first = await server_factory(store=url, name="first").start_async()
    second = server_factory(store=url, name="second")
    async with RawClient(first.address) as client:
        before = await client.register("one", 7001, ttl_s=600)
        starting = asyncio.create_task(second.start_async(60))
        await passed(3)
        assert not starting.done(), "it stands by"
        first.pause()
        await starting
        async with RawClient(second.address) as other:
            assert list((await other.list()).instances) == [before.instance]
            await other.register("two", 7002, ttl_s=600)
            first.resume()
            await until(lambda: refuses(client), timeout_s=20, what="that the first one stands by")
            assert await other.ids() == {"one", "two"}
        await terminated(second)
        await until(lambda: takes(client, "three", 7003), timeout_s=30, what="that the first one writes again")
        assert await client.ids() == {"one", "two", "three"}


async def refuses(client: RawClient) -> bool:
    return not await takes(client, "refused", 7004)


async def terminated(server: RegistryServer) -> None:
    assert await server.terminate_async() == 0
