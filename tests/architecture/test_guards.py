"""The guards themselves: what leaks, is skipped under CI or fails is told, and nothing else is."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFTEST = "from tests.conftest import *\n"
HEAD = "import asyncio, threading, grpc, grpc.aio, pytest\nKEEP = []\n"
SETTINGS = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"

LEAKS = {
    "leaves asyncio tasks": "async def test_it():\n    KEEP.append(asyncio.create_task(asyncio.sleep(100)))\n",
    "leaves threads": (
        "def test_it():\n"
        "    KEEP.append(threading.Event())\n"
        "    threading.Thread(target=KEEP[0].wait, args=(60,), daemon=True).start()\n"
    ),
    "1 gRPC channel(s) open": "def test_it():\n    KEEP.append(grpc.insecure_channel('127.0.0.1:1'))\n",
    "gRPC channel(s) open: [<grpc.aio": (
        "async def test_it():\n    KEEP.append(grpc.aio.insecure_channel('127.0.0.1:1'))\n"
    ),
}
CLEAN = """
async def test_task():
    await asyncio.create_task(asyncio.sleep(0))

async def test_executor():
    await asyncio.to_thread(int, 1)

def test_channel():
    with grpc.insecure_channel('127.0.0.1:1') as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary('/a/b')(b'', timeout=0.2)

async def test_aio_channel():
    async with grpc.aio.insecure_channel('127.0.0.1:1') as channel:
        with pytest.raises(grpc.RpcError):
            await channel.unary_unary('/a/b')(b'', timeout=0.2)

def test_thread():
    thread = threading.Thread(target=int)
    thread.start()
"""
SKIP = "@pytest.mark.skip(reason='the moon')\ndef test_it():\n    pass\n"
SKIPPED_MODULE = "pytest.skip('the moon', allow_module_level=True)\n"
IGNORED = ("sh", "-c", 'trap "" INT HUP; exec "$@"', "sh")
HEEDED = """
import signal

def test_it():
    assert signal.SIG_IGN not in [*map(signal.getsignal, (signal.SIGINT, signal.SIGHUP))]
"""
LOGS = "def test_it(tmp_path):\n    (tmp_path / 'server.log').write_text('it was the butler')\n    raise ValueError\n"

TWICE = "def test_it():\n    KEEP.append(1)\n    assert len(KEEP) == 2\n"


def run_pytest(directory: Path, test: str, *before: str, **env: str) -> tuple[int, str]:
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "pytest.ini").write_text(SETTINGS)
    (directory / "test_sample.py").write_text(HEAD + test)
    environment = {key: value for key, value in os.environ.items() if key != "CI" and not key.startswith("PYTEST_")}
    done = subprocess.run(
        [*before, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", str(directory)],
        cwd=directory,
        env={**environment, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("complaint", LEAKS)
def test_leak_is_told(complaint: str, tmp_path: Path) -> None:
    code, out = run_pytest(tmp_path, LEAKS[complaint])
    assert code == 1
    assert complaint in out


def test_signals_are_heeded_whatever_started_the_tests(tmp_path: Path) -> None:
    code, out = run_pytest(tmp_path, HEEDED, *IGNORED)
    assert code == 0, out


def test_clean_tests_pass(tmp_path: Path) -> None:
    code, out = run_pytest(tmp_path, CLEAN)
    assert (code, "5 passed" in out) == (0, True), out


@pytest.mark.parametrize("test", [SKIP, SKIPPED_MODULE])
def test_ci_allows_no_skips(test: str, tmp_path: Path) -> None:
    assert run_pytest(tmp_path, test)[0] in (0, 5)
    code, out = run_pytest(tmp_path, test, CI="true")
    assert code in (1, 2)
    assert "CI allows no skips" in out
    assert "the moon" in out


def test_failure_shows_logs(tmp_path: Path) -> None:
    assert "it was the butler" in run_pytest(tmp_path, LOGS)[1]


def test_what_was_run_more_than_once_is_listed(tmp_path: Path) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    listing = next(option for option in settings["addopts"] if option.startswith("-r"))
    code, out = run_pytest(tmp_path, TWICE, PYTEST_ADDOPTS=f"{listing} --reruns=1")
    assert (code, "RERUN test_sample.py::test_it" in out) == (0, True), out
