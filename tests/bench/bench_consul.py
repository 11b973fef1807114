"""On Consul, beside what Consul does by itself in the same run with as many requests in flight: writes, leases held,
many instances loaded."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from registry_server.stores.consul.http import Consul
from registry_server.stores.consul.url import ConsulURL
from tests.bench.report import Row
from tests.bench.stage import Stage, cpu_s, median_of
from tests.bench.workload import keep_alives, many_leases, register_fleet, registrations, registry_fan_out
from tests.support.consul import ConsulAgent

SECTION = "On Consul"
CALLERS = 32
REGISTRATIONS = 60_000
INSTANCES = 1_000
LEASES, TTL_S, STREAMS = 10_000, 15, 100
PACE = LEASES / (TTL_S / 3)
LOADED = 50_000
REGISTRY = "/registry.v1.Registry/"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of Consul again and again, with another number each time."""

    path: Callable[[int], str]
    body: Callable[[int], bytes]


PUT = Request(lambda number: f"/v1/kv/bench/{number % INSTANCES}", lambda number: b"x" * 200 + b"%d" % number)
SERVICE = Request(
    lambda number: "/v1/agent/service/register",
    lambda number: json.dumps({"ID": f"s-{number}", "Name": f"s-{number % 100}", "Port": 1 + number % 65_000}).encode(),
)


def run(stage: Stage) -> list[Row]:
    return [*_writes(stage), *_held(stage), *_loaded(stage)]


@contextlib.contextmanager
def consul(stage: Stage) -> Iterator[ConsulAgent]:
    """One that starts empty."""
    (directory := stage.directory / f"consul-{time.monotonic_ns()}").mkdir()
    agent = ConsulAgent(directory).start()
    try:
        yield agent
    finally:
        agent.kill()


def _writes(stage: Stage) -> list[Row]:
    registers = stage.bodies("registers", registrations(REGISTRATIONS))
    updates = stage.bodies("updates", registry_fan_out(INSTANCES).bodies)

    def alone(request: Request) -> float:
        with consul(stage) as agent:
            return asyncio.run(_asked(agent, request, stage.seconds))

    def register() -> float:
        with consul(stage) as agent, stage.registry(agent.url(catalog="false")) as server:
            return _per_second(stage, server.address, REGISTRY + "Register", registers)

    def update() -> float:
        with consul(stage) as agent, stage.registry(agent.url(catalog="false")) as server:
            register_fleet(server.address, INSTANCES)
            return _per_second(stage, server.address, REGISTRY + "Update", updates)

    sides = (lambda: alone(SERVICE), lambda: alone(PUT), register, update)
    registered_there, put, registered, updated = median_of(stage.rounds, *sides)
    return [
        Row(SECTION, "Consul 1.13.9", "a service at the agent", registered_there, "writes/s", 1.0),
        Row(SECTION, "grpc-registry", "Register", registered, "writes/s", registered / registered_there),
        Row(SECTION, "Consul 1.13.9", "a put", put, "writes/s", 1.0),
        Row(SECTION, "grpc-registry", "Update", updated, "writes/s", updated / put),
    ]


async def _asked(agent: ConsulAgent, request: Request, seconds: float) -> float:
    """How many a second, with as many in flight as the others have."""
    there, until, done = Consul(ConsulURL.parse(agent.url())), time.monotonic() + seconds, 0

    async def ask(first: int) -> None:
        nonlocal done
        number = first
        while time.monotonic() < until:
            answer = await there.ask("PUT", request.path(number), body=request.body(number))
            assert answer.status == 200, answer
            number, done = number + CALLERS, done + 1

    await asyncio.gather(*(ask(number) for number in range(CALLERS)))
    await there.aclose()
    return done / seconds


def _per_second(stage: Stage, address: str, method: str, bodies: object) -> float:
    flags = {"method": method, "bodies": bodies, "concurrency": CALLERS, "seconds": stage.seconds}
    return float(stage.load.run("unary", address=address, **flags)["per_second"])


def _held(stage: Stage) -> list[Row]:
    with consul(stage) as agent, stage.registry(agent.url(catalog="false")) as server:
        renewals = stage.bodies("renewals", keep_alives(many_leases(server.address, LEASES)))
        before = cpu_s(server.pid), cpu_s(agent.pid)
        flags = {"method": REGISTRY + "KeepAlive", "bodies": renewals, "concurrency": STREAMS, "pace": PACE}
        took = float(stage.load.run("pingpong", address=server.address, seconds=3 * stage.seconds, **flags)["seconds"])
        ours, below = ((cpu_s(pid) - was) / took for pid, was in zip((server.pid, agent.pid), before, strict=True))
    held = f"{LEASES:,} leases of {TTL_S} s"
    return [
        Row(SECTION, "grpc-registry", held, 100 * ours, "% of one"),
        Row(SECTION, "Consul below it", held, 100 * below, "% of one"),
    ]


def _loaded(stage: Stage) -> list[Row]:
    """How long another server takes until it answers, with all that there is."""
    with consul(stage) as agent, stage.registry(agent.url(catalog="false")) as server:
        register_fleet(server.address, LOADED)
        began = time.monotonic()
        with stage.registry(agent.url(catalog="false")):
            took_s = time.monotonic() - began
    return [Row(SECTION, "grpc-registry", f"{LOADED:,} instances loaded, with the start", took_s, "s")]
