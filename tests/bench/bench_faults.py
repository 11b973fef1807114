"""One of five back ends falls ill under steady load: what the callers notice, by policy, beside plain round robin.

Calls are offered at a steady rate whatever becomes of them, each with a deadline, so that a slow back end does not slow
the load down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from balancer import ChannelOptions, FailurePercentage, OutlierOptions, PoolOptions, aio_channel
from tests.bench.back_end import METHOD
from tests.bench.report import Row
from tests.bench.stage import Stage
from tests.support.servers import ServerProcess

BACK_ENDS = 5
WORK_MS = 5.0
RATE = 250.0
DEADLINE_S = 1.0
FAULT_AFTER_S = 0.5

EJECTION = OutlierOptions(
    interval_s=0.5,
    base_ejection_s=10.0,
    max_ejection_percent=40,
    failure_percentage=FailurePercentage(threshold_percent=15, minimum_hosts=3, request_volume=10),
    consecutive_failures=3,
)
RETRY = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.005s",
                "maxBackoff": "0.02s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What one back end suffers: from its start, by `arguments`, or a little later, by `strike`."""

    name: str
    arguments: tuple[str, ...] = ()
    strike: Callable[[ServerProcess], None] = lambda _server: None


@dataclass(frozen=True, slots=True)
class Remedy:
    """A way to balance."""

    name: str
    policy: str
    ejection: bool = False
    retry: bool = False

    def channel(self, target: str) -> grpc.aio.Channel:
        options = [("grpc.service_config", json.dumps(RETRY))] if self.retry else []
        pool = PoolOptions(outlier=EJECTION if self.ejection else None)
        return aio_channel(target, policy=self.policy, options=options, balancing=ChannelOptions(pool=pool))


FAULTS = (
    Fault("100 times slower", ("--work-ms", str(100 * WORK_MS))),
    Fault("fails 30 % of its calls", ("--fail", "0.3")),
    Fault("stopped (SIGSTOP)", strike=ServerProcess.pause),
    Fault("killed (SIGKILL)", strike=ServerProcess.kill),
)
REMEDIES = (
    Remedy("round_robin", "round_robin"),
    Remedy("grpc-registry: least_connections", "least_connections"),
    Remedy("grpc-registry: response_time", "response_time"),
    Remedy("grpc-registry: round_robin, ejection", "round_robin", ejection=True),
    Remedy("grpc-registry: round_robin, ejection, retry", "round_robin", ejection=True, retry=True),
)


@dataclass(slots=True)
class Outcome:
    """How long calls took, those that failed among them."""

    took_s: list[float] = field(default_factory=list)
    failed: int = 0

    def percentile_ms(self, p: float) -> float:
        return 1e3 * sorted(self.took_s)[int((len(self.took_s) - 1) * p)]


def run(stage: Stage) -> list[Row]:
    return asyncio.run(_run(stage))


async def _run(stage: Stage) -> list[Row]:
    rows = []
    for fault in FAULTS:
        base = 0.0
        for remedy in REMEDIES:
            outcome = await _measure(stage, fault, remedy)
            p99 = outcome.percentile_ms(0.99)
            base = base or p99
            rows += _rows(fault, remedy, outcome, p99 / base)
    return rows


def _rows(fault: Fault, remedy: Remedy, outcome: Outcome, ratio: float) -> list[Row]:
    section = f"One of {BACK_ENDS} back ends: {fault.name}"
    failed = 100 * outcome.failed / len(outcome.took_s)
    return [
        Row(section, remedy.name, "p99", outcome.percentile_ms(0.99), "ms", ratio),
        Row(section, remedy.name, "failed", failed, "% of calls"),
    ]


async def _measure(stage: Stage, fault: Fault, remedy: Remedy) -> Outcome:
    async with _back_ends(stage, fault) as servers:
        target = "static://" + ",".join(server.address for server in servers)
        async with remedy.channel(target) as channel:
            call: Any = channel.unary_unary(METHOD)
            warm_up = (call(b"", timeout=10, wait_for_ready=True) for _ in range(4 * BACK_ENDS))
            await asyncio.gather(*warm_up, return_exceptions=True)
            return await _offer(call, 2 * stage.seconds, lambda: fault.strike(servers[0]))


@contextlib.asynccontextmanager
async def _back_ends(stage: Stage, fault: Fault) -> AsyncIterator[list[ServerProcess]]:
    well = ("--work-ms", str(WORK_MS))
    servers = [
        ServerProcess(stage.directory, f"back-end-{number}", "tests.bench.back_end", [*well, *more])
        for number in range(BACK_ENDS)
        for more in [() if number else fault.arguments]
    ]
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(server) for server in servers))
        yield servers


async def _offer(call: Any, seconds: float, strike: Callable[[], None]) -> Outcome:
    outcome, began = Outcome(), time.perf_counter()

    async def once() -> None:
        start = time.perf_counter()
        try:
            await call(b"", timeout=DEADLINE_S)
        except grpc.aio.AioRpcError:
            outcome.failed += 1
        outcome.took_s.append(time.perf_counter() - start)

    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * RATE)):
            await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            if number == int(FAULT_AFTER_S * RATE):
                strike()
            group.create_task(once())
    return outcome
