"""Bounded: a watcher that stops reading costs the server next to nothing, delays nobody, and ends up right."""

import pytest

from tests.support.bounded import bounded
from tests.support.raw import RawClient
from tests.support.servers import RegistryServer


# One store a file, so that the two minutes may be one.
@pytest.mark.timeout(240)
@pytest.mark.parametrize("store", ["memory"])
async def test_watch_bounded(server: RegistryServer, client: RawClient) -> None:
    await bounded(server, client)
