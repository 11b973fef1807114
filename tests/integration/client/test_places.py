"""A client lives in one event loop of one process. Elsewhere, or used twice, it works or says at once why it cannot."""

import asyncio
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

import registry_client
from registry_client import ClientClosed, Misuse, RegistryClient, RegistryError, State, aio, sync, xds
from tests.integration.client.conftest import WAIT_S, ids, player, until
from tests.integration.client.test_registering import nobody_there
from tests.support.servers import ROOT, RegistryServer

AT_ONCE_S = 10.0  # also on a busy machine; what waits for a registry takes longer, or for ever


# ---- clients


async def test_a_client_entered_twice_says_so_and_works_on(registry: RegistryClient) -> None:
    with pytest.raises(Misuse, match="entered already"):
        async with registry:
            pytest.fail("the block runs")
    assert await registry.list("player") == []


async def test_a_closed_client_may_be_entered_again(server: RegistryServer) -> None:
    client = registry_client.connect(server.address)
    for _ in range(3):
        async with client, client.register(player("p1"), drain=0):
            assert [it.id for it in await client.list("player")] == ["p1"]
        with pytest.raises(ClientClosed):
            await client.list("player")


def test_a_client_may_be_used_in_one_run_after_the_other(server: RegistryServer) -> None:
    client = registry_client.connect(server.address)

    async def use() -> None:
        async with client, client.register(player("p1"), drain=0), client.watch("player") as watch:
            await until(watch, lambda view: ids(view) == ["p1"])

    for _ in range(3):
        asyncio.run(use())


ASKS: dict[str, Callable[[RegistryClient], Any]] = {
    "get": lambda it: it.get("player", "p1"),
    "list": lambda it: it.list("player"),
    "services": lambda it: it.services(),
    "namespaces": lambda it: it.namespaces(),
    "update": lambda it: it.update("player", "p1", weight=1),
    "deregister": lambda it: it.deregister("player", "p1"),
    "register": lambda it: it.register(player()),
    "watch": lambda it: it.watch("player"),
    "on_change": lambda it: it.on_change("player"),
    "close": lambda it: it.aclose(),
}


@pytest.mark.parametrize("what", ASKS)
async def test_another_loop_is_told_at_once(registry: RegistryClient, what: str) -> None:
    async def ask() -> None:
        result = ASKS[what](registry)
        if isinstance(result, Awaitable):
            await result

    def other_thread() -> None:
        with pytest.raises(Misuse, match="belongs to the event loop of the thread"):
            asyncio.run(ask())

    async with asyncio.timeout(AT_ONCE_S):
        await asyncio.to_thread(other_thread)
    assert await registry.list("player") == []


@pytest.mark.parametrize("what", sorted(set(ASKS) - {"close"}))
def test_a_loop_that_has_ended_is_told_at_once(server: RegistryServer, what: str) -> None:
    client = registry_client.connect(server.address)

    async def enter() -> None:
        await client.__aenter__()

    async def ask() -> None:
        async with asyncio.timeout(AT_ONCE_S):
            result = ASKS[what](client)
            if isinstance(result, Awaitable):
                await result

    asyncio.run(enter())
    with pytest.raises(Misuse, match="event loop that has ended"):
        asyncio.run(ask())
    asyncio.run(enter())  # anew
    asyncio.run(client.aclose())


# ---- registrations


async def test_a_registration_entered_twice_says_so_and_stays(registry: RegistryClient) -> None:
    async with registry.register(player("p1")) as registration:
        with pytest.raises(Misuse, match="entered already"):
            async with registration:
                pytest.fail("the block runs")
        assert [it.id for it in await registry.list("player")] == ["p1"]


async def test_a_registration_may_be_awaited_and_then_entered(registry: RegistryClient) -> None:
    registration = await registry.register(player("p1"), drain=0)
    async with registration:
        assert [it.id for it in await registry.list("player")] == ["p1"]
    assert await registry.list("player") == []


async def test_whoever_awaits_a_registration_waits_until_it_is_there(server: RegistryServer) -> None:
    server.pause()
    async with registry_client.connect(server.address) as registry:
        registration = registry.register(player("p1"), drain=0)
        both = [asyncio.create_task(registration.start()) for _ in range(2)]
        await asyncio.wait(both, timeout=0.3)
        assert not any(task.done() for task in both)
        server.resume()
        await asyncio.gather(*both)
        assert registration.state is State.REGISTERED
        await registration.aclose()


