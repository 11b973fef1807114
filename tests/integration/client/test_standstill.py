"""A process's own standstill counts as no time: who stood still does not take others for gone."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import registry_pb2_grpc
from registry_client import RegistryClient
from registry_client.view import KEEP_AT_LEAST_S
from tests.integration.client.conftest import WAIT_S, Recorder, ids, recording, until
from tests.support.servers import ROOT, RegistryServer
from tests.support.waiting import eventually_async, passed

TTL_S = 4.0

WATCHER = """
import asyncio, json, sys
import registry_client

async def main():
    async with registry_client.connect(sys.argv[1], cache_dir=None) as registry:
        async for view in registry.watch("player"):
            print(json.dumps({
                "ids": [it.id for it in view.instances],
                "unconfirmed": len(view.unconfirmed),
                "stale": view.stale_for is not None,
            }), flush=True)

asyncio.run(main())
"""


def register(address: str, name: str = "p1", ttl_s: float = TTL_S) -> None:
    """Once, and nobody renews it. Blocks."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:  # of its own connection
        request = pb.RegisterRequest(instance=pb.Instance(service="player", id=name, host="10.0.0.5", port=8001))
        request.ttl.FromNanoseconds(round(ttl_s * 1e9))
        registry_pb2_grpc.RegistryStub(channel).Register(request, wait_for_ready=True, timeout=WAIT_S)


