"""What counting costs: a server that counts beside one that does not, and a channel that is exposed beside one that is
not.

Of each the processor time of a call, in turns, a slice of time each, and of that the least: what disturbs a slice only
ever makes it longer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from prometheus_client import CollectorRegistry

import registry_client
from registry_client import metrics
from tests.bench.bench_channels import CALLERS, SERVICE, SLICE_S, _aio_unary, _register, _sync_unary
from tests.bench.report import Row
from tests.bench.stage import Stage, cpu_s
from tests.bench.workload import keep_alives, leases, registrations
from tests.support.servers import RegistryServer

SECTION = "What metrics cost"
LEAST = 0.97
REGISTRATIONS = 60_000
ADMIN = "127.0.0.1:0"
Side = Callable[[], float]


def run(stage: Stage) -> list[Row]:
    with ExitStack() as stack:
        servers = [stack.enter_context(stage.registry("memory:", "--admin", admin)) for admin in (ADMIN, "off")]
        back_end = stack.enter_context(stage.bare())
        _register(servers[1].address, back_end.port)
        target = f"registry://{servers[1].address}/{SERVICE}"
        slices = max(3, round(stage.rounds * stage.seconds / SLICE_S))
        return [
            *_server_rows(stage, servers),
            _row("calls, sync, unary", _sync(target, slices)),
            _row("calls, asyncio, unary", asyncio.run(_aio(target, slices))),
        ]


# ---- of the server


def _server_rows(stage: Stage, servers: Sequence[RegistryServer]) -> list[Row]:
    bodies = stage.bodies("register", registrations(REGISTRATIONS))
    registers = [_loads(stage, it, "unary", "Register", bodies) for it in servers]
    renews = [
        _loads(stage, it, "pingpong", "KeepAlive", stage.bodies(f"keepalive-{it.port}", keep_alives(lease_ids)))
        for it in servers
        for lease_ids in [leases(it.address, CALLERS)]
    ]
    rounds = 3 * stage.rounds
    return [_row("Register", _in_turns(registers, rounds)), _row("KeepAlive", _in_turns(renews, rounds))]


def _loads(stage: Stage, server: RegistryServer, what: str, method: str, bodies: Path) -> Side:
    """Microseconds of the server's processor time for a call."""
    flags = {"method": f"/registry.v1.Registry/{method}", "bodies": bodies, "concurrency": CALLERS}

    def load() -> float:
        before = cpu_s(server.pid)
        measured = stage.load.run(what, address=server.address, seconds=stage.seconds / 2, **flags)
        return 1e6 * (cpu_s(server.pid) - before) / max(1, int(measured["calls"]))

    return load


# ---- of channels


def _sync(target: str, slices: int) -> list[list[float]]:
    with registry_client.channel(target) as counted, registry_client.channel(target) as plain:
        metrics.expose(counted, registry=CollectorRegistry())
        return _in_turns([_timed(_sync_unary(channel)) for channel in (counted, plain)], slices)


def _timed(run_for: Callable[[float], float]) -> Side:
    """Microseconds of this process's processor time for a call."""

    def slice_() -> float:
        before, began = time.process_time(), time.perf_counter()
        per_second = run_for(SLICE_S)
        return 1e6 * (time.process_time() - before) / (per_second * (time.perf_counter() - began))

    return slice_


async def _aio(target: str, slices: int) -> list[list[float]]:
    async with registry_client.aio.channel(target) as counted, registry_client.aio.channel(target) as plain:
        metrics.expose(counted, registry=CollectorRegistry())
        sides = [_aio_unary(channel) for channel in (counted, plain)]
        measured = [[await _aio_slice(side) for side in sides] for _ in range(slices + 1)]
        return measured[1:]  # the first one connects


async def _aio_slice(once: Callable[[], Awaitable[int]]) -> float:
    done, before, began = 0, time.process_time(), time.perf_counter()

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() - began < SLICE_S:
            await once()
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
    return 1e6 * (time.process_time() - before) / done


# ---- what comes of it


def _in_turns(sides: Sequence[Side], rounds: int) -> list[list[float]]:
    for side in sides:
        side()  # connects, and warms up
    return [_turn(sides, number) for number in range(rounds)]


def _turn(sides: Sequence[Side], number: int) -> list[float]:
    """Each of them goes first as often as the other."""
    in_order = [*enumerate(sides)][:: -1 if number % 2 else 1]
    measured = {place: side() for place, side in in_order}
    return [measured[place] for place in range(len(sides))]


def _row(what: str, measured: list[list[float]]) -> Row:
    """The ratio is of the rates that a processor is good for."""
    value, plain = (min(column) for column in zip(*measured, strict=True))
    ratio = plain / value
    return Row(SECTION, "grpc-registry", what, value, "us", ratio, f"≥ {LEAST} of not counting", ratio >= LEAST)
