"""What a store promises, as a class of tests to inherit from."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from registry_server.stores.base import Store
from registry_server.testing.commits import Commits
from registry_server.testing.leases import Leases
from registry_server.testing.recording import Running, running
from registry_server.testing.settings import Settings


@pytest.mark.asyncio
class StoreContract(Commits, Leases, Settings):
    """Inherit from it, and give the fixture `store`: one of the kind that is to be tested, empty and not running.

    `short_ttl_s` is the shortest time to live that the store grants. A lease is gone no later than `slack_s` after its
    end: what the store takes to notice, and what a busy machine may add.
    """

    short_ttl_s = 1.0
    slack_s = 1.0

    @pytest.fixture
    def store(self) -> Store:
        """The store to test."""
        raise NotImplementedError("the class of tests has a fixture `store` of its own")

    @pytest_asyncio.fixture
    async def run(self, store: Store) -> AsyncIterator[Running]:
        """The store, running, and what it tells."""
        async with running(store) as started:
            yield started