class Watcher:
    """A process that watches, and every view that it was given."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.views: list[dict[str, Any]] = []

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.views.append(json.loads(line))

    def signal(self, signum: int) -> None:
        os.kill(self.process.pid, signum)


@contextlib.asynccontextmanager
async def watching(address: str) -> AsyncIterator[Watcher]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WATCHER, address, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    watcher = Watcher(process)
    reading = asyncio.create_task(watcher.read())
    try:
        yield watcher
    finally:
        process.kill()
        await process.wait()
        await reading


async def test_a_watcher_that_was_stopped_does_not_announce_that_an_owner_is_gone(server: RegistryServer) -> None:
    await asyncio.to_thread(register, server.address)
    async with watching(server.address) as watcher:
        await eventually_async(lambda: watcher.views and watcher.views[-1]["ids"] == ["p1"], timeout_s=WAIT_S)
        await server.restart_async()
        await eventually_async(lambda: watcher.views[-1]["unconfirmed"] == 1, timeout_s=WAIT_S)
        watcher.signal(signal.SIGSTOP)
        await asyncio.to_thread(register, server.address, ttl_s=120.0)
        await passed(TTL_S + 3.0)
        watcher.views.append({})
        watcher.signal(signal.SIGCONT)
        await eventually_async(lambda: watcher.views[-1].get("unconfirmed") == 0, timeout_s=WAIT_S)
        await passed(2.0)
        assert [view for view in watcher.views if view and view["ids"] != ["p1"]] == []


async def test_one_that_was_stopped_while_the_registry_was_restarted_keeps_what_it_has(server: RegistryServer) -> None:
    """It knows nothing of the restart until it wakes, and the owner needs another second then."""
    await asyncio.to_thread(register, server.address)
    async with watching(server.address) as watcher:
        await eventually_async(lambda: watcher.views and watcher.views[-1]["ids"] == ["p1"], timeout_s=WAIT_S)
        watcher.signal(signal.SIGSTOP)
        await server.restart_async()
        await passed(TTL_S + 3.0)
        watcher.signal(signal.SIGCONT)
        await eventually_async(lambda: watcher.views[-1]["unconfirmed"] == 1, timeout_s=WAIT_S)
        await asyncio.to_thread(register, server.address, ttl_s=120.0)
        await eventually_async(lambda: watcher.views[-1]["unconfirmed"] == 0, timeout_s=WAIT_S)
        await passed(2.0)
        assert [view for view in watcher.views if view["ids"] != ["p1"]] == []


@contextlib.asynccontextmanager
async def unconfirmed(server: RegistryServer, registry: RegistryClient) -> AsyncIterator[Recorder]:
    """A watch of one instance that a restarted registry has not heard of yet."""
    await asyncio.to_thread(register, server.address)
    async with recording(registry.watch("player")) as recorder:
        await recorder.wait(lambda view: ids(view) == ["p1"])
        await server.restart_async()
        await recorder.wait(lambda view: len(view.unconfirmed) == 1)
        yield recorder


def stand_still(seconds: float) -> None:
    """In the loop, which nobody attends to meanwhile."""
    threading.Event().wait(seconds)


async def test_a_busy_loop_does_not_announce_that_an_owner_is_gone(
    server: RegistryServer, registry: RegistryClient
) -> None:
    async with unconfirmed(server, registry) as recorder:
        register(server.address, ttl_s=120.0)
        stand_still(TTL_S + 2.0)
        await recorder.wait(lambda view: not view.unconfirmed)
        await passed(2.0)
        assert [ids(view) for view in recorder.views if ids(view) not in ([], ["p1"])] == []
        assert [view for view in recorder.views if view.changes.removed] == []


async def test_a_standstill_is_no_time_for_the_owner_to_come_back_in(
    server: RegistryServer, registry: RegistryClient
) -> None:
    """Owner and watcher may have stood still together."""
    async with unconfirmed(server, registry) as recorder:
        stand_still(TTL_S + 2.0)
        await passed(1.0)
        assert ids(recorder.views[-1]) == ["p1"]
        await asyncio.to_thread(register, server.address, ttl_s=120.0)
        await recorder.wait(lambda view: not view.unconfirmed)
        assert [view for view in recorder.views if view.changes.removed] == []


async def test_a_loop_that_is_busy_again_and_again_lets_go_all_the_same(
    server: RegistryServer, registry: RegistryClient
) -> None:
    async with unconfirmed(server, registry) as recorder:

        def is_gone() -> bool:
            stand_still(0.7)
            return ids(recorder.views[-1]) == []

        await eventually_async(is_gone, timeout_s=30)


async def test_who_does_not_come_back_goes_after_its_ttl(server: RegistryServer, registry: RegistryClient) -> None:
    async with unconfirmed(server, registry) as recorder:
        began = asyncio.get_running_loop().time()
        view = await recorder.wait(lambda view: ids(view) == [])
        took_s = asyncio.get_running_loop().time() - began
        assert KEEP_AT_LEAST_S <= took_s < TTL_S + 4
        assert [it.id for it in view.changes.removed] == ["p1"]


async def test_a_busy_loop_makes_nothing_stale_and_drops_no_stream(
    registry: RegistryClient, caplog: pytest.LogCaptureFixture
) -> None:
    """What the registry said meanwhile is there to be read."""
    async with recording(registry.watch("player")) as recorder:
        await recorder.wait(lambda view: ids(view) == [])
        stand_still(17.0)  # longer than a stream may be silent
        await passed(2.0)
        assert [view.stale_for for view in recorder.views] == [None]
        assert not [it for it in caplog.records if it.name.startswith("registry_client")]


async def test_a_busy_start_does_not_prefer_the_disk_to_the_registry(server: RegistryServer, cache_home: Path) -> None:
    """The answer was there in time; only this process had no time for it."""
    async with registry_client.connect(server.address) as registry, registry.register(_player()):
        await until(registry.watch("player"), lambda view: ids(view) == ["p1"])
    assert list(cache_home.glob("*/*.view"))
    async with registry_client.connect(server.address) as registry, recording(registry.watch("player")) as recorder:
        for _ in range(3):
            await asyncio.sleep(0)
        stand_still(3.0)
        await recorder.wait(lambda view: view.stale_for is None)
        assert [ids(view) for view in recorder.views] == [[]]


def _player() -> registry_client.Instance:
    return registry_client.Instance(service="player", id="p1", host="10.0.0.5", port=8001)
