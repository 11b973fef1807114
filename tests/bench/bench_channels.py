"""Calls through a `registry://` channel beside calls through a plain one, to the same back end in a process of its own.

Both channels live in one process and take turns, a slice of time each, so that what disturbs the machine disturbs both;
the ratio is the median over the slices.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import registry_pb2_grpc
from tests.bench.bare_server import MANY
from tests.bench.report import Row
from tests.bench.stage import Stage
from tests.bench.workload import LONG_TTL

SECTION = "Calls through registry:// beside a plain channel"
SERVICE = "bench"
BODY = b"x" * 120
CALLERS = 32
SLICE_S = 0.4
TARGET = 0.97


def run(stage: Stage) -> list[Row]:
    with stage.bare() as back_end, stage.registry() as registry:
        _register(registry.address, back_end.port)
        target = f"registry://{registry.address}/{SERVICE}"
        slices = max(3, round(stage.rounds * stage.seconds / SLICE_S))
        return [
            *_sync_rows(back_end.address, target, slices),
            *asyncio.run(_aio_rows(back_end.address, target, slices)),
        ]


def _register(address: str, port: int) -> None:
    with grpc.insecure_channel(address) as channel:
        instance = pb.Instance(service=SERVICE, host="127.0.0.1", port=port)
        registry_pb2_grpc.RegistryStub(channel).Register(
            pb.RegisterRequest(instance=instance, ttl=LONG_TTL), timeout=10
        )


# ---- threads


def _sync_rows(address: str, target: str, slices: int) -> list[Row]:
    with grpc.insecure_channel(address) as plain, registry_client.channel(target) as ours:
        rows = []
        for what, unit, make in (("sync, unary", "calls/s", _sync_unary), ("sync, stream", "messages/s", _sync_stream)):
            sides = [make(channel) for channel in (plain, ours)]
            for side in sides:
                side(SLICE_S)  # connects
            rows += _rows(what, unit, [[side(SLICE_S) for side in sides] for _ in range(slices)])
        return rows


def _sync_unary(channel: grpc.Channel) -> Callable[[float], float]:
    call: Any = channel.unary_unary("/bare.Bare/Empty")

    def run_for(seconds: float) -> float:
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            call(BODY, timeout=10)
            done += 1
        return done / (time.perf_counter() - began)

    return run_for


def _sync_stream(channel: grpc.Channel) -> Callable[[float], float]:
    call: Any = channel.unary_stream("/bare.Bare/Many")

    def run_for(seconds: float) -> float:
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            done += sum(1 for _ in call(BODY, timeout=10))
        return done / (time.perf_counter() - began)

    return run_for


# ---- asyncio


async def _aio_rows(address: str, target: str, slices: int) -> list[Row]:
    async with grpc.aio.insecure_channel(address) as plain, registry_client.aio.channel(target) as ours:
        rows = []
        for what, unit, make in (
            ("asyncio, unary", "calls/s", _aio_unary),
            ("asyncio, stream", "messages/s", _aio_stream),
        ):
            sides = [make(channel) for channel in (plain, ours)]
            for side in sides:
                await _aio_slice(side, SLICE_S)
            measured = [[await _aio_slice(side, SLICE_S) for side in sides] for _ in range(slices)]
            rows += _rows(what, unit, measured)
        return rows


def _aio_unary(channel: grpc.aio.Channel) -> Callable[[], Awaitable[int]]:
    call: Any = channel.unary_unary("/bare.Bare/Empty")

    async def once() -> int:
        await call(BODY, timeout=10)
        return 1

    return once


def _aio_stream(channel: grpc.aio.Channel) -> Callable[[], Awaitable[int]]:
    call: Any = channel.unary_stream("/bare.Bare/Many")

    async def once() -> int:
        async for _ in call(BODY, timeout=10):
            pass
        return MANY

    return once


async def _aio_slice(once: Callable[[], Awaitable[int]], seconds: float) -> float:
    done, began = 0, time.perf_counter()

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            count = await once()  # before `done` is read: others count meanwhile
            done += count

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
    return done / (time.perf_counter() - began)


def _rows(what: str, unit: str, measured: list[list[float]]) -> list[Row]:
    plain, ours = (statistics.median(column) for column in zip(*measured, strict=True))
    ratio = statistics.median(mine / base for base, mine in measured)
    return [
        Row(SECTION, "plain channel", what, plain, unit, 1.0),
        Row(SECTION, "grpc-registry", what, ours, unit, ratio, f"≥ {TARGET} of plain", ratio >= TARGET),
    ]
