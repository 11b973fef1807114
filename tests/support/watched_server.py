"""The registry server with a watchdog in its event loop: `python -m tests.support.watched_server`, with the same flags.

It notes the steps of the loop that take more than NOTED_S of processor time (other processes do not count), and begins
with as many instances as it is told to, on the embedded store.
"""

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import __main__ as command
from registry_server import server
from registry_server.config import Config
from registry_server.records import Key, Record
from registry_server.stores.base import Emit
from registry_server.stores.memory import MemoryStore
from tests.support.servers import RegistryServer

STEPS, INSTANCES, SERVICE = "WATCHED_STEPS", "WATCHED_INSTANCES", "large"
TICK_S = 0.001
NOTED_S = 0.005


class WatchedServer(RegistryServer):
    """Such a server as a process; `steps` says how long its longest steps were."""

    def __init__(self, directory: Path, *, instances: int = 0, name: str = "watched", args: Sequence[str] = ()) -> None:
        self._steps = directory / f"{name}.steps"
        super().__init__(directory, name=name, args=args, env={STEPS: str(self._steps), INSTANCES: str(instances)})
        self._module = "tests.support.watched_server"

    def steps(self, since: float) -> list[float]:
        """The steps of more than NOTED_S that ended after that monotonic time, in seconds of processor time."""
        lines = self._steps.read_text().splitlines() if self._steps.exists() else []
        noted = [tuple(map(float, line.split())) for line in lines]
        return sorted(took for at, took in noted if at - took > since)


class _Prefilled(MemoryStore):
    """Begins with instances of one service, each the tenth with a tag of its own kind, all on one lease for an hour."""

    async def run(self, emit: Emit) -> None:
        lease = await self.grant(3600.0)
        for number in range(int(os.environ.get(INSTANCES, "0"))):
            key = Key("default", SERVICE, f"i{number:06}")
            self._revision += 1
            self._records[key] = Record(key, _instance(key, number), lease.id, self._revision, self._revision)
            self._leases.attach(lease.id, key)
        await super().run(emit)


def _instance(key: Key, number: int) -> bytes:
    return pb.Instance(
        namespace=key.namespace,
        service=key.service,
        id=key.id,
        host=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
        port=7777,
        weight=100,
        version="1.4.2",
        tags=["game", f"t{number % 10}"],
        metadata={"map": "northern-wastes", "shard": f"{number % 20}"},
        generation=1,
        ttl={"seconds": 3600},  # type: ignore[arg-type]
    ).SerializeToString()


@asynccontextmanager
async def _watched(config: Config, loaded: Callable[[], None]) -> AsyncIterator[str]:
    async with _serve(config, loaded=loaded) as address:
        task = asyncio.create_task(_watch(Path(os.environ[STEPS])))
        try:
            yield address
        finally:
            task.cancel()


async def _watch(steps: Path) -> None:
    with steps.open("a", buffering=1) as file:
        before = time.thread_time()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.thread_time()
            if now - before > NOTED_S:
                file.write(f"{time.monotonic()} {now - before}\n")
                now = time.thread_time()
            before = now


_serve = server.serve
if __name__ == "__main__":
    patched: Any = server
    patched.serve = _watched
    patched.open_store = lambda url: _Prefilled()
    gc.callbacks.clear()
    command.main()
