"""Checks by several servers on one etcd: each instance is looked at by one, and another takes over."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.text import parse
from tests.conftest import ServerFactory
from tests.support.probed import SICK, WebServer
from tests.support.raw import RawClient
from tests.support.servers import RegistryServer
from tests.support.stores import Backends, backends
from tests.support.waiting import eventually_async, passed

__all__ = ["backends"]

INSTANCES = 8
TAKEOVER_S = 5.0


@pytest.fixture
async def replicas(server_factory: ServerFactory, backends: Backends) -> list[RegistryServer]:
    url = backends.etcd_url()
    return [await server_factory(store=url, name=f"replica-{number}").start_async() for number in (1, 2)]


@pytest.fixture
async def webs() -> AsyncIterator[list[WebServer]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(WebServer().running()) for _ in range(INSTANCES)]


async def probers(client: RawClient) -> set[str]:
    return {it.name for it in (await client.stub.ListServices(pb.ListServicesRequest())).probers}


async def test_one_looks_and_another_takes_over(replicas: list[RegistryServer], webs: list[WebServer]) -> None:
    first, second = replicas
    async with RawClient(first.address) as client, client.watching() as watch:
        for number, web in enumerate(webs):
            checks = [parse("http interval=0.2 timeout=0.2")]
            await client.register(f"{number}", web.port, host="127.0.0.1", checks=checks, ttl_s=60)

        async def both() -> bool:
            return len(await probers(client)) == 2

        await eventually_async(both)
        await watch.wait(lambda: {it.health for it in watch.view.values()} == {pb.HEALTHY}, "all are well")
        before = [len(web.asked) for web in webs]
        await passed(1.0)
        asked = [len(web.asked) - so_far for web, so_far in zip(webs, before, strict=True)]
        assert max(asked) <= 1.0 / 0.2 + 2, "by one of them and not by both"
        assert sum(asked) > INSTANCES
        second.kill()
        before = [len(web.asked) for web in webs]
        webs[0].says = webs[1].says = SICK
        await watch.wait(
            lambda: [watch.view["player", name].health for name in "01"] == [pb.UNHEALTHY] * 2,
            "who is sick is told of",
            timeout_s=TAKEOVER_S + 10,
        )
        await eventually_async(
            lambda: all(len(web.asked) > so_far + 2 for web, so_far in zip(webs, before, strict=True)),
            timeout_s=TAKEOVER_S + 10,
        )
        assert len(await probers(client)) == 1
        names = {name for (_, name), it in watch.view.items() if it.health == pb.HEALTHY}
        assert names == {f"{number}" for number in range(2, INSTANCES)}, "what the other found stands"


async def test_one_that_is_stopped_hands_over_at_once(replicas: list[RegistryServer], webs: list[WebServer]) -> None:
    first, second = replicas
    async with RawClient(first.address) as client:
        await client.register("a", webs[0].port, host="127.0.0.1", checks=[parse("tcp interval=60")], ttl_s=60)

        async def are(count: int) -> bool:
            return len(await probers(client)) == count

        await eventually_async(lambda: are(2))
        await second.terminate_async()
        await eventually_async(lambda: are(1), timeout_s=2.0)
