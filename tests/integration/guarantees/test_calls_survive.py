"""Calls through `registry://` channels, asyncio and threads, while instances and registries come, go and die."""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import registry_client
from examples.game import game_pb2, game_pb2_grpc
from examples.game.server import SERVICE
from examples.processes import Process, running
from tests.support.raw import RawClient
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async, passed, until

# What a store has no part in is not tested on each.
on_two_stores = pytest.mark.parametrize("store", ["memory", "etcd"], indirect=True)

TTL_S = 3.0
NAMES = ("anna", "bert", "cleo")
TASKS, THREADS = 6, 2
CALL_TIMEOUT_S = 10.0
BREATH_S = 0.01
# From the death of a process to the client's having read that its connection is gone, on a busy machine; until its
# lease ends it is still registered.
NOTICE_S = TTL_S - 0.5


@dataclass(slots=True)
class Calls:
    """What became of the calls of one kind of channel: who answered how many, and the errors of those that failed,
    each with the time at which its call began."""

    answered: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[float, str]] = field(default_factory=list)

    def note(self, began: float, error: Any) -> None:
        """A call has failed, with an error of either kind."""
        self.failed.append((began, f"{error.code().name}: {error.details()}"))


class Users:
    """Constant calls over one asyncio channel and one channel for threads. Between two is a moment for whoever shares
    the processor: without one, what starts on a machine with a single core does not get to its end."""

    def __init__(self, *registries: str) -> None:
        self.tasks, self.threads = Calls(), Calls()
        self._target = f"registry://{','.join(registries)}/{SERVICE}"
        self._stopping = threading.Event()

    @property
    def kinds(self) -> tuple[Calls, Calls]:
        """Those of asyncio and those of threads."""
        return self.tasks, self.threads

    async def wait_answered(self, *names: str, more: int = 20) -> None:
        """Wait until each of these has answered so many more calls of each kind."""
        wanted = [(calls, name, calls.answered[name] + more) for calls in self.kinds for name in names]
        await eventually_async(
            lambda: all(calls.answered[name] >= count for calls, name, count in wanted),
            timeout_s=20,
            what=f"calls of {names}: {[calls.answered for calls in self.kinds]}",
        )

    @contextlib.asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        """While the block lasts."""
        with registry_client.channel(self._target, cache_dir=None) as channel:
            async with (
                registry_client.aio.channel(self._target, cache_dir=None) as aio_channel,
                asyncio.TaskGroup() as tasks,
            ):
                for _ in range(THREADS):
                    tasks.create_task(asyncio.to_thread(self._call, game_pb2_grpc.PlayerStub(channel)))
                for _ in range(TASKS):
                    tasks.create_task(self._call_aio(game_pb2_grpc.PlayerStub(aio_channel)))
                try:
                    yield
                finally:
                    self._stopping.set()

    def _call(self, stub: game_pb2_grpc.PlayerStub) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                reply = stub.Join(game_pb2.JoinRequest(player="thread"), timeout=CALL_TIMEOUT_S)
                self.threads.answered[reply.server] += 1
            except grpc.RpcError as error:
                self.threads.note(began, error)
            self._stopping.wait(BREATH_S)

    async def _call_aio(self, stub: "game_pb2_grpc.PlayerAsyncStub") -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                reply = await stub.Join(game_pb2.JoinRequest(player="task"), timeout=CALL_TIMEOUT_S)
                self.tasks.answered[reply.server] += 1
            except grpc.aio.AioRpcError as error:
                self.tasks.note(began, error)
            await passed(BREATH_S)


