"""Servers on a store that somebody wrote himself (docs/stores.md): they are one registry, and any may die."""

import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import stores
from registry_server.config import Config
from registry_server.server import serve
from registry_server.stores.leased import Leased
from registry_server.stores.schemes import Schemes, installed
from tests.support.backend import DictBackend, Link
from tests.support.raw import Owner, RawClient
from tests.support.waiting import passed, until

TTL_S = 2.0


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> list[Link]:
    """A way to the one backend for each server on `shared:`."""
    shared, made = DictBackend(), list[Link]()

    def open_store(url: str) -> Leased:
        made.append(Link(shared))
        return Leased(made[-1])

    monkeypatch.setattr(stores, "_SCHEMES", Schemes(stores._BUILT_IN, installed))
    stores.register("shared", open_store)
    return made


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[str]:
    async with serve(Config(listen="127.0.0.1:0", store="shared:")) as address:
        yield address


async def test_any_server_may_die(links: list[Link]) -> None:
    """What is registered on it goes on when it is renewed on another, which also ends it when nobody renews it."""
    async with server() as one, RawClient(one) as here, here.watching() as watch:
        async with server() as two, RawClient(two) as there:
            lease = (await there.register("a", 7001, ttl_s=TTL_S)).lease_id
            registered = await there.register("b", 7002)
            await watch.wait_ids("a", "b")
            assert watch.view["player", "b"] == registered.instance
        async with Owner(here, "c", 7003, ttl_s=TTL_S) as owner:
            assert (await here.renew_one(lease)).state == pb.Renewal.RENEWED
            await watch.wait_ids("b", "c")
            assert [step.removed for step in watch.steps if step.removed] == [{("player", "a")}]
            assert owner.registrations == 1


async def registers(client: RawClient) -> bool:
    with contextlib.suppress(grpc.aio.AioRpcError):
        await client.register("new", 7003)
        return True
    return False


async def test_an_outage_empties_nobodys_list(links: list[Link]) -> None:
    async with server() as address, RawClient(address) as client, client.watching() as watch:
        await client.register("dead", 7001, ttl_s=TTL_S)
        async with Owner(client, "alive", 7002, ttl_s=TTL_S) as owner:
            await watch.wait_ids("dead", "alive")
            links[0].cut()
            await passed(1.5 * TTL_S)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.register("new", 7003)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert watch.ids == {"dead", "alive"}
            links[0].mend()
            await until(lambda: registers(client), what="the end of the outage")
            await watch.wait_ids("dead", "alive", "new")
            assert owner.registrations == 1
            assert {step.epoch for step in watch.steps} == {watch.epoch}
