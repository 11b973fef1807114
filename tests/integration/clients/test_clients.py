"""Small clients of all gRPC implementations (see README.md beside) against the server, on each of its transports."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.building import NotBuilt
from tests.support.clients import CLIENTS, Client
from tests.support.servers import RegistryServer
from tests.support.stubs import PROTOS
from tests.support.transports import FLAGS

TIMEOUT_S = 90.0
SAID = """\
registered one ttl 30
renewal RENEWED
renewal UNKNOWN
renewals end true
watch reset true upserts 1
watch reset false weight 7
listed 1 same checksum true
watch bookmark true
deadline DEADLINE_EXCEEDED
cancelled CANCELLED
big 10000 UNKNOWN
too big RESOURCE_EXHAUSTED
refused INVALID_ARGUMENT instance.port
left 1
watch removed one DEREGISTERED
gone NOT_FOUND
"""

Running = dict[str, "subprocess.Popen[str] | NotBuilt"]


@pytest.fixture(scope="module", params=FLAGS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """All clients, at the same time: each waits for a bookmark."""
    folder = tmp_path_factory.mktemp("clients")
    with RegistryServer(folder, args=FLAGS[request.param]) as server:
        clients = {language: _start(client, server.address, folder) for language, client in CLIENTS.items()}
        yield clients
        for process in clients.values():
            if isinstance(process, subprocess.Popen):
                process.kill()
                process.communicate()


def _start(client: Client, address: str, folder: Path) -> "subprocess.Popen[str] | NotBuilt":
    try:
        home = client.program.built() if client.program else folder
    except NotBuilt as error:
        return error
    namespace = client.program.name if client.program else Path(client.command(folder)[-1]).stem
    return subprocess.Popen(
        [*client.command(home), address, namespace],
        env={**os.environ, "PROTOS": str(PROTOS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(900)  # the first time they are built
@pytest.mark.parametrize("language", CLIENTS)
def test_a_client_does_what_clients_do(language: str, running: Running) -> None:
    process = running[language]
    if isinstance(process, NotBuilt):
        pytest.skip(f"no client in {language}: {process}")
    said, complaints = process.communicate(timeout=TIMEOUT_S)
    assert said == SAID, complaints
    assert process.returncode == 0, complaints
