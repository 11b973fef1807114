"""What is given to make reaches the command as it is, whatever is in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.source import ROOT

STAMPS = (".made", ".base", ".grpcurl", ".test")
SHOW = """#!/bin/sh
printf '%s|' "$REGISTRY_LISTEN" "$REGISTRY_STORE" "$@"
"""

VALUES = [
    "etcd://h?prefix=/a&user=u",
    "etcd://u:p%26w@h1,h2/?ca=/a b.pem",
    "a;b|c>d<e(f)g",
    'it\'s "so" `id` $(id)',
    "a$b$$c$@",
    "a#b\\c",
    "*",
]


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment whose commands show what they are given."""
    (tmp_path / "bin").mkdir()
    for name in ("registry-server", "python"):
        command = tmp_path / "bin" / name
        command.write_text(SHOW)
        command.chmod(0o755)
    for stamp in STAMPS:
        (tmp_path / stamp).touch()
    return tmp_path


def made(target: str, venv: Path, *settings: str, **environment: str) -> str:
    """The last line of what a target of the Makefile says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "REGISTRY_"))}
    command = ["make", "--no-print-directory", "-C", str(ROOT), target, f"VENV={venv}", *settings]
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("value", VALUES)
def test_run_hands_on_what_it_is_given(environment: Path, value: str) -> None:
    assert made("run", environment, f"STORE={value}") == f"127.0.0.1:7400|{value}|"
    assert made("run", environment, f"LISTEN={value}") == f"{value}|memory:|"


@pytest.mark.parametrize("value", VALUES)
def test_demo_hands_on_what_it_is_given(environment: Path, value: str) -> None:
    assert made("demo", environment, f"STORE={value}") == f"||-m|examples.demo|--store|{value}|"


def test_defaults(environment: Path) -> None:
    assert made("run", environment) == "127.0.0.1:7400|memory:|"
    assert made("demo", environment) == "||-m|examples.demo|--store|memory|"


def test_run_says_who_may_do_what_only_if_it_is_told(environment: Path) -> None:
    show = '#!/bin/sh\necho "${REGISTRY_ACCESS_FILE-none}|${REGISTRY_INSECURE-none}"\n'
    (environment / "bin" / "registry-server").write_text(show)
    assert made("run", environment) == "none|none"
    assert made("run", environment, REGISTRY_ACCESS_FILE="a$b.toml", REGISTRY_INSECURE="no") == "a$b.toml|no"
    assert made("run", environment, "ACCESS=a$b.toml", "INSECURE=yes") == "a$b.toml|yes"


def test_the_server_takes_what_run_gives_it(environment: Path) -> None:
    server = f'#!/bin/sh\nexec "{sys.executable}" -m registry_server "$@" config show\n'
    (environment / "bin" / "registry-server").write_text(server)
    assert "default" in made("run", environment)


def test_failure_of_the_server_is_the_failure_of_make(environment: Path) -> None:
    (environment / "bin" / "registry-server").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(AssertionError, match=r"Error 3"):
        made("run", environment, "STORE=etcd://h?a=b&c=d")
