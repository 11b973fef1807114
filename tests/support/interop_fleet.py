"""Several back ends as processes, and one face for both kinds of channel."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from balancer import ConnectivityState, Endpoint, aio_channel, blocking_channel
from tests.support.interop_backend import SERVICE
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually_async

KINDS = {
    "Call": "unary_unary",
    "Stream": "unary_stream",
    "Collect": "stream_unary",
    "Chat": "stream_stream",
}


@contextmanager
def fleet(directory: Path, size: int) -> Iterator[list[ServerProcess]]:
    """`size` back ends, ready; gone when the context ends."""
    servers = [
        ServerProcess(directory, f"backend-{number}", "tests.support.interop_backend", []) for number in range(size)
    ]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.close()


def endpoints(servers: list[ServerProcess]) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(server.address) for server in servers)


def encoded(plan: dict[str, Any]) -> bytes:
    return json.dumps(plan).encode()


class Caller:
    """Calls a balanced channel, of either kind, from a coroutine; what comes back are decoded responses."""

    def __init__(self, kind: str, *args: Any, **options: Any) -> None:
        self.kind = kind
        self.channel: Any = (aio_channel if kind == "aio" else blocking_channel)(*args, **options)
        self._methods = {
            name: getattr(self.channel, arity)(f"/{SERVICE}/{name}", None, None) for name, arity in KINDS.items()
        }

    async def call(self, plan: dict[str, Any] | None = None, **options: Any) -> Any:
        """One unary call."""
        method, request = self._methods["Call"], encoded(plan or {})
        if self.kind == "aio":
            return json.loads(await method(request, **options))
        return json.loads(await asyncio.to_thread(method, request, **options))

    async def future(self, plan: dict[str, Any], **options: Any) -> Any:
        """One unary call, as a future where the channel has such."""
        if self.kind == "aio":
            return await self.call(plan, **options)
        future = self._methods["Call"].future(encoded(plan), **options)
        return json.loads(await asyncio.to_thread(future.result))

    async def stream(self, plan: dict[str, Any], **options: Any) -> list[Any]:
        """A unary request and all its responses."""
        method, request = self._methods["Stream"], encoded(plan)
        if self.kind == "aio":
            return [json.loads(message) async for message in method(request, **options)]
        return await asyncio.to_thread(lambda: [json.loads(message) for message in method(request, **options)])

    async def collect(self, plans: list[dict[str, Any]], **options: Any) -> Any:
        """A stream of requests and the response."""
        method, requests = self._methods["Collect"], [encoded(plan) for plan in plans]
        if self.kind == "aio":
            return json.loads(await method(requests, **options))
        return json.loads(await asyncio.to_thread(method, iter(requests), **options))

    async def chat(self, plans: list[dict[str, Any]], **options: Any) -> list[Any]:
        """A stream of requests and all responses."""
        method, requests = self._methods["Chat"], [encoded(plan) for plan in plans]
        if self.kind == "aio":
            return [json.loads(message) async for message in method(requests, **options)]
        return await asyncio.to_thread(lambda: [json.loads(message) for message in method(iter(requests), **options)])

    async def ready(self) -> None:
        """Waits until every endpoint is connected."""
        if self.kind == "aio":
            await self.channel.channel_ready()
        else:
            await asyncio.to_thread(grpc.channel_ready_future(self.channel).result, 20)
        await eventually_async(lambda: all(node.state is ConnectivityState.READY for node in self.nodes()))

    def nodes(self) -> Any:
        """The statistics of the endpoints."""
        return self.channel.stats().nodes

    async def close(self) -> None:
        if self.kind == "aio":
            await self.channel.close()
        else:
            await asyncio.to_thread(self.channel.close)

    async def __aenter__(self) -> "Caller":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()
