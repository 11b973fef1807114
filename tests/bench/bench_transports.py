"""The product on each of its transports, beside a bare grpc.aio server and etcd itself: calls, one change to the last
of many watchers, very many changes, memory a watcher. Rates of one run are to be compared with each other alone; the
processor time of a call holds on a busy machine, too."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.config import TRANSPORTS
from tests.bench.report import Row
from tests.bench.stage import Stage, cpu_s, etcd_version, rss
from tests.bench.workload import (
    FLEET,
    etcd_fan_out,
    name,
    register_fleet,
    registrations,
    registry_fan_out,
)

SECTION = "Transports"
CALLERS = 16
INSTANCES = 1000
REGISTRATIONS = 100_000
WATCHERS = 1000
IDLE = 2000
CHANGES = 40
RATE = 5000.0
REGISTRY = "/registry.v1.Registry"
Measured = dict[tuple[str, str, str], list[float]]


def run(stage: Stage) -> list[Row]:
    measured: Measured = defaultdict(list)
    for _ in range(stage.rounds):
        _bare(stage, measured)
        _etcd(stage, measured)
        for transport in TRANSPORTS:
            _calls(stage, transport, measured)
            _fan_out(stage, transport, measured)
            _memory(stage, transport, measured)
    medians = {row: statistics.median(values) for row, values in measured.items()}
    return [_row(row, value, medians) for row, value in sorted(medians.items())]


def _row(row: tuple[str, str, str], value: float, medians: dict[tuple[str, str, str], float]) -> Row:
    """Each number beside that of grpc.aio under the same handlers, where there is one."""
    what, subject, unit = row
    base = medians.get((what, "grpc-registry, grpc", unit))
    return Row(SECTION, subject, what, value, unit, None if base is None else value / base)


def _bare(stage: Stage, measured: Measured) -> None:
    with stage.bare() as server:
        bodies = stage.bodies("empty", [b"x" * 120])
        _unary(stage, "empty call", "bare grpc.aio", server, "/bare.Bare/Empty", bodies, measured)


def _etcd(stage: Stage, measured: Measured) -> None:
    subject = f"etcd {etcd_version()}"
    fan_out = etcd_fan_out(INSTANCES, subject)
    with stage.etcd() as cluster:
        node, address = cluster.nodes[0], cluster.nodes[0].endpoint
        grants = stage.bodies("grants", [etcd.LeaseGrantRequest(ttl=3600).SerializeToString()])
        puts = stage.bodies("puts", fan_out.bodies)
        ranges = stage.bodies("ranges", [etcd.RangeRequest(key=b"/nothing").SerializeToString()])
        rates = {}
        for what, method, bodies in (
            ("grant", "Lease/LeaseGrant", grants),
            ("put", "KV/Put", puts),
            ("range", "KV/Range", ranges),
        ):
            flags = {"method": f"/etcdserverpb.{method}", "bodies": bodies, "concurrency": CALLERS}
            rates[what] = stage.load.run("unary", address=address, seconds=stage.seconds, **flags)["per_second"]
        measured["Get", subject, "calls/s"].append(rates["range"])
        measured["Update", subject, "calls/s"].append(rates["put"])
        # A registration of one's own in etcd is a lease and then a put.
        measured["Register", subject, "calls/s"].append(1 / (1 / rates["grant"] + 1 / rates["put"]))
        _last(stage, subject, address, stage.watching(fan_out), measured)
        _sustained(stage, subject, address, node.pid, stage.watching(fan_out), measured)


@contextmanager
def _registry(stage: Stage, transport: str) -> Iterator[Any]:
    with stage.registry("memory:", "--transport", transport) as server:
        register_fleet(server.address, INSTANCES)
        yield server


def _calls(stage: Stage, transport: str, measured: Measured) -> None:
    gets = [pb.GetRequest(key=pb.InstanceKey(service=FLEET, id=name(number))) for number in range(INSTANCES)]
    bodies: dict[str, Callable[[], Any]] = {
        "Get": lambda: [get.SerializeToString() for get in gets],
        "Update": lambda: registry_fan_out(INSTANCES).bodies,
        "Register": lambda: registrations(REGISTRATIONS),
    }
    for what, make in bodies.items():
        with _registry(stage, transport) as server:
            path = stage.bodies(what.lower(), make())
            _unary(stage, what, f"grpc-registry, {transport}", server, f"{REGISTRY}/{what}", path, measured)


def _unary(stage: Stage, what: str, subject: str, server: Any, method: str, bodies: object, measured: Measured) -> None:
    before = cpu_s(server.pid)
    flags = {"method": method, "bodies": bodies, "concurrency": CALLERS, "seconds": stage.seconds}
    result = stage.load.run("unary", address=server.address, **flags)
    rate = float(result["per_second"])
    measured[what, subject, "calls/s"].append(rate)
    measured[what, subject, "us of processor a call"].append(1e6 * (cpu_s(server.pid) - before) / rate / stage.seconds)


def _fan_out(stage: Stage, transport: str, measured: Measured) -> None:
    subject, watching = f"grpc-registry, {transport}", stage.watching(registry_fan_out(INSTANCES))
    with _registry(stage, transport) as server:
        _last(stage, subject, server.address, watching, measured)
    with _registry(stage, transport) as server:
        _sustained(stage, subject, server.address, server.pid, watching, measured)


def _last(stage: Stage, subject: str, address: str, watching: dict[str, object], measured: Measured) -> None:
    result = stage.load.run("last", address=address, watchers=WATCHERS, rounds=CHANGES, **watching)
    measured[f"one change to the last of {WATCHERS:,}, p50", subject, "ms"].append(result["p50_ms"])


def _sustained(
    stage: Stage, subject: str, address: str, pid: int, watching: dict[str, object], measured: Measured
) -> None:
    what = f"{RATE:,.0f} changes/s to {WATCHERS:,}: "
    before = cpu_s(pid)
    flags = {"watchers": WATCHERS, "concurrency": 64, "rate": RATE, "seconds": stage.seconds * 2}
    result = stage.load.run("sustained", address=address, **watching, **flags)
    measured[what + "taken", subject, "changes/s"].append(result["accepted_per_second"])
    measured[what + "conveyed", subject, "% of those taken"].append(100 * result["conveyed"])
    measured[what + "age p99", subject, "ms"].append(result["age_p99_ms"])
    spent = 1e6 * (cpu_s(pid) - before) / max(1, result["accepted"])
    measured[what + "processor a change", subject, "us"].append(spent)


def _memory(stage: Stage, transport: str, measured: Measured) -> None:
    watching = stage.watching(registry_fan_out(INSTANCES))
    flags = {"watch_method": watching["watch_method"], "watch_bodies": watching["watch_bodies"]}
    with (
        stage.registry("memory:", "--transport", transport) as server,
        stage.load.idle(address=server.address, watchers=10, **flags),
    ):
        before = rss(server.pid)
        with stage.load.idle(address=server.address, watchers=IDLE, **flags):
            size = (rss(server.pid) - before) / IDLE / 1000
    measured["memory a watcher with a connection of its own", f"grpc-registry, {transport}", "KB"].append(size)
