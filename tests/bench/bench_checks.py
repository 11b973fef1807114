"""Health checks: what a look costs the server, beside a bare loop over the same HTTP library."""

import asyncio
import contextlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import grpc

from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import registry_pb2_grpc
from registry_checks.text import parse
from tests.bench.report import Row
from tests.bench.stage import Stage, cpu_s
from tests.support.servers import ROOT
from tests.support.waiting import eventually

SECTION = "Health checks"
INSTANCES = 1_000
CHECK = parse("http:/healthz interval=1")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def run(stage: Stage) -> list[Row]:
    with answering() as (port, looked):
        sides = [(_bare(port, stage.seconds), _ours(stage, port, looked)) for _ in range(stage.rounds)]
    bare, ours = (statistics.median(side[number][0] for side in sides) for number in (0, 1))
    rate = statistics.median(side[1][1] for side in sides)
    return [
        Row(SECTION, "bare loop with h11", "CPU of one HTTP look", bare * 1e6, "µs", 1.0),
        Row(SECTION, "grpc-registry", "CPU of one HTTP look", ours * 1e6, "µs", ours / bare, "≤ 2", ours / bare <= 2),
        Row(SECTION, "grpc-registry", f"looks at {INSTANCES} instances, one each second", rate, "/s"),
    ]


class _Answers(asyncio.Protocol):
    """Says that it is well to whatever is asked."""

    def __init__(self, looked: list[int]) -> None:
        self._looked = looked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._looked[0] += 1
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.write(ANSWER)
        self._transport.close()


@contextlib.contextmanager
def answering() -> Iterator[tuple[int, list[int]]]:
    """An instance that is well, in a thread of its own: its port, and how often it was looked at."""
    looked, ready, loop = [0], threading.Event(), asyncio.new_event_loop()
    ports: list[int] = []

    def serve() -> None:
        server = loop.run_until_complete(loop.create_server(lambda: _Answers(looked), "127.0.0.1", 0, backlog=4096))
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        loop.run_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield ports[0], looked
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _bare(port: int, seconds: float) -> tuple[float, float]:
    command = [sys.executable, "-m", "tests.bench.bare_looks", str(port), str(INSTANCES), str(seconds)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return float(said[1]) / float(said[0]), float(said[0]) / seconds


def _ours(stage: Stage, port: int, looked: list[int]) -> tuple[float, float]:
    """CPU seconds of one look, and looks per second."""
    with stage.registry() as server, grpc.insecure_channel(server.address) as channel:
        stub = registry_pb2_grpc.RegistryStub(channel)
        lease_id = ""
        for number in range(INSTANCES):  # an address is one instance's within a service
            it = pb.Instance(service=f"s{number}", host="127.0.0.1", port=port, checks=[CHECK])
            request = pb.RegisterRequest(instance=it, lease_id=lease_id)
            request.ttl.FromSeconds(600)
            lease_id = stub.Register(request).lease_id
        begun = looked[0]
        eventually(lambda: looked[0] > begun + 3 * INSTANCES, timeout_s=30)  # all are known to be well
        before, used, began = looked[0], cpu_s(server.pid), time.monotonic()
        eventually(lambda: time.monotonic() - began >= stage.seconds, timeout_s=stage.seconds + 5)
        looks = looked[0] - before
        return (cpu_s(server.pid) - used) / looks, looks / (time.monotonic() - began)
