"""Clients of ill will, and beside each a well-behaved one that notices nothing.

What holds for every attack: no call of the other client fails, the server stays up, and its log stays short.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.config import TRANSPORTS
from registry_server.transport.limits import Limits
from tests.support.attacks import ATTACKS, REGISTRY, Attacker
from tests.support.http2 import Http2
from tests.support.raw import RawClient
from tests.support.servers import RegistryServer
from tests.support.waiting import passed

MAX_STREAMS = Limits().max_streams
ATTACK_S = 1.0
# Generous: the attacker has half of this machine.
DEADLINE_S = 5.0
MAX_LOG_BYTES = 20_000
MEBIBYTE = 1 << 20


@contextlib.asynccontextmanager
async def well_behaved(address: str) -> AsyncIterator[list[float]]:
    """A client that reads all the while; gives how long each read took, in seconds. Any that fails is raised."""
    took: list[float] = []

    async def read() -> None:
        while not is_over.is_set():
            began = time.monotonic()
            await client.stub.List(pb.ListRequest(service="player"), timeout=DEADLINE_S)
            took.append(time.monotonic() - began)
            await asyncio.wait([over], timeout=0.02)

    is_over = asyncio.Event()
    async with RawClient(address) as client, asyncio.TaskGroup() as tasks:
        over = tasks.create_task(is_over.wait())
        tasks.create_task(read())
        try:
            yield took
        finally:
            is_over.set()


async def fill(address: str, instances: int = 300) -> None:
    """Something to read: about 300 bytes an instance."""
    async with RawClient(address) as client:
        lease = (await client.register("first", 1, ttl_s=3600)).lease_id
        for number in range(1, instances):
            await client.register(f"i{number}", 1 + number, lease_id=lease, metadata={"k": "v" * 200})


# What grpcio's core does not withstand, whatever it is told: docs/protocol.md has the same list.
NOT_WITHSTOOD = {
    ("grpc", "headers_by_the_thousand"): "others wait for seconds",
    ("grpc", "settings"): "others wait for seconds",
    ("grpc", "pings"): "others wait for most of a second",
    ("grpc", "pings_whose_answers_nobody_reads"): "others wait for most of a second",
    ("grpc", "continuations"): "headers are kept until they are whole: hundreds of megabytes",
    ("grpc", "bombs"): "messages are unpacked before their size is looked at: hundreds of megabytes",
}
CASES = [(transport, attack) for transport in TRANSPORTS for attack in ATTACKS]


@pytest.fixture(scope="module")
def attacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """One server for all attacks, on each transport: what one leaves behind meets the next."""
    directory = tmp_path_factory.mktemp("attacked")
    with RegistryServer(directory, args=["--transport", request.param]) as server:
        asyncio.run(fill(server.address))
        yield server


@pytest.fixture(scope="module")
def attacker() -> Iterator[Attacker]:
    with Attacker() as it:
        yield it


@pytest.mark.parametrize(
    ("attacked", "attack"), [case for case in CASES if case not in NOT_WITHSTOOD], indirect=["attacked"]
)
async def test_a_client_beside_an_attack_is_served(attacked: RegistryServer, attacker: Attacker, attack: str) -> None:
    process = psutil.Process(attacked.pid)
    before = process.memory_info().rss
    async with well_behaved(attacked.address) as took:
        await asyncio.to_thread(attacker.attack, attack, attacked.address, ATTACK_S)
        grown = process.memory_info().rss - before
    assert took
    assert attacked.is_running
    assert grown < 150 * MEBIBYTE, f"{grown / MEBIBYTE:.0f} MiB"
    assert len(attacked.log_text) < MAX_LOG_BYTES
    assert "Traceback" not in attacked.log_text
    print(f"{attack}: {len(took)} calls, the longest {max(took) * 1000:.0f} ms, {grown / MEBIBYTE:.0f} MiB")


async def test_thousands_of_clients_that_come_back_at_once_are_all_served(registry_server: RegistryServer) -> None:
    """All have connected and asked before the server does anything at all."""
    count = 2000
    async with contextlib.AsyncExitStack() as stack:
        clients = await connected(stack, registry_server.address, count)
        registry_server.pause()
        calls = []
        for number, client in enumerate(clients):
            instance = pb.Instance(service="player", host="10.0.0.1", port=1 + number)
            calls.append(client.call(f"{REGISTRY}/Register", pb.RegisterRequest(instance=instance)))
            await client.flush()
        registry_server.resume()
        for client, call in zip(clients, calls, strict=True):
            await client.wait_ended([call], timeout_s=60)
        assert {status for client in clients for status in client.statuses()} == {0}
        assert sum(len(client.ended) for client in clients) == count


async def connected(stack: contextlib.AsyncExitStack, address: str, count: int) -> list[Http2]:
    """So many connections, a hundred at a time."""
    clients = [Http2(address) for _ in range(count)]
    for start in range(0, count, 100):
        await asyncio.gather(*map(stack.enter_async_context, clients[start : start + 100]))
    return clients


class Limited(RegistryServer):
    """Started with a low soft limit of open files."""

    def _command(self) -> list[str]:
        return ["sh", "-c", 'ulimit -Sn 128; exec "$@"', "sh", *super()._command()]


async def test_more_clients_than_a_shell_lets_a_process_have(tmp_path: Path) -> None:
    """Many shells start a process with 1,024 files; the server takes what it may have."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(Limited(tmp_path))
        clients = await connected(stack, server.address, 300)
        calls = [(client, client.call(f"{REGISTRY}/List", b"")) for client in clients]
        for client, call in calls:
            await client.flush()
            await client.wait_ended([call])
            assert client.statuses() == [0]


