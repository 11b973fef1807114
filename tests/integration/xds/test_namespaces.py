"""Services of another namespace than the default one, by each kind of xDS client."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import registry_client
from tests.integration.xds.stage import back_ends
from tests.support.building import NotBuilt
from tests.support.servers import RegistryServer
from tests.support.xds_clients import client

# Of grpc-js the authority is `prod/player` as it stands, which is no host: back ends by libnghttp2 refuse it. Its
# bootstrap can say in which namespace names are looked up, and tonic-xds's cannot.
BY_NAME, BY_BOOTSTRAP = ("prod/player", ()), ("player", ("--namespace", "prod"))
WAYS = {
    "python": (BY_NAME, BY_BOOTSTRAP),
    "go": (BY_NAME, BY_BOOTSTRAP),
    "java": (BY_NAME, BY_BOOTSTRAP),
    "node": (BY_BOOTSTRAP,),
    "rust": (BY_NAME,),
    "envoy": (("prod%2Fplayer", ()), ("player.prod", ())),
}


@pytest.mark.timeout(1800)  # the first time the clients are built
async def test_another_namespace(tmp_path: Path) -> None:
    missing: list[NotBuilt] = []

    async def called(address: str, kind: str) -> None:
        for number, (service, options) in enumerate(WAYS[kind]):
            (folder := tmp_path / f"{kind}-{number}").mkdir()
            try:
                async with client(kind, address, service, folder, *options) as it:
                    came = await it.wait()
                    assert set(came.answers) == {"there"}, (kind, service, came)
            except NotBuilt as error:
                missing.append(error)

    async with (
        RegistryServer(tmp_path) as server,
        registry_client.connect(server.address, cache_dir=None) as registry,
        back_ends(registry, here=100) as them,
    ):
        await them.start("there", namespace="prod")
        await asyncio.gather(*(called(server.address, kind) for kind in WAYS))
    if missing:
        pytest.skip(f"without {', '.join(map(str, missing))}")
