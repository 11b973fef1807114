"""The record of this server among those that look at instances, whatever its store does."""

import asyncio

import pytest

from registry_server.health import replicas
from registry_server.health.replicas import Replica
from registry_server.records import Lease
from registry_server.settings import Settings
from registry_server.stores.base import StoreAway
from registry_server.stores.memory import MemoryStore
from tests.support.waiting import eventually_async


class Failing(MemoryStore):
    """A store that fails as it is told."""

    error: Exception | None = None
    asked = 0

    async def grant(self, ttl_s: float) -> Lease:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return await super().grant(ttl_s)


@pytest.mark.parametrize("error", [StoreAway("away"), OSError("gone"), RuntimeError("a mistake of its own")], ids=repr)
async def test_it_is_tried_again_whatever_the_store_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "RETRY_S", 0.01)
    store, told = Failing(), list[object]()
    telling = asyncio.create_task(store.run(told.append))
    replica = Replica(store, Settings(), "me")
    running = asyncio.create_task(replica.run())
    try:
        store.error = error
        replica.want()
        await eventually_async(lambda: store.asked >= 3)
        store.error, before = None, len(told)
        await eventually_async(lambda: len(told) > before)
        assert not running.done()
    finally:
        running.cancel()
        telling.cancel()
        await asyncio.gather(running, telling, return_exceptions=True)
        await replica.leave()
