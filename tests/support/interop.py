"""grpc-go's own interop server (`google.golang.org/grpc/interop/server`), built by the Go tool, run as a process."""

import fcntl
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MODULE = "google.golang.org/grpc"
VERSION = "v1.85.0"
BUILD_TIMEOUT_S = 300.0
START_TIMEOUT_S = 20.0
LISTENING = re.compile(rb"listening on \S*:(\d+)")


def cache_directory() -> Path:
    """Where built programs are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "grpc-registry-tests"


def interop_server_binary() -> Path:
    """The server's program, built at the first use. Skips the test where there is no Go, except under CI."""
    binary = cache_directory() / f"grpc-go-interop-server-{VERSION}"
    if binary.exists():
        return binary
    go = shutil.which("go")
    if go is None:
        if os.environ.get("CI"):
            pytest.fail("the interop tests need the Go tool, and CI allows no skips")
        pytest.skip("the interop tests need the Go tool to build grpc-go's interop server")
    binary.parent.mkdir(parents=True, exist_ok=True)
    with (binary.parent / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            _build(go, binary)
    return binary


def _build(go: str, binary: Path) -> None:
    module = binary.parent / f"interop-{VERSION}"
    module.mkdir(exist_ok=True)
    (module / "go.mod").write_text("module interop\n\ngo 1.24\n")
    package = f"{MODULE}/interop/server"
    unfinished = binary.with_suffix(".unfinished")
    for command in (["get", f"{package}@{VERSION}"], ["build", "-o", str(unfinished), package]):
        done = subprocess.run(
            [go, *command], cwd=module, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
        )
        if done.returncode:
            pytest.fail(f"go {' '.join(command)} failed:\n{done.stderr[-3000:]}")
    unfinished.rename(binary)


@contextmanager
def interop_server(*args: str) -> Iterator[int]:
    """Runs the server on a free port for as long as the context lasts; gives the port."""
    environment = {**os.environ, "GRPC_GO_LOG_SEVERITY_LEVEL": "info"}
    process = subprocess.Popen(
        [interop_server_binary(), "-port", "0", *args],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield _port(process)
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def _port(process: subprocess.Popen[bytes]) -> int:
    assert process.stderr is not None
    deadline = time.monotonic() + START_TIMEOUT_S
    said = b""
    while time.monotonic() < deadline:
        ready, _, _ = select.select([process.stderr], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        piece = os.read(process.stderr.fileno(), 4096)
        said += piece
        if found := LISTENING.search(said):
            return int(found[1])
        if not piece:
            break
    raise AssertionError(f"the interop server did not start: {said.decode(errors='replace')[-1000:]}")
