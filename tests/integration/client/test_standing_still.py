"""An owner that is stopped for a while: it renews at once when it goes on, and is back if it was given up meanwhile."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator

import pytest

import registry_client
from registry_client import RegistryClient, State
from tests.integration.client.conftest import ids, player, recording
from tests.support.servers import ROOT, RegistryServer
from tests.support.waiting import eventually_async, passed

TTL_S = 3.0
OWNER = """
import asyncio, registry_client
from registry_client import Instance

async def main():
    async with registry_client.connect({address!r}, cache_dir=None) as registry:
        async with registry.register(Instance("player", "10.0.0.5", 8001, id="p1"), ttl={ttl_s}) as registration:
            await registration.wait_lost()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def owner(server: RegistryServer, ttl_s: float = TTL_S) -> AsyncIterator[int]:
    """The pid of a process that keeps an instance registered."""
    program = OWNER.format(address=server.address, ttl_s=ttl_s)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=ROOT)
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture
async def observer(server: RegistryServer) -> AsyncIterator[RegistryClient]:
    async with registry_client.connect(server.address, cache_dir=None) as client:
        yield client


async def test_an_owner_that_is_stopped_for_less_than_its_ttl_is_never_missed(
    server: RegistryServer, observer: RegistryClient
) -> None:
    ttl_s = 2 * TTL_S  # what is left of it when the owner goes on is more than a busy machine keeps it waiting
    async with owner(server, ttl_s) as pid, recording(observer.watch("player")) as recorder:
        await recorder.wait(lambda view: ids(view) == ["p1"])
        recorder.views.clear()
        for _ in range(3):
            os.kill(pid, signal.SIGSTOP)
            await passed(ttl_s * 0.4)  # it may have been about to renew
            os.kill(pid, signal.SIGCONT)
            await passed(ttl_s * 0.4)
        assert recorder.views == []


async def test_an_owner_that_was_given_up_is_back_at_once(server: RegistryServer, observer: RegistryClient) -> None:
    async with owner(server) as pid, recording(observer.watch("player")) as recorder:
        await recorder.wait(lambda view: ids(view) == ["p1"])
        os.kill(pid, signal.SIGSTOP)
        await recorder.wait(lambda view: not view.instances)
        await passed(TTL_S)
        os.kill(pid, signal.SIGCONT)
        began = time.monotonic()
        await recorder.wait(lambda view: ids(view) == ["p1"])
        assert time.monotonic() - began < TTL_S / 2


async def test_a_loop_that_is_kept_busy_loses_nothing(server: RegistryServer) -> None:
    """Longer than the registry is waited for, and than a renewal may take."""
    async with (
        registry_client.connect(server.address, cache_dir=None) as registry,
        registry.register(player("p1"), ttl=TTL_S) as registration,
    ):
        lease_id = registration.lease_id
        for _ in range(4):
            end = time.monotonic() + TTL_S * 0.5
            while time.monotonic() < end:
                pass
            await passed(0.3)
        await eventually_async(lambda: registration.state is State.REGISTERED and registration.invisible_for is None)
        assert registration.lease_id == lease_id
