"""The main job in half a minute: `make demo`, or `make demo STORE=etcd`.

A registry, three game servers with weights 1:1:3 in processes of their own, a watcher, and a client that calls through
`registry://`. Then one server drains and one is killed with `kill -9`. Exit code 0 says that everything shown was as it
should be.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # the other imports take a while, and Ctrl-C ends them without a word
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
from rich.console import Console
from rich.table import Table

import registry_client
from examples.game import game_pb2, game_pb2_grpc
from examples.game.server import SERVICE
from examples.processes import Process, etcd, running
from registry_client import RegistryClient, View

WEIGHTS = {"anna": 1, "bert": 1, "cleo": 3}
TTL_S = 3.0
CALLS = 1000
CALLERS = 8
TOLERANCE = 0.01  # of all calls; weighted round robin is exact but for the last period
WAIT_S = 15.0
INTERRUPTED = 130


@dataclass(slots=True)
class Calls:
    """What came of calls: who answered how many, and when the calls began that failed."""

    answered: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[float, str]] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.answered.total() + len(self.failed)


@dataclass(slots=True)
class Demo:
    """What the steps share: a client of the registry, a stub over a `registry://` channel, and where they report."""

    console: Console
    registry: RegistryClient
    stub: game_pb2_grpc.PlayerAsyncStub
    wrong: list[str] = field(default_factory=list)

    def check(self, holds: bool, claim: str) -> None:
        """Prints the claim with its verdict, and remembers what did not hold."""
        self.console.print(f"  [green]✓[/] {claim}" if holds else f"  [bold red]✗ {claim}[/]")
        if not holds:
            self.wrong.append(claim)

    async def call(self, calls: Calls) -> None:
        """One player joins."""
        began = time.monotonic()
        try:
            reply = await self.stub.Join(game_pb2.JoinRequest(player="demo"), timeout=10)
            calls.answered[reply.server] += 1
        except grpc.aio.AioRpcError as error:
            calls.failed.append((began, f"{error.code().name}: {error.details()}"))

    async def connect(self) -> None:
        """The first calls go to whoever is connected first; from here on every instance is."""
        calls = Calls()
        async with asyncio.timeout(WAIT_S):
            while set(calls.answered) != set(WEIGHTS):
                await self.call(calls)

    @contextlib.asynccontextmanager
    async def constant_calls(self) -> AsyncIterator[Calls]:
        """Calls without a pause, CALLERS at a time, for as long as the block lasts."""
        calls, stopping = Calls(), asyncio.Event()

        async def caller() -> None:
            while not stopping.is_set():
                await self.call(calls)

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(caller())
            try:
                yield calls
            finally:
                stopping.set()

    async def until(self, condition: Callable[[View], bool]) -> None:
        """Returns when the registry shows it."""
        async with asyncio.timeout(WAIT_S):
            async for view in self.registry.watch(SERVICE):
                if condition(view):
                    return


async def show_changes(registry: RegistryClient, console: Console) -> None:
    """What anybody sees who watches the service."""
    async for view in registry.watch(SERVICE):
        for sign, instances in (
            ("[green]+[/]", view.changes.added),
            ("[yellow]~[/]", view.changes.updated),
            ("[red]-[/]", view.changes.removed),
        ):
            for instance in instances:
                state = f"{instance.status}, weight {instance.weight}" if sign != "[red]-[/]" else "gone"
                console.print(f"    [dim]watch[/] {sign} {instance.id} {instance.address} {state}")


async def balance(demo: Demo) -> None:
    """The calls divide by weight."""
    await demo.connect()
    calls, began = Calls(), time.monotonic()
    remaining = iter(range(CALLS))

    async def caller() -> None:
        for _ in remaining:
            await demo.call(calls)

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
    rate = calls.total / (time.monotonic() - began)
    show(demo, f"{CALLS} calls through registry:// ({rate:,.0f} calls/s)", calls, WEIGHTS)
    demo.check(not calls.failed, "no call failed")
    shares = {name: weight / sum(WEIGHTS.values()) for name, weight in WEIGHTS.items()}
    even = all(abs(calls.answered[name] / CALLS - share) <= TOLERANCE for name, share in shares.items())
    demo.check(even, "the calls divide 1:1:3, as the weights do")


async def drain(demo: Demo, name: str, process: Process) -> None:
    """An instance that is told to leave costs no call."""
    demo.console.print(f"\n[bold]{name} is drained[/] (SIGTERM) under constant calls")
    async with demo.constant_calls() as calls:
        await asyncio.sleep(0.5)
        code = await asyncio.wait_for(process.terminate(), WAIT_S)
        await demo.until(lambda view: name not in ids(view))
        await asyncio.sleep(0.5)
    show(demo, f"{calls.total} calls around the drain of {name}", calls, WEIGHTS)
    demo.check(code == 0, f"{name} ended by itself, exit code {code}")
    demo.check(calls.answered[name] > 0, f"{name} answered calls before it left")
    demo.check(not calls.failed, f"calls that failed: {len(calls.failed)} (none may)")


async def kill(demo: Demo, name: str, process: Process) -> None:
    """An instance that dies costs at most the calls that were in flight on it."""
    demo.console.print(f"\n[bold]{name} is killed[/] (kill -9 {process.pid}) under constant calls")
    async with demo.constant_calls() as calls:
        await asyncio.sleep(0.5)
        await process.kill()
        killed = time.monotonic()
        await demo.until(lambda view: name not in ids(view))
        noticed_s = time.monotonic() - killed
        await asyncio.sleep(0.5)
    show(demo, f"{calls.total} calls around the death of {name}", calls, WEIGHTS)
    in_flight = [text for began, text in calls.failed if began <= killed]
    demo.check(calls.answered[name] > 0, f"{name} answered calls before it died")
    demo.check(
        len(in_flight) == len(calls.failed) <= CALLERS,
        f"calls that failed: {len(calls.failed)} (at most those in flight on it, of {CALLERS} at a time)",
    )
    demo.check(
        noticed_s <= 2 * TTL_S + 1, f"its lease of {TTL_S:g} s ran out: gone from the registry {noticed_s:.1f} s later"
    )


def ids(view: View) -> set[str]:
    return {instance.id for instance in view.instances}


def show(demo: Demo, title: str, calls: Calls, weights: dict[str, int]) -> None:
    demo.console.print(f"\n[italic]{title}[/]")
    table = Table()
    table.add_column("instance")
    for column in ("weight", "calls", "share"):
        table.add_column(column, justify="right")
    for name, weight in weights.items():
        count = calls.answered[name]
        table.add_row(name, str(weight), str(count), f"{count / max(calls.total, 1):.1%}")
    table.add_row("[dim]failed[/]", "", str(len(calls.failed)), f"{len(calls.failed) / max(calls.total, 1):.1%}")
    demo.console.print(table)
    for _, text in calls.failed[:3]:
        demo.console.print(f"    {text}")


@contextlib.asynccontextmanager
async def store_url(store: str) -> AsyncIterator[str]:
    if store != "etcd":
        yield "memory:"
        return
    async with etcd() as url:
        yield url


async def run(store: str, logs: Path) -> int:
    console, began = Console(highlight=False), time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(store_url(store))
        command = ("registry_server", "--listen", "127.0.0.1:0", "--store", url)
        server = await stack.enter_async_context(
            running(command, r"listening on (\S+)", log=logs / "registry-server.log")
        )
        (address,) = server.said
        console.print(f"[bold]registry-server[/] on {address}, store {url}")
        games = await start_games(stack, address, logs)
        registry = await stack.enter_async_context(registry_client.connect(address, cache_dir=None))
        channel = await stack.enter_async_context(registry_client.aio.channel(f"registry://{address}/{SERVICE}"))
        demo = Demo(console, registry, game_pb2_grpc.PlayerStub(channel))
        watcher = asyncio.create_task(show_changes(registry, console))
        try:
            await demo.until(lambda view: ids(view) == set(WEIGHTS))
            await balance(demo)
            await drain(demo, "bert", games["bert"])
            await kill(demo, "cleo", games["cleo"])
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
    verdict = "[bold red]not as it should be[/]" if demo.wrong else "[bold green]all as it should be[/]"
    console.print(f"\n{verdict}, in {time.monotonic() - began:.1f} s")
    return 1 if demo.wrong else 0


async def start_games(stack: contextlib.AsyncExitStack, address: str, logs: Path) -> dict[str, Process]:
    def game(name: str, weight: int) -> contextlib.AbstractAsyncContextManager[Process]:
        options = ("--registry", address, "--name", name, "--weight", str(weight), "--ttl", str(TTL_S))
        return running(("examples.game.server", *options), r"serving as (\S+) on (\S+)", log=logs / f"{name}.log")

    started = {name: stack.enter_async_context(game(name, weight)) for name, weight in WEIGHTS.items()}
    return dict(zip(started, await asyncio.gather(*started.values()), strict=True))


def interruptible(work: Coroutine[None, None, int]) -> int:
    """The result of `work`; 130, as shells have it, if Ctrl-C ended it. What it began is ended in order."""

    async def guarded() -> int:
        task, is_interrupted = asyncio.ensure_future(work), False

        def interrupt() -> None:
            nonlocal is_interrupted
            is_interrupted = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
        try:
            return await task
        except BaseException:  # what is cut off fails in many ways
            if not is_interrupted:
                raise
            return INTERRUPTED

    return asyncio.run(guarded())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=["memory", "etcd"], default="memory")
    o = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="grpc-registry-demo-") as logs:
        return interruptible(run(o.store, Path(logs)))


if __name__ == "__main__":
    sys.exit(main())
