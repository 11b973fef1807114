"""A lease id cannot be made up, on any store: what this registry did not give out is unknown, and harms nobody."""

import contextlib

import grpc
import grpc.aio
from google.rpc import error_details_pb2

from registry_api.registry.v1 import registry_pb2 as pb
from tests.conftest import ServerFactory
from tests.support.raw import RawClient, clients, detail, refusal
from tests.support.servers import RegistryServer

NOT_FOUND = grpc.StatusCode.NOT_FOUND


def made_up(lease_id: str, other: str, elsewhere: str) -> dict[str, str]:
    """What somebody may try who knows one id of a registry, or two, or one of another."""
    of_store, _, seal = lease_id.rpartition(".")
    return {
        "what the store calls it": of_store,
        "without the end": lease_id[:-1],
        "with more": lease_id + "A",
        "another proof": lease_id[:-1] + ("A" if lease_id[-1] != "A" else "B"),
        "the proof of another": f"{of_store}.{other.rpartition('.')[2]}",
        "another lease": f"{of_store[:-1]}{'0' if of_store[-1] != '0' else '1'}.{seal}",
        "in capitals": lease_id.upper(),
        "of another registry": elsewhere,
    }


async def test_a_lease_id_that_was_not_given_out_is_unknown(
    server: RegistryServer, client: RawClient, server_factory: ServerFactory
) -> None:
    another = await server_factory(name="another").start_async()
    async with RawClient(another.address) as stranger:
        elsewhere = (await stranger.register("one", 7001)).lease_id
    mine, other = [(await client.register(name, 7001 + len(name))).lease_id for name in ("one", "other")]
    found = made_up(mine, other, elsewhere)
    assert mine not in found.values()
    renewals = await client.renew(*found.values(), mine)
    assert [it.lease_id for it in renewals] == [*found.values(), mine]
    states = dict(zip(found, (it.state for it in renewals), strict=False))
    assert states == dict.fromkeys(found, pb.Renewal.UNKNOWN)
    assert (renewals[-1].state, renewals[-1].instances) == (pb.Renewal.RENEWED, 1)
    for lease_id in found.values():
        for refused in (client.register("new", 7009, lease_id=lease_id), client.deregister(lease_id=lease_id)):
            error = await refusal(refused, NOT_FOUND)
            assert detail(error, error_details_pb2.ResourceInfo).resource_type == "lease"
            assert lease_id not in str(error.details())
    assert await client.ids() == {"one", "other"}
    assert (await client.deregister(lease_id=mine)).removed == 1


async def test_an_id_holds_over_a_restart_as_long_as_its_lease(
    server: RegistryServer, client: RawClient, store: str
) -> None:
    lease_id = (await client.register("one", 7001)).lease_id
    await server.restart_async()
    async with RawClient(server.address) as after:
        state = (await after.renew_one(lease_id)).state
    assert state == (pb.Renewal.UNKNOWN if store == "memory" else pb.Renewal.RENEWED)


async def test_every_replica_knows_what_another_gave(replicas: list[RegistryServer]) -> None:
    async with clients(*(replica.address for replica in replicas)) as (one, two):
        lease_id = (await one.register("one", 7001)).lease_id
        assert (await two.renew_one(lease_id)).state == pb.Renewal.RENEWED
        assert (await two.register("two", 7002, lease_id=lease_id)).lease_id == lease_id
        assert (await one.deregister(lease_id=lease_id)).removed == 2


async def test_no_log_shows_a_lease_id(server_factory: ServerFactory) -> None:
    """Not even at debug, whatever is done with it."""
    server = await server_factory(env={"REGISTRY_LOG_LEVEL": "debug"}).start_async()
    async with RawClient(server.address) as client:
        ids = [(await client.register(f"i{number}", 7001 + number)).lease_id for number in range(3)]
        await client.renew(*ids, ids[0] + "A")
        await client.register("i0", 7009)
        for refused in (ids[0], ids[1] + "A"):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await client.deregister(lease_id=refused)
        await client.deregister(lease_id=ids[1])
    await server.terminate_async()
    assert "i0" in server.log_text
    for lease_id in ids:
        assert lease_id not in server.log_text
        assert lease_id.rpartition(".")[2] not in server.log_text
