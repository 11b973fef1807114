"""No living owner is ever removed: etcd that freezes and comes back, a replica cut off from it, one that starts
meanwhile, one that stands still. Each test fails if any view of any replica ever lacks one of the living."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from tests.conftest import ServerFactory
from tests.support.etcd import EtcdCluster
from tests.support.proxy import Proxy
from tests.support.raw import Owner, RawClient, Watching, clients, refusal, retry_info
from tests.support.servers import RegistryServer
from tests.support.views import NAMES, at_work, shows_all
from tests.support.waiting import passed, until

LIVING = ["a", "b", "c", "d"]
# The ticks of etcd and of the servers, and what a busy machine may add.
SLACK_S = 3.0


@contextlib.asynccontextmanager
async def pair_on(
    factory: ServerFactory, *urls: str, ttl_s: float
) -> AsyncIterator[tuple[list[RegistryServer], list[Owner], list[Watching]]]:
    """A server for each store URL, owners that know all of them and are spread over them, and a watch of each server,
    none of which ever lacks one of the living."""
    servers = [await factory(store=url, name=f"replica-{number}").start_async() for number, url in enumerate(urls)]
    async with clients(*(it.address for it in servers)) as them, contextlib.AsyncExitStack() as stack:
        owners = [
            await stack.enter_async_context(
                Owner(
                    them[number % len(them)],
                    name,
                    9000 + number,
                    ttl_s=ttl_s,
                    others=[*them[number % len(them) + 1 :], *them[: number % len(them)]],
                )
            )
            for number, name in enumerate(LIVING)
        ]
        watches = [await stack.enter_async_context(client.watching()) for client in them]
        for watch in watches:
            await watch.wait_ids(*LIVING)
        yield servers, owners, watches
        assert_never_without(watches)
        assert [owner.lost for owner in owners] == [None] * len(owners)


def assert_never_without(watches: Sequence[Watching]) -> None:
    """Once they were all there, no view lacked any of them."""
    for watch in watches:
        first = next(number for number, step in enumerate(watch.steps) if step.ids >= set(LIVING))
        assert all(step.ids >= set(LIVING) for step in watch.steps[first:]), [sorted(it.ids) for it in watch.steps]


async def all_are_renewed(owners: Sequence[Owner]) -> None:
    told = {owner.id: len(owner.states) for owner in owners}
    await asyncio.gather(*(it.wait_state(pb.Renewal.RENEWED, after=told[it.id], timeout_s=30) for it in owners))


async def freeze(etcd: EtcdCluster, for_s: float) -> None:
    """SIGSTOP, and SIGCONT after so long."""
    etcd.nodes[0].stop()
    try:
        await passed(for_s)
    finally:
        etcd.nodes[0].cont()


# ---- etcd freezes


@pytest.mark.parametrize(("ttl_s", "frozen_s"), [(2.0, 3.0), (3.0, 3.6), (2.0, 8.0)])
async def test_etcd_freezes_for_longer_than_a_ttl(
    server_factory: ServerFactory, etcd: EtcdCluster, ttl_s: float, frozen_s: float
) -> None:
    """Also when that is too short for the outage to be noticed by anything but the first word after it."""
    async with pair_on(server_factory, etcd.url(), etcd.url(), ttl_s=ttl_s) as (_, owners, _):
        for _ in range(2 if frozen_s < 2 * ttl_s else 1):
            await freeze(etcd, frozen_s)
            await passed(ttl_s + SLACK_S)
            await all_are_renewed(owners)


async def test_etcd_freezes_again_as_soon_as_it_is_back(server_factory: ServerFactory, etcd: EtcdCluster) -> None:
    """The first return starts no clock that runs on during the second outage."""
    ttl_s = 3.0
    async with pair_on(server_factory, etcd.url(), etcd.url(), ttl_s=ttl_s) as (_, owners, _):
        for back_s in (0.15, 0.5, 0.15):
            await freeze(etcd, 2 * ttl_s)
            await passed(back_s)
        await freeze(etcd, 2 * ttl_s)
        await passed(ttl_s + SLACK_S)
        await all_are_renewed(owners)


async def test_dead_are_removed_when_the_outages_are_over(server_factory: ServerFactory, etcd: EtcdCluster) -> None:
    """Being ill is no way to live for ever."""
    ttl_s = 3.0
    async with pair_on(server_factory, etcd.url(), etcd.url(), ttl_s=ttl_s) as (servers, _, watches):
        async with RawClient(servers[0].address) as client:
            await client.register("mortal", 7001, ttl_s=ttl_s)
        for _ in range(2):
            await freeze(etcd, 2 * ttl_s)
            await passed(0.15)
        for watch in watches:
            await watch.wait_ids(*LIVING, timeout_s=2 * ttl_s + 2 * SLACK_S)


# ---- one replica is cut off


@pytest.mark.parametrize("how", ["frozen", "cut"])
async def test_replica_cut_off_from_the_store_ends_its_renewals(
    server_factory: ServerFactory, etcd: EtcdCluster, how: str
) -> None:
    """HELD is what one replica knows. Others count on, so it sends those who renew there away, with a pause."""
    ttl_s = 6.0
    async with Proxy(etcd.nodes[0].endpoint) as proxy:
        server = await server_factory(store=etcd.url(at=[proxy.address]), name="cut-off").start_async()
        async with RawClient(server.address) as client:
            lease_id = (await client.register("a", 8001, ttl_s=ttl_s)).lease_id
            await break_way(proxy, how)
            began = time.monotonic()
            states = await states_until_refused(client, lease_id)
            assert time.monotonic() - began < 2 * ttl_s / 3
            assert set(states) <= {pb.Renewal.RENEWED, pb.Renewal.HELD}
            again = await refusal(client.renew(lease_id), grpc.StatusCode.UNAVAILABLE)
            assert 0 < retry_info(again) <= ttl_s / 6
            assert (await client.list()).header.HasField("stale_for")
            await proxy.restore()
            await until(lambda: is_renewed(client, lease_id), what="it renews again")


async def break_way(proxy: Proxy, how: str) -> None:
    if how == "cut":
        await proxy.cut()
    else:
        proxy.freeze()


async def states_until_refused(client: RawClient, lease_id: str) -> list[int]:
    """The answers to renewals until there is none."""
    states: list[int] = []
    while True:
        try:
            states.append((await client.renew_one(lease_id)).state)
        except grpc.aio.AioRpcError:
            return states
        await passed(0.2)


async def is_renewed(client: RawClient, lease_id: str) -> bool:
    with contextlib.suppress(grpc.aio.AioRpcError):
        return (await client.renew_one(lease_id)).state == pb.Renewal.RENEWED
    return False


@pytest.mark.parametrize("how", ["frozen", "cut"])
async def test_owners_of_a_replica_that_is_cut_off_live_on_at_the_others(
    server_factory: ServerFactory, etcd: EtcdCluster, how: str
) -> None:
    ttl_s = 4.5
    async with (
        Proxy(etcd.nodes[0].endpoint) as proxy,
        pair_on(server_factory, etcd.url(at=[proxy.address]), etcd.url(), ttl_s=ttl_s) as (_, owners, _),
    ):
        await break_way(proxy, how)
        await passed(3 * ttl_s)
        await all_are_renewed(owners)
        await proxy.restore()
        await passed(ttl_s + SLACK_S)


@pytest.mark.parametrize("how", ["frozen", "cut"])
async def test_clients_of_a_replica_that_is_cut_off_live_on_at_the_others(
    server_factory: ServerFactory, etcd: EtcdCluster, how: str
) -> None:
    """The same with registry_client. The other replica's view, and those of all who watch, never lack any of them."""
    ttl_s = 4.5
    async with Proxy(etcd.nodes[0].endpoint) as proxy:
        urls = etcd.url(at=[proxy.address]), etcd.url()
        cut, whole = [
            await server_factory(store=url, name=f"replica-{number}").start_async() for number, url in enumerate(urls)
        ]
        whole.kill()  # so that all begin at the other one
        async with (
            at_work(cut.address, whole.address, ttl_s=ttl_s) as (registrations, _),
            RawClient((await whole.start_async()).address) as client,
            client.watching() as watch,
        ):
            await watch.wait_ids(*NAMES)
            await break_way(proxy, how)
            await passed(3 * ttl_s)
            assert {step.ids for step in watch.steps} == {frozenset(NAMES)}
            await shows_all(registrations, whole.address)
            await proxy.restore()
            await passed(ttl_s + SLACK_S)
            assert {step.ids for step in watch.steps} == {frozenset(NAMES)}


