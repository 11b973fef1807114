"""What takes its time says so, on a terminal: what is written goes above it, and when it is over it is gone."""

import asyncio
import re

import pytest

from registry_client.cli.show import PATIENCE_S, Progress
from tests.support.registryctl import Terminal

ERASED = "\r\x1b[2K"
LONGER_S = f"{PATIENCE_S + 3:g}"


async def in_terminal(*arguments: str, until: str, press: str = "", then: str) -> tuple[int, str]:
    """Run a command, press keys when it says the one thing, wait for the other; its exit code and all that it said."""

    def run() -> tuple[int, str]:
        with Terminal(*arguments) as terminal:
            terminal.read_until(until)
            terminal.press(press)
            terminal.read_until(then)
            return terminal.wait(), terminal.said

    return await asyncio.to_thread(run)


async def test_who_waits_for_an_answer_sees_for_what() -> None:
    async def be_mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.close()

    async with await asyncio.start_server(be_mute, "127.0.0.1", 0) as mute:
        address = "{}:{}".format(*mute.sockets[0].getsockname())
        arguments = ("-s", address, "--timeout", LONGER_S, "services")
        code, said = await in_terminal(*arguments, until="registryctl: ", then=f"asking {address}: ")
    assert code == 3
    assert f"{ERASED}asking" in said.partition("registryctl: ")[2]
    end = said.rpartition("asking ")[2]
    assert re.match(rf"{address}: \d s\r\x1b\[2Kregistryctl: list services: ", end.replace("\r\r", "\r")), end


@pytest.mark.usefixtures("address")
async def test_who_leaves_sees_how_long_it_drains() -> None:
    arguments = ("register", "player", "10.0.0.5:8001", "--drain", LONGER_S)
    code, said = await in_terminal(*arguments, until="registered player/", press="\x03", then="draining: ")
    assert code == 0
    assert re.search(rf"draining: \d of {LONGER_S} s", said)
    assert said.endswith(ERASED)


@pytest.mark.parametrize(
    ("progress", "done", "elapsed_s", "said"),
    [
        (Progress("asking h1:7400"), 0, 3.2, "asking h1:7400: 3 s"),
        (Progress("reading x"), 100, 3.2, "reading x: 100, 3 s"),
        (Progress("importing", 200), 50, 10.0, "importing: 50 of 200, 10 s, about 30 s to go"),
        (Progress("importing", 200), 0, 10.0, "importing: 0 of 200, 10 s"),
        (Progress("importing", 200), 200, 10.0, "importing: 200 of 200, 10 s"),
        (Progress("draining", until_s=30), 0, 12.0, "draining: 12 of 30 s"),
        (Progress("asking \x1b[2J"), 0, 2.0, r"asking \x1b[2J: 2 s"),
    ],
)
def test_what_is_said(progress: Progress, done: int, elapsed_s: float, said: str) -> None:
    progress.advance(done)
    assert progress.text(elapsed_s) == said
