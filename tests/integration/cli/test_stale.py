"""An operator who looks while the store is away is told how old it is what he sees."""

import json
from pathlib import Path

import pytest

import registry_client
from tests.conftest import ServerFactory
from tests.integration.client.conftest import player
from tests.support.etcd import EtcdCluster
from tests.support.registryctl import ctl
from tests.support.waiting import eventually_async


@pytest.mark.parametrize("command", [["services"], ["instances"], ["instances", "player"]], ids=" ".join)
async def test_a_view_that_the_store_does_not_confirm_says_so(
    tmp_path: Path, server_factory: ServerFactory, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    with EtcdCluster(tmp_path) as etcd:
        server = server_factory(store=etcd.url()).start()
        monkeypatch.setenv("REGISTRY_SERVER", server.address)
        async with registry_client.connect(server.address, cache_dir=None) as registry:
            await registry.register(player("p1"), ttl=60)
            fresh = await ctl(*command)
            assert (fresh.exit_code, fresh.stderr) == (0, "")
            assert "staleFor" not in json.loads((await ctl(*command, "-o", "json")).stdout)["header"]

            etcd.kill()
            await registry.services()
            await eventually_async(lambda: _is_stale(registry), timeout_s=30)
            stale = await ctl(*command)
            assert (stale.exit_code, stale.stdout) == (0, fresh.stdout)
            assert stale.stderr.startswith("registryctl: the registry cannot reach its store: this is what it knew ")
            assert len(stale.stderr.splitlines()) == 1
            header = json.loads((await ctl(*command, "-o", "json")).stdout)["header"]
            assert float(header["staleFor"].removesuffix("s")) > 0
            assert header["epoch"] == registry.epoch


async def _is_stale(registry: registry_client.RegistryClient) -> bool:
    await registry.services()
    return registry.stale_for is not None
