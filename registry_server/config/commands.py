"""The commands `registry-server config …`: what may be set, whether it is right, and what holds."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click

from registry_server.access.reading import written
from registry_server.config.sources import DEFAULT, SETTINGS, VARIABLES, Loaded, load
from registry_server.config.values import ConfigError, ServiceDefaults
from registry_server.standard import complain
from registry_server.stores import BadStoreURL, hidden, kinds, nearest, template
from registry_server.transport.limits import Limits

WIDTH = 110
ACCESS = """\
#   [access]
#   anonymous = []  # what those may do who show nothing
#   [access.identities.game-servers]
#   tokens = ["sha256:…"]  # `registry-server token new game-servers` prints a token, and what stands here
#   certificates = ["spiffe://example/game"]  # names in client certificates, with * for any characters
#   grants = ["register default/player", "read */*"]  # read, register, operate or admin, then namespace/service
"""

_URL = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says of the settings."""

    flags: dict[str, str | None]
    file: Path | None

    def load(self) -> Loaded:
        """The settings. Raises ConfigError."""
        return load(self.flags, os.environ, self.file)


@click.group("config")
def config_commands() -> None:
    """Look at the settings: all that there are, those of a file, those that hold."""


@config_commands.command("template")
@click.argument("kind", default="memory")
def config_template(kind: str) -> None:
    """Print a TOML file of every setting, for that KIND of store."""
    if kind not in kinds():
        raise ConfigError(f"config template: no such kind of store; {nearest(kind, kinds())}")
    try:
        table = template(kind)
    except BadStoreURL as error:  # somebody else's cannot be loaded
        raise ConfigError(f"config template: {error}") from None
    click.echo("\n".join(_template(kind, table)))


def _template(kind: str, table: str) -> Iterator[str]:
    yield "# Settings of registry-server (--config FILE), with what holds where a line is a comment. Flags (--listen)"
    yield "# win over the environment (REGISTRY_LISTEN), which wins over this file."
    for setting in SETTINGS:
        yield from ("", *_comment(setting.metadata["says"]))
        if setting.name != "store":
            yield f"# {setting.name} = {_toml(setting.default)}"
        elif table:
            yield "# Here it is a table, [store] below."
        else:
            yield f'store = "{kind}:"'
    if table:
        yield from ("", "[store]", f'type = "{kind}"', table.rstrip())
    yield from ("", *_comment("What holds for those who register and say nothing of it; seconds, or such as '30s'."))
    yield from ("[service]", *_defaults(ServiceDefaults))
    yield from ("", *_comment("What a client may cost; times are in seconds. docs/protocol.md has more of it."))
    yield from ("[limits]", *_defaults(Limits))
    yield from ("", *_comment("Who may do what: docs/security.md. Without this table everybody may do everything."))
    yield from ACCESS.splitlines()


def _defaults(table: type[Any]) -> Iterator[str]:
    return (f"# {it.name} = {_toml(it.default)}" for it in fields(table))


def _comment(text: str) -> Iterator[str]:
    line = "#"
    for word in text.split():
        if len(line) + len(word) > WIDTH:
            yield line
            line = "#"
        line += f" {word}"
    yield line


@config_commands.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def config_check(file: Path) -> None:
    """Say all that is wrong with a FILE, a line for each mistake; nothing is opened."""
    try:
        loaded = load({}, {name: value for name, value in os.environ.items() if name not in VARIABLES}, file)
        _check_guard(loaded)
    except ConfigError as error:
        for problem in error.problems:
            complain(str(problem))
        raise SystemExit(2) from None
    click.echo(f"{file}: ok")


def _check_guard(loaded: Loaded) -> None:
    if unguarded := loaded.config.unguarded():
        raise ConfigError(replace(unguarded, where=loaded.where.get(unguarded.name, "")))


@config_commands.command("show")
@click.pass_obj
def config_show(given: Given) -> None:
    """Print every setting, and where it is from. Passwords are left out."""
    loaded = given.load()
    for name, value in _all(loaded):
        click.echo(f"{name} = {_toml(value)}  # {loaded.where.get(name, DEFAULT)}")


def _all(loaded: Loaded) -> Iterator[tuple[str, object]]:
    for setting in SETTINGS:
        value = getattr(loaded.config, setting.name)
        yield setting.name, value if setting.repr else _URL.sub(lambda it: hidden(it[0]), value)
    for table in ("service", "limits"):
        values = getattr(loaded.config, table)
        yield from ((f"{table}.{it.name}", getattr(values, it.name)) for it in fields(values))
    yield from written(loaded.config.access)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, int):
        return str(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
