"""SIGTERM and SIGINT: a process drains, deregisters, and only then ends."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_client import RegistryClient, Status
from tests.integration.client.conftest import ids, until
from tests.support.servers import ROOT, RegistryServer

ASYNC = """
    import asyncio, sys
    import registry_client
    from registry_client import Instance

    async def main():
        instances = [Instance(service="player", host="10.0.0.5", port=8000 + i, id=f"p{i}") for i in (1, 2)]
        async with registry_client.connect(sys.argv[1]) as registry:
            async with (
                registry.register(instances[0], ttl=30, drain=DRAIN, drain_on_signals=ON_SIGNALS),
                registry.register(instances[1], ttl=30, drain=DRAIN, drain_on_signals=ON_SIGNALS),
            ):
                print("up", flush=True)
                await asyncio.Event().wait()
        print("unreachable")

"""
RUN = "    registry_client.run_until_signal(main())\n    print('ended in order', flush=True)\n"
PLAIN = "    asyncio.run(main())\n"
THREADS = """
    import sys, threading
    from registry_client import Instance, sync

    instances = [Instance(service="player", host="10.0.0.5", port=8000 + i, id=f"p{i}") for i in (1, 2)]
    with sync.connect(sys.argv[1]) as registry:
        with (
            registry.register(instances[0], ttl=30, drain=DRAIN, drain_on_signals=True),
            registry.register(instances[1], ttl=30, drain=DRAIN, drain_on_signals=True),
        ):
            print("up", flush=True)
            threading.Event().wait()
"""
IN_EACH = ASYNC.replace("registry_client.connect(sys.argv[1])", "registry_client.connect_many({'one': sys.argv[1]})")
IN_EACH_OF_THREADS = THREADS.replace("sync.connect(sys.argv[1])", "sync.connect_many({'one': sys.argv[1]})")
CUSTOM = """
    import signal
    def mine(signum, frame):
        print("mine", flush=True)
        raise SystemExit(5)
    signal.signal(signal.SIGTERM, mine)
"""


def program(text: str, *, drain: float = 0.3, on_signals: bool = False) -> str:
    return textwrap.dedent(text).replace("DRAIN", str(drain)).replace("ON_SIGNALS", str(on_signals))


@contextlib.contextmanager
def running(text: str, server: RegistryServer) -> Iterator[subprocess.Popen[str]]:
    """A program with two instances registered, ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", text, server.address],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n", process.stderr and process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


async def drained_by(signum: signal.Signals, process: subprocess.Popen[str], registry: RegistryClient) -> int:
    """Send the signal, see the instances drain and leave, and return the exit code."""
    watch = registry.watch("player")
    await until(watch, lambda view: ids(view) == ["p1", "p2"])
    process.send_signal(signum)
    view = await until(watch, lambda view: not view.endpoints)
    assert {it.status for it in view.instances} == {Status.DRAINING}
    assert process.poll() is None
    await until(watch, lambda view: not view.instances)
    return await asyncio.to_thread(process.wait, 20)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_run_until_signal_unwinds(
    signum: signal.Signals, server: RegistryServer, registry: RegistryClient, cache_home: Path
) -> None:
    with running(program(ASYNC + RUN), server) as process:
        assert await drained_by(signum, process, registry) == 0
        assert process.stdout is not None
        assert process.stdout.read() == "ended in order\n"


@pytest.mark.parametrize(
    "text",
    [ASYNC + PLAIN, THREADS, IN_EACH + PLAIN, IN_EACH_OF_THREADS],
    ids=["asyncio", "threads", "several", "several-threads"],
)
async def test_drain_on_signals_then_the_signal_does_what_it_would(
    text: str, server: RegistryServer, registry: RegistryClient
) -> None:
    with running(program(text, on_signals=True), server) as process:
        assert await drained_by(signal.SIGTERM, process, registry) == -signal.SIGTERM


@pytest.mark.parametrize("text", [ASYNC + PLAIN, THREADS], ids=["asyncio", "threads"])
async def test_handlers_that_were_there_before_are_called_after_the_drain(
    text: str, server: RegistryServer, registry: RegistryClient
) -> None:
    with running(program(CUSTOM + text, on_signals=True), server) as process:
        assert await drained_by(signal.SIGTERM, process, registry) == 5
        assert process.stdout is not None
        assert process.stdout.read() == "mine\n"


@pytest.mark.parametrize("text", [ASYNC + RUN, ASYNC + PLAIN, THREADS], ids=["run", "asyncio", "threads"])
async def test_a_second_signal_ends_at_once(text: str, server: RegistryServer, registry: RegistryClient) -> None:
    with running(program(text, drain=600, on_signals=text != ASYNC + RUN), server) as process:
        watch = registry.watch("player")
        await until(watch, lambda view: len(view.endpoints) == 2)
        process.send_signal(signal.SIGTERM)
        await until(watch, lambda view: len(view.endpoints) < 2)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == -signal.SIGTERM
