"""However a command ends, it says so in a line or not at all, and by its exit code."""

import asyncio
import os
import shlex
import signal
import time

import pytest

from registry_client import RegistryClient
from tests.integration.client.conftest import ids, player, until
from tests.integration.client.test_registering import nobody_there
from tests.support.registryctl import REGISTRYCTL, WAIT_S, Terminal, ctl, ended, line_of, running
from tests.support.servers import ROOT

VALUES = ("nan", "inf", "-inf", "-1", "3601", "1e400", "soon", "")
ADDRESSES = (
    "8001", "h", "h:", ":1", "h:0", "h:65536", "h:x", "h:-1", "h:1:2", "2001:db8::1:2:8001", "[::1]", "[::1", "h:1/x",
    "h h:1", "", "\u0661:1", "h:\u0661", "h:" + "1" * 5000,
)  # fmt: skip
EVERY_COMMAND = {
    "services": ["services"],
    "instances": ["instances", "player"],
    "watch": ["watch", "player"],
    "register": ["register", "player", "10.0.0.5:8001"],
    "update": ["update", "player", "p1", "--weight", "3"],
    "drain": ["drain", "player", "p1"],
    "deregister": ["deregister", "player", "p1"],
}


@pytest.mark.parametrize("command", EVERY_COMMAND)
async def test_ctrl_c_before_anything_is_done_is_130_and_silent(command: str) -> None:
    """Whoever is asked takes the connection and says nothing."""
    asked = asyncio.Event()

    async def be_mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(be_mute, "127.0.0.1", 0) as mute:
        address = "{}:{}".format(*mute.sockets[0].getsockname())
        with running("-s", address, "--timeout", "20", *EVERY_COMMAND[command]) as process:
            await asyncio.wait_for(asked.wait(), WAIT_S)
            process.send_signal(signal.SIGINT)
            assert await ended(process) == (130, "")


@pytest.mark.usefixtures("address")
async def test_ctrl_c_in_a_terminal_ends_register_in_order(registry: RegistryClient) -> None:
    watch = registry.watch("player")

    def press() -> int:
        with Terminal("register", "player", "10.0.0.5:8001", "--id", "p1", "--drain", "0.3") as terminal:
            terminal.read_until("registered player/p1")
            terminal.press("\x03")
            code = terminal.wait()
            assert "Traceback" not in terminal.said
            return code

    pressing = asyncio.create_task(asyncio.to_thread(press))
    await until(watch, lambda view: ids(view) == ["p1"])
    assert await pressing == 0
    await until(watch, lambda view: not view.instances)


@pytest.mark.usefixtures("address")
async def test_a_second_ctrl_c_ends_at_once(registry: RegistryClient) -> None:
    watch, terminal = registry.watch("player"), Terminal("register", "player", "10.0.0.5:8001", "--drain", "600")
    with terminal:
        await asyncio.to_thread(terminal.read_until, "registered player/")
        terminal.press("\x03")
        await until(watch, lambda view: bool(view.instances) and not view.endpoints)
        terminal.press("\x03")
        assert await asyncio.to_thread(terminal.wait) == 130
    assert "Traceback" not in terminal.said


@pytest.mark.usefixtures("address")
async def test_a_terminal_that_is_closed_ends_register_and_its_command_in_order(registry: RegistryClient) -> None:
    """The system says so and the shell, too: the second time is no haste."""
    command = ("sh", "-c", "echo begun $$; exec sleep 600")
    order = ("register", "player", "10.0.0.5:8001", "--id", "p1", "--drain", "0.3", "--no-wait-port", "--", *command)
    async with registry.watch("player") as watch:
        with running(*order) as process:
            said = (await line_of(process)) + (await line_of(process))
            [child] = [int(line.split()[1]) for line in said.splitlines() if line.startswith("begun")]
            process.send_signal(signal.SIGHUP)
            await until(watch, lambda view: bool(view.instances) and not view.endpoints)
            process.send_signal(signal.SIGHUP)
            assert await ended(process) == (128 + signal.SIGTERM, ""), "as the command, which was told to end"
            await until(watch, lambda view: not view.instances)
            with pytest.raises(ProcessLookupError):
                os.kill(child, 0)


