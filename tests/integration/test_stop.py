"""SIGTERM: every stream ends with a status that says so, whoever comes back meanwhile is told the same, exit code 0."""

import asyncio
from typing import Any

import grpc
from google.rpc.status_pb2 import Status

from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1.registry_pb2_grpc import RegistryStub
from tests.support.servers import RegistryServer

TIMEOUT_S = 40.0  # longer than the server may take to end
WATCHERS = 20


async def watch_until_it_ends(stub: Any, is_open: asyncio.Event) -> grpc.aio.AioRpcError:
    """How a watch ends that nobody gives up on. The event says that it was answered."""
    try:
        async for _ in stub.Watch(pb.WatchRequest(), timeout=TIMEOUT_S):
            is_open.set()
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the watch ended with no error")


async def watch_again_and_again(stub: Any, is_open: asyncio.Event) -> list[grpc.aio.AioRpcError]:
    """How the watches end of a client that comes back at once, until nobody listens any more."""
    ends = [await watch_until_it_ends(stub, is_open)]
    is_let_in = asyncio.Event()
    while "connect" not in str(ends[-1].details()):
        ends.append(await watch_until_it_ends(stub, is_let_in))
    assert not is_let_in.is_set(), "it would hold up the end for as long as the server has patience"
    return ends


async def test_streams_end_with_a_status_also_of_those_who_come_back(registry_server: RegistryServer) -> None:
    async with grpc.aio.insecure_channel(registry_server.address) as channel, asyncio.TaskGroup() as tasks:
        opened = [asyncio.Event() for _ in range(WATCHERS)]
        watching = [tasks.create_task(watch_again_and_again(RegistryStub(channel), it)) for it in opened]
        for it in opened:
            await it.wait()
        assert await registry_server.terminate_async() == 0
    for task in watching:
        first = task.result()[0]
        assert first.code() is grpc.StatusCode.UNAVAILABLE
        assert first.details() == "the server is shutting down"
        metadata = dict([*(first.trailing_metadata() or ())])
        status = Status.FromString(metadata["grpc-status-details-bin"])
        assert [it.type_url for it in status.details] == ["type.googleapis.com/google.rpc.RetryInfo"]
        # A call that no handler has taken up when the port closes is CANCELLED by gRPC itself.
        assert {end.code() for end in task.result()} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
