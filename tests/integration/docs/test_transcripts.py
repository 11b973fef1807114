"""What pages show of a talk with a program is what it says: `console` blocks, line by line, numbers aside."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_client import Instance, testing
from tests.conftest import ServerFactory
from tests.support.documented import Shell, place
from tests.support.etcd import EtcdCluster
from tests.support.pages import Block, blocks
from tests.support.waiting import eventually

ETCD = "docs/etcd.md"
PREFIX = "/grpc-registry/v1/"
_NUMBER = re.compile(r"\b(?=\w*\d)[0-9a-f]{8,}\b|\d+")


def talks(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Each command, and what is shown after it. A reader's prompt is `$`, that of root `#`."""
    prompt = re.escape(block.text[:2])
    first, *parts = re.split(f"^{prompt}", block.text.replace("\\\n", ""), flags=re.MULTILINE)
    assert prompt in (r"\$\ ", r"\#\ "), block
    assert not first, f"{block}: something is said before anything is asked"
    for part in parts:
        command, *said = part.rstrip().splitlines()
        yield command, said


def alike(said: list[str]) -> list[str]:
    """Without what differs from one time to the next, and without empty lines."""
    lines = [" ".join(_NUMBER.sub("#", line).split()) for line in said if line.strip()]
    return ['"Value" : …' if line.startswith('"Value"') else line for line in lines]


@pytest.mark.parametrize(
    ("documented", "said"),
    [
        (["found 1 leases", "01e36e1d9d1fcd75"], ["found 12 leases", "", "00f482b31b8351c2"]),
        (['"Value" : "\\n\\adefault"'], ['"Value" : "other"']),
        (["p1  10.0.0.5:8001   ACTIVE"], ["p1 10.0.0.5:9001 ACTIVE"]),
    ],
)
def test_numbers_are_left_aside(documented: list[str], said: list[str]) -> None:
    assert alike(documented) == alike(said)
    assert alike(documented) != alike([*said, "more"])


def test_etcd(server_factory: ServerFactory, tmp_path: Path) -> None:
    """With a real etcd, and a registry on it with one instance."""
    with EtcdCluster(tmp_path) as etcd:
        server = server_factory(store=etcd.url()).start()
        testing.register_once(
            server.address, Instance("player", "10.0.0.5", 8001, "p1"), ttl=600
        )  # whatever takes its time
        eventually(lambda: etcd.etcdctl("get", f"{PREFIX}vouched"), timeout_s=20, what="what is written every 2 s")
        [lease] = etcd.etcdctl("lease", "list").split()[-1:]
        for block in (it for it in blocks("console") if it.page == ETCD):
            for command, shown in talks(block):
                program, *words = shlex.split(command.replace("01e36e1d9d1fcd75", lease))
                assert program == "etcdctl"
                asks = words[:2] == ["user", "add"]  # for a password
                said = etcd.etcdctl(*words, *(["--interactive=false"] if asks else []), stdin=b"secret\n")
                assert not shown or alike(shown) == alike(said.splitlines()), command


def test_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown is among what is said, in that order."""
    monkeypatch.chdir(tmp_path)
    with place() as here:
        shell = Shell(here, tmp_path)
        for block in (it for it in blocks("console") if it.page != ETCD):
            for command, shown in talks(block):
                said = iter(alike(shell.run(command).splitlines()))
                assert all(line in said for line in alike(shown)), command
