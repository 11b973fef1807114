"""grpc-go's own interop server (`google.golang.org/grpc/interop/server`), run as a process."""

import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.go_tools import go_tool

START_TIMEOUT_S = 20.0
LISTENING = re.compile(rb"listening on \S*:(\d+)")


@contextmanager
def interop_server(*args: str) -> Iterator[int]:
    """Runs the server on a free port for as long as the context lasts; gives the port."""
    environment = {**os.environ, "GRPC_GO_LOG_SEVERITY_LEVEL": "info"}
    process = subprocess.Popen(
        [go_tool("interop-server"), "-port", "0", *args],
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
