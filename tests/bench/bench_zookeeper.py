"""On ZooKeeper, beside its client in Python doing the same in the same run with as many requests in flight: writes,
leases held, many instances loaded."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from kazoo.client import KazooClient

from tests.bench.report import Row
from tests.bench.stage import Stage, cpu_s, median_of
from tests.bench.workload import keep_alives, many_leases, register_fleet, registrations, registry_fan_out
from tests.support.zookeeper import Ensemble

SECTION = "On ZooKeeper"
CALLERS = 32
REGISTRATIONS = 60_000
INSTANCES = 1_000
LEASES, TTL_S, STREAMS = 10_000, 15, 100
PACE = LEASES / (TTL_S / 3)
LOADED, AT_ONCE = 50_000, 500
VALUE = b"x" * 200
REGISTRY = "/registry.v1.Registry/"
THERE = "ZooKeeper 3.9.5 by kazoo"

Ask = Callable[[KazooClient, int], object]


def run(stage: Stage) -> list[Row]:
    return [*_writes(stage), *_held(stage), *_loaded(stage)]


@contextlib.contextmanager
def zookeeper(stage: Stage) -> Iterator[Ensemble]:
    """One that starts empty."""
    (directory := stage.directory / f"zookeeper-{time.monotonic_ns()}").mkdir()
    with Ensemble(directory) as ensemble:
        yield ensemble


@contextlib.contextmanager
def by_kazoo(ensemble: Ensemble) -> Iterator[KazooClient]:
    """Its client, and a node to write below."""
    client = KazooClient(ensemble.hosts)
    client.start()
    client.ensure_path("/bench")
    try:
        yield client
    finally:
        client.stop()
        client.close()


def _writes(stage: Stage) -> list[Row]:
    registers = stage.bodies("registers", registrations(REGISTRATIONS))
    updates = stage.bodies("updates", registry_fan_out(INSTANCES).bodies)

    def create() -> float:
        with zookeeper(stage) as ensemble, by_kazoo(ensemble) as client:
            return _asked(
                client, stage.seconds, lambda it, number: it.create(f"/bench/{number}", VALUE, ephemeral=True)
            )

    def put() -> float:
        with zookeeper(stage) as ensemble, by_kazoo(ensemble) as client:
            for number in range(CALLERS):
                client.create(f"/bench/{number}", VALUE)
            return _asked(client, stage.seconds, lambda it, number: it.set(f"/bench/{number % CALLERS}", VALUE))

    def register() -> float:
        with zookeeper(stage) as ensemble, stage.registry(ensemble.url(catalog="false")) as server:
            return _per_second(stage, server.address, REGISTRY + "Register", registers)

    def update() -> float:
        with zookeeper(stage) as ensemble, stage.registry(ensemble.url(catalog="false")) as server:
            register_fleet(server.address, INSTANCES)
            return _per_second(stage, server.address, REGISTRY + "Update", updates)

    created, written, registered, updated = median_of(stage.rounds, create, put, register, update)
    return [
        Row(SECTION, THERE, "an ephemeral node", created, "writes/s", 1.0),
        Row(SECTION, "grpc-registry", "Register", registered, "writes/s", registered / created),
        Row(SECTION, THERE, "a write of a node", written, "writes/s", 1.0),
        Row(SECTION, "grpc-registry", "Update", updated, "writes/s", updated / written),
    ]


def _asked(client: KazooClient, seconds: float, ask: Ask) -> float:
    """How many a second, with as many in flight as the others have."""
    until, done = time.monotonic() + seconds, [0] * CALLERS

    def work(first: int) -> None:
        number = first
        while time.monotonic() < until:
            ask(client, number)
            done[first] += 1
            number += CALLERS

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / seconds


def _per_second(stage: Stage, address: str, method: str, bodies: object) -> float:
    flags = {"method": method, "bodies": bodies, "concurrency": CALLERS, "seconds": stage.seconds}
    return float(stage.load.run("unary", address=address, **flags)["per_second"])


def _held(stage: Stage) -> list[Row]:
    with zookeeper(stage) as ensemble, stage.registry(ensemble.url(catalog="false")) as server:
        renewals = stage.bodies("renewals", keep_alives(many_leases(server.address, LEASES)))
        pids = server.pid, ensemble.nodes[0].pid
        before = [cpu_s(pid) for pid in pids]
        flags = {"method": REGISTRY + "KeepAlive", "bodies": renewals, "concurrency": STREAMS, "pace": PACE}
        took = float(stage.load.run("pingpong", address=server.address, seconds=3 * stage.seconds, **flags)["seconds"])
        ours, below = ((cpu_s(pid) - was) / took for pid, was in zip(pids, before, strict=True))
    held = f"{LEASES:,} leases of {TTL_S} s"
    return [
        Row(SECTION, "grpc-registry", held, 100 * ours, "% of one"),
        Row(SECTION, "ZooKeeper below it", held, 100 * below, "% of one"),
    ]


def _loaded(stage: Stage) -> list[Row]:
    """How long another server takes until it answers with all that there is; and who reads as many nodes."""
    with zookeeper(stage) as ensemble, stage.registry(ensemble.url(catalog="false")) as server:
        register_fleet(server.address, LOADED)
        began = time.monotonic()
        with stage.registry(ensemble.url(catalog="false")):
            ours_s = time.monotonic() - began
    with zookeeper(stage) as ensemble, by_kazoo(ensemble) as client:
        for first in range(0, LOADED, AT_ONCE):
            with client.transaction() as several:
                for number in range(first, first + AT_ONCE):
                    several.create(f"/bench/{number}", VALUE)
        began = time.monotonic()
        names = client.get_children("/bench")
        for first in range(0, LOADED, CALLERS):
            for asked in [client.get_async(f"/bench/{name}") for name in names[first : first + CALLERS]]:
                asked.get()
        theirs_s = time.monotonic() - began
    loaded = f"{LOADED:,} instances loaded, with the start"
    return [
        Row(SECTION, THERE, f"{LOADED:,} nodes read", theirs_s, "s", 1.0),
        Row(SECTION, "grpc-registry", loaded, ours_s, "s", ours_s / theirs_s),
    ]
