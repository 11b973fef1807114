"""How fast changes reach those who watch: one change to the last of many, and many changes to very many.

Beside the product: a bare grpc.aio server that works in the same rounds and does nothing else, etcd itself, watched
without anything in between, and go-control-plane, where there is Go to build it with. Where nothing else is said each
watcher has a connection of its own.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.bench.report import Row
from tests.bench.stage import Stage, control_plane, cpu_s, etcd_version
from tests.bench.workload import (
    FanOut,
    bare_fan_out,
    change_all,
    control_plane_fan_out,
    etcd_fan_out,
    register_fleet,
    registry_fan_out,
)

LAST = "One change to the last of many watchers"
WATCHERS = 1000
# A service of a hundred: go-control-plane looks at every resource for every watcher, and would do ten times the work.
INSTANCES = 100
WRITERS = 64
REGISTRY, PEER = "grpc-registry", "go-control-plane"
# What is offered a second. More than a thousand is for those who can.
RATES = (1000, 5000, 20_000)
FAST = (REGISTRY, PEER)
OF_MANY = ("accepted_per_second", "conveyed", "age_p50_ms", "age_p99_ms", "cpu_us")
# What the product is to need of the peer's: processor time for each change, and age. And how many times as many
# changes it is to take.
MAX_CPU, MAX_AGE, MIN_TAKEN = 0.7, 1 / 3, 3


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many watchers on so many connections, and how many changes they see in a round. `target` is of etcd's p50."""

    watchers: int
    connections: int
    changes: int
    target: float | None = None

    def __str__(self) -> str:
        shared = f" on {self.connections}" if self.connections < self.watchers else ""
        return f"{self.watchers:,} watcher{'s' if self.watchers > 1 else ''}{shared}"


CROWDS = (Crowd(1, 1, 100), Crowd(100, 100, 60), Crowd(1000, 1000, 30, 1.3), Crowd(5000, 50, 20, 1.0))


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

    @contextlib.contextmanager
    def peer() -> Iterator[tuple[str, int]]:
        with control_plane(stage.directory) as server:
            change_all(server.address, control_plane_fan_out(INSTANCES))
            yield server.address, server.pid

    return [
        Subject(bare_fan_out(INSTANCES), bare),
        Subject(registry_fan_out(INSTANCES), registry),
        Subject(registry_fan_out(INSTANCES, f"{REGISTRY} on etcd"), registry_on_etcd),
        Subject(etcd_fan_out(INSTANCES, f"etcd {etcd_version()}"), etcd),
        *([Subject(control_plane_fan_out(INSTANCES), peer)] if stage.load.language == "Go" else ()),
    ]


def run(stage: Stage) -> list[Row]:
    everybody = subjects(stage)
    fast = [subject for subject in everybody if subject.fan_out.subject in FAST]
    return [
        *last(stage, everybody),
        *(row for rate in RATES for row in many(stage, everybody if rate == RATES[0] else fast, rate)),
    ]


def last(stage: Stage, everybody: list[Subject]) -> list[Row]:
    rows = []
    for crowd in CROWDS:
        measured = _in_turn(stage, everybody, partial(_last, stage, crowd))
        medians = {subject: _medians(results, ("p50_ms", "p99_ms")) for subject, results in measured.items()}
        base = next(result["p50_ms"] for subject, result in medians.items() if subject.startswith("etcd"))
        for subject, result in medians.items():
            rows += _last_rows(subject, crowd, result, base)
    return rows


def _in_turn(
    stage: Stage, everybody: list[Subject], measure: Callable[[Subject], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """What is measured of each subject, by its name: all have their turn in each round."""
    measured: dict[str, list[dict[str, Any]]] = {subject.fan_out.subject: [] for subject in everybody}
    for _ in range(stage.rounds):
        for subject in everybody:
            measured[subject.fan_out.subject].append(measure(subject))
    return measured


def _last(stage: Stage, crowd: Crowd, subject: Subject) -> dict[str, Any]:
    with subject.running() as (address, _):
        flags = {"watchers": crowd.watchers, "watch_conns": crowd.connections, "rounds": crowd.changes}
        return stage.load.run("last", address=address, **stage.watching(subject.fan_out), **flags)


def _last_rows(subject: str, crowd: Crowd, measured: dict[str, float], base: float) -> list[Row]:
    ratio = measured["p50_ms"] / base
    targets: dict[str, Any] = {}
    if subject == REGISTRY and crowd.target is not None:
        targets = {"target": f"≤ {crowd.target} of etcd's", "holds": ratio <= crowd.target}
    return [
        Row(LAST, subject, f"{crowd}, p50", measured["p50_ms"], "ms", ratio, **targets),
        Row(LAST, subject, f"{crowd}, p99", measured["p99_ms"], "ms"),
    ]


def many(stage: Stage, everybody: list[Subject], rate: int) -> list[Row]:
    measured = _in_turn(stage, everybody, partial(_sustained, stage, rate))
    medians = {subject: _medians(results, OF_MANY) for subject, results in measured.items()}
    base = medians.get(PEER) or medians[everybody[0].fan_out.subject]
    return [row for subject, result in medians.items() for row in _many_rows(subject, rate, result, base)]


def _sustained(stage: Stage, rate: int, subject: Subject) -> dict[str, Any]:
    with subject.running() as (address, pid):
        before = cpu_s(pid)
        flags = {"watchers": WATCHERS, "concurrency": WRITERS, "rate": rate, "seconds": stage.seconds * 2}
        result = stage.load.run("sustained", address=address, **stage.watching(subject.fan_out), **flags)
        return {**result, "cpu_us": 1e6 * (cpu_s(pid) - before) / max(1, result["accepted"])}


def _medians(results: list[dict[str, Any]], keys: Sequence[str]) -> dict[str, float]:
    return {key: statistics.median(result[key] for result in results) for key in keys}


def _many_rows(subject: str, rate: int, result: dict[str, float], base: dict[str, float]) -> list[Row]:
    section = f"{WATCHERS:,} watchers under {rate:,} changes/s; ratios are to {PEER}"
    ratio = {key: result[key] / base[key] for key in OF_MANY}
    targets = _targets(rate, result, ratio) if subject == REGISTRY else {}

    def row(what: str, key: str, unit: str, value: float | None = None) -> Row:
        target, holds = targets.get(key, ("", None))
        return Row(section, subject, what, result[key] if value is None else value, unit, ratio[key], target, holds)

    return [
        row("changes taken", "accepted_per_second", "changes/s"),
        row("conveyed to everybody", "conveyed", "%", 100 * result["conveyed"]),
        row("age on arrival, p50", "age_p50_ms", "ms"),
        row("age on arrival, p99", "age_p99_ms", "ms"),
        row("processor of the server for a change", "cpu_us", "us"),
    ]


def _targets(rate: int, result: dict[str, float], ratio: dict[str, float]) -> dict[str, tuple[str, bool]]:
    """What the product is to reach, by key, and whether it does."""
    all_ = {"conveyed": ("all", result["conveyed"] == 1)}
    if rate < RATES[-1]:
        all_["accepted_per_second"] = ("≥ 95 % of those offered", result["accepted_per_second"] >= 0.95 * rate)
    else:
        all_["accepted_per_second"] = (f"≥ {MIN_TAKEN} times", ratio["accepted_per_second"] >= MIN_TAKEN)
    if rate == RATES[1]:
        all_["age_p99_ms"] = ("≤ a third", ratio["age_p99_ms"] <= MAX_AGE)
        all_["cpu_us"] = (f"≤ {MAX_CPU}", ratio["cpu_us"] <= MAX_CPU)
    return all_
