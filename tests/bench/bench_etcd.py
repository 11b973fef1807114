"""On etcd, beside what etcd does by itself in the same run with as many requests in flight: writes, leases held."""

from __future__ import annotations

from tests.bench.report import Row
from tests.bench.stage import Stage, cpu_s, etcd_version, median_of
from tests.bench.workload import (
    etcd_grants,
    etcd_puts,
    etcd_renewals,
    keep_alives,
    many_leases,
    register_fleet,
    registrations,
    registry_fan_out,
)

SECTION = "On etcd"
CALLERS = 32
REGISTRATIONS = 60_000
INSTANCES = 1_000
# Renewed three times in their life, each stream renews a part of them.
LEASES, TTL_S, STREAMS = 10_000, 15, 100
PACE = LEASES / (TTL_S / 3)
WRITES, HOLDS = 0.5, 2.0
REGISTRY, KV, LEASE = "/registry.v1.Registry/", "/etcdserverpb.KV/", "/etcdserverpb.Lease/"
HELD = f"{LEASES:,} leases of {TTL_S} s"


def run(stage: Stage) -> list[Row]:
    return [*_writes(stage), *_held(stage)]


def _writes(stage: Stage) -> list[Row]:
    grants, puts = stage.bodies("grants", etcd_grants(REGISTRATIONS)), stage.bodies("puts", etcd_puts(INSTANCES))
    registers = stage.bodies("registers", registrations(REGISTRATIONS))
    updates = stage.bodies("updates", registry_fan_out(INSTANCES).bodies)

    def grant() -> float:
        with stage.etcd() as cluster:
            return per_second(stage, cluster.nodes[0].endpoint, LEASE + "LeaseGrant", grants)

    def put() -> float:
        with stage.etcd() as cluster:
            return per_second(stage, cluster.nodes[0].endpoint, KV + "Put", puts)

    def register() -> float:
        with stage.etcd() as cluster, stage.registry(cluster.url()) as server:
            return per_second(stage, server.address, REGISTRY + "Register", registers)

    def update() -> float:
        with stage.etcd() as cluster, stage.registry(cluster.url()) as server:
            register_fleet(server.address, INSTANCES)
            return per_second(stage, server.address, REGISTRY + "Update", updates)

    granted, written, registered, updated = median_of(stage.rounds, grant, put, register, update)
    both = 1 / (1 / granted + 1 / written)
    return [
        Row(SECTION, f"etcd {etcd_version()}", "a lease and a put", both, "writes/s", 1.0),
        _written("Register", registered, both),
        Row(SECTION, f"etcd {etcd_version()}", "a put", written, "writes/s", 1.0),
        _written("Update", updated, written),
    ]


def _written(what: str, value: float, alone: float) -> Row:
    ratio = value / alone
    return Row(SECTION, "grpc-registry", what, value, "writes/s", ratio, f"≥ {WRITES} of etcd", ratio >= WRITES)


def per_second(stage: Stage, address: str, method: str, bodies: object) -> float:
    flags = {"method": method, "bodies": bodies, "concurrency": CALLERS, "seconds": stage.seconds}
    return float(stage.load.run("unary", address=address, **flags)["per_second"])


def _held(stage: Stage) -> list[Row]:
    alone = _held_by_etcd(stage)
    ours, below = _held_by_us(stage)
    ratio, etcd = ours / alone, f"etcd {etcd_version()}"
    return [
        Row(SECTION, etcd, HELD, 100 * alone, "% of one", 1.0),
        Row(SECTION, "grpc-registry", HELD, 100 * ours, "% of one", ratio, f"≤ {HOLDS:g} of etcd", ratio <= HOLDS),
        Row(SECTION, f"{etcd} below it", HELD, 100 * below, "% of one", below / alone),
    ]


def _held_by_etcd(stage: Stage) -> float:
    grants, renewals = stage.bodies("grants", etcd_grants(LEASES)), stage.bodies("renewals", etcd_renewals(LEASES))
    with stage.etcd() as cluster:
        (node,) = cluster.nodes
        flags = {"method": LEASE + "LeaseGrant", "bodies": grants, "calls": LEASES, "seconds": 60}
        stage.load.run("unary", address=node.endpoint, **flags)
        (used,) = hold(stage, node.endpoint, LEASE + "LeaseKeepAlive", renewals, node.pid)
        return used


def _held_by_us(stage: Stage) -> list[float]:
    """By the server, and by etcd below it."""
    with stage.etcd() as cluster, stage.registry(cluster.url()) as server:
        renewals = stage.bodies("renewals", keep_alives(many_leases(server.address, LEASES)))
        return hold(stage, server.address, REGISTRY + "KeepAlive", renewals, server.pid, cluster.nodes[0].pid)


def hold(stage: Stage, address: str, method: str, bodies: object, *pids: int) -> list[float]:
    """The part of a processor that each of these processes uses meanwhile."""
    before = [cpu_s(pid) for pid in pids]
    flags = {"method": method, "bodies": bodies, "concurrency": STREAMS, "pace": PACE, "seconds": 2 * stage.seconds}
    took = float(stage.load.run("pingpong", address=address, **flags)["seconds"])
    return [(cpu_s(pid) - was) / took for pid, was in zip(pids, before, strict=True)]
