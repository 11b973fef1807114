"""Generation, the fencing token: never given twice, higher for each newer owner, whatever is restarted or forgotten."""

import asyncio
import contextlib
from itertools import pairwise
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from registry_api.registry.v1 import registry_pb2 as pb
from tests.conftest import ServerFactory
from tests.support.etcd import EtcdCluster
from tests.support.raw import Owner, RawClient, clients, detail, owners, refusal
from tests.support.servers import RegistryServer
from tests.support.stores import Backends
from tests.support.waiting import eventually_async, passed, until

ROUNDS = 20
INVALID, LOST = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


def held(it: pb.Instance) -> dict[str, Any]:
    """What an owner sends of what it was told."""
    return {"generation": it.generation, "registered_at": it.registered_at}


async def generation(client: RawClient, name: str = "one", port: int = 7001, **fields: Any) -> int:
    """That of a registration."""
    return (await client.register(name, port, **fields)).instance.generation


async def test_same_owner_keeps_it_and_every_other_has_a_higher_one(client: RawClient) -> None:
    first = await client.register("one", 7001)
    again = await client.register("one", 7002, lease_id=first.lease_id, weight=7)
    assert (again.instance.generation, again.instance.registered_at) == (
        first.instance.generation,
        first.instance.registered_at,
    )
    assert (await client.update("one", weight=3)).instance.generation == first.instance.generation
    given = [first.instance.generation]
    for is_claimed in (False, True, False):
        given.append(await generation(client, port=7003, generation=given[-1] if is_claimed else 0))
    await client.deregister("one", drain_s=5)
    (draining,) = (await client.list()).instances
    assert draining.generation == given[-1]
    given.append(await generation(client))
    assert all(one < other for one, other in pairwise(given)), given


async def test_grows_over_a_restart_while_the_id_is_free(server: RegistryServer, store: str) -> None:
    given, late = [], pb.Instance()
    for number in range(3):
        async with RawClient(server.address) as client:
            for _ in range(5):
                it = (await client.register("one", 7001 + number)).instance
                given.append(it.generation)
            late = late if number else it
            await client.deregister("one")
        await server.restart_async()
    async with RawClient(server.address) as client:
        # Nobody remembers: the owner of old may come back, but not with the number of old.
        given.append(await generation(client, **held(late)))
        newest = await client.register("one", 7009)
        given.append(newest.instance.generation)
        await refusal(client.register("one", 7001, **held(late)), LOST)
        assert (await client.renew_one(newest.lease_id)).instances == 1
    assert all(one < other for one, other in pairwise(given)), given


async def test_grows_on_a_replica_that_was_started_since(server_factory: ServerFactory, backends: Backends) -> None:
    url = backends.etcd_url()
    given = [0]
    for number in range(4):
        server = await server_factory(store=url, name=f"replica-{number}").start_async()
        async with RawClient(server.address) as client:
            for _ in range(3):
                given.append(await generation(client, generation=given[-1]))
            await client.deregister("one")
    assert all(one < other for one, other in pairwise(given)), given


@pytest.mark.parametrize("restarts", [False, True], ids=["servers-live", "servers-die-too"])
async def test_grows_over_a_wiped_etcd(server_factory: ServerFactory, etcd: EtcdCluster, restarts: bool) -> None:
    server = await server_factory(store=etcd.url()).start_async()
    async with RawClient(server.address) as client:
        before = (await client.register("one", 7001)).instance
    if restarts:
        await server.terminate_async()
    await etcd.restart_async(wiped=True)
    if restarts:
        await server.start_async()
    async with RawClient(server.address) as client:
        after = None

        async def registered() -> bool:
            nonlocal after
            with contextlib.suppress(grpc.aio.AioRpcError):
                after = (await client.register("one", 7001, **held(before))).instance
            return after is not None

        await until(registered, what="a registration")
        assert after is not None
        assert after.generation > before.generation
        assert after.registered_at == before.registered_at


