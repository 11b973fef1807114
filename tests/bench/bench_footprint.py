"""What the server costs at rest: memory per watcher and per instance, time to start, time to load a large registry."""

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import registry_pb2_grpc
from registry_server.stores.etcd.leases import LeaseIds
from tests.bench.report import Row
from tests.bench.stage import Stage, median_of, rss
from tests.bench.workload import batched, instance, registrations
from tests.support.etcd import EtcdCluster
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

SECTION = "Footprint"
WATCHERS = 1000
INSTANCES = 20_000
LOADED = 50_000
SERVICES = 100
TXN_OPS = 128  # etcd's own limit
LAYOUT = b"/grpc-registry/v1/"  # docs/etcd.md
SECRET = bytes(32)


def run(stage: Stage) -> list[Row]:
    return [*_starts(stage), *_watchers(stage), *_instances(stage), *_loaded(stage)]


def _starts(stage: Stage) -> list[Row]:
    def start(server: ServerProcess) -> float:
        began = time.monotonic()
        with server:
            return time.monotonic() - began

    base, ours = median_of(5, lambda: start(stage.bare()), lambda: start(stage.registry()))
    return [
        Row(SECTION, "bare grpc.aio", "from start to ready", base, "s", 1.0),
        Row(SECTION, "grpc-registry", "from start to ready", ours, "s", ours / base, "≤ 1 s", ours <= 1),
    ]


def _watchers(stage: Stage) -> list[Row]:
    def per_watcher(server: ServerProcess, method: str, body: bytes, connections: int) -> float:
        with server:
            bodies = stage.bodies("idle", [body])
            flags = {"address": server.address, "watch_method": method, "watch_bodies": bodies}
            with stage.load.idle(**flags, watchers=10):
                before = rss(server.pid)  # with what the first connections load once
                with stage.load.idle(**flags, watchers=WATCHERS, watch_conns=connections):
                    return (_settled_rss(server.pid) - before) / WATCHERS / 1000

    watch = pb.WatchRequest(services=["game-server"]).SerializeToString()
    rows = []
    for what, connections, target in (
        ("memory per idle watcher", WATCHERS, 50),
        ("memory per idle watcher, a hundred on a connection", WATCHERS // 100, 3),
    ):
        base, ours = median_of(
            min(stage.rounds, 3),
            partial(per_watcher, stage.bare(), "/bare.Bare/Watch", b"", connections),
            partial(per_watcher, stage.registry(), "/registry.v1.Registry/Watch", watch, connections),
        )
        rows += [
            Row(SECTION, "bare grpc.aio", what, base, "KB", 1.0),
            Row(SECTION, "grpc-registry", what, ours, "KB", ours / base, f"≤ {target} KB", ours <= target),
        ]
    return rows


def _settled_rss(pid: int) -> int:
    """Resident memory once it has stopped growing."""
    sizes = [rss(pid)]

    def settled() -> bool:
        sizes.append(rss(pid))
        return len(sizes) > 50 and max(sizes[-50:]) == min(sizes[-50:])

    eventually(settled, timeout_s=20, what="the memory of the server settles")
    return sizes[-1]


def _instances(stage: Stage) -> list[Row]:
    bodies = registrations(INSTANCES, SERVICES)
    with stage.registry() as server:
        _register(stage, server, bodies[:100])
        before = rss(server.pid)
        _register(stage, server, bodies)
        size = (_settled_rss(server.pid) - before) / (INSTANCES - 100) / 1000
    what = "memory per instance, each with a lease of its own"
    return [Row(SECTION, "grpc-registry", what, size, "KB", None, "≤ 2 KB", size <= 2)]


def _register(stage: Stage, server: ServerProcess, bodies: list[bytes]) -> None:
    path: Path = stage.bodies("instances", bodies)
    method = "/registry.v1.Registry/Register"
    stage.load.run("unary", address=server.address, method=method, bodies=path, calls=len(bodies), seconds=120)


def _loaded(stage: Stage) -> list[Row]:
    rows = []
    with stage.etcd() as cluster:
        fill(cluster, LOADED)
        times, sizes = [], []
        for _ in range(3):
            began = time.monotonic()
            with stage.registry(cluster.url()) as server:
                times.append(time.monotonic() - began)
                sizes.append(rss(server.pid))
                _all_there(server.address)
        rows.append(
            Row(SECTION, "grpc-registry on etcd", f"start with {LOADED:,} instances", statistics.median(times), "s")
        )
        resident = statistics.median(sizes) / 1e6
        rows.append(Row(SECTION, "grpc-registry on etcd", f"memory with {LOADED:,} instances", resident, "MB"))
    return rows


def _all_there(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = registry_pb2_grpc.RegistryStub(channel)
        listed = stub.ListServices(pb.ListServicesRequest(), timeout=30).services
        count = sum(service.instances for service in listed)
    if count != LOADED:
        raise AssertionError(f"the server shows {count} instances of {LOADED}")


def fill(cluster: EtcdCluster, count: int) -> None:
    """Writes instances into etcd as the server would have: under their documented keys, each held by its own lease."""
    with grpc.insecure_channel(cluster.nodes[0].endpoint) as channel:
        grant = _method(channel, "Lease/LeaseGrant", etcd.LeaseGrantRequest, etcd.LeaseGrantResponse)
        txn = _method(channel, "KV/Txn", etcd.TxnRequest, etcd.TxnResponse)
        secret = etcd.PutRequest(key=LAYOUT + b"secret", value=SECRET.hex().encode())
        txn(etcd.TxnRequest(success=[etcd.RequestOp(put=secret)]), timeout=60)
        leases = LeaseIds(SECRET)
        for numbers in batched(range(count), TXN_OPS):
            ids = [leases.number(3600, number) for number in numbers]
            asked = [grant.future(etcd.LeaseGrantRequest(ttl=3600, id=lease), timeout=60) for lease in ids]
            puts = [_put(number, one.result().id) for number, one in zip(numbers, asked, strict=True)]
            txn(etcd.TxnRequest(success=puts), timeout=60)


def _method(channel: grpc.Channel, path: str, request: type[Message], response: type[Message]) -> Any:
    return channel.unary_unary(f"/etcdserverpb.{path}", request.SerializeToString, response.FromString)


def _put(number: int, lease: int) -> etcd.RequestOp:
    whole = instance(number, f"service-{number % SERVICES:03}")
    whole.namespace, whole.generation = "default", 1
    whole.ttl.seconds = 3600
    whole.registered_at.GetCurrentTime()
    key = LAYOUT + f"instances/{whole.namespace}/{whole.service}/{whole.id}".encode()
    return etcd.RequestOp(put=etcd.PutRequest(key=key, value=whole.SerializeToString(), lease=lease))
