"""No single step is long: a lease of many leaves, drains and expires while everybody else has turns in between."""

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog
from registry_server.feed import Feed
from registry_server.hub import Hub
from registry_server.records import Delta, StoreEvent
from registry_server.registrar import Registrar
from registry_server.rpc.registry import RegistryService
from registry_server.stores.memory import MemoryStore
from tests.support.core import NOBODY, SEAL
from tests.support.speed import here
from tests.support.waiting import eventually_async

MANY = 20_000
# Of this process's own time: other processes may have theirs meanwhile.
STEP_S = 0.02
TTL_S = 2.0


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """The server lets the garbage collector run seldom; here it would be measured."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Filled:
    """A server's inside whose store holds many instances under one lease."""

    def __init__(self) -> None:
        self.told: list[StoreEvent] = []
        self.store = MemoryStore()
        self.hub = Hub(time.monotonic, lambda at: None)
        self.feed = Feed(self.store, Catalog(), (self.hub,), time.monotonic)
        self.registrar = Registrar(self.store, self.feed, time.time, random.Random(1))
        self.service = RegistryService(self.registrar, self.feed, self.hub, lambda: SEAL)
        self.lease_id = ""

    async def fill(self, ttl_s: float) -> None:
        for number in range(MANY):
            wanted = pb.Instance(namespace="default", service="player", id=f"{number}", port=1 + number)
            wanted.host, wanted.version, wanted.weight = "10.0.0.1", "1", 1
            _, _, lease = await self.registrar.register(wanted, ttl_s, self.lease_id)
            self.lease_id = lease.id
            if number % 100 == 0:
                await asyncio.sleep(0)
        emit = self.store._emit

        def tell(event: StoreEvent) -> None:
            self.told.append(event)
            emit(event)

        self.store._emit = tell

    async def leave(self) -> None:
        request = pb.DeregisterRequest(lease_id=SEAL.close(self.lease_id, ""))
        answer = pb.DeregisterResponse.FromString(await self.service.deregister(request, NOBODY))
        assert answer.removed == MANY

    async def drain(self) -> None:
        assert (await self.registrar.end_lease(self.lease_id, TTL_S)).removed == MANY

    async def die(self) -> None:
        """Nobody renews."""


@pytest.mark.parametrize("how", [Filled.leave, Filled.drain, Filled.die], ids=["leaves", "drains", "expires"])
async def test_lease_of_many_ends_in_small_steps(how: Callable[[Filled], Awaitable[None]]) -> None:
    filled = Filled()
    running = asyncio.create_task(filled.feed.run())
    await filled.feed.loaded.wait()
    await filled.fill(TTL_S if how is Filled.die else 600.0)
    steps: list[float] = []

    async def measure() -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            steps.append(now - before)
            before = now

    measuring = asyncio.create_task(measure())
    await asyncio.sleep(0)
    await how(filled)
    await eventually_async(lambda: not filled.feed.catalog.statistics().instances, timeout_s=60)
    for task in (measuring, running):
        task.cancel()
    await asyncio.wait([measuring, running])
    deltas = [event for event in filled.told if isinstance(event, Delta)]
    assert max(steps) < here(STEP_S)
    assert len(steps) > MANY / 200
    assert max(len(delta.deletes) + len(delta.puts) for delta in deltas) <= 200
    assert sum(len(delta.deletes) for delta in deltas) == MANY
