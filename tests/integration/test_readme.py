"""The Python of the README runs as it stands, against a server of its own."""

import re
import subprocess
import sys

import pytest

from tests.support.servers import RegistryServer
from tests.support.source import ROOT

EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs(number: int, registry_server: RegistryServer) -> None:
    program = EXAMPLES[number].replace("127.0.0.1:7400", registry_server.address)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_there_are_examples_of_every_door() -> None:
    joined = "".join(EXAMPLES)
    assert all(door in joined for door in ("register(", "watch(", "registry://", "LoadBalancer("))
