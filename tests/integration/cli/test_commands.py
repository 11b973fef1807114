"""The commands of `registryctl`, in this process and as processes of their own, against a real server."""

import asyncio
import json
import re
import signal
import subprocess
import time

import pytest

from registry_client import Locality, RegistryClient, Status
from tests.integration.client.conftest import ids, player, until
from tests.integration.client.test_registering import nobody_there
from tests.support.registryctl import REGISTRYCTL, complaint_of, ctl, ended, invoke, line_of, running
from tests.support.servers import ROOT, RegistryServer

COMMANDS = ["namespaces", "services", "instances", "watch", "health", "register", "update", "drain", "deregister"]
COMMANDS += ["export", "import", "sync", "top", "ready"]

pytestmark = pytest.mark.usefixtures("address")


# ---- reading


async def test_tables(registry: RegistryClient) -> None:
    async with registry.register(player("p1", weight=3, tags=["game"], metadata={"map": "[dust]"})):
        result = await ctl("services")
        assert result.exit_code == 0, result.output
        assert [line.split() for line in result.stdout.splitlines()] == [
            ["SERVICE", "INSTANCES", "ROUTABLE"],
            ["player", "1", "1"],
        ]
        [header, row] = [line.split() for line in (await ctl("instances", "player")).stdout.splitlines()]
        assert header[:3] == ["SERVICE", "ID", "ADDRESS"]
        assert row == ["player", "p1", "10.0.0.5:8001", "ACTIVE", "UNKNOWN", "3", "1.0.0", "game", "map=[dust]"]


async def test_json_has_the_names_of_the_proto(registry: RegistryClient) -> None:
    async with registry.register(player("p1", weight=3)):
        document = json.loads((await ctl("--output", "json", "instances", "player")).stdout)
        [instance] = document["instances"]
        assert instance["id"] == "p1"
        assert instance["createRevision"] == instance["revision"]
        assert (instance["status"], instance["health"], instance["weight"]) == ("ACTIVE", "UNKNOWN", 3)
        assert instance["ttl"] == "15s"
        document = json.loads((await ctl("services", "--output", "json")).stdout)
        health = {"healthy": 0, "unhealthy": 0, "critical": 0, "draining": 0}
        named = {"namespace": "default", "service": "player"}
        assert document["services"] == [named | {"instances": 1, "routable": 1} | health]
        assert document["header"] == {"epoch": registry.epoch, "revision": str(registry.revision)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "abc"),
        (["--tag", "eu"], "ab"),
        (["--tag", "eu", "--tag", "game"], "a"),
        (["--metadata", "map=dust"], "a"),
        (["--version", "2.0.0"], "b"),
        (["--status", "draining"], "c"),
        (["--status", "draining", "--status", "ACTIVE"], "abc"),
        (["--health", "healthy"], ""),
        (["--healthy"], "ab"),
        (["--zone", "z1"], "b"),
    ],
)
async def test_filters(registry: RegistryClient, options: list[str], expected: str) -> None:
    async with (
        registry.register(player("a", 1, tags=["eu", "game"], metadata={"map": "dust"}), drain=0),
        registry.register(player("b", 2, tags=["eu"], version="2.0.0", locality=Locality("", "z1")), drain=0),
        registry.register(player("c", 3, status=Status.DRAINING), drain=0),
    ):
        document = json.loads((await ctl("-o", "json", "instances", "player", *options)).stdout)
        assert "".join(it["id"] for it in document["instances"]) == expected


async def test_namespaces(registry: RegistryClient) -> None:
    async with registry.register(player("p1", namespace="prod")):
        assert (await ctl("instances")).stdout.count("\n") == 1
        for arguments in (["-n", "prod", "instances"], ["instances", "-n", "prod"]):
            assert "p1" in (await ctl(*arguments)).stdout


async def test_all_namespaces(registry: RegistryClient) -> None:
    async with registry.register(player("p1", namespace="prod"), drain=0), registry.register(player("p2"), drain=0):
        tables = {
            ("namespaces",): ["NAMESPACE SERVICES INSTANCES", "default 1 1", "prod 1 1"],
            ("services", "-A"): ["NAMESPACE SERVICE INSTANCES ROUTABLE", "default player 1 1", "prod player 1 1"],
            ("instances", "-A", "-n", "x"): ["NAMESPACE SERVICE ID ADDRESS", "default player p2", "prod player p1"],
        }
        for command, lines in tables.items():
            shown = [" ".join(line.split()) for line in (await ctl(*command)).stdout.splitlines()]
            assert all(line.startswith(start) for line, start in zip(shown, lines, strict=True)), shown
        documents = json.loads((await ctl("namespaces", "-o", "json")).stdout)
        assert documents["namespaces"][1] == {"namespace": "prod", "services": 1, "instances": 1}
        with running("watch", "-A") as process:
            assert "+ default/player/p2 10.0.0.5:8001 ACTIVE" in await line_of(process)
            assert "+ prod/player/p1 10.0.0.5:8001 ACTIVE" in await line_of(process)
            await registry.deregister("player", "p2")
            line = await line_of(process)
            assert "- default/player/p2 10.0.0.5:8001" in line
            assert line.rstrip().endswith(" deregistered")
    for command, why in {
        ("instances", "-A", "--tag", "eu"): "no instance of any namespace is registered",
        ("services", "--all-namespaces"): "no service is registered in any namespace",
        ("namespaces",): "nothing is registered",
    }.items():
        assert (await ctl(*command)).stderr == f"registryctl: {why}\n"


