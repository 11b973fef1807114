"""What xDS costs: one change to many streams, many services, streams at rest; beside it go-control-plane with the same.

Every stream acknowledges what it gets, and the time of a change ends with the last acknowledgement.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from registry_api.registry.v1 import registry_pb2 as pb
from tests.bench.report import Row
from tests.bench.stage import Stage, control_plane, cpu_s, rss
from tests.bench.workload import FLEET, LONG_TTL, instance, name, register_fleet
from tests.support.ads import ADS, SOTW, AdsStream, Delta, Sotw, world_of
from tests.support.waiting import eventually
from tests.support.xds_messages import CDS, EDS, ENVOY, node

REGISTRY, PEER = "grpc-registry", "go-control-plane"
STREAMS_, CONNECTIONS, ENDPOINTS, SERVICES = 1000, 50, 1000, 5000
FEW, MANY = 100, 10_000
IDLE_S = 5.0
# Runs what asks a server by asyncio: always in the same loop, as grpc.aio wants it.
Ask = Callable[[Coroutine[Any, Any, Any]], Any]
UPDATE, REGISTER, CHANGE = "/registry.v1.Registry/Update", "/registry.v1.Registry/Register", "/peer.Peer/Change"


@dataclass(frozen=True, slots=True)
class Subject:
    """A server that holds something, and two changes of it, to be made in turn."""

    name: str
    address: str
    pid: int
    method: str
    changes: Sequence[bytes]


def run(stage: Stage) -> list[Row]:
    if stage.load.language != "Go":
        return []
    with asyncio.Runner() as runner:
        measure = (one_to_many, one_among_many, growing, at_rest)
        return [row for section in measure for row in section(stage, runner.run)]


# ---- what is subscribed to


def request(kind: type[AdsStream], type_url: str, *names: str, agent: str = "gRPC Go") -> bytes:
    """The first request of a stream."""
    asked = {"resource_names": names} if kind is Sotw else {"resource_names_subscribe": names}
    encoded: bytes = kind.request(type_url=type_url, node=node(agent, "bench"), **asked).SerializeToString()
    return encoded


def streams(stage: Stage, kind: type[AdsStream], what: Sequence[bytes], file: str = "xds-watch") -> dict[str, object]:
    """The flags of loadgen for streams with these requests, which are kept in a file."""
    acks = {"ack": stage.bodies("xds-ack", [Delta.request(type_url=EDS).SerializeToString()])} if kind is Delta else {}
    path = f"{ADS}/{kind.path}"
    return {"watch_method": path, "watch_bodies": stage.bodies(file, list(what)), **acks}


# ---- servers


def weights(service: str, number: int) -> list[bytes]:
    """Two changes: one instance gets another weight, and has its own again."""
    changed = (pb.Instance(service=service, id=name(number), weight=weight) for weight in (200, 100))
    mask = FieldMask(paths=["weight"])
    return [pb.UpdateRequest(instance=it, update_mask=mask).SerializeToString() for it in changed]


async def _told(address: str, service: str, changes: Sequence[bytes]) -> tuple[str, list[bytes]]:
    """What the service's endpoints are called, and what the registry tells of them after each change."""
    found = []
    async with world_of(address, iter(range(10))) as world, world.open(SOTW, quiet_s=0) as stream:
        eds = (await world.names(service)).eds
        await stream.get(EDS, eds)
        for change in changes:
            method: Any = world.channel.unary_unary(UPDATE)
            await method(change)
            found.append((await stream.take(EDS)).resources[eds].SerializeToString())
    return eds, found


@contextlib.contextmanager
def fleet(stage: Stage, ask: Ask) -> Iterator[tuple[str, list[Subject]]]:
    """Both servers with one service of many endpoints, told by the same bytes; and its name."""
    with stage.registry() as server, control_plane(stage.directory) as peer:
        register_fleet(server.address, ENDPOINTS)
        changes = weights(FLEET, 0)
        eds, assignments = ask(_told(server.address, FLEET, changes))
        _change(peer.address, assignments)
        yield (
            eds,
            [
                Subject(REGISTRY, server.address, server.pid, UPDATE, changes),
                Subject(PEER, peer.address, peer.pid, CHANGE, assignments),
            ],
        )


