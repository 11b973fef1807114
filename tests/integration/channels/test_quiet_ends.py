"""An asyncio channel that was closed leaves nothing behind for a loop that is gone: programs end without a word.

gRPC's core tells any loop of a process of what ended in another one. What comes for a loop that is closed by then is an
"Event loop is closed" on stderr. So each program here goes through many loops, and keeps all that a user may keep.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

PROGRAM = """
import asyncio, sys, time
import grpc.aio
from balancer import aio_channel

target, config, way = sys.argv[1:]
kept = []

async def keep(awaitable):
    try:
        kept.append(await awaitable)
    except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
        kept.append(error)
        raise

async def retried(channel):
    calls = [channel.unary_unary("/test.S/Refuse")(b"", timeout=5) for _ in range(5)]
    kept.extend(calls)
    await asyncio.gather(*map(keep, calls), return_exceptions=True)

async def left_running(channel):
    calls = [channel.unary_unary("/test.S/Hang")(b"", timeout=60) for _ in range(5)]
    kept.extend(calls)
    kept.extend(asyncio.create_task(keep(call)) for call in calls)
    await channel.unary_unary("/test.S/Echo")(b"", timeout=5)

async def given_up(channel):
    calls = [channel.unary_unary("/test.S/Hang")(b"") for _ in range(5)]
    try:
        await asyncio.wait_for(asyncio.gather(*map(keep, calls)), 0.05)
    except TimeoutError as error:
        kept.append(error)

async def streams(channel):
    calls = [channel.unary_stream("/test.S/Stream")(b"") for _ in range(3)]
    calls += [channel.stream_stream("/test.S/Both")() for _ in range(3)]
    kept.extend(calls)
    for call in calls[:2]:
        async for message in call:
            kept.append(message)
            break
    calls[0].cancel()
    readers = [asyncio.create_task(keep(call.read())) for call in calls[2:]]
    kept.extend(readers)
    await asyncio.wait(readers, timeout=0.05)

async def finished(channel):
    calls = [channel.unary_stream("/test.S/Three")(b"") for _ in range(3)]
    calls += [channel.stream_unary("/test.S/Count")(iter([b"", b""])) for _ in range(3)]
    calls += [channel.unary_unary("/test.S/Echo")(b"") for _ in range(3)]
    kept.extend(calls)
    for call in calls[:3]:
        kept.append([message async for message in call])
    await asyncio.gather(*map(keep, calls[3:]))

async def main():
    async with aio_channel(target, options=[("grpc.service_config", config)]) as channel:
        await globals()[way](channel)
        began = time.monotonic()
    print(time.monotonic() - began)

for _ in range(6):
    asyncio.run(main())
    kept.clear()  # what hung on these is told now
"""


async def refuse(_request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
    raise AssertionError


async def hang(_request: bytes, _context: object) -> bytes:
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


async def echo(request: bytes, _context: object) -> bytes:
    return request


async def stream(_request: bytes, context: object) -> AsyncIterator[bytes]:
    yield b"first"
    await hang(b"", context)


async def both(_requests: object, context: object) -> AsyncIterator[bytes]:
    async for message in stream(b"", context):
        yield message


async def three(_request: bytes, _context: object) -> AsyncIterator[bytes]:
    for message in (b"a", b"b", b"c"):
        yield message


async def count(requests: AsyncIterator[bytes], _context: object) -> bytes:
    return bytes([len([request async for request in requests])])


METHODS = {
    "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Stream": grpc.unary_stream_rpc_method_handler(stream),
    "Both": grpc.stream_stream_rpc_method_handler(both),
    "Three": grpc.unary_stream_rpc_method_handler(three),
    "Count": grpc.stream_unary_rpc_method_handler(count),
}


@pytest.fixture
async def target() -> AsyncIterator[str]:
    """Two back ends, and an address where nobody is."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.S", METHODS),))
    ports = [server.add_insecure_port("127.0.0.1:0") for _ in range(2)]
    await server.start()
    yield f"static://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]},127.0.0.1:1"
    await server.stop(None)


RETRY = {
    "maxAttempts": 3,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.02s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
HEDGE = {"maxAttempts": 3, "hedgingDelay": "0.01s", "nonFatalStatusCodes": ["UNAVAILABLE"]}
CONFIGS = {
    "plain": {},
    "retry": {"methodConfig": [{"name": [{}], "retryPolicy": RETRY}]},
    "hedge": {"methodConfig": [{"name": [{}], "hedgingPolicy": HEDGE}]},
}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("way", ["retried", "left_running", "given_up", "streams", "finished"])
async def test_a_channel_that_was_closed_leaves_nothing_for_a_loop_that_is_gone(
    target: str, way: str, config: str
) -> None:
    arguments = ("-c", PROGRAM, target, json.dumps(CONFIGS[config]), way)
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=pipe, stderr=pipe)
    closed, said = await asyncio.wait_for(program.communicate(), 100)
    assert (said.decode(), program.returncode) == ("", 0)
    assert max(map(float, closed.split())) < 10.0