async def test_a_watch_shows_what_happens(server: RegistryServer, registry: RegistryClient) -> None:
    with running("watch", "player") as process:
        registration = await registry.register(player("p1"), ttl=2)
        assert re.match(r"\d\d:\d\d:\d\d\.\d{3} \+ player/p1 10\.0\.0\.5:8001 ACTIVE", await line_of(process))
        await registry.update("player", "p1", weight=7)
        assert "~ player/p1 10.0.0.5:8001 ACTIVE UNKNOWN 7" in await line_of(process)
        server.kill()
        assert "the registry is away" in await line_of(process)
        await server.start_async()
        assert "the registry is back" in await line_of(process)
        await registration.aclose(drain=0)
        while "- player/p1" not in (line := await line_of(process)):
            assert "player/p1" in line
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


async def test_a_watch_in_json_is_one_document_per_line_and_says_when_all_that_was_there_has_been_told(
    registry: RegistryClient,
) -> None:
    async with registry.register(player("p1"), drain=0):
        with running("watch", "player", "--output", "json") as process:
            first, current = [json.loads(await line_of(process)) for _ in range(2)]
            assert (first["event"], first["instance"]["id"]) == ("added", "p1")
            assert int(first["revision"]) >= int(first["instance"]["revision"])
            assert (current["event"], current["instances"], current["revision"]) == ("current", 1, first["revision"])
            async with registry.register(player("p2", 8002), drain=0):
                assert json.loads(await line_of(process))["event"] == "added"
            removed = json.loads(await line_of(process))
            assert (removed["event"], removed["cause"]) == ("removed", "DEREGISTERED")
            process.terminate()
            assert process.wait(20) == 0


async def test_a_watch_of_nobody_is_current_at_once() -> None:
    with running("watch", "nobody", "--output", "json") as process:
        current = json.loads(await line_of(process))
        assert (current["event"], current["instances"]) == ("current", 0)


# ---- writing


async def test_register_keeps_the_lease_until_it_is_told_to_end(registry: RegistryClient) -> None:
    watch = registry.watch("player")
    options = ["--id", "p1", "--weight", "3", "--tag", "game", "--meta", "k=v", "--ttl", "2", "--drain", "0.3"]
    with running("register", "player", "10.0.0.5:8001", *options) as process:
        assert (await line_of(process)).startswith("registered player/p1 at 10.0.0.5:8001, lease ")
        view = await until(watch, lambda view: ids(view) == ["p1"])
        [it] = view.instances
        assert (it.address, it.weight, it.tags, it.metadata, it.ttl_s) == ("10.0.0.5:8001", 3, ("game",), {"k": "v"}, 2)
        process.send_signal(signal.SIGINT)
        view = await until(watch, lambda view: not view.endpoints)
        assert ids(view) == ["p1"]
        await until(watch, lambda view: not view.instances)
        assert await asyncio.to_thread(process.wait, 20) == 0


