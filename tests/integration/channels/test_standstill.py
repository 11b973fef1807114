"""A client that stood still: what failed meanwhile, and how long it took, is held against no back end."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from balancer import aio_channel
from tests.support.counting import SERVICE, counting
from tests.support.servers import ROOT
from tests.support.waiting import eventually_async, passed

PATH = f"/{SERVICE}/"
WAIT_S = 30.0
TIMEOUT_S = 1.0
STILL_S = 2.5

# It stops itself, so that nothing comes between: whatever the machine does, the calls are under way.
CLIENT = """
import asyncio, json, os, signal, sys, time
from balancer import ChannelOptions, OutlierOptions, PoolOptions, aio_channel, blocking_channel

target, timeout_s, wait_s = "static://" + sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
PATH = "/test.Counting/"
RETRY = {"maxAttempts": 2, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1,
         "retryableStatusCodes": ["DEADLINE_EXCEEDED"]}
CONFIG = {"methodConfig": [{"name": [{}], "retryPolicy": RETRY}],
          "retryThrottling": {"maxTokens": 4, "tokenRatio": 0.1}}
OUTLIER = OutlierOptions(interval_s=60, consecutive_failures=1, max_ejection_percent=100)
GIVEN = {"options": [("grpc.service_config", json.dumps(CONFIG))],
         "balancing": ChannelOptions(pool=PoolOptions(outlier=OUTLIER))}

def seen(channel):
    (node,) = channel.stats().nodes
    return {"failures": node.failures, "ejected": node.ejected_since is not None, "latency_s": node.latency_s,
            "tokens": channel.engine.config.throttle.tokens}

def code(error):
    return "OK" if error is None else error.code().name

async def in_aio(call):
    try:
        await call
    except Exception as error:
        return code(error)
    return "OK"

async def in_threads(call):
    return code(await asyncio.to_thread(call.exception))

async def main():
    aio, threads = aio_channel(target, **GIVEN), blocking_channel(target, **GIVEN)
    of_aio = {name: aio.unary_unary(PATH + name) for name in ("Echo", "Hang", "Wait", "Fail")}
    of_threads = {name: threads.unary_unary(PATH + name).future for name in of_aio}
    ways = (aio, of_aio, in_aio), (threads, of_threads, in_threads)
    for _, methods, ended in ways:
        assert await ended(methods["Echo"](b"", timeout=wait_s)) == "OK"
    calls = [[*(methods["Hang"](b"", timeout=timeout_s) for _ in range(3)), methods["Wait"](b"", timeout=wait_s)]
             for _, methods, _ in ways]
    for _ in range(5):
        await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGSTOP)
    for (channel, _, ended), begun in zip(ways, calls):
        codes = [await ended(call) for call in begun]
        print(json.dumps({"codes": codes, **seen(channel)}), flush=True)
    for channel, methods, ended in ways:
        while not seen(channel)["ejected"]:
            await ended(methods["Fail"](b"UNAVAILABLE", timeout=wait_s))
        print(json.dumps(seen(channel)), flush=True)
    await aio.close()
    threads.close()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def client(address: str) -> AsyncIterator[asyncio.subprocess.Process]:
    arguments = (sys.executable, "-c", CLIENT, address, str(TIMEOUT_S), str(WAIT_S))
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def has_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a process has stopped is seen in /proc")
async def test_what_fails_in_a_standstill_of_the_client_is_held_against_nobody() -> None:
    """Deadlines go by, and answers wait in the socket. What fails of itself counts as ever."""
    with counting() as backend:
        async with client(backend.address) as process:
            await eventually_async(lambda: has_stopped(process.pid), timeout_s=WAIT_S)
            backend.released.set()
            await passed(STILL_S)
            os.kill(process.pid, signal.SIGCONT)
            assert process.stdout is not None
            told = [json.loads(await process.stdout.readline()) for _ in range(4)]
    for woken in told[:2]:
        latency_s = woken.pop("latency_s")
        assert woken == {"codes": [*["DEADLINE_EXCEEDED"] * 3, "OK"], "failures": 0, "ejected": False, "tokens": 4}
        assert latency_s < STILL_S - TIMEOUT_S
    assert [failing["ejected"] for failing in told[2:]] == [True, True]


async def test_a_latency_leaves_out_the_time_in_which_the_loop_was_kept_busy() -> None:
    with counting() as backend:
        async with aio_channel(f"static://{backend.address}") as channel:
            assert await channel.unary_unary(PATH + "Echo")(b"", timeout=WAIT_S) == b""
            began = time.monotonic()
            call = asyncio.ensure_future(channel.unary_unary(PATH + "Wait")(b"", timeout=WAIT_S))
            await eventually_async(lambda: backend.seen["Wait"])
            backend.released.set()
            threading.Event().wait(1.0)  # in the loop, which nobody attends to meanwhile
            await call
            took_s = time.monotonic() - began
            (node,) = channel.stats().nodes
            assert node.latency_s < took_s - 0.5


async def test_who_has_nothing_under_way_does_not_beat() -> None:
    with counting() as backend:
        async with aio_channel(f"static://{backend.address}") as channel:
            assert await channel.unary_unary(PATH + "Echo")(b"", timeout=WAIT_S) == b""
            await eventually_async(lambda: channel.engine.resting, timeout_s=WAIT_S)
            call = asyncio.ensure_future(channel.unary_unary(PATH + "Hang")(b"", timeout=WAIT_S))
            await eventually_async(lambda: backend.seen["Hang"])
            assert not channel.engine.resting
            call.cancel()
            await eventually_async(lambda: channel.engine.resting, timeout_s=WAIT_S)
