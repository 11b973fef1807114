"""Watchers that stop reading, and what that costs a server and everybody else."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import psutil

from tests.support.raw import RawClient, Step, Watching
from tests.support.servers import RegistryServer
from tests.support.waiting import passed

STALL_S = 60.0
CHANGES = 10_000
INSTANCES = 200
STALLED = 4
WRITERS = 4
PAD = "x" * 2000
# The catalog remembers this many changes, whoever watches: full before anything is measured, it grows no more.
LOG_LIMIT = 16_384
MAX_GROWTH_BYTES = 10 * 1024 * 1024
# What the windows of HTTP/2 and the buffers of the way hold; the rest of the changes must not have been sent at all.
MAX_SENT_BYTES = 8 * 1024 * 1024
# Of a change on its way to a watcher that reads. They are 2 ms and some ten when the machine has nothing else to do; a
# busy one holds everybody up now and then, and who waited for those that do not read would do so for most of a minute.
MEDIAN_AGE_S, P99_AGE_S = 0.25, 5.0


class Load:
    """Updates of instances in turn, each with the time it was sent at."""

    def __init__(self, client: RawClient) -> None:
        self._client = client
        self.sent = 0
        self.revision = 0

    async def register(self) -> None:
        """All instances, on one lease that outlives the test."""
        lease = ""
        for number in range(INSTANCES):
            answer = await self._client.register(f"id-{number}", 1000 + number, ttl_s=3600, lease_id=lease)
            lease = answer.lease_id

    async def run(self, changes: int, over_s: float = 0.0) -> None:
        """So many changes, spread evenly over so long, or as fast as it goes."""
        began, first = time.monotonic(), self.sent
        async with asyncio.TaskGroup() as group:
            for writer in range(WRITERS):
                group.create_task(self._write(writer, first + changes, began, first, over_s / changes))

    async def _write(self, writer: int, until: int, began: float, first: int, every_s: float) -> None:
        number = first + writer
        while number < until:
            await passed(began + (number - first) * every_s - time.monotonic())
            stamp = {"sent_at": repr(time.monotonic()), "pad": PAD}
            answer = await self._client.update(f"id-{number % INSTANCES}", metadata=stamp)
            self.revision = max(self.revision, answer.header.revision)
            self.sent += 1
            number += WRITERS


class Ages:
    """How old changes are when they arrive, in seconds."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.bytes = 0

    def __call__(self, step: Step) -> None:
        self.bytes += sum(it.ByteSize() for it in step.upserts.values())
        if step.reset:  # what it tells of is as old as it may be
            return
        self.seen += [
            step.at - float(it.metadata["sent_at"]) for it in step.upserts.values() if "sent_at" in it.metadata
        ]

    def quantile(self, share: float) -> float:
        """The age that this share of the changes did not exceed."""
        return sorted(self.seen)[int(share * (len(self.seen) - 1))]


def memory(server: RegistryServer) -> int:
    """The server's resident memory, in bytes."""
    size: int = psutil.Process(server.pid).memory_info().rss
    return size


@contextlib.asynccontextmanager
async def watching(address: str, ages: Ages) -> AsyncIterator[Watching]:
    """A watcher with a connection of its own."""
    async with RawClient(address) as client, client.watching(on_step=ages) as watch:
        await watch.wait_started()
        yield watch


async def bounded(server: RegistryServer, client: RawClient) -> None:
    """Raises AssertionError unless watchers that stop reading for a minute cost next to nothing, delay nobody, and end
    up right."""
    load, before, during = Load(client), Ages(), Ages()
    stalled_ages = [Ages() for _ in range(STALLED)]
    await load.register()
    await load.run(LOG_LIMIT + INSTANCES)
    async with contextlib.AsyncExitStack() as stack:
        stalled = [await stack.enter_async_context(watching(server.address, ages)) for ages in stalled_ages]
        async with watching(server.address, before) as reader:
            await load.run(CHANGES // 20, over_s=STALL_S / 20)
            await reader.wait_revision(load.revision)
            await asyncio.gather(*(watch.wait_revision(load.revision) for watch in stalled))
        for watch in stalled:
            watch.stop_reading()
        told = [ages.bytes for ages in stalled_ages]
        size, began = memory(server), time.monotonic()
        async with watching(server.address, during) as reader:
            await load.run(CHANGES, over_s=STALL_S)
            await reader.wait_revision(load.revision)
            grown, took_s = memory(server) - size, time.monotonic() - began
            assert took_s >= STALL_S - 1
            assert max(watch.revision for watch in stalled) < load.revision - CHANGES // 2, "they did stop"
            for watch in stalled:
                watch.read_on()
            for watch in stalled:
                await watch.wait_revision(load.revision)
                await watch.wait(lambda watch=watch: watch.view == reader.view, "what everybody sees")  # type: ignore[misc]
    sent = [ages.bytes - had for ages, had in zip(stalled_ages, told, strict=True)]
    assert grown < MAX_GROWTH_BYTES, f"{grown / 2**20:.1f} MiB"
    assert max(sent) < MAX_SENT_BYTES < during.bytes
    assert len(during.seen) > CHANGES * 0.9
    for ages in (before, during):
        assert ages.quantile(0.5) < MEDIAN_AGE_S, f"{ages.quantile(0.5):.3f} s"
        assert ages.quantile(0.99) < P99_AGE_S, f"{ages.quantile(0.99):.3f} s"
