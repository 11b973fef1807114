"""A server that starts: what takes long is done before anybody can wait for it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from registry_client import sync
from registry_server.config import Config
from registry_server.server import serve
from tests.support.etcd import free_port
from tests.support.servers import NO_PAGE
from tests.support.waiting import eventually


async def test_the_port_is_closed_until_all_is_loaded_and_looked_through() -> None:
    port, open_then = free_port(), []

    def loaded() -> None:
        open_then.append(is_open(port))

    async with serve(Config(listen=f"127.0.0.1:{port}"), loaded=loaded):
        assert is_open(port)
    assert open_then == [False]


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("closing", ["<&- >&- 2>&-", "<&-", ">/dev/full", "| true"])
def test_a_server_runs_whatever_its_standard_files_are(closing: str, tmp_path: Path) -> None:
    """Closed, as by a shell script that makes a daemon; full; or nobody reads them any more."""
    path, port = tmp_path / "pid", free_port()
    server = f"{sys.executable} -m registry_server --listen 127.0.0.1:{port}"
    with subprocess.Popen(
        ["/bin/sh", "-c", f"sh -c 'echo $$ >{path}; exec {server}' {closing}"],
        env={**os.environ, **NO_PAGE},
        stderr=subprocess.DEVNULL,
    ) as shell:
        try:
            eventually(lambda: is_open(port), what="the server listens", timeout_s=60)
            with sync.connect(f"127.0.0.1:{port}") as registry:
                assert list(registry.services()) == []
        finally:
            os.kill(int(path.read_text()), signal.SIGTERM)
        assert shell.wait(60) == 0
