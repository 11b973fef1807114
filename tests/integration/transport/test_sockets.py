"""A registry at a file, over both transports: whose place it takes, who may connect, and what is left."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import registry_client
from registry_client import Instance
from registry_server.__main__ import EXIT_USAGE
from registry_server.config import TRANSPORTS
from registry_server.sockets import Bound, bound
from tests.support.grpcurl import grpcurl
from tests.support.servers import NO_PAGE, ROOT, RegistryServer
from tests.support.waiting import until


class AtFile(RegistryServer):
    """A server that listens on a free port and at a file."""

    def _command(self) -> list[str]:
        command = super()._command()
        at = command.index("--listen") + 1
        return [*command[:at], f"unix:{self.path},{command[at]}", *command[at + 1 :]]

    @property
    def path(self) -> Path:
        return self.log_path.parent / "registry.sock"

    @property
    def file_address(self) -> str:
        return f"unix:{self.path}"


Make = Callable[..., AtFile]


@pytest.fixture
def make(short: Path, transport: str) -> Iterator[Make]:
    servers: list[AtFile] = []

    def made(*args: str) -> AtFile:
        servers.append(AtFile(short, args=["--transport", transport, *args], name=f"server-{len(servers)}"))
        return servers[-1]

    yield made
    for server in servers:
        server.close()


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a socket has 107 characters at most."""
    return tmp_path_factory.mktemp("s")


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_clients_of_all_kinds_by_a_file_and_by_a_port(make: Make) -> None:
    with make() as server:
        assert server.path.is_socket()
        url = f"registry://{server.file_address.replace('/', '%2F')}/player"
        async with (
            registry_client.connect(server.file_address) as near,
            registry_client.connect(server.address) as far,
            near.register(Instance(service="player", host="127.0.0.1", port=server.port)),
            registry_client.aio.channel(url) as channel,
        ):
            assert [it.address for it in await far.list("player")] == [server.address]
            assert [it.address for it in await near.list("player")] == [server.address]
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert await check(b"", timeout=20) == b"\x08\x01"  # the registry itself is the back end
        assert '"services": []' in await asyncio.to_thread(command_line, server.file_address)
        flags = ("-unix", "-authority", "localhost")
        said = await asyncio.to_thread(grpcurl, str(server.path), "registry.v1.Registry/List", flags=flags)
        assert said.message["header"]["epoch"]
        assert server.terminate() == 0
    assert not server.path.exists()


async def test_who_is_registered_by_a_file_is_so_again_when_the_server_is_back(make: Make) -> None:
    server = await make().start_async()
    async with (
        registry_client.connect(server.file_address, cache_dir=None) as registry,
        registry.register(Instance(service="player", host="10.0.0.5", port=1)),
    ):
        await server.restart_async()

        async def is_back() -> bool:
            return [it.address for it in await registry.list("player")] == ["10.0.0.5:1"]

        await until(is_back, timeout_s=60, what="it is registered again")


def command_line(address: str) -> str:
    """What registryctl says of the services of that registry."""
    command = [sys.executable, "-m", "registry_client.cli", "--server", address, "-o", "json", "services"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


def test_the_mode_of_the_file(make: Make) -> None:
    with make() as server:
        assert mode_of(server.path) == 0o600
        server.terminate()
    with make("--socket-mode", "660") as server:
        assert mode_of(server.path) == 0o660


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_place_of_a_dead_server_is_taken_that_of_a_living_one_is_not(make: Make) -> None:
    first = make().start()
    first.kill()
    assert first.path.is_socket()
    second = make().start()
    assert_refused(second, "in use")
    second.pause()
    assert_refused(second, "in use")
    second.resume()
    with registry_client.sync.connect(second.file_address) as registry:
        assert registry.list("player") == []


def test_what_is_no_socket_stays(make: Make) -> None:
    server = make()
    server.path.write_text("mine")
    assert_refused(server, "no socket")
    assert server.path.read_text() == "mine"
    server.path.unlink()
    server.path.symlink_to("/nowhere")
    assert_refused(server, "no socket")
    assert server.path.is_symlink()


def test_paths_where_no_socket_can_be(short: Path) -> None:
    for path, said in ((short / "none" / "here", "No such file"), (short / ("x" * 120), "too long")):
        done = run(f"unix:{path}")
        assert done.returncode == EXIT_USAGE
        assert f"cannot listen on unix:{path}: " in done.stderr
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_the_file_that_another_server_has_made_meanwhile_stays(make: Make, transport: str) -> None:
    if transport == "grpc":
        return  # gRPC's core removes what is there when it stops
    first = make().start()
    first.path.unlink()
    second = make().start()
    assert first.terminate() == 0
    with registry_client.sync.connect(second.file_address) as registry:
        assert registry.list("player") == []


def run(address: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "registry_server", "--listen", address]
    environment = {**os.environ, **NO_PAGE}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def assert_refused(server: AtFile, why: str) -> None:
    done = run(server.file_address)
    assert (done.returncode, done.stdout) == (EXIT_USAGE, "")
    assert f"cannot listen on {server.file_address}: " in done.stderr
    assert why in done.stderr


# ---- many at once


def test_of_many_that_start_together_one_has_the_place(short: Path) -> None:
    """Also where a dead server left its socket, which each of them would remove."""
    for round_ in range(10):
        path = short / f"socket-{round_}"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        together = threading.Barrier(6)
        taken: list[Bound | None] = []

        def take(path: Path, together: threading.Barrier, taken: list[Bound | None]) -> None:
            together.wait()
            try:
                taken.append(bound(f"unix:{path}"))
            except OSError:
                taken.append(None)

        threads = [threading.Thread(target=take, args=(path, together, taken)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (won,) = [it for it in taken if it is not None]
        won.close()


def test_who_may_not_read_the_directory_does_without_a_lock(short: Path) -> None:
    short.chmod(0o300)
    try:
        it = bound(f"unix:{short}/socket")
        assert (short / "socket").is_socket()
        it.close()
        assert not (short / "socket").exists()
    finally:
        short.chmod(0o700)
