"""The demo ends without a traceback when it is interrupted, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.source import ROOT
from tests.support.waiting import eventually

STOP_S = 20.0


@pytest.fixture
def demo(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The demo in a terminal of its own, as far as signals go; what it says is in demo.log."""
    with (tmp_path / "demo.log").open("wb") as log:
        command = [sys.executable, "-m", "examples.demo"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("said", ["", "registry-server", "calls through", "is killed"])
def test_interrupted_demo(demo: "subprocess.Popen[bytes]", tmp_path: Path, said: str) -> None:
    """At its imports, at its start, and in the middle."""
    log = tmp_path / "demo.log"
    eventually(lambda: is_python(demo.pid) and said in log.read_text(), timeout_s=60, what=f"{said!r}")
    began = psutil.Process(demo.pid).children(recursive=True)
    os.killpg(demo.pid, signal.SIGINT)
    code = demo.wait(STOP_S)
    assert code in ((130,) if said else (-signal.SIGINT, 130))
    assert "Traceback" not in log.read_text()
    assert "Error" not in log.read_text()
    assert not psutil.wait_procs(began, timeout=STOP_S)[1]


def is_python(pid: int) -> bool:
    """Whether the interpreter has come as far as the demo itself: it loads asyncio after it has seen to signals."""
    return any("_asyncio" in it.path for it in psutil.Process(pid).memory_maps())
