"""On a file and on mirrors, beside memory and beside SQLite by itself in the same run: writes, and leases held."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

from tests.bench.bench_etcd import HELD, LEASES, REGISTRATIONS, REGISTRY, hold, per_second
from tests.bench.report import Row
from tests.bench.stage import Stage, median_of
from tests.bench.workload import keep_alives, many_leases, register_fleet, registrations, registry_fan_out

SECTION = "On files"
INSTANCES = 1_000
VALUE = b"x" * 200


def run(stage: Stage) -> list[Row]:
    return [*_writes(stage), *_held(stage)]


def _writes(stage: Stage) -> list[Row]:
    registers = stage.bodies("registers", registrations(REGISTRATIONS))
    updates = stage.bodies("updates", registry_fan_out(INSTANCES).bodies)

    def alone() -> float:
        return _by_itself(stage)

    def register(store: str) -> float:
        with stage.registry(_url(stage, store)) as server:
            return per_second(stage, server.address, REGISTRY + "Register", registers)

    def update(store: str) -> float:
        with stage.registry(_url(stage, store)) as server:
            register_fleet(server.address, INSTANCES)
            return per_second(stage, server.address, REGISTRY + "Update", updates)

    kinds = ("memory", "sqlite", "mirror of 2")
    works = [lambda kind=kind, work=work: work(kind) for kind in kinds for work in (register, update)]
    base, *found = median_of(stage.rounds, alone, *works)
    rows = [Row(SECTION, f"SQLite {sqlite3.sqlite_version}", "a flushed insert, one at a time", base, "writes/s", 1.0)]
    for kind, registered, updated in zip(kinds, found[::2], found[1::2], strict=True):
        rows.append(Row(SECTION, f"on {kind}", "Register", registered, "writes/s", registered / base))
        rows.append(Row(SECTION, f"on {kind}", "Update", updated, "writes/s", updated / base))
    return rows


def _held(stage: Stage) -> list[Row]:
    used = []
    for kind in ("memory", "sqlite"):
        with stage.registry(_url(stage, kind)) as server:
            renewals = stage.bodies("renewals", keep_alives(many_leases(server.address, LEASES)))
            [part] = hold(stage, server.address, REGISTRY + "KeepAlive", renewals, server.pid)
            used.append(part)
    memory, file = used
    return [
        Row(SECTION, "on memory", HELD, 100 * memory, "% of one", 1.0),
        Row(SECTION, "on sqlite", HELD, 100 * file, "% of one", file / memory),
    ]


def _url(stage: Stage, kind: str) -> str:
    new = stage.directory / f"store-{time.monotonic_ns()}"
    return {"memory": "memory:", "sqlite": f"sqlite:{new}", "mirror of 2": f"mirror:sqlite:{new}-1|sqlite:{new}-2"}[
        kind
    ]


def _by_itself(stage: Stage) -> float:
    """Inserts a second, each flushed to the disk before the next one."""
    with closing(sqlite3.connect(stage.directory / f"bare-{time.monotonic_ns()}", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE items (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
        began, count = time.monotonic(), 0
        while time.monotonic() < began + stage.seconds:
            connection.execute("INSERT INTO items VALUES (?, ?)", (f"name-{count}", VALUE))
            count += 1
        return count / (time.monotonic() - began)
