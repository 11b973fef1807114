"""Checks by several servers on one etcd: each instance is looked at by one, and another takes over."""

import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from functools import partial
from uuid import uuid4

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.text import parse
from registry_server.health.sharing import prober_of
from registry_server.records import Key
from tests.conftest import ServerFactory
from tests.support.probed import SICK, WebServer
from tests.support.proxy import Proxy
from tests.support.raw import RawClient
from tests.support.registryctl import ctl
from tests.support.servers import RegistryServer
from tests.support.stores import Backends, backends
from tests.support.waiting import eventually_async, passed

__all__ = ["backends"]

INSTANCES = 8
TAKEOVER_S = 5.0


@pytest.fixture
async def replicas(server_factory: ServerFactory, backends: Backends) -> list[RegistryServer]:
    url, args = backends.etcd_url(), ["--cut-off-least", "3"]
    return [await server_factory(store=url, name=f"replica-{number}", args=args).start_async() for number in (1, 2)]


@pytest.fixture
async def webs() -> AsyncIterator[list[WebServer]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(WebServer().running()) for _ in range(INSTANCES)]


async def probers(client: RawClient) -> set[str]:
    return {it.name for it in (await client.stub.ListServices(pb.ListServicesRequest())).probers}


def _looks(webs: list[WebServer], before: list[int]) -> list[int]:
    """How often each was asked since then."""
    return [len(web.asked) - so_far for web, so_far in zip(webs, before, strict=True)]


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
        before, began = [len(web.asked) for web in webs], time.monotonic()
        await passed(1.0)
        looks = partial(_looks, webs, before)
        await eventually_async(lambda: sum(looks()) > INSTANCES)
        assert max(looks()) <= (time.monotonic() - began) / 0.2 + 2, "by one of them and not by both"
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
        await eventually_async(lambda: are(1), timeout_s=TAKEOVER_S - 1.0)


async def test_one_that_reaches_nobody_blames_nobody(replicas: list[RegistryServer], webs: list[WebServer]) -> None:
    """One of the servers gets no answer any more from those that are its own to look at. It says so, and reports none
    of them; the other goes on, and reports who is sick."""
    first, second = replicas
    async with RawClient(first.address) as client, client.watching() as watch:
        await client.register("shows-itself", checks=[parse("ttl interval=3600")], ttl_s=60)
        await eventually_async(lambda: _are(client, 2))
        lost, other = sorted(await probers(client))
        names = {lost: _names_of(lost, {lost, other}), other: _names_of(other, {lost, other})}
        looked_at = dict(zip(names[lost] + names[other], webs, strict=True))
        for name, web in looked_at.items():
            checks = [parse("http interval=0.2 timeout=0.2")]
            await client.register(name, web.port, host="127.0.0.1", checks=checks, ttl_s=60)

        def who_are(health: pb.Health.ValueType) -> set[str]:
            return {name for (_, name), it in watch.view.items() if it.health == health}

        await watch.wait(lambda: who_are(pb.HEALTHY) == set(looked_at), "all are well")
        for name in names[lost]:
            looked_at[name].mood = "resets"
        await eventually_async(lambda: _is_told(second, lost))
        looked_at[names[other][0]].says = SICK
        await watch.wait(lambda: who_are(pb.UNHEALTHY) == {names[other][0]}, "the other reports who is sick")
        lost_webs = [looked_at[name] for name in names[lost]]
        asked = [len(web.asked) for web in lost_webs]
        await eventually_async(
            lambda: all(len(web.asked) > so_far + 5 for web, so_far in zip(lost_webs, asked, strict=True))
        )
        assert who_are(pb.UNHEALTHY) == {names[other][0]}
        assert who_are(pb.HEALTHY) == set(looked_at) - {names[other][0]}
        assert sum("takes itself for cut off" in it.log_text for it in replicas) == 1
        said = (await ctl("--server", second.address, "health", "player")).stderr.splitlines()
        assert [line.split(" since ")[0] for line in said] == [f"registryctl: server {lost} takes itself for cut off"]
        for web in lost_webs:
            web.mood = ""
        await eventually_async(lambda: _is_told(second, ""))
        assert (await ctl("--server", second.address, "health", "player")).stderr == ""


