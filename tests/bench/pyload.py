"""The load generator for machines without Go: the same commands, flags and answers as loadgen/, at a higher cost; no
watcher acknowledges.

It takes more of the processor than the Go one, so on few cores the servers look slower; compare only what was measured
with the same generator.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

HEAD = b"~fan="
# Where the fields of a marker are: ~fan=IIIIII;SSSSSSSSS;NNNNNNNNNNNNNNNNNNN;
INSTANCE, SEQUENCE, STAMP, LENGTH = slice(5, 11), slice(12, 21), slice(22, 41), 42
PATIENCE_S = 20.0
WARM_UP = 10  # one in so many of the first rounds does not count
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


class Lost(RuntimeError):
    """What was to be measured did not happen."""


@dataclass(slots=True)
class Watcher:
    """One stream that watches, and the newest sequence number that it has seen of each instance."""

    newest: dict[int, int] = field(default_factory=dict)
    ages_ns: list[int] = field(default_factory=list)
    messages: int = 0
    bytes: int = 0


class Fleet:
    """All watchers, and the round that waits for them."""

    def __init__(self, o: argparse.Namespace) -> None:
        self._o = o
        self._began_ns = time.time_ns()
        self._awaited = 0
        self._missing = 0
        self._seen = asyncio.Event()
        self._ready = 0
        self._all_ready = asyncio.Event()
        self.watchers = [Watcher() for _ in range(o.watchers)]

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Every watcher has its first message for as long as the block lasts. Raises Lost."""
        (request,) = bodies(self._o.watch_bodies)
        shared = [
            grpc.aio.insecure_channel(self._o.address, OPTIONS)
            for _ in range(self._o.watch_conns or len(self.watchers))
        ]
        tasks = [
            asyncio.create_task(self._watch(watcher, channel, request))
            for watcher, channel in zip(self.watchers, itertools.cycle(shared), strict=False)
        ]
        try:
            async with asyncio.timeout(3 * PATIENCE_S):
                await self._all_ready.wait()
            yield
        except TimeoutError:
            raise Lost(f"not every watcher saw in time what it should; {self._missing} are missing") from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(channel.close() for channel in shared))

    async def round(self, change: Callable[[int], Awaitable[object]], number: int) -> float:
        """Seconds from a change to the last watcher who sees it."""
        self._awaited, self._missing = number, len(self.watchers)
        self._seen.clear()
        began = time.perf_counter()
        await change(number)
        async with asyncio.timeout(PATIENCE_S):
            await self._seen.wait()
        return time.perf_counter() - began

    async def settled(self, newest: dict[int, int]) -> float:
        """The share of what everybody should hold that everybody holds, once it is all or patience is over."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            behind = sum(w.newest.get(at, 0) < sequence for w in self.watchers for at, sequence in newest.items())
            if not behind or time.monotonic() > deadline:
                return 1 - behind / max(1, len(self.watchers) * len(newest))
            await asyncio.sleep(0.05)

    async def _watch(self, watcher: Watcher, channel: grpc.aio.Channel, request: bytes) -> None:
        call: Any = channel.stream_stream(self._o.watch_method)()
        await call.write(request)
        async for message in call:
            self._take(watcher, message)

    def _take(self, watcher: Watcher, message: bytes) -> None:
        now_ns = time.time_ns()
        if not watcher.messages:
            self._ready += 1
            if self._ready == len(self.watchers):
                self._all_ready.set()
        watcher.messages += 1
        watcher.bytes += len(message)
        for marker in markers(message):
            if int(marker[STAMP]) >= self._began_ns:
                self._saw(watcher, int(marker[INSTANCE]), int(marker[SEQUENCE]), now_ns - int(marker[STAMP]))

    def _saw(self, watcher: Watcher, instance: int, sequence: int, age_ns: int) -> None:
        watcher.ages_ns.append(age_ns)
        if sequence <= watcher.newest.get(instance, 0):
            return
        watcher.newest[instance] = sequence
        if sequence == self._awaited:
            self._missing -= 1
            if not self._missing:
                self._seen.set()


def markers(message: bytes) -> Iterator[bytes]:
    at = message.find(HEAD)
    while at >= 0:
        yield message[at : at + LENGTH]
        at = message.find(HEAD, at + LENGTH)


def bodies(path: Path) -> list[bytes]:
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack_from(">I", data)
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found


def stamped(body: bytes, instance: int, sequence: int) -> bytes:
    at = body.index(HEAD)
    marker = b"%s%06d;%09d;%019d;" % (HEAD, instance, sequence, time.time_ns())
    return body[:at] + marker + body[at + LENGTH :]


def percentile(values: list[float], p: float) -> float:
    return sorted(values)[int((len(values) - 1) * p)] if values else 0.0


@contextlib.asynccontextmanager
async def channels(o: argparse.Namespace) -> AsyncIterator[list[grpc.aio.Channel]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(grpc.aio.insecure_channel(o.address, OPTIONS)) for _ in range(o.conns)]


async def drive(o: argparse.Namespace, once: Callable[[int], Awaitable[None]], limit: float) -> dict[str, Any]:
    """Callers side by side, each as fast as it is answered."""
    latencies: list[float] = []
    errors: list[str] = []
    turns, began = itertools.count(), time.perf_counter()

    async def caller() -> None:
        while time.perf_counter() - began < o.seconds and (turn := next(turns)) < limit:
            start = time.perf_counter()
            try:
                await once(turn)
                latencies.append(time.perf_counter() - start)
            except grpc.aio.AioRpcError as error:
                errors.append(f"{error.code().name}: {error.details()}")

    await asyncio.gather(*(caller() for _ in range(o.concurrency)))
    took = time.perf_counter() - began
    return {
        "calls": len(latencies),
        "failed": len(errors),
        "seconds": took,
        "per_second": len(latencies) / took,
        "p50_ms": 1e3 * percentile(latencies, 0.5),
        "p99_ms": 1e3 * percentile(latencies, 0.99),
        **({"error": errors[0]} if errors else {}),
    }


async def unary(o: argparse.Namespace) -> dict[str, Any]:
    all_bodies = bodies(o.bodies)
    async with channels(o) as conns:
        calls: list[Any] = [conn.unary_unary(o.method) for conn in conns]

        async def once(turn: int) -> None:
            await calls[turn % len(calls)](all_bodies[turn % len(all_bodies)], wait_for_ready=True)

        return await drive(o, once, o.calls)


async def pingpong(o: argparse.Namespace) -> dict[str, Any]:
    all_bodies = bodies(o.bodies)
    async with channels(o) as conns:
        streams: list[Any] = [conns[i % len(conns)].stream_stream(o.method)() for i in range(o.concurrency)]
        free = list(streams)

        began = time.perf_counter()

        async def once(turn: int) -> None:
            if o.pace:
                await asyncio.sleep(max(0.0, began + turn / o.pace - time.perf_counter()))
            stream = free.pop()
            await stream.write(all_bodies[turn % len(all_bodies)])
            await stream.read()
            free.append(stream)

        measured = await drive(o, once, float("inf"))
        for stream in streams:
            stream.cancel()
        return measured


async def last(o: argparse.Namespace) -> dict[str, Any]:
    template, fleet = bodies(o.bodies)[0], Fleet(o)
    async with channels(o) as conns, fleet.watching():
        call: Any = conns[0].unary_unary(o.method)

        async def change(number: int) -> None:
            await call(stamped(template, 0, number))

        took = []
        for number in range(1, o.rounds + 1):
            took.append(await fleet.round(change, number))
            await asyncio.sleep(0.005)
    took = took[o.rounds // WARM_UP :]
    return {"rounds": len(took), "p50_ms": 1e3 * percentile(took, 0.5), "p99_ms": 1e3 * percentile(took, 0.99)}


async def sustained(o: argparse.Namespace) -> dict[str, Any]:
    templates, fleet = bodies(o.bodies), Fleet(o)
    newest: dict[int, int] = {}
    errors: list[str] = []
    async with channels(o) as conns, fleet.watching():
        calls: list[Any] = [conn.unary_unary(o.method) for conn in conns]
        began = time.monotonic()

        async def write(number: int, instance: int) -> None:
            try:
                await calls[number % len(calls)](stamped(templates[instance], instance, number))
                newest[instance] = number
            except grpc.aio.AioRpcError as error:
                errors.append(f"{error.code().name}: {error.details()}")

        async def writer(first: int) -> None:
            # Instances of its own: two changes of one are never under way together.
            accepted, own = 0, itertools.cycle(range(first, len(templates), writers))
            for number in itertools.count(first + 1, writers):
                await asyncio.sleep(max(0.0, began + number / o.rate - time.monotonic()))
                if number / o.rate > o.seconds or time.monotonic() - began > o.seconds:
                    break
                await write(number, next(own))
                accepted += 1
            counts.append(accepted)

        counts: list[int] = []
        writers = min(o.concurrency, len(templates))
        await asyncio.gather(*map(writer, range(writers)))
        took = time.monotonic() - began
        conveyed, settled_s = await fleet.settled(newest), time.monotonic() - began - took
    return _sustained_result(o, fleet, sum(counts) - len(errors), errors, (took, conveyed, settled_s))


def _sustained_result(
    o: argparse.Namespace, fleet: Fleet, accepted: int, errors: list[str], rest: tuple[float, float, float]
) -> dict[str, Any]:
    took, conveyed, settled_s = rest
    ages = [age / 1e6 for watcher in fleet.watchers for age in watcher.ages_ns]
    return {
        "offered_per_second": o.rate,
        "accepted": accepted,
        "failed": len(errors),
        "conveyed": conveyed,
        "accepted_per_second": accepted / took,
        "seconds": took,
        "settled_s": settled_s,
        "items": len(ages),
        "age_p50_ms": percentile(ages, 0.5),
        "age_p99_ms": percentile(ages, 0.99),
        "messages": sum(watcher.messages for watcher in fleet.watchers),
        "bytes": sum(watcher.bytes for watcher in fleet.watchers),
        **({"error": errors[0]} if errors else {}),
    }


async def idle(o: argparse.Namespace) -> dict[str, Any]:
    async with Fleet(o).watching():
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    return {"watchers": o.watchers}


COMMANDS = {"unary": unary, "pingpong": pingpong, "last": last, "sustained": sustained, "idle": idle}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pyload", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    for name in ("address", "method", "watch-method"):
        parser.add_argument(f"--{name}", default="")
    for name in ("bodies", "watch-bodies"):
        parser.add_argument(f"--{name}", type=Path)
    for name, default in {"concurrency": 32, "conns": 4, "watchers": 1, "rounds": 100, "calls": sys.maxsize}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--watch-conns", type=int, default=0, help="that the watchers share, 0 for one each")
    parser.add_argument("--instances", type=int, default=1, help="taken from the bodies")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--pace", type=float, default=0.0, help="messages per second in all, 0 for no limit (pingpong)")
    parser.add_argument("--rate", type=float, default=1000.0)
    return parser.parse_args()


def main() -> int:
    o = parse()
    try:
        print(json.dumps(asyncio.run(COMMANDS[o.command](o))))
    except (Lost, grpc.aio.AioRpcError) as error:
        print(f"pyload: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
