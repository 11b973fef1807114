"""Servers as real processes: started on a free port, killed, stopped, and started again on the same port."""

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
READY = re.compile(rb"^.*listening on (\S+):(\d+)[ \t\r]*\n", re.MULTILINE)  # whole: what follows is not ours to read
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
# There is one default port for the HTTP side, and many tests run beside each other: who finds it taken says so.
NO_PAGE = {"REGISTRY_ADMIN": "off"}


class ServerFailed(AssertionError):
    """The process ended, or said nothing in time. The text has the end of its log."""


class ServerProcess:
    """One process of a Python module that takes `--listen HOST:PORT` and prints `listening on HOST:PORT` when ready.

    Use it as a context manager, or call `start` and `close` yourself. The port is chosen by the first start and kept by
    every later one. Everything the process writes to stderr is in `log_path`, and shown when the test fails. Methods
    block for as long as a process takes; the `*_async` ones do not block the loop.
    """

    def __init__(
        self, directory: Path, name: str, module: str, args: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.host = "127.0.0.1"
        self.port = 0
        self.log_path = directory / f"{name}.log"
        self._module = module
        self._args = tuple(args)
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT, once started."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_text(self) -> str:
        """All that the processes so far wrote to stderr."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def log_lines(self) -> list[str]:
        """The lines of that, but for those that say that the machine had no time for it."""
        return [line for line in self.log_text.splitlines() if "this process stood still" not in line]

    def start(self, timeout_s: float = START_TIMEOUT_S) -> Self:
        """Starts the process and waits for its line `listening on HOST:PORT`. Raises ServerFailed."""
        if self.is_running:
            raise ServerFailed("it is running already")
        self._process = self._spawn()
        try:
            self.host, self.port = self._wait_ready(time.monotonic() + timeout_s)
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone. Does nothing when it is gone."""
        self._end(signal.SIGKILL)

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, and the exit code. Raises ServerFailed when it does not end in time."""
        process = self._running()
        process.terminate()
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self._failure(f"still there {timeout_s:g} s after SIGTERM") from None
        finally:
            self.kill()

    def restart(self) -> Self:
        """Kills it and starts it again on the same port."""
        self.kill()
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay, nobody answers."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._running().send_signal(signal.SIGCONT)

    close = kill

    async def start_async(self, timeout_s: float = START_TIMEOUT_S) -> Self:
        return await asyncio.to_thread(self.start, timeout_s)

    async def terminate_async(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        return await asyncio.to_thread(self.terminate, timeout_s)

    async def restart_async(self) -> Self:
        return await asyncio.to_thread(self.restart)

    def __enter__(self) -> Self:
        return self if self.is_running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self if self.is_running else await self.start_async()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _command(self) -> list[str]:
        return [sys.executable, "-m", self._module, "--listen", f"{self.host}:{self.port}", *self._args]

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **self._env}
        with self.log_path.open("ab") as log:
            return subprocess.Popen(self._command(), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log)

    def _wait_ready(self, deadline: float) -> tuple[str, int]:
        process = self._running()
        if process.stdout is None:
            raise self._failure("has no stdout")
        said = b""
        while not (found := READY.search(said)):
            readable, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise self._failure("said no `listening on` in time")
            if not (chunk := os.read(process.stdout.fileno(), 4096)):
                raise self._failure(f"ended with exit code {process.wait()} before it was ready")
            said += chunk
        return found[1].decode(), int(found[2])

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
        process.wait(STOP_TIMEOUT_S)
        if process.stdout is not None:
            process.stdout.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise self._failure("is not running")
        return self._process

    def _failure(self, what: str) -> ServerFailed:
        return ServerFailed(f"{self.name} {what}; the end of its log:\n{self.log_text[-4000:]}")


class RegistryServer(ServerProcess):
    """One `python -m registry_server` process, without an HTTP side unless that is asked for."""

    def __init__(
        self,
        directory: Path,
        *,
        store: str = "memory:",
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        name: str = "registry-server",
    ) -> None:
        super().__init__(directory, name, "registry_server", ["--store", store, *args], {**NO_PAGE, **(env or {})})
