"""The Python of docs/client.md runs as it stands, and its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from registry_client import testing
from registry_client.cli import main
from tests.support.servers import ROOT, RegistryServer

TEXT = (ROOT / "docs" / "client.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^registryctl (.*?)(?: +#.*)?$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs_run(number: int, server: RegistryServer, cache_home: Path) -> None:
    with testing.registry() as backup:
        program = PROGRAMS[number].replace("127.0.0.1:7400", server.address).replace("127.0.0.1:7401", backup)
        command = [sys.executable, "-W", "error", "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str) -> None:
    """Each gets as far as looking for a registry, or, for the one that needs an instance, asking for it."""
    arguments = command.split()
    at = arguments.index("--") if "--" in arguments else len(arguments)
    nowhere = ["--server", "127.0.0.1:1", "--timeout", "0.2"]
    if arguments[0] in ("watch", "sync"):  # it would wait for a registry for ever
        assert CliRunner().invoke(main, [*arguments, "--help"]).exit_code == 0
        return
    assert CliRunner().invoke(main, [*arguments[:at], *nowhere, *arguments[at:]]).exit_code == 3


def test_there_is_something_to_test() -> None:
    assert len(PROGRAMS) >= 7
    assert len(COMMANDS) >= 8
