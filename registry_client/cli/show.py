"""SHELL: the one door to the terminal. What goes through it is made plain first; only colours of our own are not.

Who shows more than lines gets a `screen`, and makes plain what others wrote himself.
"""

from __future__ import annotations

import logging
import shutil
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

import click
from google.protobuf.json_format import Error, MessageToDict
from rich.console import Console
from rich.live import Live

from registry_client.cli.plain import document, plain
from registry_client.cli.table import lay_out
from registry_client.errors import InvalidAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

    from registry_client.cli.table import Column

REFUSED, USAGE, UNREACHABLE = 1, 2, 3
_LONGEST = 1000
"""Letters of a complaint that anybody would read."""


class CannotWrite(Exception):
    """The output takes no more, and not because nobody reads it."""


def say(text: str, *, colour: str | None = None, before: str = "") -> None:
    """One line on stdout. `before` stands in front of what is coloured."""
    _write(plain(before) + (click.style(plain(text), fg=colour) if colour else plain(text)))


def _write(text: str, *, err: bool = False) -> None:
    try:
        click.echo(text, err=err)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWrite(error.strerror) from error


def complain(why: object) -> None:
    """One line on stderr."""
    line = plain(" ".join(str(why).split()))
    _write(f"registryctl: {line if len(line) <= _LONGEST else line[:_LONGEST] + '…'}", err=True)


def end(code: int, why: object) -> NoReturn:
    """One line on stderr, and the process ends with this exit code."""
    complain(why)
    sys.exit(code)


def say_document(content: Mapping[str, object], *, indent: int | None = 2) -> None:
    """JSON on stdout, on one line with `indent=None`."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    _write(document(content, indent=indent, unicode=encoding.startswith("utf")))


def say_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, wide: bool) -> None:
    """A table on stdout: for a pipe, or if `wide`, of any width, else of the terminal's where that is enough."""
    for_people = not wide and sys.stdout is not None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if for_people else None
    head, *lines = lay_out(columns, [list(map(plain, row)) for row in rows], width)
    _write("\n".join([click.style(head, bold=True), *lines]))


def screen() -> Live | None:
    """The whole terminal, to be entered; None where there is none, or one that cannot be drawn on."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    console = Console(file=sys.stdout)
    if console.is_dumb_terminal:
        return None
    return Live(
        console=console,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        vertical_overflow="crop",
    )


def as_dict(message: Message) -> dict[str, object]:
    """A message with the names of proto3's JSON, unset fields too. Raises InvalidAnswer for what JSON cannot say."""
    try:
        content: dict[str, object] = MessageToDict(message, always_print_fields_with_no_presence=True)
    except (ValueError, OverflowError, Error) as error:
        raise InvalidAnswer(f"the answer cannot be shown as JSON: {error}") from None
    return content


class LogLines(logging.Handler):
    """What the client says of its own accord, as lines like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())


def spell_what_cannot_be_written() -> None:
    """Letters that the output's encoding lacks come out as escapes, and end nothing."""
    for stream in (sys.stdout, sys.stderr):
        _soften(stream)


def _soften(stream: TextIO | None) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