async def test_one_without_its_store_blames_nobody_then_or_later(
    server_factory: ServerFactory, backends: Backends
) -> None:
    """Packets of one replica are swallowed, on its way to the store and to those that it looks at. Another takes over,
    and finds them well; and what the first one found meanwhile is not written when its packets arrive again."""
    etcd, prefix, args = backends.etcd(), f"/partition-{uuid4().hex}", ["--cut-off-least", "100"]
    async with contextlib.AsyncExitStack() as stack:
        road = await stack.enter_async_context(Proxy(etcd.nodes[0].endpoint))
        store = etcd.url(prefix, at=[road.address])
        lost = await server_factory(store=store, name="lost", args=args).start_async()
        async with RawClient(lost.address) as first:
            await first.register("shows-itself", checks=[parse("ttl interval=3600")], ttl_s=60)
            await eventually_async(lambda: _are(first, 1))
            [name] = await probers(first)
        other = await server_factory(store=etcd.url(prefix), name="other", args=args).start_async()
        client = await stack.enter_async_context(RawClient(other.address))
        watch = await stack.enter_async_context(client.watching())
        web = await stack.enter_async_context(WebServer().running())
        await eventually_async(lambda: _are(client, 2))
        ways = {}
        for it in _names_of(name, await probers(client)):
            ways[it] = way = await stack.enter_async_context(Proxy(f"127.0.0.1:{web.port}"))
            # Well from the start, and for those who once took it for sick not soon again. The other finds the ways as
            # they are for a moment, and is to report nobody: ten failures take two seconds.
            checks = [parse("http interval=0.2 timeout=0.2 failures=10 successes=100")]
            fields = {"host": "127.0.0.1", "checks": checks, "health": pb.HEALTHY}
            await client.register(it, way.port, ttl_s=60, **fields)

        def are(health: pb.Health.ValueType) -> bool:
            return {it.health for (_, name), it in watch.view.items() if name in ways} == {health}

        await eventually_async(lambda: len(web.asked) >= len(ways))
        await watch.wait(lambda: are(pb.HEALTHY), "all are well")
        for way in (road, *ways.values()):
            way.freeze()
        await eventually_async(lambda: _are(client, 1), timeout_s=TAKEOVER_S + 10)
        for way in ways.values():  # as the other finds them
            await way.restore()
        asked = len(web.asked)
        await eventually_async(lambda: len(web.asked) > asked + 2 * len(ways))
        await road.restore()
        await eventually_async(lambda: _are(client, 2), timeout_s=30)
        await passed(1.0)
        seen = [(name, it.health) for step in watch.steps for (_, name), it in step.upserts.items() if name in ways]
        assert {health for _, health in seen} <= {pb.UNKNOWN, pb.HEALTHY}
        web.says = SICK
        await watch.wait(lambda: are(pb.UNHEALTHY), "both report again", timeout_s=15)


async def test_what_somebody_writes_among_the_replicas_is_none(
    server_factory: ServerFactory, backends: Backends, webs: list[WebServer]
) -> None:
    """Nothing is shared out to who is no server, and one whose record is taken away puts it back."""
    etcd, prefix = backends.etcd(), f"/by-hand-{uuid4().hex}"
    server = await server_factory(store=etcd.url(prefix)).start_async()
    async with RawClient(server.address) as client:
        for number, web in enumerate(webs):
            await client.register(f"{number}", web.port, host="127.0.0.1", checks=[parse("tcp interval=0.2")], ttl_s=60)
        await eventually_async(lambda: _are(client, 1))
        [name] = await probers(client)
        for place in ("-/-/ghost", "-/-/other", "default/-/ghost", "-/player/ghost"):
            await etcd.etcdctl_async("put", f"{prefix}/v1/settings/replica/{place}", "hello")
        await etcd.etcdctl_async("del", f"{prefix}/v1/settings/replica/-/-/{name}")
        await eventually_async(lambda: _is_the_only_one(client, name))

        async def are_all_well() -> bool:
            return all(it.health == pb.HEALTHY for it in (await client.list()).instances)

        await eventually_async(are_all_well)


async def _is_the_only_one(client: RawClient, name: str) -> bool:
    return await probers(client) == {name}


def _names_of(prober: str, among: set[str]) -> list[str]:
    """Ids of half of the instances: those that this server looks at."""
    names = (f"{number}" for number in range(1000))
    mine = (name for name in names if prober_of(Key("default", "player", name), among) == prober)
    return list(itertools.islice(mine, INSTANCES // 2))


async def _are(client: RawClient, count: int) -> bool:
    return len(await probers(client)) == count


async def _is_told(server: RegistryServer, lost: str) -> bool:
    """Whether a server shows that one as cut off, and no other; "" for none."""
    async with RawClient(server.address) as client:
        found = (await client.stub.ListServices(pb.ListServicesRequest())).probers
    return [it.name for it in found if it.HasField("cut_off_at")] == [lost] * bool(lost)
