"""Where clients and back ends are: calls go to those nearby, and elsewhere when there is none of these."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import registry_client
from registry_client import Health, Locality
from tests.integration.xds.stage import SERVICE, back_ends
from tests.support.building import NotBuilt
from tests.support.servers import RegistryServer
from tests.support.xds_clients import KINDS, Client, client

# tonic-xds knows no priorities: it calls everybody.
WHO = tuple(kind for kind in KINDS if kind != "rust")
HERE = ("--region", "eu", "--zone", "eu-1")
WHERE = {"near": Locality("eu", "eu-1"), "region": Locality("eu", "eu-2"), "far": Locality("us", "us-1")}


@pytest.mark.timeout(1800)  # the first time the clients are built
async def test_who_is_near_is_called_first(tmp_path: Path) -> None:
    missing: list[NotBuilt] = []
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(RegistryServer(tmp_path))
        registry = await stack.enter_async_context(registry_client.connect(server.address, cache_dir=None))
        them = await stack.enter_async_context(back_ends(registry))
        for name, where in WHERE.items():
            await them.start(name, locality=where)
        clients: list[Client] = []

        async def start(kind: str) -> None:
            try:
                clients.append(await stack.enter_async_context(client(kind, server.address, SERVICE, tmp_path, *HERE)))
            except NotBuilt as error:
                missing.append(error)

        for kind in WHO:
            await start(kind)
        await asyncio.gather(*(it.wait() for it in clients))

        async def all_call(name: str) -> None:
            await asyncio.gather(*(it.calls_only(name) for it in clients))

        await all_call("near")
        await registry.update(SERVICE, "near", health=Health.UNHEALTHY)
        await all_call("region")
        await them.stop("region")
        await all_call("far")
        await registry.update(SERVICE, "near", health=Health.HEALTHY)
        await all_call("near")
    if missing:
        pytest.skip(f"without {', '.join(map(str, missing))}")
