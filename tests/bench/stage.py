"""What every benchmark stands on: a place for files, the load generator, servers to measure."""

import contextlib
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.loadgen import Loadgen
from tests.bench.workload import FanOut, write_bodies
from tests.support.building import Program, run
from tests.support.etcd import EtcdCluster, binary
from tests.support.go_tools import GO_SOURCE
from tests.support.servers import RegistryServer, ServerProcess

LIMITS = """[limits]
max_requests_per_s_per_peer = 1_000_000
max_instances_per_owner = 200_000
max_instances_per_lease = 200_000
max_leases_per_owner = 200_000
max_watches_per_peer = 100_000
max_services_per_owner = 200_000
max_namespaces_per_owner = 200_000
max_filters_per_peer = 100_000
"""
_CONTROL_PLANE = Path(__file__).parent / "control_plane"


@dataclass(frozen=True, slots=True)
class Stage:
    """`rounds` are how often each comparison is repeated, its sides in turn; `seconds` how long each side is loaded."""

    directory: Path
    load: Loadgen
    rounds: int
    seconds: float

    def bodies(self, name: str, bodies: list[bytes] | tuple[bytes, ...]) -> Path:
        return write_bodies(self.directory / f"{name}.bodies", bodies)

    def registry(self, store: str = "memory:", *args: str) -> RegistryServer:
        """The product, on its defaults, but for what one client may have: the load generator is many in one."""
        limits = self.directory / "limits.toml"
        limits.write_text(LIMITS)
        flags = ["--log-level", "warning", "--config", str(limits)]
        return RegistryServer(self.directory, store=store, args=[*flags, *args])

    def bare(self) -> ServerProcess:
        """The bare grpc.aio server."""
        return ServerProcess(self.directory, "bare", "tests.bench.bare_server", [])

    @contextlib.contextmanager
    def etcd(self) -> Iterator[EtcdCluster]:
        """One real etcd, without fsync; a directory of its own, so that each starts empty."""
        directory = self.directory / f"etcd-{time.monotonic_ns()}"
        directory.mkdir()
        with EtcdCluster(directory) as cluster:
            yield cluster

    def watching(self, fan_out: FanOut) -> dict[str, object]:
        """The flags of loadgen that describe a fan-out."""
        name = fan_out.subject.replace(" ", "-")
        acks = {"ack": self.bodies(f"{name}-ack", [fan_out.ack])} if fan_out.ack else {}
        return {
            "method": fan_out.method,
            "bodies": self.bodies(f"{name}-changes", fan_out.bodies),
            "watch_method": fan_out.watch_method,
            "watch_bodies": self.bodies(f"{name}-watch", [fan_out.watch_body]),
            **acks,
        }


class ControlPlane(ServerProcess):
    """The peer that tells many watchers by xDS."""

    def __init__(self, directory: Path, binary: Path) -> None:
        super().__init__(directory, "control-plane", "", [])
        self._binary = binary

    def _command(self) -> list[str]:
        return [str(self._binary)]


def control_plane(directory: Path) -> ControlPlane:
    """It; the first who asks builds it. Raises NotBuilt."""

    def make(home: Path) -> None:
        run(["go", "build", "-trimpath", "-ldflags=-s -w", "-o", home / "control-plane", "."], _CONTROL_PLANE)

    program = Program("control-plane", "go", GO_SOURCE, (_CONTROL_PLANE,), make)
    return ControlPlane(directory, program.built() / "control-plane")


def etcd_version() -> str:
    said = subprocess.run([str(binary("etcd")), "--version"], capture_output=True, text=True, timeout=20, check=True)
    return said.stdout.split()[2]


def median_of(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """The median of each side over some rounds, in each of which every side has its turn: what disturbs the machine
    disturbs all of them."""
    measured = [[side() for side in sides] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*measured, strict=True)]


def rss(pid: int) -> int:
    """Resident memory of a process, bytes."""
    resident: int = psutil.Process(pid).memory_info().rss
    return resident


def cpu_s(pid: int) -> float:
    """Processor time that a process has used, seconds."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
