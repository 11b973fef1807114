"""No living owner is thrown out: etcd silent for longer than a short time to live, a server that starts during an
outage, one client that asks for everything."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import Instance, Registration, State
from tests.conftest import ServerFactory
from tests.support.etcd import EtcdCluster
from tests.support.raw import Owner, RawClient, Watching, clients
from tests.support.waiting import eventually_async, passed

NAMES = [f"p{number}" for number in range(10)]
CROWD = 10_000


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@contextlib.asynccontextmanager
async def registered(ttl_s: float, *addresses: str) -> AsyncIterator[list[Registration]]:
    """NAMES, each of its own client."""
    async with contextlib.AsyncExitStack() as stack:
        owners = []
        for port, name in enumerate(NAMES, 8000):
            client = await stack.enter_async_context(registry_client.connect(*addresses))
            instance = Instance(service="player", host="10.0.0.5", port=port, id=name)
            owners.append(await stack.enter_async_context(client.register(instance, ttl=ttl_s)))
        yield owners


def never_without(watch: Watching, names: list[str]) -> None:
    """Once they were all there, no view lacked any of them."""
    first = next(number for number, step in enumerate(watch.steps) if step.ids >= set(names))
    lacking = [sorted(set(names) - step.ids) for step in watch.steps[first:] if not step.ids >= set(names)]
    assert not lacking, lacking


@pytest.mark.parametrize(("ttl_s", "frozen_s"), [(2.0, 3.0), (3.0, 3.6)])
async def test_etcd_is_silent_for_longer_than_a_short_ttl(
    server_factory: ServerFactory, etcd: EtcdCluster, ttl_s: float, frozen_s: float
) -> None:
    servers = [await server_factory(store=etcd.url(), name=f"replica-{number}").start_async() for number in (1, 2)]
    async with clients(*(server.address for server in servers)) as pair, contextlib.AsyncExitStack() as stack:
        # All owners are at the one server; the other has nothing but its watch to go by.
        owners = await stack.enter_async_context(registered(ttl_s, servers[0].address))
        watches = [await stack.enter_async_context(client.watching()) for client in pair]
        for watch in watches:
            await watch.wait_ids(*NAMES)
        for _ in range(2):
            etcd.nodes[0].stop()
            try:
                await passed(frozen_s)
            finally:
                etcd.nodes[0].cont()
            await passed(2 * ttl_s)
            for watch in watches:
                never_without(watch, NAMES)
        await eventually_async(lambda: all(owner.state is State.REGISTERED for owner in owners))
        for client in pair:
            assert await client.ids() == set(NAMES)


@pytest.mark.parametrize(("ttl_s", "frozen_s"), [(2.0, 2.2), (2.0, 3.0), (3.0, 3.6)])
async def test_the_same_for_owners_that_do_what_the_proto_says(
    server_factory: ServerFactory, etcd: EtcdCluster, ttl_s: float, frozen_s: float
) -> None:
    servers = [await server_factory(store=etcd.url(), name=f"replica-{number}").start_async() for number in (1, 2)]
    async with clients(*(server.address for server in servers)) as pair, contextlib.AsyncExitStack() as stack:
        for port, name in enumerate(NAMES, 8000):
            await stack.enter_async_context(Owner(pair[0], name, port, ttl_s=ttl_s))
        watches = [await stack.enter_async_context(client.watching()) for client in pair]
        for watch in watches:
            await watch.wait_ids(*NAMES)
        etcd.nodes[0].stop()
        try:
            await passed(frozen_s)
        finally:
            etcd.nodes[0].cont()
        await passed(3 * ttl_s)
        for watch in watches:
            never_without(watch, NAMES)
        for client in pair:
            assert await client.ids() == set(NAMES)


async def test_a_server_starts_just_after_an_outage(server_factory: ServerFactory, etcd: EtcdCluster) -> None:
    """All servers are gone and etcd is silent: whatever runs out, who looks afterwards sees all who live."""
    ttl_s = 3.0
    server = await server_factory(store=etcd.url()).start_async()
    async with registered(ttl_s, server.address) as owners, RawClient(server.address) as client:
        async with client.watching() as watch:
            await watch.wait_ids(*NAMES)
            epoch = (await client.list()).header.epoch
            await passed(2.5)  # a moment of peace, in which the view is vouched for
        server.kill()
        etcd.nodes[0].stop()
        try:
            await passed(ttl_s + 1)
        finally:
            etcd.nodes[0].cont()
        await passed(1.0)  # etcd ends what has run out
        await server.start_async()
        async with RawClient(server.address) as late, late.watching() as watch:
            listed = await late.list()
            assert {it.id for it in listed.instances} == set(NAMES)
            assert listed.header.epoch == epoch
            await passed(2 * ttl_s)
            never_without(watch, NAMES)
            await eventually_async(lambda: all(owner.state is State.REGISTERED for owner in owners))
            assert await late.ids() == set(NAMES)


async def test_who_is_dead_is_let_go_after_such_a_start(server_factory: ServerFactory, etcd: EtcdCluster) -> None:
    server = await server_factory(store=etcd.url()).start_async()
    async with RawClient(server.address) as client:
        for port, name in enumerate(NAMES, 8000):
            await client.register(name, port, ttl_s=3.0)
        await passed(2.5)
        server.kill()
        await passed(4.0)
        await server.start_async()
        async with RawClient(server.address) as late, late.watching() as watch:
            await watch.wait(lambda: not watch.ids, "all are gone", timeout_s=15)


@contextlib.asynccontextmanager
async def flood(address: str, streams: int) -> AsyncIterator[list[int]]:
    """KeepAlive streams that ask, twice a second, for ten thousand leases that there are not; what they hear."""
    unknown = [f"{number:016x}" + "0" * 32 for number in range(1, CROWD + 1)]
    states: list[int] = []

    async def ask(client: RawClient) -> None:
        call = client.stub.KeepAlive()
        while True:
            began = time.monotonic()
            await call.write(pb.KeepAliveRequest(lease_ids=unknown))
            answer = await call.read()
            assert isinstance(answer, pb.KeepAliveResponse)
            states.extend({renewal.state for renewal in answer.renewals})
            await passed(max(0.0, began + 0.5 - time.monotonic()))

    async with clients(*[address] * streams) as crowd:
        tasks = [asyncio.create_task(ask(client)) for client in crowd]
        try:
            yield states
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def test_one_client_that_renews_thousands_of_unknown_leases(
    server_factory: ServerFactory, etcd: EtcdCluster
) -> None:
    server = await server_factory(store=etcd.url()).start_async()
    async with RawClient(server.address) as client, contextlib.AsyncExitStack() as stack:
        owners = [
            await stack.enter_async_context(Owner(client, name, port, ttl_s=5.0))
            for port, name in enumerate(NAMES, 8000)
        ]
        watch = await stack.enter_async_context(client.watching())
        await watch.wait_ids(*NAMES)
        async with flood(server.address, 3) as states:
            await passed(9.0)
        assert set(states) == {pb.Renewal.UNKNOWN}
        never_without(watch, NAMES)
        assert {state for owner in owners for state in owner.states} == {pb.Renewal.RENEWED}
        assert all(owner.registrations == 1 for owner in owners)
