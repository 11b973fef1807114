"""Runs the load generator: in Go where the machine has Go, in Python otherwise."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILD_S = 300
RUN_S = 300


class LoadFailed(RuntimeError):
    """The load generator ended with an error; the text is what it said."""


class Loadgen:
    """The command that puts load on a server. `language` says which it is: Python costs more on the client's side."""

    def __init__(self, command: list[str], language: str) -> None:
        self._command = command
        self.language = language

    def run(self, what: str, **flags: object) -> dict[str, Any]:
        """Runs one command to its end and returns what it measured. Raises LoadFailed."""
        done = subprocess.run(self._line(what, flags), capture_output=True, text=True, timeout=RUN_S, check=False)
        if done.returncode:
            raise LoadFailed(f"{what}: {done.stderr.strip()[-500:]}")
        measured: dict[str, Any] = json.loads(done.stdout)
        if measured.get("failed"):
            raise LoadFailed(f"{what}: {measured['failed']} calls failed, the first with {measured.get('error')}")
        return measured

    @contextlib.contextmanager
    def idle(self, **flags: object) -> Iterator[None]:
        """Watchers that watch for as long as the block lasts. Raises LoadFailed when they cannot."""
        process = subprocess.Popen(self._line("idle", flags), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin
        assert process.stdout
        with process:
            try:
                if process.stdout.readline().strip() != "ready":
                    raise LoadFailed("idle: the watchers did not get ready")
                yield
            finally:
                process.stdin.close()

    def _line(self, what: str, flags: dict[str, object]) -> list[str]:
        pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in flags.items())
        return [*self._command, what, *(word for pair in pairs for word in pair)]


def loadgen(cache: Path) -> Loadgen:
    """Builds it into `cache` with Go, or falls back to Python."""
    binary = cache / "loadgen"
    if (go := shutil.which("go")) and _build(go, binary):
        return Loadgen([str(binary)], "Go")
    return Loadgen([sys.executable, "-m", "tests.bench.pyload"], "Python")


def _build(go: str, binary: Path) -> bool:
    binary.parent.mkdir(parents=True, exist_ok=True)
    command = [go, "build", "-o", str(binary.absolute()), "."]
    done = subprocess.run(
        command, cwd=HERE / "loadgen", capture_output=True, text=True, timeout=BUILD_S, check=False, env=os.environ
    )
    if done.returncode:
        print(f"Go could not build the load generator, so Python does its work:\n{done.stderr.strip()[-500:]}")
    return done.returncode == 0
