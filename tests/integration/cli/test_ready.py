"""Whether the registry serves, as probes and scripts ask: `registryctl ready`, `registry.serving()`."""

import asyncio
import json
from pathlib import Path

import pytest

from registry_client import InvalidArgument, NotFound, RegistryClient, RegistryUnavailable, Status, connect, sync
from tests.conftest import ServerFactory
from tests.integration.client.conftest import player
from tests.integration.client.test_registering import nobody_there
from tests.support.access import file_of, token
from tests.support.registryctl import ctl
from tests.support.servers import RegistryServer


@pytest.mark.usefixtures("address")
async def test_it_serves_and_a_service_serves_while_an_instance_gets_traffic(registry: RegistryClient) -> None:
    assert await registry.serving()
    with pytest.raises(NotFound):
        await registry.serving("player")
    async with registry.register(player("p1")):
        assert await registry.serving("player")
        with pytest.raises(NotFound):
            await registry.serving("player", namespace="prod")
        assert (await ctl("ready", "player")).stdout == "serving\n"
        await registry.update("player", "p1", status=Status.DRAINING)
        assert not await registry.serving("player")
        result = await ctl("ready", "player")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "player has no instance that gets traffic" in result.stderr
        assert json.loads((await ctl("ready", "player", "-o", "json")).stdout) == {"serving": False}
    with pytest.raises(InvalidArgument):
        await registry.serving("no/name")


async def test_one_address_that_serves_is_enough_for_threads_too(address: str) -> None:
    async with connect([nobody_there(), address, nobody_there()]) as registry:
        assert await registry.serving()
    with sync.connect([nobody_there(), address]) as waiting:
        assert await asyncio.to_thread(waiting.serving)
    with sync.connect(nobody_there(), timeout=0.5) as waiting, pytest.raises(RegistryUnavailable):
        await asyncio.to_thread(waiting.serving)


async def test_one_address_that_knows_the_service_is_enough(address: str, server_factory: ServerFactory) -> None:
    without = await server_factory(name="another").start_async()
    async with connect([without.address, address]) as registry, connect(address) as knows:
        await knows.register_once(player("p1"), ttl=60)
        assert await registry.serving("player")
        with pytest.raises(NotFound):
            await registry.serving("game")


async def test_nobody_there_is_exit_code_3() -> None:
    result = await ctl("ready", "--server", f"{nobody_there()},{nobody_there()}", "--timeout", "1")
    assert result.exit_code == 3
    assert result.stderr.startswith("registryctl: ask whether it serves: ")


async def test_of_the_registry_anybody_may_ask_of_a_service_who_may_read_it(tmp_path: Path) -> None:
    (file := tmp_path / "access.toml").write_text(file_of({"reader": ["read */*"]}))
    with RegistryServer(tmp_path, args=["--access-file", str(file)]) as server:
        assert (await ctl("ready", "--server", server.address)).exit_code == 0
        refused = await ctl("ready", "player", "--server", server.address)
        assert refused.exit_code == 1
        unknown = await ctl("ready", "player", "--server", server.address, "--token", token("reader"))
        assert "no such service" in unknown.stderr
