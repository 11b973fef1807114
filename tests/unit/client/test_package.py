"""What `import registry_client` gives, and what it costs."""

import importlib
import inspect
import re
import subprocess
import sys

import pytest

import registry_client
from registry_client import Registration, sync
from registry_client.client import connect
from tests.support.source import ROOT


def run(program: str) -> str:
    """What a program prints, in a process that has imported nothing yet."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT).stdout


def test_importing_the_client_imports_no_more_than_it_needs() -> None:
    """Channels bring the balancer, the command line its own tools: those who use them import them."""
    said = run("import sys, registry_client\nprint(*sorted(sys.modules))").split()
    tops = {name.partition(".")[0] for name in said}
    assert not tops & {"balancer", "registry_server", "click", "rich", "google.rpc.context", "numpy"}
    assert "registry_client.resolver" not in said
    assert "registry_client.sync" not in said


@pytest.mark.parametrize("name", registry_client.__all__)
def test_all_that_is_named_is_there(name: str) -> None:
    assert getattr(registry_client, name) is not None
    assert name in dir(registry_client)


def test_what_comes_later_is_there_without_being_imported() -> None:
    program = """
import registry_client
print(registry_client.sync.connect.__module__, registry_client.aio.channel.__name__, registry_client.channel.__name__)
from registry_client import *
"""
    assert run(program).split() == ["registry_client.sync", "aio_channel", "channel"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = registry_client.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("package", ["registry_client", "balancer"])
def test_the_version_is_told(package: str) -> None:
    version = importlib.import_module(package).__version__
    declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared
    assert version in (declared[1], "0+unknown")


def test_threads_connect_with_the_same_arguments() -> None:
    """Named and typed one by one, so that a type checker finds what is misspelt."""
    own, other = inspect.signature(sync.connect), inspect.signature(connect)
    assert list(own.parameters.values()) == list(other.parameters.values())


def test_a_registration_shows_what_is_meant_for_its_owner_and_no_more() -> None:
    public = {name for name in dir(Registration) if not name.startswith("_")}
    owners = {"aclose", "instance", "invisible_for", "lease_id", "start", "state", "trouble", "ttl_s"}
    owners |= {"update", "wait_lost"}
    assert public == owners
    assert {name for name in dir(sync.Registration) if not name.startswith("_")} == owners - {"aclose"} | {"close"}
