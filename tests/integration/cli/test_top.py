"""`registryctl top` in a terminal and in a pipe, against a real server."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from registry_client import RegistryClient
from tests.integration.client.conftest import player
from tests.support.registryctl import Terminal, ctl, ended, line_of, running
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually

OURS, GIVEN_BACK = "\x1b[?1049h", "\x1b[?1049l"
"""What a terminal is told by who takes all of it, and gives it back."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*3[0-7]")

pytestmark = pytest.mark.usefixtures("address")


async def in_terminal(act: Callable[[Terminal], None], *arguments: str) -> str:
    """Start `top` in a terminal, do something there, and see it end well. What it said at last."""

    def run() -> str:
        with Terminal("top", "--interval", "0.2", *arguments) as terminal:
            act(terminal)
            assert terminal.wait() == 0, terminal.said
            assert terminal.said.rstrip().endswith(GIVEN_BACK) or GIVEN_BACK in terminal.said
            assert terminal.echoes
            return terminal.said

    return await asyncio.to_thread(run)


def state_of(pid: int) -> str:
    """R, S, T (stopped) …, as the kernel has it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def test_a_screen_that_is_alive(registry: RegistryClient) -> None:
    loop = asyncio.get_running_loop()

    def change(weight: int) -> None:
        asyncio.run_coroutine_threadsafe(registry.update("player", "p1", weight=weight), loop).result(20)

    def act(terminal: Terminal) -> None:
        terminal.take(OURS)
        terminal.take("> player")
        assert _COLOURS.search(terminal.take("player/p1 registered"))  # before this began
        assert not terminal.echoes
        change(7)
        terminal.take("player/p1 updated")
        terminal.take("weight 100 -> 7")
        terminal.press("\r")
        terminal.take("> p1")
        terminal.resize(16, 6)
        terminal.take("ID*\x1b")
        terminal.take("> p1")
        terminal.resize(100, 30)
        terminal.take("ADDRESS")
        terminal.press("\x1b")
        terminal.take("SERVICE*")
        terminal.press("sss")
        terminal.take("HEALTHY*")
        terminal.press("q")

    async with registry.register(player("p1"), drain=0):
        await in_terminal(act)


async def test_ctrl_z_and_ctrl_c(registry: RegistryClient) -> None:
    def act(terminal: Terminal) -> None:
        terminal.take("> p1")
        terminal.press("\x1a")
        terminal.take(GIVEN_BACK)
        eventually(lambda: state_of(terminal.pid) == "T")
        assert terminal.echoes
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.take(OURS)
        terminal.take("> p1")
        os.kill(terminal.pid, signal.SIGSTOP)  # which nobody can prepare for
        eventually(lambda: state_of(terminal.pid) == "T")
        terminal.echo()
        os.kill(terminal.pid, signal.SIGCONT)
        eventually(lambda: not terminal.echoes)
        terminal.press("\x03")

    async with registry.register(player("p1"), drain=0):
        await in_terminal(act, "player")


async def test_a_registry_that_goes_away_and_comes_back(
    server: RegistryServer, registry: RegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told without colours, to who wants none."""
    monkeypatch.setenv("NO_COLOR", "1")
    loop = asyncio.get_running_loop()

    def act(terminal: Terminal) -> None:
        terminal.take("> player")
        server.kill()
        assert not _COLOURS.search(terminal.take("! as of "))
        terminal.take("> player")
        server.start()
        asyncio.run_coroutine_threadsafe(registry.register_once(player("p2", 8002)), loop).result(20)
        terminal.take("player/p2 registered")
        terminal.press("q")

    async with registry.register(player("p1"), drain=0):
        await in_terminal(act)


async def test_a_terminal_is_one_whatever_rich_is_told_by_the_environment() -> None:
    def run(**environment: str) -> None:
        with Terminal("top", **environment) as terminal:
            terminal.take("q quit")
            terminal.press("q")
            assert terminal.wait() == 0

    await asyncio.to_thread(run, TTY_COMPATIBLE="0", TTY_INTERACTIVE="0")


@pytest.mark.parametrize("term", ["dumb", ""])
async def test_a_terminal_that_cannot_be_drawn_on_gets_lines(registry: RegistryClient, term: str) -> None:
    def run() -> str:
        with Terminal("top", TERM=term) as terminal:
            assert terminal.wait() == 0
            return terminal.said

    async with registry.register(player("p1"), drain=0):
        said = await asyncio.to_thread(run)
    assert OURS not in said
    assert "1 service, 1 instance, 1 routable" in said


async def test_a_pipe_gets_one_picture(registry: RegistryClient) -> None:
    async with registry.register(player("p1"), drain=0), registry.register(player("x", namespace="prod"), drain=0):
        done = await ctl("top")
        assert done.exit_code == 0, done.output
        head, counts, titles, row = done.stdout.splitlines()
        assert head.endswith("namespace default")
        assert counts.startswith("1 service, 1 instance, 1 routable, revision ")
        assert titles.split()[:3] == ["SERVICE", "INSTANCES", "ROUTABLE"]
        assert row.split()[:3] == ["player", "1", "1"]
        assert (await ctl("top", "player", "--once")).stdout.splitlines()[-1].split()[:2] == ["p1", "10.0.0.5:8001"]
        found = json.loads((await ctl("top", "-A", "-o", "json")).stdout)["services"]
        assert [(it["namespace"], it["service"], it["instances"]) for it in found] == [
            ("default", "player", 1),
            ("prod", "player", 1),
        ]
        [shown] = json.loads((await ctl("top", "player", "-o", "json")).stdout)["instances"]
        assert shown["id"] == "p1"


async def test_one_picture_after_the_other(registry: RegistryClient) -> None:
    async with registry.register(player("p1"), drain=0):
        with running("top", "--interval", "0.1", "-o", "json") as process:
            assert json.loads(await line_of(process))["services"][0]["changesPerSecond"] == 0
            await registry.update("player", "p1", weight=3)
            while not json.loads(await line_of(process))["services"][0]["changesPerSecond"]:
                pass
            process.send_signal(signal.SIGINT)
            assert (await ended(process))[0] == 0


async def test_a_registry_that_is_away_or_says_no(registry: RegistryClient) -> None:
    done = await ctl("-s", "127.0.0.1:1", "--timeout", "0.3", "top")
    assert done.exit_code == 3
    assert done.stderr.startswith("registryctl: nothing was heard of the registry within 0.3 s: ")
    assert (await ctl("top", "no such name")).exit_code == 1
    assert (await ctl("top", "--interval", "0")).exit_code == 2
    with running("top", "--interval", "0.1") as process:
        assert process.stdout is not None
        await line_of(process)
        process.stdout.close()  # as `head` does
        assert (await ended(process))[1] == ""
