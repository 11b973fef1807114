"""An etcd that is gone for three ttls and comes back, with its data or without: nobody's list ever gets shorter."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import grpc
import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from tests.conftest import ServerFactory
from tests.support.etcd import EtcdCluster
from tests.support.raw import Owner, RawClient, Watching, clients, owners, refusal, retry_info
from tests.support.waiting import passed, until

TTL_S = 3.0
OUTAGE_S = 3 * TTL_S
# A write that was under way when etcd went has a second and a half, and what a busy machine may add.
WRITE_S = 1.5 + 4.0
LIVING = ["a", "b", "c", "d", "e"]


async def writes_are_refused(client: RawClient) -> None:
    """Every kind of write is UNAVAILABLE, soon, and says when to try again."""
    writes: list[Callable[[], Awaitable[object]]] = [
        lambda: client.register("new", 7001),
        lambda: client.update("a", weight=7),
        lambda: client.deregister("a"),
        lambda: client.deregister("b", drain_s=1),
    ]
    for write in writes:
        began = time.monotonic()
        error = await refusal(write(), grpc.StatusCode.UNAVAILABLE)
        assert time.monotonic() - began < WRITE_S
        assert retry_info(error) > 0
        assert "store" in (error.details() or "")


async def reads_go_on(client: RawClient, names: list[str]) -> float:
    """List and a new Watch answer from the last view and say how old it is; so many seconds, by List."""
    listed = await client.list()
    assert {instance.id for instance in listed.instances} == set(names)
    assert listed.header.HasField("stale_for")
    async with client.watching() as late:
        await late.wait_started()
        assert late.ids == set(names)
        assert late.stale_for_s is not None
    return listed.header.stale_for.ToNanoseconds() / 1e9


async def renewals_are_held(held: list[Owner]) -> None:
    """All owners go on renewing, and are told that nobody knows."""
    await asyncio.gather(*(owner.wait_state(pb.Renewal.HELD) for owner in held))
    assert all(pb.Renewal.UNKNOWN not in owner.states for owner in held)


async def same_ids(client: RawClient, names: list[str]) -> bool:
    return await client.ids() == set(names)


def never_without(watch: Watching, names: list[str]) -> None:
    """Once they were all there, no view lacked any of them."""
    first = next(number for number, step in enumerate(watch.steps) if step.ids >= set(names))
    lacking = [sorted(set(names) - step.ids) for step in watch.steps[first:] if not step.ids >= set(names)]
    assert not lacking, lacking


@pytest.mark.parametrize("how", ["kept", "wiped"])
async def test_etcd_is_gone_for_three_ttls(server_factory: ServerFactory, etcd: EtcdCluster, how: str) -> None:
    server = await server_factory(store=etcd.url()).start_async()
    names = [*LIVING, "mortal"]
    async with RawClient(server.address) as client, contextlib.AsyncExitStack() as stack:
        held = await owners(stack, client, names, ttl_s=TTL_S)
        watches = [await stack.enter_async_context(client.watching()) for _ in range(3)]
        for watch in watches:
            await watch.wait_ids(*names)
        epoch = watches[0].epoch
        first = {owner.id: owner.generation for owner in held}

        etcd.kill()
        gone_at = time.monotonic()
        await writes_are_refused(client)
        await held.pop().stop()  # one dies meanwhile
        await renewals_are_held(held)
        young_s = await reads_go_on(client, names)
        await passed(gone_at + OUTAGE_S - time.monotonic())
        await writes_are_refused(client)
        old_s = await reads_go_on(client, names)
        assert old_s > OUTAGE_S - TTL_S
        assert old_s > young_s
        assert [len(step.names) for watch in watches for step in watch.steps if step.at > gone_at] == []

        told = {owner.id: len(owner.states) for owner in held}
        if how == "wiped":
            etcd.nodes[0].wipe()
        await etcd.start_async()
        await asyncio.gather(*(owner.wait_state(pb.Renewal.RENEWED, after=told[owner.id]) for owner in held))
        # Who does not come back is let go: of a lease that has its whole ttl again, after one ttl of grace.
        for watch in watches:
            await watch.wait_ids(*LIVING, timeout_s=2 * TTL_S + 4)
            never_without(watch, LIVING)
        listed = await client.list()
        assert not listed.header.HasField("stale_for")
        assert (listed.header.epoch != epoch) == (how == "wiped")
        assert all(owner.registrations == (2 if how == "wiped" else 1) for owner in held)
        generations = {owner.id: owner.generation for owner in held}
        assert {instance.id: instance.generation for instance in listed.instances} == generations, (
            "they are who they were"
        )
        assert all((generations[id_] > first[id_]) == (how == "wiped") for id_ in generations)

        # What is in etcd is what one sees who comes now; or it is so after one ttl of grace, as for all who were there.
        fresh = await server_factory(store=etcd.url()).start_async()
        async with RawClient(fresh.address) as newcomer:
            assert await newcomer.ids() >= set(LIVING)
            await until(lambda: same_ids(newcomer, LIVING), timeout_s=2 * TTL_S + 4)
        assert await client.ids() == set(LIVING)
        assert (await client.register("new", 7001)).header.epoch == listed.header.epoch


async def test_etcd_comes_and_goes(server_factory: ServerFactory, etcd: EtcdCluster) -> None:
    """Several short outages on end: nobody is lost, and nobody stays who is dead."""
    server = await server_factory(store=etcd.url()).start_async()
    async with RawClient(server.address) as client, contextlib.AsyncExitStack() as stack:
        held = await owners(stack, client, LIVING, ttl_s=TTL_S)
        watch = await stack.enter_async_context(client.watching())
        await watch.wait_ids(*LIVING)
        for _ in range(2):
            told = {owner.id: len(owner.states) for owner in held}
            etcd.kill()
            await asyncio.gather(*(owner.wait_state(pb.Renewal.HELD, after=told[owner.id]) for owner in held))
            told = {owner.id: len(owner.states) for owner in held}
            await etcd.start_async()
            await asyncio.gather(*(owner.wait_state(pb.Renewal.RENEWED, after=told[owner.id]) for owner in held))
        await held.pop().stop()
        await watch.wait_ids(*LIVING[:-1], timeout_s=2 * TTL_S + 4)
        never_without(watch, LIVING[:-1])
        assert all(owner.registrations == 1 for owner in held)


@pytest.mark.parametrize("how", ["kept", "wiped"])
async def test_etcd_of_two_servers_is_gone(server_factory: ServerFactory, etcd: EtcdCluster, how: str) -> None:
    """Half of the owners are at either server: both keep everybody, and agree again when etcd is back."""
    servers = [await server_factory(store=etcd.url(), name=f"replica-{number}").start_async() for number in (1, 2)]
    async with clients(*(server.address for server in servers)) as pair, contextlib.AsyncExitStack() as stack:
        held = [
            await stack.enter_async_context(Owner(pair[number % 2], name, 9000 + number, ttl_s=TTL_S))
            for number, name in enumerate(LIVING)
        ]
        watches = [await stack.enter_async_context(client.watching()) for client in pair]
        for watch in watches:
            await watch.wait_ids(*LIVING)
        told = {owner.id: len(owner.states) for owner in held}
        etcd.kill()
        await renewals_are_held(held)
        await etcd.restart_async(wiped=how == "wiped")
        await asyncio.gather(*(owner.wait_state(pb.Renewal.RENEWED, after=told[owner.id]) for owner in held))
        await passed(TTL_S + 1)
        for watch in watches:
            assert watch.ids == set(LIVING)
            never_without(watch, LIVING)
        assert watches[0].epoch == watches[1].epoch
        assert watches[0].view == watches[1].view


class Writer:
    """Registers one instance over and over, and notes how every try ended and how long the longest took."""

    def __init__(self, client: RawClient, number: int) -> None:
        self.codes: set[grpc.StatusCode] = set()
        self.longest_s = 0.0
        self._client = client
        self._number = number

    async def run(self, until: asyncio.Event) -> None:
        while not until.is_set():
            began = time.monotonic()
            try:
                await self._client.register(f"id-{self._number}", 7000 + self._number)
            except grpc.aio.AioRpcError as error:
                self.codes.add(error.code())
            self.longest_s = max(self.longest_s, time.monotonic() - began)


async def test_writes_under_way_have_an_end(server_factory: ServerFactory, etcd: EtcdCluster) -> None:
    """Whatever a write is doing when etcd goes, it is answered soon."""
    server = await server_factory(store=etcd.url()).start_async()
    async with RawClient(server.address) as client:
        for _ in range(3):
            writers, stopping = [Writer(client, number) for number in range(30)], asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                for writer in writers:
                    tasks.create_task(writer.run(stopping))
                await passed(0.5)
                etcd.kill()
                await passed(0.5)
                stopping.set()
            assert {code for writer in writers for code in writer.codes} == {grpc.StatusCode.UNAVAILABLE}
            assert max(writer.longest_s for writer in writers) < WRITE_S
            await etcd.start_async()
            await until(lambda: writes_again(client), what="writes go on")


async def writes_again(client: RawClient) -> bool:
    """Whether a write is taken."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        await client.register("id-0", 7000)
        return True
    return False