async def test_as_many_streams_as_are_allowed(registry_server: RegistryServer) -> None:
    """The next one is served when one of them ends."""
    async with Http2(registry_server.address) as client:
        assert client.max_streams == MAX_STREAMS
        streams = [client.call(f"{REGISTRY}/Watch", pb.WatchRequest()) for _ in range(MAX_STREAMS)]
        await client.flush()
        await client.wait_received(streams)
        client.cancel(streams.pop())
        streams.append(await one_more(client))
        assert not client.is_closed


async def one_more(client: Http2) -> int:
    """Refused while the server has not done with the one before; then served."""
    for _ in range(100):
        stream = client.call(f"{REGISTRY}/Watch", pb.WatchRequest())
        await client.flush()
        await client.wait_received([stream])
        if stream not in client.reset:
            return stream
        await passed(0.02)
    raise AssertionError("no place becomes free")


async def test_more_streams_than_allowed_end_their_own_connection_alone(registry_server: RegistryServer) -> None:
    async with RawClient(registry_server.address) as other, other.watching() as watch:
        await watch.wait_started()
        async with Http2(registry_server.address) as client:
            client.ignore_limit()
            for _ in range(4 * MAX_STREAMS):
                client.call(f"{REGISTRY}/Watch", pb.WatchRequest())
            await client.flush()
            await other.register("one")
            await watch.wait_ids("one")
            assert len(client.received) <= MAX_STREAMS


async def test_the_largest_requests_that_are_documented_fit(registry_server: RegistryServer) -> None:
    """10,000 renewals in one message; one byte more than a mebibyte is refused, and the stream's channel goes on."""
    async with RawClient(registry_server.address) as client:
        lease = (await client.register("one")).lease_id
        call = client.stub.KeepAlive()
        await call.write(pb.KeepAliveRequest(lease_ids=[lease] * 10_000))
        answer = await call.read()
        assert isinstance(answer, pb.KeepAliveResponse)
        assert [it.state for it in answer.renewals] == [pb.Renewal.RENEWED] * 10_000
        call.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.stub.Get(pb.GetRequest(key=pb.InstanceKey(id="x" * MEBIBYTE)))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await client.list()
