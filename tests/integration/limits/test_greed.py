"""Clients that take all they can get, and beside each a well-behaved one that reads, watches, registers and renews."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import psutil
import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.config import TRANSPORTS
from tests.integration.test_attacks import fill
from tests.support.attacks import Attacker
from tests.support.greed import GREED
from tests.support.raw import RawClient
from tests.support.servers import RegistryServer

GREED_S = 0.7
TTL_S = 5.0
# Generous: the attacker has half of this machine, and others their part of it.
DEADLINE_S = 8.0
MAX_LOG_BYTES = 20_000
MEBIBYTE = 1 << 20


@dataclass
class WellBehaved:
    """What a client did beside the greedy one. Whatever fails is raised."""

    took: list[float] = field(default_factory=list)
    states: set[int] = field(default_factory=set)
    registered: int = 0

    @property
    def p99_ms(self) -> float:
        return 1000 * sorted(self.took)[len(self.took) * 99 // 100]


@contextlib.asynccontextmanager
async def well_behaved(address: str) -> AsyncIterator[WellBehaved]:
    """It keeps a registration alive, which is to stay, and all the while reads, and comes and leaves again."""
    seen = WellBehaved()

    async def behave() -> None:
        renewing = client.stub.KeepAlive()
        while not is_over.is_set():
            began = time.monotonic()
            await client.stub.List(pb.ListRequest(service="player"), timeout=DEADLINE_S)
            await client.register(f"guest-{seen.registered}", 9, service="guests")
            seen.registered += 1
            await renewing.write(pb.KeepAliveRequest(lease_ids=[lease]))
            answer = await asyncio.wait_for(renewing.read(), DEADLINE_S)
            assert isinstance(answer, pb.KeepAliveResponse)
            seen.states.add(answer.renewals[0].state)
            seen.took.append((time.monotonic() - began) / 3)
            await asyncio.wait([over], timeout=0.02)
        renewing.cancel()

    is_over = asyncio.Event()
    async with RawClient(address) as client, client.watching("guests") as watch, asyncio.TaskGroup() as tasks:
        over = tasks.create_task(is_over.wait())
        lease = (await client.register("host", 8, service="guests", ttl_s=TTL_S)).lease_id
        work = tasks.create_task(behave())
        try:
            yield seen
        finally:
            is_over.set()
        await work
        assert "host" in await client.ids("guests")
        await watch.wait(lambda: ("guests", f"guest-{seen.registered - 1}") in watch.view, "the last guest")
        await client.deregister(f"guest-{seen.registered - 1}", service="guests")


@pytest.fixture(scope="module")
def attacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """One server for all of them, on each transport: what one leaves behind meets the next."""
    directory = tmp_path_factory.mktemp("greed")
    with RegistryServer(directory, args=["--transport", request.param]) as server:
        asyncio.run(fill(server.address))
        yield server


@pytest.fixture(scope="module")
def attacker() -> Iterator[Attacker]:
    with Attacker() as it:
        yield it


@pytest.mark.parametrize(
    ("attacked", "greed"), [(it, greed) for it in TRANSPORTS for greed in GREED], indirect=["attacked"]
)
async def test_a_client_beside_a_greedy_one_is_served(attacked: RegistryServer, attacker: Attacker, greed: str) -> None:
    process = psutil.Process(attacked.pid)
    before = process.memory_info().rss
    async with well_behaved(attacked.address) as seen:
        await asyncio.to_thread(attacker.attack, greed, attacked.address, GREED_S)
        grown = process.memory_info().rss - before
    assert seen.took
    assert seen.states == {pb.Renewal.RENEWED}
    assert attacked.is_running
    assert grown < 400 * MEBIBYTE, f"{grown / MEBIBYTE:.0f} MiB"
    assert len(attacked.log_text) < MAX_LOG_BYTES
    assert "Traceback" not in attacked.log_text
    print(f"{greed}: {len(seen.took)} rounds, p99 {seen.p99_ms:.0f} ms, {grown / MEBIBYTE:.0f} MiB")
