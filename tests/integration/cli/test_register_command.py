"""`registryctl register ADDRESS -- COMMAND`: nobody is sent to a command that does not listen yet."""

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen

import grpc
import pytest

from registry_api.registry.v1 import registry_pb2_grpc
from registry_client import RegistryClient
from registry_client.cli.port import is_local, listens
from tests.integration.client.conftest import ids, player, until
from tests.integration.client.test_registering import nobody_there
from tests.support.registryctl import complaint_of, ended, line_of, running
from tests.support.servers import RegistryServer
from tests.support.waiting import always_async, eventually_async

pytestmark = pytest.mark.usefixtures("address")

# Listens once a file is there, and ends with exit code 7 when another one is; it writes down that it was told to end.
SCRIPT = """
import pathlib, signal, socket, sys, time
folder, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])

def on_term(*_):
    (folder / "terminated").touch()
    sys.exit(9)

signal.signal(signal.SIGTERM, on_term)
(folder / "started").touch()
listener = None
while not (folder / "end").exists():
    if listener is None and (folder / "listen").exists():
        listener = socket.create_server(("127.0.0.1", port))
    time.sleep(0.01)
sys.exit(7)
"""


class Slow:
    """A command that takes its time to listen."""

    def __init__(self, folder: Path) -> None:
        self.port = int(nobody_there().rpartition(":")[2])
        self.address = f"127.0.0.1:{self.port}"
        self._folder = folder
        self.command = (sys.executable, "-c", SCRIPT, str(folder), str(self.port))

    def may(self, what: str) -> None:
        (self._folder / what).touch()

    def has(self, what: str) -> bool:
        return (self._folder / what).exists()

    def registered(self, *options: str) -> AbstractContextManager[Popen[str]]:
        return running("register", "player", self.address, "--id", "p1", *options, "--", *self.command)


@pytest.fixture
def slow(tmp_path: Path) -> Slow:
    return Slow(tmp_path)


async def nobody_for_a_while(registry: RegistryClient) -> None:
    watch = registry.watch("player")
    await until(watch, lambda view: not view.instances)
    await always_async(lambda: watch.view is not None and not watch.view.instances, for_s=0.5)


async def test_it_is_registered_when_its_port_listens(registry: RegistryClient, slow: Slow) -> None:
    with slow.registered() as process:
        await eventually_async(lambda: slow.has("started"))
        await nobody_for_a_while(registry)
        assert await complaint_of(process) == f"registryctl: waiting until something listens at {slow.address}\n"
        slow.may("listen")
        await until(registry.watch("player"), lambda view: ids(view) == ["p1"])
        assert (await line_of(process)).startswith("registered player/p1")
        slow.may("end")
        assert await ended(process) == (7, "")
    await until(registry.watch("player"), lambda view: not view.instances)


async def test_without_waiting_it_is_registered_at_once(registry: RegistryClient, slow: Slow) -> None:
    with slow.registered("--no-wait-port"):
        await until(registry.watch("player"), lambda view: ids(view) == ["p1"])


async def test_a_command_that_ends_before_it_listens_is_never_registered(registry: RegistryClient, slow: Slow) -> None:
    slow.may("end")
    with slow.registered() as process:
        said = f"registryctl: the command has ended before anything listened at {slow.address}\n"
        assert await ended(process) == (7, said)
    assert await registry.list("player") == []


async def test_a_command_that_does_not_listen_in_time_is_ended(registry: RegistryClient, slow: Slow) -> None:
    with slow.registered("--wait-timeout", "0.5") as process:
        code, said = await ended(process)
    assert code == 1
    assert said.startswith(f"registryctl: nothing listens at {slow.address} after 0.5 s")
    assert len(said.splitlines()) == 1
    assert slow.has("terminated") or not slow.has("started"), "on a busy machine it may not have begun yet"
    assert await registry.list("player") == []


async def test_ctrl_c_while_it_does_not_listen_ends_the_command(registry: RegistryClient, slow: Slow) -> None:
    with slow.registered() as process:
        await eventually_async(lambda: slow.has("started"))
        process.send_signal(signal.SIGINT)
        assert await ended(process) == (9, "")
    assert slow.has("terminated")
    assert await registry.list("player") == []


async def test_a_port_without_a_command_can_be_waited_for_too(registry: RegistryClient) -> None:
    address = nobody_there()
    with running("register", "player", address, "--wait-port") as process:
        await nobody_for_a_while(registry)
        with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
            assert (await line_of(process)).startswith("registered player/")


async def test_a_port_that_listens_before_the_command_is_told(slow: Slow) -> None:
    with socket.create_server(("127.0.0.1", slow.port)), slow.registered() as process:
        said = f"registryctl: something listens at {slow.address} already, before the command has started\n"
        assert await complaint_of(process) == said
        assert (await line_of(process)).startswith("registered player/p1")


async def test_no_command_is_started_for_a_registry_that_is_away(slow: Slow) -> None:
    with slow.registered("--server", nobody_there(), "--timeout", "0.5") as process:
        code, said = await ended(process)
    assert (code, slow.has("started")) == (3, False)
    assert "efused" in said


async def test_a_command_that_runs_waits_for_a_registry_that_went_away(server: RegistryServer, slow: Slow) -> None:
    """And if it ends meanwhile, nothing is waited for."""
    with slow.registered("--timeout", "0.5") as process:
        await eventually_async(lambda: slow.has("started"))
        server.kill()
        slow.may("listen")
        await eventually_async(lambda: listens("127.0.0.1", slow.port))
        slow.may("end")
        code, _ = await ended(process)
    assert code == 7


class Refusing(registry_pb2_grpc.RegistryServicer):
    def Get(self, _request: object, context: "grpc.ServicerContext") -> None:
        context.abort(grpc.StatusCode.NOT_FOUND, "nobody")

    def Register(self, _request: object, context: "grpc.ServicerContext") -> None:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "you may not")


@pytest.fixture
def refusing() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    registry_pb2_grpc.add_RegistryServicer_to_server(Refusing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


async def test_a_command_that_may_not_be_registered_is_ended(refusing: str, slow: Slow) -> None:
    slow.may("listen")
    with slow.registered("--server", refusing) as process:
        code, said = await ended(process)
    assert code == 1
    assert "you may not" in said.splitlines()[-1]
    assert slow.has("terminated")


async def test_a_loss_is_told_while_the_command_goes_on(registry: RegistryClient, slow: Slow) -> None:
    slow.may("listen")
    with slow.registered("--ttl", "2") as process:
        await line_of(process)
        async with registry.register(player("p1", 9001)):
            assert "taken over" in await complaint_of(process)
            assert process.poll() is None
            slow.may("end")
            assert (await ended(process))[0] == 7
            assert (await registry.get("player", "p1")).port == 9001


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("10.255.255.1", False), ("no-such-host.invalid", False)],
)
async def test_whose_address_it_is(host: str, local: bool) -> None:
    assert await asyncio.wait_for(is_local(host), 20) is local
