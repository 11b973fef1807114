"""Back ends of one service, registered as users would, for xDS clients to call."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue

from registry_client import Instance, Registration, RegistryClient
from registry_server.rpc.table import Caller, Service, Unary
from tests.support.transports import serving

BACKEND = "registry.test.Backend"
SERVICE = "player"
# So long the clients have to hear of it before a back end is gone.
DRAIN_S = 2.0


class BackEnds:
    """Each is one server that says its name, and its registration."""

    def __init__(self, registry: RegistryClient) -> None:
        self.calls: Counter[str] = Counter()
        self._registry = registry
        self._running: dict[str, AsyncExitStack] = {}

    async def start(self, name: str, *, service: str = SERVICE, **fields: Any) -> Registration:
        """Serve, and register; `fields` are those of an Instance."""

        async def who(_request: Empty, _caller: Caller) -> bytes:
            self.calls[name] += 1
            return StringValue(value=name).SerializeToString()

        stack = self._running[name] = AsyncExitStack()
        address, _ = await stack.enter_async_context(serving("http2", Service(BACKEND, {"Who": Unary(Empty, who)})))
        host, _, port = address.rpartition(":")
        registered = Instance(service, host, int(port), id=name, **fields)
        return await stack.enter_async_context(self._registry.register(registered, drain=DRAIN_S))

    async def stop(self, *names: str) -> None:
        """Leave the registry, and end the server when that is done."""
        await asyncio.gather(*(self._running.pop(name).aclose() for name in names or tuple(self._running)))


@asynccontextmanager
async def back_ends(registry: RegistryClient, **weights: int) -> AsyncIterator[BackEnds]:
    """Back ends by their names, with their weights; all are gone when the context ends."""
    them = BackEnds(registry)
    try:
        for name, weight in weights.items():
            await them.start(name, weight=weight)
        yield them
    finally:
        await them.stop()