async def test_a_registration_that_has_ended_is_not_entered_again(registry: RegistryClient) -> None:
    async with registry.register(player("p1"), drain=0) as registration:
        pass
    starts: list[Callable[[], Any]] = [registration.start, lambda: _awaited(registration)]
    for start in starts:
        async with asyncio.timeout(AT_ONCE_S):
            with pytest.raises(ClientClosed, match="has ended"):
                await start()
    with pytest.raises(Misuse):
        await registration.__aenter__()
    assert await registry.list("player") == []


async def _awaited(awaitable: Awaitable[object]) -> None:
    await awaitable


async def test_a_registration_that_has_ended_changes_nobody_elses(registry: RegistryClient) -> None:
    async with registry.register(player("a"), drain=0) as registration:
        pass
    async with registry.register(player("a"), drain=0):
        with pytest.raises(ClientClosed):
            await registration.update(weight=7)
        assert (await registry.get("player", "a")).weight == 100


async def test_a_registration_is_not_entered_after_its_client(server: RegistryServer) -> None:
    client = registry_client.connect(server.address)
    async with client:
        registration = client.register(player("p1"))
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises(ClientClosed):
            await registration
    async with client:  # its next life is not that of the registration
        with pytest.raises(ClientClosed):
            await registration


async def test_a_registration_in_another_loop_is_told_at_once(registry: RegistryClient) -> None:
    async with registry.register(player("p1")) as entered:
        fresh = registry.register(player("p2", 8002))

        def other_thread() -> None:
            for use in (fresh.start, entered.start, entered.aclose, entered.wait_lost, lambda: entered.__aexit__(None)):
                with pytest.raises(Misuse):
                    asyncio.run(use())

        async with asyncio.timeout(AT_ONCE_S):
            await asyncio.to_thread(other_thread)
        assert entered.state is State.REGISTERED
        await fresh.aclose()


async def test_nobody_waits_for_ever_for_a_loss(registry: RegistryClient) -> None:
    registration = registry.register(player("p1"), drain=0)
    with pytest.raises(Misuse, match="not entered"):
        await registration.wait_lost()
    async with registration:
        waiting = asyncio.create_task(registration.wait_lost())
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises(ClientClosed):
            await waiting
        with pytest.raises(ClientClosed):
            await registration.wait_lost()


async def test_what_is_refused_runs_no_block(server: RegistryServer, registry: RegistryClient) -> None:
    """A generation that somebody else has taken over since: nothing would be registered in the block."""
    async with registry_client.connect(server.address) as other:
        async with registry.register(player("p1"), drain=0) as first:
            old = first.instance
        async with other.register(player("p1", 9001)):
            with pytest.raises(registry_client.RegistrationLost):
                async with registry.register(old):
                    pytest.fail("the block runs")


async def test_a_watch_in_another_loop_is_told_at_once(registry: RegistryClient) -> None:
    watch = registry.watch("player")

    def other_thread() -> None:
        uses: list[Callable[[], Any]] = [watch.__anext__, watch.aclose]
        for use in uses:
            with pytest.raises(Misuse):
                asyncio.run(use())

    async with asyncio.timeout(AT_ONCE_S):
        await asyncio.to_thread(other_thread)
    assert ids(await anext(watch)) == []
    await watch.aclose()


# ---- threads


def test_threads_entered_twice_say_so_and_work_on(server: RegistryServer) -> None:
    with sync.connect(server.address) as registry:
        with pytest.raises(Misuse, match="entered already"), registry:
            pytest.fail("the block runs")
        with registry.register(player("p1"), drain=0) as registration:
            with pytest.raises(Misuse, match="entered already"), registration:
                pytest.fail("the block runs")
            assert [it.id for it in registry.list("player")] == ["p1"]
        for start in (registration.start, registration.__enter__):
            with pytest.raises(RegistryError):
                start()


def test_threads_may_enter_a_closed_client_again(server: RegistryServer) -> None:
    registry = sync.connect(server.address)
    for _ in range(3):
        with registry, registry.register(player("p1"), drain=0):
            assert [it.id for it in registry.list("player")] == ["p1"]
        with pytest.raises(ClientClosed):
            registry.list("player")