# ---- a server starts


@pytest.mark.parametrize("starts", ["during", "after"])
@pytest.mark.parametrize("alone", [True, False])
async def test_server_that_starts_over_an_outage_knows_the_living(
    server_factory: ServerFactory, etcd: EtcdCluster, starts: str, alone: bool
) -> None:
    """Their leases ran out while nobody could renew them. It shows them when its port opens, and until they are back.

    `alone`: all servers were down while the leases ran out.
    """
    ttl_s = 3.0
    async with pair_on(server_factory, etcd.url(), etcd.url(), ttl_s=ttl_s) as (servers, owners, watches):
        await passed(2 * SLACK_S)  # the view is vouched for
        if alone:
            assert_never_without(watches)
            for server in servers:
                server.kill()
        late = server_factory(store=etcd.url(), name="late")
        etcd.nodes[0].stop()
        await passed(2 * ttl_s)
        # All at once, or on a slow machine the last is there when those who call on it have been given up.
        starting = asyncio.gather(*(server.start_async() for server in (late, *(servers if alone else ()))))
        if starts == "during":
            await passed(1.0)
        etcd.nodes[0].cont()
        await starting
        async with RawClient(late.address) as client, client.watching() as watch:
            await watch.wait_started()
            assert watch.ids >= set(LIVING)
            await passed(ttl_s + SLACK_S)
            await all_are_renewed(owners)
            assert_never_without([watch])