def _change(address: str, assignments: Sequence[bytes]) -> None:
    with grpc.insecure_channel(address) as channel:
        change: Any = channel.unary_unary(CHANGE)
        for assignment in assignments:
            change(assignment, timeout=60)


def service(number: int) -> str:
    return f"service-{number:05}"


def register_services(stage: Stage, address: str, first: int, last: int) -> None:
    """As many services, each with an instance."""
    bodies = [
        pb.RegisterRequest(instance=instance(number, service(number)), ttl=LONG_TTL).SerializeToString()
        for number in range(first, last)
    ]
    flags = {"bodies": stage.bodies("xds-services", bodies), "calls": len(bodies), "seconds": 120}
    stage.load.run("unary", address=address, method=REGISTER, **flags)


# ---- what is measured


def pushes(stage: Stage, subject: Subject, flags: dict[str, object], expected: int, rounds: int) -> dict[str, Any]:
    """One change after the other."""
    return stage.load.run(
        "pushes",
        address=subject.address,
        pid=subject.pid,
        method=subject.method,
        bodies=stage.bodies("xds-changes", list(subject.changes)),
        watchers=STREAMS_,
        watch_conns=CONNECTIONS,
        expected=expected,
        rounds=rounds,
        **flags,
    )


def measured(stage: Stage, subjects: Sequence[Subject], measure: Callable[[Subject], dict[str, Any]]) -> Any:
    """What is measured of each, by its name; of several rounds the medians."""
    results: dict[str, list[dict[str, Any]]] = {subject.name: [] for subject in subjects}
    for _ in range(stage.rounds):
        for subject in subjects:
            results[subject.name].append(measure(subject))
    return {
        subject: {key: sorted(it[key] for it in found)[len(found) // 2] for key in found[0]}
        for subject, found in results.items()
    }


def one_to_many(stage: Stage, ask: Ask) -> list[Row]:
    section = f"One changed service of {ENDPOINTS:,} endpoints to {STREAMS_:,} xDS streams, to the last acknowledgement"
    rows = []
    with fleet(stage, ask) as (eds, subjects):
        for kind in (Sotw, Delta):
            flags = streams(stage, kind, [request(kind, EDS, eds)])
            results = measured(stage, subjects, partial(_to_all, stage, flags))
            base = results[PEER]
            for subject, result in results.items():
                said = "state of the world" if kind is Sotw else "incremental"
                ratio = result["p50_ms"] / base["p50_ms"]
                target = {"target": "≤ 0.5", "holds": ratio <= 0.5} if subject == REGISTRY else {}
                rows += [
                    Row(section, subject, f"{said}, p50", result["p50_ms"], "ms", ratio, **target),
                    Row(section, subject, f"{said}, p99", result["p99_ms"], "ms", result["p99_ms"] / base["p99_ms"]),
                    _cpu(section, subject, said, result, base),
                ]
    return rows


def _to_all(stage: Stage, flags: dict[str, object], subject: Subject) -> dict[str, Any]:
    return pushes(stage, subject, flags, STREAMS_, 30)


def _cpu(section: str, subject: str, said: str, result: dict[str, float], base: dict[str, float]) -> Row:
    ratio = result["cpu_ms"] / base["cpu_ms"] if base["cpu_ms"] else None
    return Row(section, subject, f"{said}, processor of the server for a change", result["cpu_ms"], "ms", ratio)


def one_among_many(stage: Stage, ask: Ask) -> list[Row]:
    """Each stream follows five services, and no two the same: so one of them is told one service."""
    section = f"One change among {SERVICES:,} services, each followed by one of {STREAMS_:,} streams"
    with stage.registry() as server:
        register_services(stage, server.address, 0, SERVICES)
        eds = ask(_endpoints_names(server.address))
        share = SERVICES // STREAMS_
        asked = [
            request(Sotw, EDS, *(eds(service(number)) for number in range(at * share, (at + 1) * share)))
            for at in range(STREAMS_)
        ]
        subject = Subject(REGISTRY, server.address, server.pid, UPDATE, weights(service(7), 7))
        result = pushes(stage, subject, streams(stage, Sotw, asked), 1, 200)
    return [
        Row(section, REGISTRY, "until it is acknowledged, p50", result["p50_ms"], "ms"),
        Row(section, REGISTRY, "messages beyond that one", result["beyond"], "", None, "0", result["beyond"] == 0),
        Row(section, REGISTRY, "size of the message", result["bytes"], "B", None, "≤ 1,000", result["bytes"] <= 1000),
        Row(section, REGISTRY, "processor of the server for a change", result["cpu_ms"], "ms"),
    ]


async def _endpoints_names(address: str) -> Callable[[str], str]:
    """What EDS is asked for, of a service's name."""
    async with world_of(address, iter(range(10))) as world:
        known = (await world.names(service(0))).eds
    return lambda other: known.replace(service(0), other)


def growing(stage: Stage, ask: Ask) -> list[Row]:
    """The same change, with more and more services that have no part in it; an Envoy follows all of them."""
    section = f"One change, as services grow from {FEW:,} to {MANY:,}, an Envoy following all"
    results = {}
    with stage.registry() as server:
        eds = None
        for first, last in ((0, FEW), (FEW, MANY)):
            register_services(stage, server.address, first, last)
            eds = eds or ask(_endpoints_names(server.address))
            flags = streams(stage, Sotw, [request(Sotw, EDS, eds(service(7)))])
            subject = Subject(REGISTRY, server.address, server.pid, UPDATE, weights(service(7), 7))
            envoy = streams(stage, Delta, [request(Delta, CDS, agent=ENVOY)], "xds-envoy")
            with stage.load.idle(address=server.address, watchers=1, **envoy):
                results[last] = pushes(stage, subject, flags, STREAMS_, 30)
    few, many = results[FEW], results[MANY]
    ratio = many["p50_ms"] / few["p50_ms"]
    return [
        Row(section, REGISTRY, f"{FEW:,} services, p50", few["p50_ms"], "ms", 1.0),
        Row(section, REGISTRY, f"{MANY:,} services, p50", many["p50_ms"], "ms", ratio, "≤ 1.3 times", ratio <= 1.3),
        Row(section, REGISTRY, f"{FEW:,} services, processor", few["cpu_ms"], "ms", 1.0),
        Row(section, REGISTRY, f"{MANY:,} services, processor", many["cpu_ms"], "ms", many["cpu_ms"] / few["cpu_ms"]),
    ]


def at_rest(stage: Stage, ask: Ask) -> list[Row]:
    """Streams that follow one service of a few endpoints, and to which nothing happens."""
    section = f"{STREAMS_:,} xDS streams at rest on {CONNECTIONS} connections"

    def costs(subject: Subject, eds: str) -> tuple[float, float]:
        flags = {"address": subject.address, **streams(stage, Delta, [request(Delta, EDS, eds)])}
        with stage.load.idle(**flags, watchers=10):
            before = rss(subject.pid)
            with stage.load.idle(**flags, watchers=STREAMS_, watch_conns=CONNECTIONS):
                size = (_settled(subject.pid) - before) / STREAMS_ / 1000
                used = cpu_s(subject.pid)
                time.sleep(IDLE_S)
                return size, 1e6 * (cpu_s(subject.pid) - used) / IDLE_S / STREAMS_

    with stage.registry() as server, control_plane(stage.directory) as peer:
        register_fleet(server.address, 3)
        eds, assignments = ask(_told(server.address, FLEET, weights(FLEET, 0)))
        _change(peer.address, assignments)
        base, base_cpu = costs(Subject(PEER, peer.address, peer.pid, CHANGE, ()), eds)
        ours, our_cpu = costs(Subject(REGISTRY, server.address, server.pid, UPDATE, ()), eds)
    return [
        Row(section, PEER, "memory per stream", base, "KB", 1.0),
        Row(section, REGISTRY, "memory per stream", ours, "KB", ours / base),
        Row(section, PEER, "processor per stream and second", base_cpu, "us"),
        Row(section, REGISTRY, "processor per stream and second", our_cpu, "us"),
    ]


def _settled(pid: int) -> int:
    sizes = [rss(pid)]

    def settled() -> bool:
        sizes.append(rss(pid))
        return len(sizes) > 50 and max(sizes[-50:]) == min(sizes[-50:])

    eventually(settled, timeout_s=20, what="the memory of the server settles")
    return sizes[-1]