def test_threads_close_what_is_closed(server: RegistryServer) -> None:
    with sync.connect(server.address) as registry:
        registration = registry.register(player("p1")).start()
        fresh = registry.register(player("p2", 8002))
        watch = registry.watch("player")
        subscription = registry.on_change("player")
    for end in (registration.close, fresh.close, watch.close, subscription.cancel, registry.close):
        end()
    with pytest.raises(ClientClosed):
        fresh.start()
    with registry, pytest.raises(ClientClosed):
        fresh.start()


def test_whoever_waits_is_told_when_threads_close(server: RegistryServer) -> None:
    server.pause()
    failures: list[type[BaseException]] = []
    registry = sync.connect(server.address, timeout=30)
    waits: list[Callable[[], object]] = [
        lambda: registry.list("player"),
        lambda: registry.register(player("p1")).start(),
        lambda: registry.watch("player").next(),
        lambda: registry.get("player", "p1"),
    ]

    def wait(ask: Callable[[], object], begun: threading.Event) -> None:
        begun.set()
        try:
            ask()
        except RegistryError as error:
            failures.append(type(error))

    with registry:
        threads = []
        for ask in waits:
            begun = threading.Event()
            threads.append(threading.Thread(target=wait, args=(ask, begun)))
            threads[-1].start()
            begun.wait(WAIT_S)
        began = time.monotonic()
    assert time.monotonic() - began < 6.0
    for thread in threads:
        thread.join(WAIT_S)
    assert failures == [ClientClosed] * len(waits)
    server.resume()


def test_signals_need_the_main_thread() -> None:
    told: list[BaseException] = []

    def other_thread() -> None:
        async def main() -> None:
            async with registry_client.connect(nobody_there()) as registry:
                await registry.register(player(), drain_on_signals=True)

        for run in (lambda: asyncio.run(main()), lambda: registry_client.run_until_signal(main())):
            try:
                run()
            except Misuse as error:
                told.append(error)

    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join(WAIT_S)
    assert len(told) == 2


# ---- forks

FORK = """
    import asyncio, multiprocessing, os, sys, threading, time
    import registry_client
    from registry_client import Instance, Misuse, RegistryError, sync

    ADDRESS = {address!r}

    def say(*what):
        os.write(1, (" ".join(map(str, what)) + "\\n").encode())

    def instance(port=8001):
        return Instance("player", "10.0.0.5", port)

    def attempt(what, action):
        begun = time.monotonic()
        try:
            action()
            say(what, "works")
        except RegistryError as error:
            assert "\\n" not in str(error)
            say(what, type(error).__name__)
        assert time.monotonic() - begun < {at_once}, what

    def fresh():
        with sync.connect(ADDRESS, cache_dir=None) as registry, registry.register(instance(9001), drain=0):
            registry.list("player")

    def fresh_aio():
        async def main():
            async with registry_client.connect(ADDRESS, cache_dir=None) as registry:
                async with registry.register(instance(9002), drain=0):
                    await registry.list("player")
        asyncio.run(main())

    def in_child(*actions):
        "In a child by fork, as os.fork and multiprocessing make them; it must end by itself."
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for what, action in actions:
                    attempt(what, action)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


# By default gRPC's core begins threads anew in the child, over connections that are the parent's. Now and then one of
# them crashes before any Python has run; docs/processes.md says so.
NO_THREADS = {"GRPC_ENABLE_FORK_SUPPORT": "false"}


def forked(server: RegistryServer, script: str) -> list[str]:
    """What a program with `script` says, line by line. It has to end in time, and in order."""
    text = textwrap.dedent(FORK.format(address=server.address, at_once=AT_ONCE_S)) + textwrap.dedent(script)
    command = [sys.executable, "-X", "faulthandler", "-c", text]
    environment = {**os.environ, **NO_THREADS}
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def test_a_fresh_client_works_after_a_fork(server: RegistryServer) -> None:
    """Also when the parent has used one before, and closed it."""
    said = forked(
        server,
        """
        in_child(("fresh", fresh), ("fresh aio", fresh_aio))
        fresh()
        fresh_aio()
        in_child(("fresh", fresh), ("fresh aio", fresh_aio))
        """,
    )
    assert said == ["fresh works", "fresh aio works"] * 2


def test_what_is_kept_of_a_closed_client_spoils_no_fork(server: RegistryServer) -> None:
    """Errors have tracebacks, watches and channels have tasks: none of these may hold on to a call of gRPC."""
    said = forked(
        server,
        """
        kept = []

        def keep(action):
            try:
                kept.append(action())
            except (RegistryError, TimeoutError) as error:
                kept.append(error)

        with sync.connect(ADDRESS, cache_dir=None) as registry, sync.connect("127.0.0.1:1", cache_dir=None) as nobody:
            kept += [registry.watch("player"), registry.on_change("player")]
            keep(kept[0].next)
            keep(lambda: registry.get("player", "nobody"))
            keep(lambda: nobody.get("player", "nobody", timeout=0.1))
            keep(lambda: nobody.register(instance(), timeout=0.1).start())
            keep(lambda: nobody.watch("player").next(0.1))
        in_child(("fresh", fresh))
        say(len(kept), *(type(it).__name__ for it in kept[3:]))
        """,
    )
    assert said == ["fresh works", "7 NotFound RegistryUnavailable RegistryUnavailable TimeoutError"]


def test_a_client_that_is_inherited_says_so(server: RegistryServer) -> None:
    """Every use of it in the child is told at once; leaving its blocks does nothing to the parent's registration."""
    said = forked(
        server,
        """
        with sync.connect(ADDRESS, cache_dir=None) as registry:
            with registry.register(instance(), drain=0) as registration, registry.watch("player") as watch:
                idle = registry.register(instance(8002), drain=0)
                in_child(
                    ("list", lambda: registry.list("player")),
                    ("register", lambda: registry.register(instance(8003))),
                    ("enter", registry.__enter__),
                    ("start", idle.start),
                    ("wait", lambda: registration.wait_lost(1)),
                    ("next", watch.next),
                    ("leave", lambda: registration.__exit__(None)),
                    ("close watch", watch.close),
                    ("close", registry.close),
                    ("fresh", fresh),
                    ("fresh aio", fresh_aio),
                )
                say(len(registry.list("player")), registration.state.value)
                idle.close()
        """,
    )
    refused = ["list", "register", "enter", "start", "wait", "next"]
    assert said == [
        *(f"{what} Misuse" for what in refused),
        "leave works",
        "close watch works",
        "close works",
        "fresh Misuse",
        "fresh aio Misuse",
        "1 registered",
    ]