class Fleet:
    """Processes of the game server by name; each registers itself and leaves with drain on SIGTERM."""

    def __init__(self, stack: contextlib.AsyncExitStack, directory: Path, *registries: str) -> None:
        self._stack = stack
        self._directory = directory
        self._registries = ",".join(registries)
        self._processes: dict[str, Process] = {}
        self._started = 0

    async def start(self, *names: str) -> None:
        """Starts them, on ports of their own, and returns when all are registered."""
        started = await asyncio.gather(*(self._stack.enter_async_context(self._one(name)) for name in names))
        self._processes.update(zip(names, started, strict=True))

    async def drain(self, name: str) -> None:
        """SIGTERM; it drains, finishes what it has and ends by itself."""
        async with asyncio.timeout(20):
            assert await self._processes[name].terminate() == 0

    async def kill(self, name: str) -> float:
        """kill -9; when it was gone, on the monotonic clock."""
        await self._processes[name].kill()
        return time.monotonic()

    def _one(self, name: str) -> contextlib.AbstractAsyncContextManager[Process]:
        self._started += 1
        options = ("--registry", self._registries, "--name", name, "--ttl", str(TTL_S))
        log = self._directory / f"{name}-{self._started}.log"
        return running(("examples.game.server", *options), r"serving as (\S+) on (\S+)", log=log)


@contextlib.asynccontextmanager
async def at_work(directory: Path, *registries: str) -> AsyncIterator[tuple[Fleet, Users]]:
    """Three game servers under constant calls, each of which has been called."""
    async with contextlib.AsyncExitStack() as stack:
        fleet, users = Fleet(stack, directory, *registries), Users(*registries)
        await fleet.start(*NAMES)
        async with users.calling():
            await users.wait_answered(*NAMES)
            yield fleet, users


async def are_registered(address: str, *names: str) -> None:
    """Wait until a registry shows exactly these."""
    async with RawClient(address) as client:

        async def shown() -> bool:
            return await client.ids(SERVICE) == set(names)

        await until(shown, timeout_s=20, what=f"exactly {names}")


@on_two_stores
async def test_rolling_restart_fails_no_call(server: RegistryServer, tmp_path: Path) -> None:
    """Every instance in turn leaves with drain and comes back on another port."""
    async with at_work(tmp_path, server.address) as (fleet, users):
        for name in NAMES:
            await fleet.drain(name)
            await fleet.start(name)
            await users.wait_answered(*NAMES)
    assert [calls.failed for calls in users.kinds] == [[], []]


@on_two_stores
async def test_killed_instance_fails_what_is_in_flight_at_most(server: RegistryServer, tmp_path: Path) -> None:
    """kill -9: calls that were under way when it died, and none after that, though it stays registered for its ttl."""
    async with at_work(tmp_path, server.address) as (fleet, users):
        died_at = await fleet.kill("bert")
        await are_registered(server.address, *NAMES)
        await users.wait_answered("anna", "cleo", more=200)
        await are_registered(server.address, "anna", "cleo")
        await users.wait_answered("anna", "cleo")
        await fleet.start("bert")
        await users.wait_answered("bert")
    for calls, callers in zip(users.kinds, (TASKS, THREADS), strict=True):
        assert len(calls.failed) <= callers, calls.failed
        assert all(began <= died_at + NOTICE_S for began, _ in calls.failed), (died_at, calls.failed)


async def test_killed_registry_fails_no_call(registry_server: RegistryServer, tmp_path: Path) -> None:
    """The embedded registry is killed, is gone for two ttls, and comes back without its memory."""
    async with at_work(tmp_path, registry_server.address) as (_, users):
        registry_server.kill()
        await passed(2 * TTL_S)
        await users.wait_answered(*NAMES)
        await registry_server.start_async()
        await are_registered(registry_server.address, *NAMES)
        await passed(TTL_S)
        await are_registered(registry_server.address, *NAMES)
        await users.wait_answered(*NAMES)
    assert [calls.failed for calls in users.kinds] == [[], []]


@pytest.mark.parametrize("dies", [0, 1])
async def test_killed_replica_fails_no_call(replicas: list[RegistryServer], dies: int, tmp_path: Path) -> None:
    """Two registries on one etcd: either may die, and what then drains is noticed all the same."""
    async with at_work(tmp_path, *(replica.address for replica in replicas)) as (fleet, users):
        replicas[dies].kill()
        await users.wait_answered(*NAMES)
        await fleet.drain("cleo")
        await are_registered(replicas[1 - dies].address, "anna", "bert")
        await fleet.start("dora")
        await users.wait_answered("anna", "bert", "dora")
    assert [calls.failed for calls in users.kinds] == [[], []]
