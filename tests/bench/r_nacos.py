"""r-nacos, a registry in Rust with Nacos' API over HTTP: the fastest peer found for writes. Benchmarks alone use it."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from tests.bench.workload import instance
from tests.support.building import NotBuilt, Program, run

VERSION = "0.8.8"
REGISTER = "/nacos/v1/ns/instance"
# The port of its API; two more follow by these distances.
DISTANCES = (0, 1000, 2000)
START_S = 30


class RNacos(NamedTuple):
    """One that runs, and answers over HTTP there."""

    address: str
    pid: int


def registrations(count: int, services: int = 100) -> list[bytes]:
    """Bodies of REGISTER for the same instances as workload.registrations has. They renew themselves, like ours."""
    forms = ((f"service-{number % services:03}", instance(number)) for number in range(count))
    return [
        urlencode(
            {
                "serviceName": service,
                "ip": it.host,
                "port": it.port,
                "weight": 1,
                "ephemeral": "true",
                "metadata": '{"map":"northern-wastes","version":"1.4.2","tags":"game,eu"}',
            }
        ).encode()
        for service, it in forms
    ]


def r_nacos(*, may_build: bool = True) -> Path:
    """Its binary; the first who asks builds it, which takes minutes. Raises NotBuilt."""

    def make(home: Path) -> None:
        print(f"cargo builds r-nacos {VERSION}, once, for some minutes", flush=True)
        install: list[str | Path] = [
            "cargo",
            "install",
            "--quiet",
            "--root",
            home,
            "--version",
            VERSION,
            "rnacos",
        ]
        run(install, home)

    program = Program("r-nacos", "cargo", "https://rustup.rs", (Path(__file__),), make)
    if not (may_build or program.home.exists()):
        raise NotBuilt("a quick run does not build it")
    return program.built() / "bin" / "rnacos"


@contextlib.contextmanager
def running(binary: Path, directory: Path) -> Iterator[RNacos]:
    """One for as long as the block lasts, which begins empty."""
    home = directory / f"r-nacos-{time.monotonic_ns()}"
    home.mkdir()
    http, grpc, console = _free_ports()
    told = {
        "RNACOS_HTTP_PORT": http,
        "RNACOS_GRPC_PORT": grpc,
        "RNACOS_HTTP_CONSOLE_PORT": console,
        "RNACOS_RAFT_NODE_ADDR": f"127.0.0.1:{grpc}",
        "RNACOS_DATA_DIR": home,
        "RUST_LOG": "error",
    }
    env = {**os.environ, **{name: str(value) for name, value in told.items()}}
    with (home / "log").open("wb") as log, subprocess.Popen([binary], cwd=home, env=env, stdout=log, stderr=log) as it:
        try:
            _wait_for(http)
            yield RNacos(f"127.0.0.1:{http}", it.pid)
        finally:
            it.terminate()


def _free_ports() -> list[int]:
    for first in range(20_000, 30_000):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for distance in DISTANCES:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", first + distance))
            return [first + distance for distance in DISTANCES]
    raise OSError("no three ports are free")


def _wait_for(port: int) -> None:
    until = time.monotonic() + START_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > until:
            raise TimeoutError("r-nacos does not answer")
        time.sleep(0.05)