def test_a_client_that_is_inherited_in_a_loop_says_so(server: RegistryServer) -> None:
    said = forked(
        server,
        """
        async def main():
            async with registry_client.connect(ADDRESS, cache_dir=None) as registry:
                async with registry.register(instance(), drain=0) as registration:
                    def drive(coroutine):
                        coroutine.send(None)  # it ends before it waits for anything
                    in_child(
                        ("list", lambda: drive(registry.list("player"))),
                        ("register", lambda: registry.register(instance(8003))),
                        ("watch", lambda: registry.watch("player")),
                        ("enter", lambda: drive(registry.__aenter__())),
                        ("fresh", fresh),
                    )
                    say(len(await registry.list("player")), registration.state.value)
        asyncio.run(main())
        """,
    )
    assert said == [*(f"{what} Misuse" for what in ("list", "register", "watch", "enter", "fresh")), "1 registered"]


CHANNELS = """
        import signal
        import grpc
        from registry_client import aio

        METHOD = "/registry.v1.Registry/ListServices"

        def call(channel):
            return channel.unary_unary(METHOD)(b"", timeout=5)

        def refused(action):
            "As `attempt` shows it."
            try:
                action()
            except (ValueError, grpc.aio.UsageError) as error:
                raise Misuse(str(error).partition(":")[0]) from None
"""


