"""`registryctl` as users run it: in this process, as a process with pipes, and in a terminal of some width."""

from __future__ import annotations

import asyncio
import fcntl
import inspect
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from click.testing import CliRunner

from registry_client.cli import main
from tests.support.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from click.testing import Result

REGISTRYCTL = (sys.executable, "-m", "registry_client.cli")
WAIT_S = 30.0
# What a client that waits for its registry says after a second, which a busy machine takes for any answer.
_WAITS = re.compile(
    r"^registryctl: (no help from the registry: .*; trying on|the registry answers again: .*)\n", re.MULTILINE
)


def runner() -> CliRunner:
    """Runs commands in this process; it keeps the two outputs apart, which older ones of click do only when asked."""
    asks = "mix_stderr" in inspect.signature(CliRunner).parameters
    arguments: dict[str, Any] = {"mix_stderr": False} if asks else {}
    return CliRunner(**arguments)


def without_waiting(said: str) -> str:
    """What a command wrote to stderr, but for the lines by which it says that it waits for an answer."""
    return _WAITS.sub("", said)


def invoke(*arguments: str) -> Result:
    """Run a command to its end. That it waits for an answer is not in what it said."""
    result = runner().invoke(main, arguments)
    said = (result.stderr_bytes or b"").decode(errors="surrogateescape")
    result.stderr_bytes = without_waiting(said).encode(errors="surrogateescape")
    return result


async def ctl(*arguments: str) -> Result:
    """The same in a thread, as it has an event loop of its own."""
    return await asyncio.to_thread(invoke, *arguments)


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A command as a process, which ends with all that it has started."""
    process = subprocess.Popen(
        [*REGISTRYCTL, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


async def line_of(process: subprocess.Popen[str]) -> str:
    """Its next line on stdout, while this loop goes on."""
    assert process.stdout is not None
    line = await asyncio.to_thread(process.stdout.readline)
    assert line, process.stderr and process.stderr.read()
    return line


async def complaint_of(process: subprocess.Popen[str], *, waits: bool = False) -> str:
    """Its next line on stderr that says something else than that it waits for an answer, or any that there is."""
    assert process.stderr is not None
    while line := await asyncio.wait_for(asyncio.to_thread(process.stderr.readline), WAIT_S):
        if waits or without_waiting(line):
            break
    return line


async def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and what it wrote to stderr, but for that it waits for an answer."""
    code = await asyncio.to_thread(process.wait, WAIT_S)
    assert process.stderr is not None
    return code, without_waiting(await asyncio.to_thread(process.stderr.read))


# Between the two, the terminal becomes the one that the session's Ctrl-C comes from.
_IN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A command in a terminal of its own. Methods block."""

    def __init__(self, *arguments: str, width: int = 80, **environment: str) -> None:
        self.said = ""
        self._terminal, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL, *REGISTRYCTL, *arguments],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "", **environment},
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def read_until(self, text: str) -> str:
        """Read until `text` was said; all that was said so far."""
        deadline = time.monotonic() + WAIT_S
        while text not in self.said:
            assert self._read(deadline), f"it ended without {text!r}: {self.said!r}"
        return self.said

    def press(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def resize(self, width: int, height: int) -> None:
        """Give the terminal another size, of which its processes are told."""
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def take(self, text: str) -> str:
        """Read until `text` was said, and forget what was said so far, which is returned."""
        said, self.said = self.read_until(text), ""
        return said

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def echoes(self) -> bool:
        """Whether the terminal shows what is typed, a line at a time, as it does for a shell."""
        flags: int = termios.tcgetattr(self._terminal)[3]
        return bool(flags & termios.ECHO) and bool(flags & termios.ICANON)

    def echo(self) -> None:
        """Set the terminal as a shell sets it that has stopped a command."""
        modes = termios.tcgetattr(self._terminal)
        modes[3] |= termios.ECHO | termios.ICANON
        termios.tcsetattr(self._terminal, termios.TCSANOW, modes)

    def wait(self) -> int:
        """Read to the end; the exit code as a shell shows it."""
        deadline = time.monotonic() + WAIT_S
        while self._read(deadline):
            pass
        code = self._process.wait(WAIT_S)
        return code if code >= 0 else 128 - code

    def _read(self, deadline: float) -> bool:
        """Read what there is; False at the end."""
        readable, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert readable, f"it goes on: {self.said!r}"
        try:
            chunk = os.read(self._terminal, 65536)
        except OSError:  # Linux's way of saying that nobody has the other end any more
            return False
        self.said += chunk.decode(errors="replace")
        return bool(chunk)
