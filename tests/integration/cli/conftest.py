"""What the tests of `registryctl` share with those of the client: a real server, and a client of it."""

import pytest

from tests.integration.client.conftest import cache_home, registry, server
from tests.support.servers import RegistryServer

__all__ = ["cache_home", "registry", "server"]


@pytest.fixture
def address(server: RegistryServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where `registryctl` goes by itself."""
    monkeypatch.setenv("REGISTRY_SERVER", server.address)
    return server.address