def test_a_channel_that_is_inherited_says_so(server: RegistryServer) -> None:
    """Its calls would wait for threads that are gone, over connections that are the parent's."""
    said = forked(
        server,
        CHANNELS
        + """
        with registry_client.channel(f"static://{ADDRESS}") as channel:
            bound = channel.unary_unary(METHOD)
            call(channel)
            in_child(
                ("call", lambda: refused(lambda: call(channel))),
                ("bound", lambda: refused(lambda: bound(b""))),
                ("close", channel.close),
            )
            call(channel)
            say(channel.why().usable)

        async def main():
            async with aio.channel(f"static://{ADDRESS}") as channel:
                bound = channel.unary_unary(METHOD)
                await bound(b"", timeout=5)

                def drive(coroutine):
                    coroutine.send(None)  # it ends before it waits for anything

                in_child(
                    ("call aio", lambda: refused(lambda: channel.unary_unary(METHOD)(b""))),
                    ("bound aio", lambda: refused(lambda: bound(b""))),
                    ("ready", lambda: refused(lambda: drive(channel.channel_ready()))),
                    ("close aio", lambda: call_ends(channel.close())),
                )
                await bound(b"", timeout=5)
                say(channel.why().usable)

        def call_ends(coroutine):
            try:
                coroutine.send(None)
            except StopIteration:
                return
            raise AssertionError("it waits")

        asyncio.run(main())
        """,
    )
    assert said == [
        *("call Misuse", "bound Misuse", "close works", "True"),
        *("call aio Misuse", "bound aio Misuse", "ready Misuse", "close aio works", "True"),
    ]


def test_a_channel_without_calls_is_taken_along(server: RegistryServer) -> None:
    said = forked(
        server,
        CHANNELS
        + """
        with registry_client.channel(f"static://{ADDRESS}") as channel:
            in_child(("call", lambda: call(channel)))
            call(channel)
        """,
    )
    assert said == ["call works"]


def test_where_core_heeds_no_forks_its_other_channels_are_told_too(server: RegistryServer) -> None:
    said = forked(
        server,
        CHANNELS
        + """
        with grpc.insecure_channel(ADDRESS) as channel:
            call(channel)
            in_child(("fresh", fresh), ("fresh aio", fresh_aio))
        """,
    )
    assert said == ["fresh Misuse", "fresh aio Misuse"]


def test_a_signal_to_a_child_is_the_childs(server: RegistryServer) -> None:
    """It ends by it, as `Process.terminate` and pools of processes expect, and the parent stays registered."""
    said = forked(
        server,
        CHANNELS
        + """
        def terminate_child():
            reads, writes = os.pipe()
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(20)  # who does not end by the one ends by the other
                os.write(writes, b".")
                while True:
                    signal.pause()
            os.read(reads, 1)
            os.kill(pid, signal.SIGTERM)
            say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

        with sync.connect(ADDRESS, cache_dir=None) as registry:
            with registry.register(instance(), drain_on_signals=True, drain=0) as registration:
                terminate_child()
                say(len(registry.list("player")), registration.state.value)

        async def main(by_signals):
            async with registry_client.connect(ADDRESS, cache_dir=None) as registry:
                async with registry.register(instance(), drain_on_signals=by_signals, drain=0) as registration:
                    terminate_child()
                    say(len(await registry.list("player")), registration.state.value)
            return "ended"

        asyncio.run(main(True))
        say(registry_client.run_until_signal(main(False)))
        """,
    )
    assert said == [*["-15", "1 registered"] * 3, "ended"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(server: RegistryServer, method: str, tmp_path: Path) -> None:
    """`spawn` and `forkserver` work whatever the parent does, `fork` says why it cannot."""
    program = tmp_path / "program.py"
    head = textwrap.dedent(FORK.format(address=server.address, at_once=20.0))
    program.write_text(
        head
        + textwrap.dedent(
            f"""
            def work():
                attempt("fresh", fresh)
                sys.exit(0)  # and the interpreter ends in order

            if __name__ == "__main__":
                with sync.connect(ADDRESS, cache_dir=None) as registry, registry.register(instance(), drain=0):
                    process = multiprocessing.get_context({method!r}).Process(target=work)
                    process.start()
                    process.join()
                    say(process.exitcode, len(registry.list("player")))
            """
        )
    )
    command = [sys.executable, str(program)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **NO_THREADS}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"fresh {'Misuse' if method == 'fork' else 'works'}", "0 1"]


def test_a_loop_that_breaks_keeps_nobody_waiting(server: RegistryServer) -> None:
    """As when something closes all descriptors of a process, as what makes a daemon of it does."""
    said = forked(
        server,
        """
        def closed(timeout):
            raise OSError(9, "Bad file descriptor")

        with sync.connect(ADDRESS, cache_dir=None) as registry:
            registry._thread.loop._selector.select = closed
            attempt("list", lambda: registry.list("player"))
            attempt("again", lambda: registry.list("player"))
        say("closed")
        """,
    )
    assert said == ["list RegistryError", "again ClientClosed", "closed"]


# ---- greenlets


