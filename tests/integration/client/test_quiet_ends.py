"""A client that was closed leaves nothing behind for a loop that is gone: programs end without a word.

gRPC's core tells any loop of a process of what ended in another one. What comes for a loop that is closed by then is an
"Event loop is closed" on stderr. So each program here goes through many loops.
"""

import asyncio
import sys

import pytest

from tests.support.servers import RegistryServer

PROGRAM = """
import asyncio, sys
from registry_client import Instance
from registry_client.client import connect

address, way = sys.argv[1:]
kept = []

def begin(coroutine):
    task = asyncio.create_task(coroutine)
    kept.append(task)
    return task

async def wait_for(coroutine):
    await asyncio.wait([begin(coroutine)], timeout=0.02)

async def asking(registry):
    for _ in range(10):
        begin(registry.services())
    await asyncio.sleep(0.0005)

async def given_up(registry):
    for _ in range(5):
        task = begin(registry.services())
        await asyncio.sleep(0.0003)
        task.cancel()

async def watching(registry):
    async for view in registry.watch("player"):
        break
    await wait_for(anext(registry.watch("nobody")))

async def following(registry):
    await wait_for(anext(registry.watch_events()))

async def holding(registry):
    kept.append(await registry.register(Instance(service="held", host="127.0.0.1", port=9)))

async def channel_left_open(registry):
    host, _, port = address.rpartition(":")
    kept.append(await registry.register(Instance(service="back", host=host, port=int(port))))
    channel = registry.channel("back")
    kept.append(channel)
    await channel.channel_ready()

async def main():
    async with connect(address) as registry:
        await globals()[way](registry)

for _ in range(6):
    asyncio.run(main())
    for task in kept:
        isinstance(task, asyncio.Task) and task.cancelled() or getattr(task, "exception", str)()
    kept.clear()  # what hung on these is told now
"""


@pytest.mark.parametrize("way", ["asking", "given_up", "watching", "following", "holding", "channel_left_open"])
async def test_a_program_of_many_loops_ends_without_a_word(server: RegistryServer, way: str) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, server.address, way,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(program.communicate(), 60)
    assert (program.returncode, said.decode()) == (0, "")
