"""The examples of a page each run as they stand, docs/moving.md with them, and it names nothing that there is not."""

import importlib
import re
import subprocess
import sys

import pytest

import balancer
import registry_client
from registry_client import RegistryClient
from registry_client.bridge.balanced import Balanced, Turn
from tests.support.source import ROOT

MOVING = (ROOT / "docs/moving.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```", MOVING, re.MULTILINE | re.DOTALL)
KNOWN = {"registry": RegistryClient, "players": Balanced, "call": Turn, "registry_client": registry_client}


def run(*arguments: str) -> str:
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_load_balancer() -> None:
    said = run("-m", "examples.load_balancer")
    assert "by weight:" in said
    counts = [dict(re.findall(r"'(\w+)': (\d+)", line)) for line in said.splitlines() if "{" in line]
    assert counts[0] == {"anna": "10", "bert": "10", "cleo": "30"}
    assert counts[1] == {"anna": "25", "bert": "25"}
    assert "cleo (DRAINING)" in said


def test_registry_example() -> None:
    said = run("-m", "examples.registry_example")
    assert said.count("discovered: ['127.0.0.1:") == 3
    assert "cache_hits=2, cache_misses=1, errors=0" in said
    assert re.search(r"calls: \{'127.0.0.1:\d+': \(2, 1\)\}", said)
    assert re.search(r"changed: \w+ UNKNOWN -> HEALTHY\n", said)
    assert re.search(r"changed: \w+ HEALTHY -> UNHEALTHY\n", said)
    assert "after the first is gone: ['10.0.0.5:9001']" in said


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs_of_moving_run(number: int) -> None:
    run("-c", PROGRAMS[number])


def test_moving_names_what_there_is() -> None:
    assert len(PROGRAMS) == 2
    named = re.findall(r"\b(registry|players|call|registry_client)\.(\w+)\b", MOVING.replace("example", ""))
    assert len(named) > 20
    missing = [f"{of}.{name}" for of, name in named if name != "py" and not hasattr(KNOWN[of], name)]
    assert [it for it in missing if it != "players.instances"] == []
    assert hasattr(registry_client.Discovery, "instances")
    for policy in re.findall(r"\| `(random|round_robin|weighted_random|least_connections)`", MOVING):
        assert policy in balancer.policy_names()
    assert importlib.import_module("registry_server.stores").register