@pytest.mark.usefixtures("address")
@pytest.mark.parametrize("redirect", ["", "2>&1"])
@pytest.mark.parametrize("command", ["services", "instances", "instances -o json", "watch", "watch -o json", "--help"])
async def test_whoever_stops_reading_hears_nothing(registry: RegistryClient, command: str, redirect: str) -> None:
    line = f"{shlex.join(REGISTRYCTL)} {command} {redirect} | head -1 > /dev/null"
    async with registry.register(player("p1")):
        shell = await asyncio.create_subprocess_exec("sh", "-c", line, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
        ending = asyncio.create_task(shell.communicate())
        async with asyncio.timeout(WAIT_S):
            while not ending.done():
                await registry.update("player", "p1", metadata={"at": str(time.monotonic())})
                await asyncio.wait({ending}, timeout=0.05)
        assert await ending == (None, b"")


@pytest.mark.usefixtures("address")
async def test_whoever_stops_reading_what_goes_on_need_not_wait_for_the_next_line(registry: RegistryClient) -> None:
    async with registry.register(player("p1")):
        for command in ("watch", "watch -o json", "events --follow", "top --interval 3600"):
            line = f"{shlex.join(REGISTRYCTL)} {command} 2>&1 | head -1"
            shell = await asyncio.create_subprocess_exec(
                "sh", "-c", line, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            said, complained = await asyncio.wait_for(shell.communicate(), WAIT_S)
            assert (said.count(b"\n"), complained) == (1, b""), command


@pytest.mark.usefixtures("address")
@pytest.mark.parametrize("arguments", ["services", "--help", "watch --help"])
async def test_an_output_that_is_full_is_one_line(arguments: str) -> None:
    line = f"{shlex.join(REGISTRYCTL)} {arguments} > /dev/full"
    shell = await asyncio.create_subprocess_exec("sh", "-c", line, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
    _, said = await asyncio.wait_for(shell.communicate(), WAIT_S)
    assert (said, shell.returncode) == (b"registryctl: cannot write: No space left on device\n", 1)


@pytest.mark.usefixtures("address")
async def test_an_output_that_is_closed_harms_nothing() -> None:
    line = f"{shlex.join(REGISTRYCTL)} services >&- 2>&-"
    shell = await asyncio.create_subprocess_exec("sh", "-c", line, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
    _, said = await asyncio.wait_for(shell.communicate(), WAIT_S)
    assert (said, shell.returncode) == (b"", 0)


@pytest.mark.usefixtures("address")
@pytest.mark.parametrize(("arguments", "code"), [("services", 0), ("nonsense", 2), ("deregister player none", 1)])
async def test_a_complaint_that_nobody_can_read_changes_nothing(arguments: str, code: int) -> None:
    for errors in ("/dev/full", "&-"):
        line = f"{shlex.join(REGISTRYCTL)} {arguments} 2>{errors}"
        shell = await asyncio.create_subprocess_exec("sh", "-c", line, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL)
        assert await asyncio.wait_for(shell.wait(), WAIT_S) == code, errors


@pytest.mark.parametrize("group", [[], ["policy"], ["checks"], ["xds"]], ids=" ".join)
async def test_who_names_no_command_sees_those_that_there_are(group: list[str]) -> None:
    result = await ctl(*group)
    said = (result.stdout + result.stderr).splitlines()
    assert said[0].startswith("Usage:")
    assert "Commands:" in said, "each on a line of its own"


# ---- values


@pytest.mark.parametrize(
    "arguments",
    [
        *(["register", "player", "h:1", option, value] for option in ("--drain", "--ttl") for value in VALUES),
        *(["register", "player", "h:1", "--wait-timeout", value] for value in (*VALUES, "0")),
        *(["deregister", "player", "p1", "--drain", value] for value in VALUES),
        *(["--timeout", value, "services"] for value in (*VALUES, "0", "1e9") if value != "3601"),
        *(["register", "player", "h:1", "--weight", value] for value in ("-1", "1000001", "1.5", "many", "1" * 5000)),
        *(["register", "player", address] for address in ADDRESSES),
        ["register", "player", "h:1", "--"],
    ],
    ids=lambda arguments: " ".join(arguments)[:60],
)
async def test_a_wrong_value_is_told_at_once_in_one_line(arguments: list[str]) -> None:
    """Before anybody is asked: there is no registry here."""
    result = await ctl("--server", nobody_there(), *arguments)
    assert result.exit_code in (1, 2), result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("registryctl: ")
    assert len(line) < 1100
