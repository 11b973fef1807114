"""A real server and clients that speak xDS and nothing else: what the protocol's text asks of a server, rule by rule.

Every stream ends with "and nothing more is sent" (tests/support/ads.py).
"""

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.ads import World, world_of
from tests.support.servers import RegistryServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """One server for a file: its tests use services of their own."""
    with RegistryServer(tmp_path_factory.mktemp("xds")) as server:
        yield server


@pytest.fixture(scope="module")
def serial() -> Iterator[int]:
    """Numbers for names that no other test uses."""
    return itertools.count(1)


@pytest.fixture
async def world(server: RegistryServer, serial: Iterator[int]) -> AsyncIterator[World]:
    """Connections to the server; whatever a test does, the server logs no traceback."""
    async with world_of(server.address, serial) as world:
        yield world
    assert "Traceback" not in server.log_text