async def test_two_who_claim_one_number_at_the_same_time_get_two(replicas: list[RegistryServer]) -> None:
    """Absent, present, and absent again: whoever comes second has the higher number, and is the one who has the id."""
    async with clients(*(replica.address for replica in replicas)) as pair:
        given: list[int] = [await generation(pair[0])]
        for number in range(ROUNDS):
            if number % 2:
                await pair[number % 4 // 2].deregister("one")
            calls = [
                client.register("one", 7001 + 10 * which, generation=given[-1]) for which, client in enumerate(pair)
            ]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            told = [answer for answer in answers if isinstance(answer, pb.RegisterResponse)]
            for error in answers:
                if isinstance(error, BaseException):
                    assert isinstance(error, grpc.aio.AioRpcError)
                    assert error.code() is LOST
            last = max(told, key=lambda answer: answer.header.revision)
            given += sorted(answer.instance.generation for answer in told)
            assert last.instance.generation == given[-1]
            for client in pair:
                (owner,) = (await client.list(min_revision=last.header.revision)).instances
                assert owner == last.instance
        assert all(one < other for one, other in pairwise(given)), given


async def test_one_number_told_here_and_claimed_there_is_never_called_made_up(replicas: list[RegistryServer]) -> None:
    async with clients(*(replica.address for replica in replicas)) as pair:
        it = (await pair[0].register("one", 7001)).instance
        for number in range(3 * ROUNDS):
            newer = (await pair[(number + 1) % 2].register("one", 7001, **held(it))).instance
            assert newer.generation > it.generation
            it = newer


async def test_a_stranger_cannot_lock_the_owner_out(client: RawClient, store: str) -> None:
    # Where other writes have revisions too, a number just ahead may be one that somebody else was given since.
    least = 1 if store in ("memory", "etcd") else 100
    async with Owner(client, "one", 7001, ttl_s=3.0) as owner:
        for ahead in (least, 1000, 2**40):
            error = await refusal(client.register("one", 7009, generation=owner.generation + ahead), INVALID)
            (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
            assert violation.field == "instance.generation"
        await refusal(client.register("one", 7009, generation=2**53), INVALID)
        await refusal(client.register("nobody", 7009, generation=2**53), INVALID)
        await owner.wait_state(pb.Renewal.RENEWED)
        (shown,) = (await client.list()).instances
        assert (shown.generation, shown.port) == (owner.generation, 7001)


async def test_an_answer_that_was_lost_costs_the_owner_nothing(client: RawClient) -> None:
    """It asks again with the number it held, which is not the latest any more: by itself, and by nobody else."""
    first = (await client.register("one", 7001)).instance
    lost = (await client.register("one", 7001, **held(first))).instance
    again = (await client.register("one", 7001, **held(first))).instance
    assert first.generation < lost.generation < again.generation
    assert first.registered_at == again.registered_at
    await refusal(client.register("one", 7002, **held(first)), LOST)
    await refusal(client.register("one", 7001, generation=first.generation), LOST)
    await client.register("one", 7001)
    await refusal(client.register("one", 7001, **held(first)), LOST)


async def test_owner_that_was_deregistered_with_a_drain_is_told_and_comes_back_when_told_to(client: RawClient) -> None:
    """Whatever it renews meanwhile: it leaves at the time that is shown."""
    async with contextlib.AsyncExitStack() as stack:
        (owner, other) = await owners(stack, client, ["one", "other"], ttl_s=3.0)
        claim = owner.generation
        await client.deregister("one", drain_s=2)
        shown = next(it for it in (await client.list()).instances if it.id == "one")
        assert shown.status == pb.DRAINING
        assert 0 < shown.leaves_at.ToDatetime().timestamp() - shown.registered_at.ToDatetime().timestamp() < 60
        await eventually_async(lambda: owner.lost, what="its registration is refused")
        assert owner.lost is not None
        assert owner.lost.code() is LOST
        assert "deregistered" in str(owner.lost.details())

        async def has_left() -> bool:
            return await client.ids() == {"other"}

        await until(has_left, what="it has left")
        await refusal(client.register("one", 8000, generation=claim), LOST)
        await passed(0.5)
        assert await client.ids() == {"other"}
        assert await generation(client, port=8000) > claim
        assert other.lost is None


async def test_leaving_by_ones_number_spares_who_took_the_id_over(client: RawClient) -> None:
    old = (await client.register("one", 7001)).instance
    new = await client.register("one", 7002)
    for drain_s in (0.0, 5.0):
        await refusal(client.deregister("one", generation=old.generation, drain_s=drain_s), LOST)
    assert list((await client.list()).instances) == [new.instance]
    assert (await client.deregister("one", generation=new.instance.generation)).removed == 1
