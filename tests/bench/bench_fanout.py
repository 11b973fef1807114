"""How fast changes reach those who watch: one change to the last of many, and many changes to very many.

Beside the product: a bare grpc.aio server that works in the same rounds and does nothing else, and etcd itself, watched
without anything in between. Each watcher has a connection of its own.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.report import Row
from tests.bench.stage import Stage, cpu_s, etcd_version
from tests.bench.workload import FanOut, bare_fan_out, etcd_fan_out, register_fleet, registry_fan_out

LAST = "One change to the last of many watchers"
MANY = "1,000 watchers under 1,000 changes/s"
WATCHERS = 1000
INSTANCES = 1000
RATE = 1000.0
WRITERS = 64
OF_MANY = ("accepted_per_second", "conveyed", "age_p50_ms", "age_p99_ms", "cpu")
CHANGES_FOR = {1: 100, 100: 60, 1000: 30}  # by the number of watchers, in each round


@dataclass(frozen=True, slots=True)
class Subject:
    """One kind of server: how to change and watch it, and how to get one (address and pid)."""

    fan_out: FanOut
    running: Callable[[], contextlib.AbstractContextManager[tuple[str, int]]]


def subjects(stage: Stage) -> list[Subject]:
    @contextlib.contextmanager
    def bare() -> Iterator[tuple[str, int]]:
        with stage.bare() as server:
            yield server.address, server.pid

    @contextlib.contextmanager
    def registry() -> Iterator[tuple[str, int]]:
        with stage.registry() as server:
            register_fleet(server.address, INSTANCES)
            yield server.address, server.pid

    @contextlib.contextmanager
    def registry_on_etcd() -> Iterator[tuple[str, int]]:
        with stage.etcd() as cluster, stage.registry(cluster.url()) as server:
            register_fleet(server.address, INSTANCES)
            yield server.address, server.pid

    @contextlib.contextmanager
    def etcd() -> Iterator[tuple[str, int]]:
        with stage.etcd() as cluster:
            yield cluster.nodes[0].endpoint, cluster.nodes[0].pid

    return [
        Subject(bare_fan_out(INSTANCES), bare),
        Subject(registry_fan_out(INSTANCES), registry),
        Subject(registry_fan_out(INSTANCES, "grpc-registry on etcd"), registry_on_etcd),
        Subject(etcd_fan_out(INSTANCES, etcd_version()), etcd),
    ]


def run(stage: Stage) -> list[Row]:
    everybody = subjects(stage)
    return [*last(stage, everybody), *many(stage, everybody)]


def last(stage: Stage, everybody: list[Subject]) -> list[Row]:
    rows = []
    for watchers, changes in CHANGES_FOR.items():
        measured: list[list[dict[str, Any]]] = [[] for _ in everybody]
        for _ in range(stage.rounds):
            for subject, results in zip(everybody, measured, strict=True):
                results.append(_last(stage, subject, watchers, changes))
        medians = [_medians(results, ("p50_ms", "p99_ms")) for results in measured]
        for subject, result in zip(everybody, medians, strict=True):
            rows += _last_rows(subject.fan_out.subject, watchers, result, medians[0]["p50_ms"])
    return rows


def _last(stage: Stage, subject: Subject, watchers: int, changes: int) -> dict[str, Any]:
    with subject.running() as (address, _):
        flags = {**stage.watching(subject.fan_out), "watchers": watchers, "rounds": changes}
        return stage.load.run("last", address=address, **flags)


def _last_rows(subject: str, watchers: int, measured: dict[str, float], base: float) -> list[Row]:
    what = f"{watchers:,} watcher{'s' if watchers > 1 else ''}, "
    return [
        Row(LAST, subject, what + "p50", measured["p50_ms"], "ms", measured["p50_ms"] / base),
        Row(LAST, subject, what + "p99", measured["p99_ms"], "ms"),
    ]


def many(stage: Stage, everybody: list[Subject]) -> list[Row]:
    measured: list[list[dict[str, Any]]] = [[] for _ in everybody]
    for _ in range(stage.rounds):
        for subject, results in zip(everybody, measured, strict=True):
            results.append(_sustained(stage, subject))
    base = statistics.median(result["age_p50_ms"] for result in measured[0])
    return [
        row
        for subject, results in zip(everybody, measured, strict=True)
        for row in _many_rows(subject.fan_out.subject, _medians(results, OF_MANY), base)
    ]


def _sustained(stage: Stage, subject: Subject) -> dict[str, Any]:
    with subject.running() as (address, pid):
        before = cpu_s(pid)
        flags = {"watchers": WATCHERS, "concurrency": WRITERS, "rate": RATE, "seconds": stage.seconds * 2}
        result = stage.load.run("sustained", address=address, **stage.watching(subject.fan_out), **flags)
        return {**result, "cpu": (cpu_s(pid) - before) / (result["seconds"] + result["settled_s"])}


def _medians(results: list[dict[str, Any]], keys: Sequence[str]) -> dict[str, float]:
    return {key: statistics.median(result[key] for result in results) for key in keys}


def _many_rows(subject: str, result: dict[str, float], base: float) -> list[Row]:
    through = result["accepted_per_second"] / RATE
    is_ours = subject == "grpc-registry"
    targets: dict[str, Any] = {"target": "≥ 95 % of those offered", "holds": through >= 0.95} if is_ours else {}
    whole: dict[str, Any] = {"target": "all", "holds": result["conveyed"] == 1} if is_ours else {}
    return [
        Row(MANY, subject, "changes taken", result["accepted_per_second"], "changes/s", through, **targets),
        Row(MANY, subject, "conveyed to everybody", 100 * result["conveyed"], "%", **whole),
        Row(MANY, subject, "age on arrival, p50", result["age_p50_ms"], "ms", result["age_p50_ms"] / base),
        Row(MANY, subject, "age on arrival, p99", result["age_p99_ms"], "ms"),
        Row(MANY, subject, "processor of the server", 100 * result["cpu"], "% of one"),
    ]
