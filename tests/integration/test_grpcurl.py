"""grpcurl, the real binary, is all that a user needs: it finds the services by itself and does the whole of a life."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.grpcurl import grpcurl, grpcurl_path
from tests.support.servers import ROOT, RegistryServer
from tests.support.waiting import eventually

REGISTRY = "registry.v1.Registry"
PLAYER = {"service": "player", "host": "10.0.0.5", "port": 8001}
# grpcurl's exit code for a failed call is 64 plus the status code.
INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 64 + 3, 64 + 4, 64 + 5


def test_lists_services_by_reflection(registry_server: RegistryServer) -> None:
    services = grpcurl(registry_server.address, "list").out.split()
    assert {REGISTRY, "grpc.health.v1.Health", "grpc.channelz.v1.Channelz"} <= set(services)
    assert f"{REGISTRY}.Register" in grpcurl(registry_server.address, f"list {REGISTRY}").out


def test_describes_messages_with_their_fields(registry_server: RegistryServer) -> None:
    described = grpcurl(registry_server.address, "describe registry.v1.RegisterRequest").out
    assert "lease_id = 3" in described
    assert ".registry.v1.Instance instance = 1" in described


def test_registers_renews_and_deregisters(registry_server: RegistryServer) -> None:
    address = registry_server.address
    registered = grpcurl(address, f"{REGISTRY}/Register", {"instance": PLAYER, "ttl": "30s"}).message
    lease = registered["lease_id"]
    assert registered["instance"]["weight"] == 100

    renewal = grpcurl(address, f"{REGISTRY}/KeepAlive", {"lease_ids": [lease]}).message["renewals"]
    assert renewal == [{"lease_id": lease, "ttl": "30s", "state": "RENEWED", "instances": 1}]

    listed = grpcurl(address, f"{REGISTRY}/List", {"service": "player"}).message["instances"]
    assert [(one["host"], one["port"]) for one in listed] == [("10.0.0.5", 8001)]

    assert grpcurl(address, f"{REGISTRY}/Deregister", {"lease_id": lease}).message["removed"] == 1
    assert "instances" not in grpcurl(address, f"{REGISTRY}/List", {"service": "player"}).message


def test_several_renewals_on_one_stream(registry_server: RegistryServer) -> None:
    address = registry_server.address
    lease = grpcurl(address, f"{REGISTRY}/Register", {"instance": PLAYER}).message["lease_id"]
    answers = grpcurl(address, f"{REGISTRY}/KeepAlive", [{"lease_ids": [lease]}, {"lease_ids": ["dead"]}]).messages
    assert [answer["renewals"][0]["state"] for answer in answers] == ["RENEWED", "UNKNOWN"]


@contextmanager
def watching(address: str, request: dict[str, object], log: Path) -> Iterator[Path]:
    command = [str(grpcurl_path()), "-plaintext", "-d", json.dumps(request), address, f"{REGISTRY}/Watch"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield log
    finally:
        process.kill()
        process.wait()


def test_watches(registry_server: RegistryServer, tmp_path: Path) -> None:
    address = registry_server.address
    with watching(address, {"services": ["player"]}, tmp_path / "watch.log") as log:
        eventually(lambda: '"reset": true' in log.read_text(), what="the full set")
        lease = grpcurl(address, f"{REGISTRY}/Register", {"instance": PLAYER}).message["lease_id"]
        eventually(lambda: "upserts" in log.read_text(), what="the registration")
        grpcurl(address, f"{REGISTRY}/Deregister", {"lease_id": lease})
        eventually(lambda: "removed" in log.read_text(), what="the deregistration")


def test_errors_name_the_field(registry_server: RegistryServer) -> None:
    refused = grpcurl(registry_server.address, f"{REGISTRY}/Register", {"instance": {**PLAYER, "port": 70000}})
    assert refused.code == INVALID_ARGUMENT
    assert "instance.port" in refused.err
    unknown = grpcurl(registry_server.address, f"{REGISTRY}/Get", {"key": {"service": "player", "id": "nobody"}})
    assert unknown.code == NOT_FOUND


def test_health(registry_server: RegistryServer) -> None:
    answer = grpcurl(registry_server.address, "grpc.health.v1.Health/Check", {})
    assert answer.message == {"status": "SERVING"}


def documented_lines() -> list[str]:
    """The lines with grpcurl in the README, continuation lines joined."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(block for language, block in blocks if language == "sh").replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").split("  #")[0] for line in lines if line.removeprefix("$ ").startswith("grpcurl ")]


def test_readme_lines_do_what_they_say(registry_server: RegistryServer) -> None:
    """In the order of the README, against a server of their own. `LEASE` is the lease of the Register before."""
    lines, lease = documented_lines(), ""
    assert lines
    for line in lines:
        words = shlex.split(line.replace("127.0.0.1:7400", registry_server.address).replace("LEASE", lease))
        said = _watched(words[1:]) if words[-1].endswith("/Watch") else _ran(words[1:])
        if words[-1].endswith("/Register"):
            lease = json.loads(said)["lease_id"]


def _ran(arguments: list[str]) -> str:
    done = subprocess.run([str(grpcurl_path()), *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


def _watched(arguments: list[str]) -> str:
    command = [str(grpcurl_path()), "-max-time", "1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == DEADLINE_EXCEEDED, f"{arguments}: {done.stderr}"
    assert '"reset": true' in done.stdout
    return done.stdout


@pytest.mark.parametrize("text", ["$ grpcurl -plaintext x list", "grpcurl a \\\n  b"])
def test_documented_lines_are_found(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"```sh\n{text}\n```\n")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert len(documented_lines()) == 1