def test_greenlets_for_threads_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As gevent and eventlet patch it: one that waits in gRPC would have all others wait for ever."""
    threads = threading.get_ident

    def get_ident() -> int:
        return threads()

    monkeypatch.setattr(threading, "get_ident", get_ident)
    with pytest.raises(Misuse, match="greenlets"), sync.connect(nobody_there()):
        pytest.fail("the block runs")

    async def enter() -> None:
        with pytest.raises(Misuse, match="greenlets"):
            async with registry_client.connect(nobody_there()):
                pytest.fail("the block runs")
        with pytest.raises(grpc.aio.UsageError, match="greenlets"):
            aio.channel("registry://127.0.0.1:1/player")
        with pytest.raises(Misuse, match="greenlets"):
            xds.aio.channel("player", registry="127.0.0.1:1")

    asyncio.run(enter())


# ---- the end of the interpreter


def test_who_comes_when_the_interpreter_ends_waits_for_nothing(server: RegistryServer) -> None:
    """No other thread runs by then, that of a client neither: who waited for one would keep the process for ever."""
    said = forked(
        server,
        """
        class Last:
            def __del__(self):
                attempt("fresh", fresh)
                attempt("list", lambda: self.registry.list("player"))
                attempt("next", self.watch.next)
                attempt("register", lambda: self.registry.register(instance(8002)).start())
                for what in (self.watch, self.registration, self.registry):
                    attempt("close", what.close)

        last = Last()
        last.registry = sync.connect(ADDRESS, cache_dir=None)
        last.registry.__enter__()
        last.registration = last.registry.register(instance(), drain=0).start()
        last.watch = last.registry.watch("player")
        sys.modules["last"] = last  # these go last, when no thread runs any more
        del last
        """,
    )
    assert said == [f"{what} Misuse" for what in ("fresh", "list", "next", "register")] + ["close works"] * 3


# ---- docs/processes.md

PROGRAMS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "processes.md").read_text(), re.MULTILINE | re.DOTALL)


def run_documented(number: int, server: RegistryServer, path: Path, after: str = "") -> list[str]:
    path.write_text(PROGRAMS[number].replace("127.0.0.1:7400", server.address) + textwrap.dedent(after))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


def test_the_documented_workers_register(server: RegistryServer, tmp_path: Path) -> None:
    assert sorted(run_documented(0, server, tmp_path / "workers.py")) == ["registered 8001", "registered 8002"]


def test_the_documented_hooks_of_a_forking_server_register(server: RegistryServer, tmp_path: Path) -> None:
    """As gunicorn calls them: the file is read in the master, the hooks run in the workers it forks."""
    said = run_documented(
        1,
        server,
        tmp_path / "gunicorn_conf.py",
        f"""
        import os, types
        for _ in range(2):
            if (pid := os.fork()) == 0:
                worker = types.SimpleNamespace()
                post_worker_init(worker)
                listed = [it.address for it in registry.list("web")]
                worker_exit(None, worker)
                print(listed, worker.registration.state.value, flush=True)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with sync.connect({server.address!r}) as own:
            print(own.list("web"))
        """,
    )
    assert said == ["['10.0.0.5:8000'] left"] * 2 + ["[]"]


def test_the_documented_lifespan_registers(server: RegistryServer, tmp_path: Path) -> None:
    said = run_documented(
        2,
        server,
        tmp_path / "lifespan.py",
        f"""
        import asyncio

        async def serve():
            async with registry_client.connect({server.address!r}, cache_dir=None) as own:
                for _ in range(2):
                    async with lifespan(None):
                        print([it.address for it in await own.list("api")])
                    print(await own.list("api"))

        asyncio.run(serve())
        """,
    )
    assert said == ["['10.0.0.5:8000']", "[]"] * 2


def test_the_documented_signals_of_celery_register(server: RegistryServer, tmp_path: Path) -> None:
    """They are called with names alone, in a process that was forked."""
    said = run_documented(
        3,
        server,
        tmp_path / "tasks.py",
        """
        import os
        for _ in range(2):
            if (pid := os.fork()) == 0:
                begin(sender=None, signal=None)
                print([it.address for it in registry.list("tasks")], flush=True)
                end(sender=None, pid=os.getpid(), exitcode=0)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with registry:
            print(registry.list("tasks"))
        """,
    )
    assert said == ["['10.0.0.5:8000']"] * 2 + ["[]"]
