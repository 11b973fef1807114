"""ghz, a load generator that people measure gRPC servers with: it finds the methods by reflection."""

import json
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest

from tests.conftest import ServerFactory
from tests.support.go_tools import go_tool
from tests.support.transports import FLAGS

CALLS = 400
PLAYER = {"service": "player", "host": "10.0.0.5"}
# By method: its request, or those of one stream. `{{…}}` is filled in by ghz for each call.
CASES: dict[str, Any] = {
    "Register": {"instance": {**PLAYER, "id": "{{.UUID}}", "port": "{{add 1000 .RequestNumber}}"}},
    "ListServices": {},
    "KeepAlive": [{"leaseIds": ["nobody"]}, {"leaseIds": ["nobody", "either"]}],
}


@pytest.mark.timeout(900)  # the first time it is built
@pytest.mark.parametrize("transport", FLAGS)
def test_every_call_is_answered(transport: str, server_factory: ServerFactory) -> None:
    ghz, server = go_tool("ghz"), server_factory(args=FLAGS[transport]).start()
    for method, request in CASES.items():
        options = [f"--call=registry.v1.Registry.{method}", f"--data={json.dumps(request)}"]
        report = run([str(ghz), *options, server.address])
        assert report["statusCodeDistribution"] == {"OK": CALLS}, report["errorDistribution"]


def run(command: Sequence[str]) -> Any:
    """The report of one run over a few connections."""
    fixed = ["--insecure", f"--total={CALLS}", "--concurrency=20", "--connections=4", "--format=json"]
    done = subprocess.run([command[0], *fixed, *command[1:]], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
