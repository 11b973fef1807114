"""The help of every command has examples, which are commands."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from registry_client.cli import main
from tests.support.registryctl import runner

_EXAMPLE = re.compile(r"^ *(registryctl .*)$", re.MULTILINE)


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Each of them, and the groups, by what is typed."""
    for name, command in group.commands.items():
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


COMMANDS = dict(commands(main))


def examples(*path: str) -> list[str]:
    """In the help as it is shown, where nothing is wrapped."""
    shown = runner().invoke(main, [*path, "--help"], terminal_width=80)
    assert shown.exit_code == 0
    return _EXAMPLE.findall(shown.stdout)


def calls(line: str) -> Iterator[list[str]]:
    """The arguments of each `registryctl` in a line for a shell."""
    for part in re.split(r"[|&]+", line):
        words = [word for word in shlex.split(part) if not re.match(r"[<>]", word)]
        if words[:1] == ["registryctl"]:
            yield words[1:]


@pytest.mark.parametrize("path", ["", *COMMANDS])
def test_every_command_has_examples_that_can_be_called(
    path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("players.jsonl", "token"):
        (tmp_path / name).touch()
    called: list[str] = []
    for name, command in COMMANDS.items():
        if not isinstance(command, click.Group):
            monkeypatch.setattr(command, "callback", lambda *_, said=name, **__: called.append(said))
    found = examples(*path.split())
    assert found
    for line in found:
        for arguments in calls(line):
            done = runner().invoke(main, arguments)
            assert done.exit_code == 0, (line, done.output)
    assert any(name.startswith(path) for name in called)


def test_what_is_no_command_is_seen() -> None:
    assert list(calls("registryctl export >x | registryctl -s h2:7400 import --hold")) == [
        ["export"],
        ["-s", "h2:7400", "import", "--hold"],
    ]
    assert runner().invoke(main, ["instances", "--no-such-option"]).exit_code == 2


@pytest.mark.filterwarnings("ignore:'count' is passed:DeprecationWarning")  # older ones of click, on Python 3.13
@pytest.mark.parametrize(("typed", "at", "found"), [("ser", 1, "services"), ("events --out", 2, "--output")])
def test_a_shell_completes_commands_and_options(typed: str, at: int, found: str) -> None:
    asks = {"COMP_WORDS": f"registryctl {typed}", "COMP_CWORD": str(at), "_REGISTRYCTL_COMPLETE": "bash_complete"}
    done = runner().invoke(main, [], prog_name="registryctl", env=asks)
    assert (done.exit_code, done.stdout) == (0, f"plain,{found}\n")
    for shell in ("bash", "zsh", "fish"):
        asks = {"_REGISTRYCTL_COMPLETE": f"{shell}_source"}
        assert "_registryctl_completion" in runner().invoke(main, [], prog_name="registryctl", env=asks).stdout
