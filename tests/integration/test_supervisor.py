"""What systemd, or who asks as it does, is told: a socket of the test's in its place."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.servers import RegistryServer

WAIT_S = 20.0


@contextmanager
def hearing(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.settimeout(WAIT_S)
        heard.bind(address)
        yield heard


def told(heard: socket.socket) -> Mapping[str, str]:
    return dict(line.split("=", 1) for line in heard.recv(4096).decode().split("\n"))


def test_a_supervisor_is_told_when_the_server_is_ready_that_it_is_well_and_that_it_stops(tmp_path: Path) -> None:
    with hearing(f"{tmp_path}/notify") as heard:
        env = {"NOTIFY_SOCKET": f"{tmp_path}/notify", "WATCHDOG_USEC": "200000"}
        with RegistryServer(tmp_path, env=env) as server:
            assert set(told(heard)) == {"STATUS"}
            assert told(heard) == {"READY": "1", "STATUS": f"listens on {server.address}"}
            assert told(heard) == told(heard) == {"WATCHDOG": "1"}
            assert server.terminate() == 0
        said = told(heard)
        while said == {"WATCHDOG": "1"}:
            said = told(heard)
        assert said == {"STOPPING": "1", "STATUS": "stops"}


def test_a_name_without_a_file_is_a_socket_too(tmp_path: Path) -> None:
    name = f"{tmp_path}/{'n' * 20}"[-80:]
    with hearing(f"\0{name}") as heard, RegistryServer(tmp_path, env={"NOTIFY_SOCKET": f"@{name}"}):
        assert "STATUS" in told(heard)
        assert told(heard)["READY"] == "1"


@pytest.mark.parametrize("where", ["/nowhere/to/be/found", "vsock:2:1234", ""])
def test_a_supervisor_that_does_not_hear_is_no_reason_to_end(where: str, tmp_path: Path) -> None:
    env = {"NOTIFY_SOCKET": where, "WATCHDOG_USEC": "many"}
    with RegistryServer(tmp_path, env=env) as server:
        assert server.address
        assert server.log_text.count("cannot be told anything") == (1 if where.startswith("/") else 0)


def test_a_watchdog_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """As a shell between the supervisor and the server would be."""
    with hearing(f"{tmp_path}/notify") as heard:
        env = {"NOTIFY_SOCKET": f"{tmp_path}/notify", "WATCHDOG_USEC": "100", "WATCHDOG_PID": "1"}
        with RegistryServer(tmp_path, env=env) as server:
            assert server.terminate() == 0
        assert [set(told(heard)) for _ in range(3)] == [{"STATUS"}, {"READY", "STATUS"}, {"STOPPING", "STATUS"}]
