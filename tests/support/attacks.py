"""Clients of ill will, in a process of their own.

What they send is bounded in time and goes to the one address they are given, which is a test's own server.
"""

import asyncio
import contextlib
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Self

from registry_api.registry.v1 import registry_pb2 as pb
from tests.support import floods
from tests.support.greed import GREED
from tests.support.http2 import Http2, framed
from tests.support.servers import ROOT

REGISTRY = "/registry.v1.Registry"
CONNECTIONS = 4
# What a half message says that it will be.
CLAIMED_BYTES = 4 << 20


async def half_messages(address: str, seconds: float) -> None:
    """Calls whose one message is long and never whole: as many bytes of each as the server lets in."""
    await asyncio.gather(*(_half(address, time.monotonic() + seconds) for _ in range(CONNECTIONS)))


async def _half(address: str, until: float) -> None:
    half = struct.pack(">BI", 0, CLAIMED_BYTES) + b"x" * (CLAIMED_BYTES // 2)
    async with Http2(address) as connection:
        unsent = {connection.begin(f"{REGISTRY}/Register"): half for _ in range(min(connection.max_streams, 256))}
        while time.monotonic() < until and not connection.is_closed:
            for stream in [it for it in unsent if it not in connection.ended and it not in connection.reset]:
                unsent[stream] = unsent[stream][connection.say(stream, unsent[stream]) :]
            await connection.flush()
            await asyncio.sleep(0.02)


async def rapid_reset(address: str, seconds: float) -> None:
    """Calls that are taken back at once, without end."""
    await asyncio.gather(*(_reset(address, time.monotonic() + seconds) for _ in range(CONNECTIONS)))


async def _reset(address: str, until: float) -> None:
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionError):  # it is cut off
            await _reset_on_one(address, until)


async def _reset_on_one(address: str, until: float) -> None:
    async with Http2(address) as connection:
        while time.monotonic() < until and not connection.is_closed:
            for _ in range(20):
                connection.cancel(connection.call(f"{REGISTRY}/List", pb.ListRequest(service="player")))
            await connection.flush()


async def too_many_streams(address: str, seconds: float) -> None:
    """Watches without number on one connection, whatever the server allows; a new one when it is cut off."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionError):
            await _too_many_on_one(address, until)


async def _too_many_on_one(address: str, until: float) -> None:
    async with Http2(address) as connection:
        connection.ignore_limit()
        while time.monotonic() < until and not connection.is_closed:
            for _ in range(50):
                connection.call(f"{REGISTRY}/Watch", pb.WatchRequest())
            await connection.flush()
            await asyncio.sleep(0.01)


async def reset_while_written_to(address: str, seconds: float) -> None:
    """Streams that take nothing of what the server writes, and are reset in the middle."""
    until = time.monotonic() + seconds
    async with Http2(address, window=100) as connection:
        while time.monotonic() < until:
            streams = [connection.call(f"{REGISTRY}/Watch", pb.WatchRequest()) for _ in range(10)]
            streams += [connection.call(f"{REGISTRY}/List", pb.ListRequest()) for _ in range(10)]
            for _ in range(10):
                streams.append(connection.begin(f"{REGISTRY}/KeepAlive"))
                connection.say(streams[-1], framed(pb.KeepAliveRequest(lease_ids=["unknown"] * 20)) * 3)
            await connection.flush()
            await asyncio.sleep(0.01)
            for stream in streams:
                connection.cancel(stream)
            await connection.flush()


async def headers_that_are_no_text(address: str, seconds: float) -> None:
    """Calls with names and values of headers that are not UTF-8."""
    until = time.monotonic() + seconds
    async with Http2(address) as connection:
        while time.monotonic() < until:
            calls = [
                connection.call(f"{REGISTRY}/List", b"", headers=[(name, b"\xff\xfe")])
                for name in (b"x-name", b"x-\xff", b"user-agent") * 20
            ]
            await connection.flush()
            await connection.wait_ended(calls)


ATTACKS: dict[str, Callable[[str, float], Coroutine[Any, Any, None]]] = {
    attack.__name__: attack
    for attack in (
        half_messages,
        rapid_reset,
        too_many_streams,
        reset_while_written_to,
        headers_that_are_no_text,
        floods.resets_without_data,
        floods.continuations,
        floods.headers_by_the_thousand,
        floods.settings,
        floods.pings,
        floods.pings_whose_answers_nobody_reads,
        floods.data_without_data,
        floods.windows_beyond_all_bounds,
        floods.windows_that_never_open,
        floods.slow_prefaces,
        floods.slow_headers,
        floods.idle_connections,
        floods.bombs,
    )
}


class Attacker:
    """A process that attacks when it is told, with `with`: it is started once, as that takes longer than an attack."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.support.attacks"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def attack(self, name: str, address: str, seconds: float) -> None:
        """One attack, to its end. Raises AssertionError when the attacker failed itself."""
        assert self._process.stdin
        assert self._process.stdout
        print(name, address, seconds, file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == f"{name}\n"


async def obey() -> None:
    """Attack as the lines of stdin say: NAME ADDRESS SECONDS."""
    while line := (await asyncio.to_thread(sys.stdin.readline)).split():
        name, address, seconds = line
        await (GREED[name](address, float(seconds)) if name in GREED else ATTACKS[name](address, float(seconds)))
        print(name, flush=True)


if __name__ == "__main__":
    asyncio.run(obey())
