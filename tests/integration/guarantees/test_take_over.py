"""Where nobody has an identity anybody may take over; but not for good from who lives and answers at its address."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest

import registry_client
from registry_client import Instance, RegistrationLost
from registry_client.registration import Registration
from registry_client.stay import State
from tests.support.raw import RawClient, clients, refusal
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async

HERE = "127.0.0.1"
TTL_S = 3.0
WAIT_S = 20.0


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """A port at which somebody answers."""
    async with await asyncio.start_server(lambda reader, writer: writer.close(), HERE, 0) as server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def owner(server: RegistryServer, name: str) -> AsyncIterator[Registration]:
    """Somebody who is registered, listens where it says, and keeps that up."""
    async with (
        listening() as port,
        registry_client.connect(server.address) as registry,
        registry.register(Instance("player", HERE, port, id=name), ttl=TTL_S) as registration,
    ):
        yield registration


async def is_told(registration: Registration) -> None:
    """Wait until its owner knows that it is back: everybody else may know it first."""
    await eventually_async(lambda: registration.state is State.REGISTERED, timeout_s=WAIT_S, what="it knows")


async def addresses(client: RawClient) -> dict[str, int]:
    return {it.id: it.port for it in (await client.list()).instances}


@pytest.fixture(params=["memory", "etcd"])
def store(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


async def test_a_stranger_who_takes_from_two_throws_neither_out_for_good(
    server: RegistryServer, client: RawClient
) -> None:
    """The id of one and the address of another."""
    async with owner(server, "a") as a, owner(server, "b") as b:
        whole = {"a": a.instance.port, "b": b.instance.port}
        assert await addresses(client) == whole
        stolen = await client.register("a", b.instance.port, host=HERE)
        assert await addresses(client) == {"a": b.instance.port}

        async def is_whole() -> bool:
            return await addresses(client) == whole

        await eventually_async(is_whole, timeout_s=WAIT_S, what="both are back")
        await is_told(a)
        await is_told(b)
        # Who is told by whom, and from where.
        assert (
            f"default/player/a at {HERE}:{whole['a']} was taken over by default/player/a at {HERE}" in server.log_text
        )
        assert "who called from ipv4:127.0.0.1:" in server.log_text
        claim = {"generation": stolen.instance.generation, "registered_at": stolen.instance.registered_at}
        error = await refusal(
            client.register("a", b.instance.port, host=HERE, **claim), grpc.StatusCode.FAILED_PRECONDITION
        )
        assert f"at {HERE}:{whole['a']}" in str(error.details())
        assert await addresses(client) == whole


async def test_who_has_an_id_and_does_not_answer_gives_it_back_to_who_does(
    server: RegistryServer, client: RawClient
) -> None:
    async with listening() as port:
        pass
    async with owner(server, "a") as a:
        await client.register("a", port, host=HERE)

        async def is_back() -> bool:
            return await addresses(client) == {"a": a.instance.port}

        await eventually_async(is_back, timeout_s=WAIT_S, what="it is back")
        await is_told(a)


async def test_of_two_who_answer_the_one_who_came_last_has_the_id(server: RegistryServer, client: RawClient) -> None:
    """As a new version does that is started before the old one is stopped."""

    async def thrown_out() -> None:
        async with owner(server, "a") as old:
            await client.register("a", port, host=HERE, ttl_s=60)
            await asyncio.wait_for(old.wait_lost(), WAIT_S)

    async with listening() as port:
        with pytest.raises(RegistrationLost, match=f"at {HERE}:{port}"):
            await thrown_out()
        assert await addresses(client) == {"a": port}


async def test_of_two_at_one_address_the_first_one_has_it_and_the_other_waits(
    server: RegistryServer, client: RawClient
) -> None:
    """They do not fight, and when the first one leaves the other is there."""
    async with listening() as port, registry_client.connect(server.address) as other:
        async with registry_client.connect(server.address) as registry:
            first = await registry.register(Instance("player", HERE, port, id="first"), ttl=TTL_S)
            second = await other.register(Instance("player", HERE, port, id="second"), ttl=TTL_S)

            async def first_is_back() -> bool:
                return await addresses(client) == {"first": port}

            await eventually_async(first_is_back, timeout_s=WAIT_S, what="the first one is back")
            async with client.watching() as watch:
                await watch.wait_started()
                await eventually_async(lambda: second.trouble, timeout_s=WAIT_S, what="the second one is told")
                assert watch.ids == {"first"}
            await is_told(first)
            assert second.state is not State.LOST

        async def second_is_there() -> bool:
            return await addresses(client) == {"second": port}

        await eventually_async(second_is_there, timeout_s=WAIT_S, what="the second one has its turn")


async def test_who_is_thrown_out_on_one_replica_is_back_by_another(replicas: list[RegistryServer]) -> None:
    async with clients(*(replica.address for replica in replicas)) as (one, two), listening() as port:
        mine = (await one.register("a", port, host=HERE)).instance
        await one.register("a", 9, host=HERE)
        claim = {"generation": mine.generation, "registered_at": mine.registered_at}
        back = await two.register("a", port, host=HERE, **claim)
        assert back.instance.registered_at == mine.registered_at
        assert (await one.list(min_revision=back.header.revision)).instances == [back.instance]