# ---- a server stands still


async def test_server_that_stood_still_removes_nobody(server_factory: ServerFactory, etcd: EtcdCluster) -> None:
    """The only one: nobody could renew, and when it goes on it is told that all have expired."""
    ttl_s = 3.0
    async with pair_on(server_factory, etcd.url(), ttl_s=ttl_s) as (servers, owners, _):
        for still_s in (0.9 * ttl_s, 3 * ttl_s):
            servers[0].pause()
            await passed(still_s)
            servers[0].resume()
            await passed(ttl_s + SLACK_S)
            await all_are_renewed(owners)


async def test_embedded_server_that_stood_still_removes_nobody(server_factory: ServerFactory) -> None:
    ttl_s = 2.0
    async with pair_on(server_factory, "memory:", ttl_s=ttl_s) as (servers, owners, _):
        for still_s in (0.9 * ttl_s, 4 * ttl_s, 0.5):
            servers[0].pause()
            await passed(still_s)
            servers[0].resume()
            await passed(ttl_s + SLACK_S)
            await all_are_renewed(owners)


async def test_server_that_stood_still_calls_no_old_view_good(server_factory: ServerFactory, etcd: EtcdCluster) -> None:
    """What it shows first says how old it is; what changed meanwhile is shown by the first that does not."""
    still_s = 8.0
    urls = [etcd.url(), etcd.url()]
    still, other = [await server_factory(store=url, name=f"replica-{n}").start_async() for n, url in enumerate(urls)]
    async with clients(still.address, other.address) as (client, writer):
        await writer.register("before", 7001)
        async with client.watching() as watch:
            await watch.wait_ids("before")
            still.pause()
            await passed(still_s)
            await writer.deregister("before")
            answers = [asyncio.create_task(client.list()) for _ in range(20)]
            still.resume()
            for answer in await asyncio.gather(*answers):
                is_old = bool(answer.instances)
                assert answer.header.HasField("stale_for") or not is_old
                assert not is_old or answer.header.stale_for.ToNanoseconds() / 1e9 >= still_s
            await watch.wait(lambda: not watch.ids and watch.stale_for_s is None, "it is up to date")
        assert "stood still" in still.log_text


async def test_view_is_confirmed_though_only_others_write(server_factory: ServerFactory, etcd: EtcdCluster) -> None:
    """etcd is not the registry's alone, and an old one does not say in order how far it is."""
    server = await server_factory(store=etcd.url()).start_async()
    async with RawClient(server.address) as client, client.watching() as watch, contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(ended, asyncio.create_task(write_beside(etcd)))
        await watch.wait_started()
        server.pause()
        await passed(5.0)
        server.resume()
        await watch.wait(lambda: watch.stale_for_s is not None, "it says that it is old")
        await watch.wait(lambda: watch.stale_for_s is None, "it is confirmed")


async def write_beside(etcd: EtcdCluster) -> None:
    while True:
        await etcd.etcdctl_async("put", "/somebody/else", "x")


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def test_age_of_the_view_counts_from_the_last_word_of_the_store(
    server_factory: ServerFactory, etcd: EtcdCluster
) -> None:
    server = await server_factory(store=etcd.url()).start_async()
    async with RawClient(server.address) as client, client.watching() as watch:
        await client.register("a", 7001)
        await watch.wait_ids("a")
        etcd.nodes[0].stop()
        frozen_at = time.monotonic()
        try:
            await watch.wait(lambda: watch.stale_for_s is not None, "the outage is noticed", timeout_s=30)
            answer = await client.list()
            asked_at = time.monotonic()
            assert answer.header.stale_for.ToNanoseconds() / 1e9 >= asked_at - frozen_at - 0.5
        finally:
            etcd.nodes[0].cont()
        await watch.wait(lambda: watch.stale_for_s is None, "it is confirmed again")


# ---- what is said of it


async def test_outage_is_two_lines_in_the_log(server_factory: ServerFactory, etcd: EtcdCluster) -> None:
    server = await server_factory(store=etcd.url()).start_async()
    async with RawClient(server.address) as client:
        before = len(server.log_lines)
        etcd.kill()
        await until(lambda: is_stale(client), what="the outage is noticed")
        async with asyncio.TaskGroup() as tasks:
            asked = [client.register(f"p{number}", 9000 + number) for number in range(50)]
            refused = [tasks.create_task(refusal(it, grpc.StatusCode.UNAVAILABLE)) for it in asked]
            await passed(5.0)
        await etcd.start_async()
        await until(lambda: is_fresh(client), timeout_s=20, what="it is over")
        said = server.log_lines[before:]
        assert len(said) == 2, said
        assert "the store is away" in said[0]
        assert "the store is back" in said[1]
        assert int(said[1].partition("s; ")[2].partition(" calls")[0]) >= len(refused)


async def is_stale(client: RawClient) -> bool:
    return (await client.list()).header.HasField("stale_for")


async def is_fresh(client: RawClient) -> bool:
    return not await is_stale(client)
