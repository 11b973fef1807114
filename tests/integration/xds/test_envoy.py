"""Envoy as `registryctl xds bootstrap --envoy` makes it: one listener in front of every registered service."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import registry_client
from registry_client import RegistryClient
from tests.conftest import ServerFactory
from tests.integration.xds.stage import BACKEND, back_ends
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async, until
from tests.support.xds_clients import ENVOY, bootstrap, envoy, envoy_process

METHOD = f"/{BACKEND}/Who"
pytestmark = pytest.mark.timeout(600)  # the first time Envoy is fetched


@pytest.fixture(autouse=True)
def there_is_envoy() -> None:
    """Skips the test where there is none."""
    ENVOY.needed()


@pytest.fixture
def server(server_factory: ServerFactory) -> RegistryServer:
    return server_factory(name="registry").start()


@pytest.fixture
async def registry(server: RegistryServer) -> AsyncIterator[RegistryClient]:
    async with registry_client.connect(server.address, cache_dir=None) as client:
        yield client


@asynccontextmanager
async def proxy(server: RegistryServer, folder: Path, *options: str) -> AsyncIterator[str]:
    given = folder / "envoy.json"
    # A name that has an address of IPv6, too, at which nobody listens.
    address = server.address.replace("127.0.0.1", "localhost")
    given.write_text(bootstrap(address, "--envoy", "--node-id", "edge", *options))
    async with envoy(given, folder / "envoy.log") as address:
        yield address


async def asked(address: str, authority: str) -> str:
    """Who answers, or the status."""
    async with grpc.aio.insecure_channel(address, [("grpc.default_authority", authority)]) as channel:
        try:
            answer: bytes = await channel.unary_unary(METHOD)(b"", timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return answer[2:].decode()


@pytest.mark.parametrize("options", [(), ("--state-of-the-world",)], ids=["incremental", "state of the world"])
async def test_services_by_authority_and_by_path(
    options: tuple[str, ...], server: RegistryServer, registry: RegistryClient, tmp_path: Path
) -> None:
    async with back_ends(registry) as them, proxy(server, tmp_path, *options) as address:
        assert await asked(address, "nobody") == "UNIMPLEMENTED"
        await them.start("one", service="player")
        await them.start("other", service="player", namespace="prod")
        await them.start("named-as-its-method", service=BACKEND)

        async def all_are_known() -> bool:
            return await asked(address, "anything") == "named-as-its-method"

        await until(all_are_known)
        expected = {
            "player": "one",
            "player:8080": "one",
            "PLAYER": "one",
            "prod%2Fplayer": "other",  # as gRPC writes xds:///prod/player
            "prod%2Fplayer:8080": "other",
            "player.prod": "other",
            address: "named-as-its-method",
        }
        assert {authority: await asked(address, authority) for authority in expected} == expected


async def test_no_call_is_cut_off_for_its_length(
    server: RegistryServer, registry: RegistryClient, tmp_path: Path
) -> None:
    """By default Envoy ends calls after 15 s, and streams on which nothing is said after 5 minutes."""
    async with back_ends(registry, one=100), proxy(server, tmp_path) as address:

        async def answered() -> bool:
            return await asked(address, "player") == "one"

        await until(answered)
        dumped = await asyncio.to_thread(_dump, (tmp_path / "envoy.admin").read_text())
    [action, *_] = _found(dumped, "route")
    assert action["timeout"] == "0s"
    assert _found(dumped, "stream_idle_timeout")[0] == "0s"


async def test_its_calls_are_reported_if_it_is_told_to(
    server: RegistryServer, registry: RegistryClient, tmp_path: Path
) -> None:
    async with back_ends(registry, one=100) as them, proxy(server, tmp_path, "--envoy-load-reports") as address:
        await them.start("idle", service="idle")
        called = 0

        async def reported() -> dict[str, int]:
            nonlocal called
            called += await asked(address, "player") == "one"
            return {it.service: it.successes for it in await registry.xds_clients.loads() if it.successes}

        found = await eventually_async(reported, timeout_s=30.0, what="a report")
    assert set(found) == {"player"}
    assert found["player"] <= called


def _dump(admin: str) -> Any:
    with urllib.request.urlopen(f"http://{admin}/config_dump", timeout=5) as page:
        return json.loads(page.read())


def _found(within: Any, key: str) -> list[Any]:
    """Everything that stands under a key, and is no mere text, or is one of a number of seconds."""
    if isinstance(within, list):
        return [found for it in within for found in _found(it, key)]
    if not isinstance(within, dict):
        return []
    here = [within[key]] if key in within and (isinstance(within[key], str) or "cluster" in within[key]) else []
    return here + [found for it in within.values() for found in _found(it, key)]


async def test_a_listener_that_cannot_be_is_known_to_the_registry(
    server: RegistryServer, registry: RegistryClient, tmp_path: Path
) -> None:
    """Where somebody else has the port. The clusters are there all the same."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        given = tmp_path / "envoy.json"
        given.write_text(bootstrap(server.address, "--envoy", "--node-id", "edge", "--envoy-listen", listen))
        async with back_ends(registry, one=100), envoy_process(given, tmp_path / "envoy.log"):

            async def rejections() -> list[str]:
                return [
                    wanted.rejection.reason
                    for client in await registry.xds_clients.list()
                    for stream in client.streams
                    for wanted in stream.subscriptions
                    if wanted.HasField("rejection")
                ]

            [reason] = await eventually_async(rejections, timeout_s=20.0)
    assert "Address already in use" in reason
