"""How a server comes and goes: it opens its port when it has something to say, and leaves in order."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from registry_api.registry.v1 import registry_pb2 as pb
from tests.conftest import ServerFactory
from tests.support.etcd import EtcdCluster, free_port
from tests.support.raw import RawClient, Watching, retry_info
from tests.support.servers import RegistryServer, ServerFailed
from tests.support.waiting import eventually_async

WATCHES = 20
# A tenth of a second of notice, 0.5 s of jitter, and what a busy machine may add.
STREAMS_END_S = 10.0
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def is_open(server: RegistryServer) -> bool:
    """Whether somebody listens on its port."""
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex((server.host, server.port)) == 0


class HealthWatch:
    """What health Watch says of the server itself, and when it said that it does not serve."""

    def __init__(self, client: RawClient) -> None:
        self.statuses: list[int] = []
        self.not_serving_at = 0.0
        self.error: grpc.aio.AioRpcError | None = None
        self._client = client

    async def run(self) -> None:
        """Until the stream ends."""
        try:
            async for answer in self._client.health.Watch(health_pb2.HealthCheckRequest()):
                self.statuses.append(answer.status)
                if answer.status == NOT_SERVING:
                    self.not_serving_at = time.monotonic()
        except grpc.aio.AioRpcError as error:
            self.error = error


async def started(stack: contextlib.AsyncExitStack, address: str) -> Watching:
    """A watch that has had its first step, on a connection of its own."""
    client = await stack.enter_async_context(RawClient(address))
    watch = await stack.enter_async_context(client.watching())
    await watch.wait_started()
    return watch


async def test_sigterm_ends_it_in_order(server: RegistryServer, client: RawClient) -> None:
    """Health says so first; then the streams end, not all at once, with a time to come back; then the port closes."""
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        healths = [HealthWatch(client) for _ in range(WATCHES)]
        for health in healths:
            tasks.create_task(health.run())
        lease = (await client.register("one")).lease_id
        watches = [await started(stack, server.address) for _ in range(WATCHES)]
        renewals = client.stub.KeepAlive()
        await renewals.write(pb.KeepAliveRequest(lease_ids=[lease]))
        assert isinstance(await renewals.read(), pb.KeepAliveResponse)
        await eventually_async(lambda: all(health.statuses for health in healths), what="health says something")
        signalled_at = time.monotonic()
        ending = tasks.create_task(server.terminate_async())
        errors = await asyncio.gather(*(watch.wait_ended() for watch in watches))
        with pytest.raises(grpc.aio.AioRpcError) as cut_off:
            await renewals.read()
        assert await ending == 0
        assert not is_open(server)
    ended = sorted(watch.ended_at for watch in watches)
    for health in healths:
        assert health.statuses == [SERVING, NOT_SERVING]
        assert signalled_at < health.not_serving_at <= ended[0], "who asks before it goes is told that it goes"
        assert health.error is not None
        assert health.error.code() is grpc.StatusCode.UNAVAILABLE
    assert ended[-1] - signalled_at < STREAMS_END_S
    assert ended[-1] - ended[0] > 0.1, "not all come back at the same moment"
    for error in [*errors, cut_off.value]:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert retry_info(error) >= 0
    assert "Traceback" not in server.log_text


async def test_sigterm_ends_no_lease(server_factory: ServerFactory, store_url: str, store: str) -> None:
    """What was registered is there when the server is back; memory: forgets, and says so by its epoch."""
    server = server_factory(store=store_url).start()
    async with RawClient(server.address) as client:
        before = await client.register("one")
        assert await server.terminate_async() == 0
        await server.start_async()
        async with RawClient(server.address) as again:
            after = await again.list()
    if store != "memory":
        assert list(after.instances) == [before.instance]
        assert after.header.epoch == before.header.epoch
    else:
        assert not after.instances
        assert after.header.epoch != before.header.epoch


async def test_sigint_ends_it_too(server: RegistryServer) -> None:
    os.kill(server.pid, signal.SIGINT)
    await eventually_async(lambda: not server.is_running, what="it ends")
    assert await server.terminate_async() == 0, "it ended by itself"
    assert not is_open(server)


# ---- a start without etcd


@pytest.fixture
async def etcd_that_is_away(tmp_path: Path) -> AsyncIterator[EtcdCluster]:
    """An etcd that has been there, so that its address is known, and is not."""
    cluster = EtcdCluster(tmp_path)
    try:
        await cluster.start_async()
        cluster.kill()
        yield cluster
    finally:
        cluster.kill()


@contextlib.asynccontextmanager
async def starting(
    factory: ServerFactory, etcd: EtcdCluster
) -> AsyncIterator[tuple[RegistryServer, asyncio.Task[object]]]:
    """A server that has tried to reach etcd, and said so once; and the task that waits until it is ready."""
    server = factory(store=etcd.url())
    server.port = free_port()
    starting = asyncio.create_task(server.start_async())
    try:
        await eventually_async(lambda: server.log_text.count("etcd is not there yet") == 1, what="it has tried")
        yield server, starting
    finally:
        server.kill()
        await asyncio.wait([starting])


async def test_start_with_etcd_away(server_factory: ServerFactory, etcd_that_is_away: EtcdCluster) -> None:
    """The port stays shut, so that nobody is told that there is nothing; it opens when etcd is there."""
    async with starting(server_factory, etcd_that_is_away) as (server, ready):
        assert not is_open(server)
        assert not ready.done()
        await etcd_that_is_away.start_async()
        await ready
        async with RawClient(server.address) as client:
            answer = await client.register("one")
            assert await client.ids() == {"one"}
            assert not answer.header.HasField("stale_for")


async def test_sigterm_while_etcd_is_away(server_factory: ServerFactory, etcd_that_is_away: EtcdCluster) -> None:
    async with starting(server_factory, etcd_that_is_away) as (server, ready):
        os.kill(server.pid, signal.SIGTERM)
        with pytest.raises(ServerFailed, match="exit code 0 before it was ready"):
            await ready
        assert "Traceback" not in server.log_text


async def test_port_that_is_taken(server: RegistryServer, server_factory: ServerFactory) -> None:
    """A second server on the same port is refused, in one line, with exit code 2."""
    second = server_factory()
    second.port = server.port
    with pytest.raises(ServerFailed, match="exit code 2 before it was ready"):
        await second.start_async()
    assert len(second.log_text.strip().splitlines()) == 1
    assert server.address in second.log_text
