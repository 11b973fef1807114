"""What reaches a terminal: nothing that acts on it, and nothing cut that other commands need."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import registry_pb2_grpc
from registry_client import RegistryClient
from tests.integration.client.conftest import player
from tests.support.registryctl import REGISTRYCTL, Terminal, ctl, ended, line_of, running

EVIL = "a\x1b[2J\x9b31m\r\n\u202eb\u200bc\ufeff"
SHOWN = r"a\x1b[2J\x9b31m\r\n\u202eb\u200bc\ufeff"
OWN_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def in_terminal(*arguments: str, width: int = 80, **environment: str) -> str:
    """What a command says in a terminal, but for colours of its own."""
    with Terminal(*arguments, width=width, **environment) as terminal:
        assert terminal.wait() == 0, terminal.said
        return terminal.said


@pytest.mark.usefixtures("address")
async def test_what_owners_wrote_does_nothing_to_a_terminal(registry: RegistryClient) -> None:
    async with registry.register(player("p1", metadata={"k": EVIL, EVIL: "v"}, tags=[EVIL]), drain=0):
        for command in (["instances"], ["instances", "-o", "wide"], ["drain", "player", "p1"]):
            said = OWN_COLOURS.sub("", await asyncio.to_thread(in_terminal, *command, width=400))
            assert all(line.isprintable() for line in said.split("\r\n"))
            assert said.count(SHOWN) == 3


@pytest.mark.usefixtures("address")
async def test_json_says_exactly_what_owners_wrote_and_does_nothing_either(registry: RegistryClient) -> None:
    async with registry.register(player("p1", metadata={"k": EVIL, EVIL: "größer"}), drain=0):
        for command in (["instances"], ["update", "player", "p1", "--weight", "3"]):
            said = (await ctl(*command, "-o", "json")).stdout
            assert all(line.isprintable() for line in said.split("\n"))
            document = json.loads(said)
            [instance] = document.get("instances") or [document["instance"]]
            assert instance["metadata"] == {"k": EVIL, EVIL: "größer"}
        with running("watch", "player", "-o", "json") as process:
            line = await line_of(process)
            assert line.rstrip("\n").isprintable()
            assert json.loads(line)["instance"]["metadata"] == {"k": EVIL, EVIL: "größer"}


class Liar(registry_pb2_grpc.RegistryServicer):
    """A registry of ill will: what it shows, and the errors it answers with, are made to deceive a terminal."""

    def ListServices(
        self, _request: pb.ListServicesRequest, _context: "grpc.ServicerContext"
    ) -> pb.ListServicesResponse:
        return pb.ListServicesResponse(services=[pb.ServiceSummary(namespace=EVIL, service=EVIL, instances=1)])

    def List(self, _request: pb.ListRequest, _context: "grpc.ServicerContext") -> pb.ListResponse:
        where = pb.Locality(region=EVIL, zone=EVIL, sub_zone=EVIL)
        names = {"namespace": EVIL, "service": EVIL, "id": EVIL, "host": EVIL, "version": EVIL}
        shown = pb.Instance(**names, port=1, locality=where, tags=[EVIL], metadata={EVIL: EVIL})
        return pb.ListResponse(instances=[shown])

    def _refuse(self, _request: object, context: "grpc.ServicerContext") -> object:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, EVIL * 3)
        raise AssertionError

    Update = Deregister = Register = Get = _refuse  # type: ignore[assignment]

    def Watch(self, _request: pb.WatchRequest, context: "grpc.ServicerContext") -> Iterator[pb.WatchResponse]:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, EVIL)
        yield from ()


@pytest.fixture
def liar() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    registry_pb2_grpc.add_RegistryServicer_to_server(Liar(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.mark.parametrize(
    ("command", "times"), [(["services"], 1), (["instances"], 10), (["instances", "-o", "wide"], 10)], ids=str
)
async def test_what_a_registry_shows_does_nothing_to_a_terminal(liar: str, command: list[str], times: int) -> None:
    said = OWN_COLOURS.sub("", await asyncio.to_thread(in_terminal, "-s", liar, *command, width=900))
    assert all(line.isprintable() for line in said.split("\r\n"))
    assert said.count(SHOWN) == times


COMMANDS = {
    "watch": ["watch", "player"],
    "register": ["register", "player", "10.0.0.5:8001"],
    "update": ["update", "player", "p1", "--weight", "3"],
    "drain": ["drain", "player", "p1"],
    "deregister": ["deregister", "player", "p1"],
}


@pytest.mark.parametrize("command", COMMANDS)
async def test_texts_of_errors_do_nothing_to_a_terminal(liar: str, command: str) -> None:
    with running("-s", liar, *COMMANDS[command]) as process:
        code, said = await ended(process)
    assert code == 1
    assert said.startswith("registryctl: ")
    assert all(line.isprintable() for line in said.split("\n"))
    assert len(said.splitlines()) == 1


MISTAKES = [
    [EVIL],
    [f"--{EVIL}"],
    ["instances", f"--status={EVIL}"],
    ["instances", "--metadata", EVIL],
    ["instances", EVIL],
    ["register", "player", EVIL],
    ["register", EVIL, "10.0.0.5:8001"],
    ["register", "player", "10.0.0.5:8001", f"--drain={EVIL}"],
    ["register", "player", "10.0.0.5:8001", "--", EVIL],
    ["-s", EVIL, "services"],
    ["-n", EVIL, "services"],
    ["-o", EVIL, "services"],
    ["--timeout", EVIL, "services"],
    ["drain", EVIL, EVIL],
    ["drain", "player", b"\xff\x1b".decode(errors="surrogateescape")],
]


@pytest.mark.usefixtures("address")
@pytest.mark.parametrize("arguments", MISTAKES, ids=ascii)
async def test_ones_own_mistakes_do_nothing_to_a_terminal(arguments: list[str]) -> None:
    with running(*arguments) as process:
        code, said = await ended(process)
    assert code in (1, 2)
    assert len(said.splitlines()) == 1, said
    assert said.rstrip("\n").isprintable()


@pytest.mark.usefixtures("address")
async def test_who_wants_no_colours_gets_none_and_a_terminal_that_knows_none_no_escapes(
    registry: RegistryClient,
) -> None:
    async with registry.register(player("p1"), drain=0):
        colours = {
            kind: OWN_COLOURS.findall(await asyncio.to_thread(in_terminal, "events", "player", **environment))
            for kind, environment in {"usual": {}, "none": {"NO_COLOR": "1"}, "dumb": {"TERM": "dumb"}}.items()
        }
        table = await asyncio.to_thread(in_terminal, "instances", "player", TERM="dumb")
    assert colours["usual"]
    assert (colours["none"], colours["dumb"]) == ([], [])
    assert "p1" in table
    assert "\x1b" not in table


# ---- widths

LONG = "2f1c9a50-7d6b-4c0e-9a53-0f4f7f1f2b11"


@pytest.mark.usefixtures("address")
@pytest.mark.parametrize("width", [300, 120, 80, 60, 40, 20, 1])
async def test_no_width_cuts_what_other_commands_need(registry: RegistryClient, width: int) -> None:
    host = "game-server-17.eu-1.players.example.org"
    fields = {"tags": ["game", "ranked", "season-9"], "metadata": {"map": "dust", "mode": "capture-the-flag"}}
    async with registry.register(replace(player(LONG, **fields), host=host), drain=0):
        for output in ("table", "wide"):
            said = await asyncio.to_thread(in_terminal, "instances", "player", "-o", output, width=width)
            assert f"player   {LONG}  {host}:8001  ACTIVE  UNKNOWN" in said
            assert ("mode=capture-the-flag" in said) is (output == "wide" or width == 300)
            assert "ZONE" not in said
            assert ("REGISTERED" in said) is (output == "wide")


@pytest.mark.usefixtures("address")
async def test_a_pipe_gets_everything(registry: RegistryClient) -> None:
    async with registry.register(player(LONG, metadata={"k": "v" * 500}), drain=0):
        assert f"k={'v' * 500}" in (await ctl("instances")).stdout


@pytest.mark.usefixtures("address")
async def test_an_output_that_lacks_letters_gets_escapes(registry: RegistryClient) -> None:
    async with registry.register(player("p1", metadata={"k": "größer 日本"}), drain=0):
        said = subprocess.PIPE
        for output in ("table", "json"):
            process = await asyncio.create_subprocess_exec(
                *REGISTRYCTL, "instances", "-o", output, stdout=said, env={**os.environ, "PYTHONIOENCODING": "latin-1"}
            )
            written, _ = await asyncio.wait_for(process.communicate(), 20)
            if output == "table":
                assert rb"k=gr\xf6\xdfer \u65e5\u672c" in written.replace(b"\xf6", rb"\xf6").replace(b"\xdf", rb"\xdf")
            else:
                assert json.loads(written)["instances"][0]["metadata"] == {"k": "größer 日本"}


# ---- nobody to show


@pytest.mark.usefixtures("address")
async def test_an_empty_table_says_how_many_there_are_and_why_none_is_shown(registry: RegistryClient) -> None:
    assert "no instance of player is registered" in (await ctl("instances", "player")).stderr
    assert "no service is registered in namespace default" in (await ctl("services")).stderr
    async with registry.register(player("p1"), drain=0), registry.register(player("p2", 2, status="DRAINING"), drain=0):
        result = await ctl("instances", "player", "--tag", "x")
        assert result.exit_code == 0
        assert result.stderr == (
            "registryctl: no instance of player is meant: of 2 registered, 1 draining, 1 not matching the filter\n"
        )
        assert (await ctl("instances", "player", "--tag", "x", "-o", "json")).stderr == ""
        assert (await ctl("instances", "player")).stderr == ""
