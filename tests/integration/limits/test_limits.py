"""The limits of a running server, on each transport: who reaches one is told which, and nobody else notices."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.config import TRANSPORTS
from tests.support.raw import RawClient, detail
from tests.support.servers import RegistryServer

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
LIMITS = """
[limits]
max_watches_per_peer = 4
max_filters_per_peer = 2
max_instances_per_lease = 3
max_instances_per_owner = 8
max_leases_per_owner = 6
max_instances = 20
max_leases = 15
max_services = 5
max_namespaces = 4
"""


@pytest.fixture(scope="module", params=TRANSPORTS)
def limited(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    directory = tmp_path_factory.mktemp("limited")
    (directory / "limits.toml").write_text(LIMITS)
    args = ["--transport", request.param, "--config", str(directory / "limits.toml")]
    with RegistryServer(directory, args=args) as server:
        yield server


@pytest.fixture
async def client(limited: RegistryServer) -> AsyncIterator[RawClient]:
    """One peer: of who is on this machine, a connection is one."""
    async with clean(limited) as client:
        yield client


@contextlib.asynccontextmanager
async def clean(server: RegistryServer) -> AsyncIterator[RawClient]:
    """A client that leaves nothing behind."""
    async with RawClient(server.address) as client:
        try:
            yield client
        finally:
            for space in (await client.stub.ListNamespaces(pb.ListNamespacesRequest())).namespaces:
                listed = await client.stub.ListServices(pb.ListServicesRequest(namespace=space.namespace))
                for service in listed.services:
                    request = pb.ListRequest(namespace=space.namespace, service=service.service)
                    for it in (await client.stub.List(request)).instances:
                        key = pb.InstanceKey(namespace=it.namespace, service=it.service, id=it.id)
                        await client.stub.Deregister(pb.DeregisterRequest(key=key))


@contextlib.contextmanager
def refused(limit: str) -> Iterator[None]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        yield
    assert error.value.code() is EXHAUSTED
    (violation,) = detail(error.value, error_details_pb2.QuotaFailure).violations
    assert violation.subject == limit
    assert (error.value.details() or "").startswith(f"{limit}: ")


async def fill(client: RawClient, count: int, start: int = 0, **fields: Any) -> None:
    """So many instances, three on a lease."""
    lease = ""
    for number in range(start, start + count):
        answer = await client.register(f"{number}", 1 + number, lease_id=lease if number % 3 else "", **fields)
        lease = answer.lease_id


async def test_instances_of_an_owner(client: RawClient) -> None:
    await fill(client, 8)
    with refused("max_instances_per_owner"):
        await client.register("8", 8000)
    async with RawClient(client.address) as other:
        await other.register("8", 8000)
    await client.register("7", 8, weight=7)  # what is there may be registered again
    await client.update("6", weight=3)
    await client.deregister("6")
    await client.register("9", 9000)
    assert len(await client.ids()) == 9


async def test_instances_of_a_lease(client: RawClient) -> None:
    await fill(client, 2)
    lease = (await client.register("3", 4)).lease_id
    for number in (4, 5):
        await client.register(f"{number}", 1 + number, lease_id=lease)
    with refused("max_instances_per_lease"):
        await client.register("6", 7, lease_id=lease)
    await client.register("5", 6, lease_id=lease, weight=5)
    await client.register("6", 7)


async def test_leases_of_an_owner(client: RawClient) -> None:
    leases = [(await client.register(f"{number}", 100 + number)).lease_id for number in range(6)]
    with refused("max_leases_per_owner"):
        await client.register("6", 106)
    await client.register("6", 106, lease_id=leases[0])
    assert [it.state for it in await client.renew(*leases)] == [pb.Renewal.RENEWED] * 6


async def test_services_and_namespaces(client: RawClient) -> None:
    for number in range(4):
        await client.register("x", 100, namespace=f"n{number}")
    with refused("max_namespaces"):
        await client.register("x", 100, namespace="n9")
    await client.register("x", 100, service="s1", namespace="n0")
    for namespace in ("n0", "n9"):
        with refused("max_services"):
            await client.register("x", 100, service="s2", namespace=namespace)
    async with RawClient(client.address) as other:
        await other.register("y", 101, service="s1", namespace="n0")
        with refused("max_services"):
            await other.register("y", 101, service="s2", namespace="n0")


async def test_instances_and_leases_in_all(client: RawClient) -> None:
    async with contextlib.AsyncExitStack() as stack:
        others = [await stack.enter_async_context(RawClient(client.address)) for _ in range(3)]
        for number, other in enumerate(others):
            for own in range(5):
                await other.register(f"{number}-{own}", 10 * number + own + 1)
        with refused("max_leases"):
            await client.register("last", 9000)
        for number, other in enumerate(others[:2]):
            lease = (await other.register(f"{number}-0", 10 * number + 1)).lease_id
            for more in (5, 6):
                await other.register(f"{number}-{more}", 10 * number + more + 1, lease_id=lease)
        lease = (await others[2].register("2-0", 21)).lease_id
        await others[2].register("2-5", 26, lease_id=lease)
        with refused("max_instances"):
            await others[2].register("2-6", 27, lease_id=lease)
        # Who was here and comes back at its address takes no room.
        await client.register("again", 26, lease_id=lease)
        assert len(await client.ids()) == 20


async def test_watches_of_a_peer(client: RawClient) -> None:
    async with contextlib.AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(client.watching(f"s{number}")) for number in range(3)]
        health = client.health.Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status
        for it in watches:
            await it.wait_started()
        with refused("max_watches_per_peer"):
            await client.stub.Watch(pb.WatchRequest(services=["s9"])).read()
        with refused("max_watches_per_peer"):
            await client.health.Watch(health_pb2.HealthCheckRequest()).read()
        async with RawClient(client.address) as other, other.watching("s9") as watch:
            await watch.wait_started()
        health.cancel()
        await came_in(lambda: client.watching("s9"))


async def came_in(make: Callable[[], Any]) -> None:
    """A watch is let in, as soon as the server has heard that another one is over."""
    for _ in range(100):
        async with make() as watch:
            await watch.wait_started()
            if watch.error is None:
                return
    raise AssertionError("no place becomes free")


async def test_filters_of_a_peer(client: RawClient) -> None:
    def filtered(shard: int) -> Any:
        return client.watching("player", filter_=pb.Filter(metadata={"shard": f"{shard}"}))

    async with filtered(1) as one, filtered(2) as two, filtered(2) as three:
        for watch in (one, two, three):
            await watch.wait_started()
            assert watch.error is None
        with refused("max_filters_per_peer"):
            await client.stub.Watch(pb.WatchRequest(filter=pb.Filter(version="7"))).read()
    await came_in(lambda: filtered(3))


@pytest.mark.parametrize("filters", [{}, {"tags": ["eu"]}])
async def test_many_services_are_followed_with_one_filter_or_none(limited: RegistryServer, filters: Any) -> None:
    """What is counted is filters, and not the services that are asked about with them."""
    async with registry_client.connect(limited.address) as registry, contextlib.AsyncExitStack() as open_:
        watches = [await open_.enter_async_context(registry.watch(name, **filters)) for name in ("a", "b", "c")]
        async with asyncio.timeout(20):
            for watch in watches:
                assert not (await anext(aiter(watch))).instances


@pytest.mark.parametrize(
    ("limit", "size", "metadata"),
    [("max_message_bytes", 2 << 20, ()), ("max_header_bytes", 1, [("x-more", "y" * 20_000)])],
)
async def test_what_is_too_large(
    limited: RegistryServer, request: pytest.FixtureRequest, limit: str, size: int, metadata: Any
) -> None:
    asked = pb.GetRequest(key=pb.InstanceKey(service="player", id="x" * size))
    async with RawClient(limited.address) as client:
        if request.node.callspec.params["limited"] == "http2":
            with refused(limit):
                await client.stub.Get(asked, metadata=metadata)
        else:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await client.stub.Get(asked, metadata=metadata)
            assert error.value.code() is EXHAUSTED


async def test_what_was_refused_is_in_the_log(limited: RegistryServer, client: RawClient) -> None:
    """Once, though it happened again and again; with the limit and who it was."""
    await fill(client, 8)
    for _ in range(50):
        with refused("max_instances_per_owner"):
            await client.register("8", 8000)
    lines = [line for line in limited.log_text.splitlines() if "max_instances_per_owner" in line]
    assert len(lines) == 1
    assert "127.0.0.1" in lines[0]


async def test_requests_a_second(tmp_path: Path) -> None:
    (tmp_path / "limits.toml").write_text("[limits]\nmax_requests_per_s_per_peer = 1\n")
    with RegistryServer(tmp_path, args=["--config", str(tmp_path / "limits.toml")]) as server:
        async with RawClient(server.address) as client, RawClient(server.address) as other:
            with refused("max_requests_per_s_per_peer"):
                for _ in range(1000):
                    await client.list()
            await other.list()
            with refused("max_requests_per_s_per_peer"):
                for _ in range(1000):
                    await client.renew("unknown")
            await other.list()