async def test_register_runs_a_command_and_takes_its_exit_code(registry: RegistryClient) -> None:
    watch = registry.watch("player")
    script = "echo started; read line; exit 7"
    process = await asyncio.create_subprocess_exec(
        *REGISTRYCTL, "register", "player", "10.0.0.5:8001", "--id", "p1", "--", "sh", "-c", script,
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    await until(watch, lambda view: ids(view) == ["p1"])
    process.stdin.write(b"\n")
    assert await asyncio.wait_for(process.wait(), 20) == 7
    await until(watch, lambda view: not view.instances)


async def test_a_signal_drains_before_it_ends_the_command(registry: RegistryClient) -> None:
    watch = registry.watch("player")
    script = "trap 'exit 9' TERM; echo started; while :; do read -t 1 line; done"
    with running("register", "player", "10.0.0.5:8001", "--id", "p1", "--", "bash", "-c", script) as process:
        await line_of(process)
        assert await line_of(process) == "started\n"
        process.terminate()
        await until(watch, lambda view: ids(view) == ["p1"] and not view.endpoints)
        await until(watch, lambda view: not view.instances)
        assert await asyncio.to_thread(process.wait, 20) == 9


async def test_a_take_over_ends_register(registry: RegistryClient) -> None:
    with running("register", "player", "10.0.0.5:8001", "--id", "p1", "--ttl", "2") as process:
        await line_of(process)
        async with registry.register(player("p1", 9001)):
            assert await asyncio.to_thread(process.wait, 20) == 1
            assert process.stderr is not None
            assert "taken over" in process.stderr.read()
            assert (await registry.get("player", "p1")).port == 9001


async def test_update_drain_and_deregister(registry: RegistryClient) -> None:
    registration = await registry.register(player("p1", weight=3, tags=["a"], metadata={"k": "v"}))
    result = await ctl("update", "player", "p1", "--weight", "9", "--tag", "b", "--tag", "c", "-o", "json")
    assert result.exit_code == 0, result.output
    instance = json.loads(result.stdout)["instance"]
    assert (instance["weight"], instance["tags"], instance["metadata"]) == (9, ["b", "c"], {"k": "v"})
    assert (await ctl("update", "player", "p1", "--no-tags", "--no-metadata", "--health", "healthy")).exit_code == 0
    found = await registry.get("player", "p1")
    assert (found.tags, found.metadata, found.health) == ((), {}, "HEALTHY")
    assert (await ctl("drain", "player", "p1")).exit_code == 0
    assert (await registry.get("player", "p1")).status is Status.DRAINING
    await registration.aclose()

    stray = await registry.register(player("p2"), ttl=60)
    result = await ctl("deregister", "player", "p2", "--drain", "30")
    assert result.stdout == "player/p2 leaves in 30 s\n"
    assert (await registry.get("player", "p2")).status is Status.DRAINING
    assert json.loads((await ctl("deregister", "player", "p2", "-o", "json")).stdout) == {"removed": 1}
    assert await registry.list("player") == []
    await stray.aclose()


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["deregister", "player", "nobody"], 1, "nobody"),
        (["update", "player", "nobody", "--weight", "1"], 1, "nobody"),
        (["instances", "no spaces"], 1, "service"),
        (["register", "no spaces", "h:1"], 1, "instance.service"),
        (["register", "player", "h:1", "--ttl", "1"], 1, "ttl"),
        (["register", "player", "h:1", "--", "no-such-command-anywhere"], 1, "no-such-command-anywhere"),
        (["update", "player", "p1"], 2, "--weight"),
        (["update", "player", "p1", "--status", "sleepy"], 2, "sleepy"),
        (["register", "player", "nowhere"], 2, "HOST:PORT"),
        (["register", "player", "h:70000"], 2, "65535"),
        (["instances", "--metadata", "nonsense"], 2, "KEY=VALUE"),
        (["instances", "--nonsense"], 2, "--nonsense"),
        (["nonsense"], 2, "nonsense"),
        (["--server", "h:p", "services"], 2, "h:p"),
        (["--timeout", "0", "services"], 2, "timeout"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(arguments: list[str], code: int, says: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("registryctl: ")
    assert says in line


@pytest.mark.parametrize(
    "command",
    [
        ["services"],
        ["instances"],
        ["watch"],
        ["register", "player", "h:1"],
        ["update", "a", "b", "--weight", "1"],
        ["drain", "a", "b"],
        ["deregister", "a", "b"],
    ],
    ids=lambda command: command[0],
)
async def test_with_no_registry_every_command_says_after_a_second_what_is_tried_and_why_it_fails(
    command: list[str],
) -> None:
    address, began = nobody_there(), time.monotonic()
    with running(*command, "--server", address, "--timeout", "60") as process:
        said = await complaint_of(process, waits=True)
        assert address in said
        assert "onnection refused" in said
        assert time.monotonic() - began > 1
        process.send_signal(signal.SIGINT)
        assert await ended(process) == (130, "")


async def test_a_watch_says_when_the_registry_is_there_at_last(
    server: RegistryServer, registry: RegistryClient
) -> None:
    server.kill()
    with running("watch", "player") as process:
        assert server.address in await complaint_of(process, waits=True)
        await server.start_async()
        assert "the registry answers again" in await complaint_of(process, waits=True)


@pytest.mark.parametrize("command", [["services"], ["instances"], ["register", "player", "h:1"], ["drain", "a", "b"]])
def test_a_registry_that_cannot_be_reached_is_exit_code_3(command: list[str]) -> None:
    result = invoke(*command, "--server", nobody_there(), "--timeout", "0.3")
    assert result.exit_code == 3, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("registryctl: ")


async def test_whoever_stops_reading_gets_no_traceback(registry: RegistryClient) -> None:
    with running("watch", "player") as process:
        async with registry.register(player("p1")):
            await line_of(process)
            assert process.stdout is not None
            process.stdout.close()
            process.stdout = None
            await registry.update("player", "p1", weight=7)
            assert await asyncio.to_thread(process.wait, 20) in (0, 1)
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()


async def test_help_names_every_command_and_the_exit_codes() -> None:
    result = await ctl("--help")
    assert result.exit_code == 0
    assert all(command in result.stdout for command in COMMANDS)
    assert "REGISTRY_SERVER" in result.stdout
    assert "Exit codes" in result.stdout
    for command in COMMANDS:
        assert (await ctl(command, "--help")).exit_code == 0
