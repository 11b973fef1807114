"""SHELL: the one door to the terminal. What goes through it is made plain first; only colours of our own are not.

Who shows more than lines gets a `screen`, and makes plain what others wrote himself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Self, TextIO

import click
from google.protobuf.json_format import Error, MessageToDict

from registry_client.cli.plain import document, plain
from registry_client.cli.table import lay_out
from registry_client.errors import InvalidAnswer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from google.protobuf.message import Message
    from rich.live import Live

    from registry_client.cli.table import Column

REFUSED, USAGE, UNREACHABLE = 1, 2, 3
_LONGEST = 1000
"""Letters of a complaint that anybody would read."""
PATIENCE_S = 2.0
"""Who waits for longer sees what for."""
_REST_S = 0.25
_ERASE = "\r\x1b[2K"


class CannotWrite(Exception):
    """The output takes no more, and not because nobody reads it."""


def say(text: str, *, colour: str | None = None, before: str = "") -> None:
    """One line on stdout. `before` stands in front of what is coloured."""
    _write(plain(before) + (click.style(plain(text), fg=colour) if colour and _has_colours() else plain(text)))


def _write(text: str, *, err: bool = False) -> None:
    shown = _shown.get()
    try:
        with shown.progress.aside() if shown is not None and shown.progress is not None else contextlib.nullcontext():
            click.echo(text, err=err)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWrite(error.strerror) from error


def complain(why: object) -> None:
    """One line on stderr."""
    line = plain(" ".join(str(why).split()))
    explain(f"registryctl: {line if len(line) <= _LONGEST else line[:_LONGEST] + '…'}")


def explain(how: str) -> None:
    """A text of ours on stderr, in its lines. That nobody can read it changes nothing of what is done."""
    try:
        _write(how, err=True)
    except (BrokenPipeError, CannotWrite):
        let_go(sys.stderr)


def let_go(*streams: TextIO | None) -> None:
    """Nothing more can be written there; the interpreter must not try to, either, when it ends."""
    for stream in streams:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # a stream that is closed from the first is None
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]


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
    _write("\n".join([click.style(head, bold=True) if is_drawn_on(sys.stdout) else head, *lines]))


def screen() -> Live | None:
    """The whole terminal, to be entered; None where there is none, or one that cannot be drawn on."""
    from rich.console import Console  # which takes long to load
    from rich.live import Live

    if not is_drawn_on(sys.stdout):
        return None
    # It is one, whatever the variables say by which rich asks.
    console = Console(file=sys.stdout, force_terminal=True, force_interactive=True)
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


def _soften(stream: TextIO | None) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


# ---- what takes its time


class Progress:
    """A line on stderr while something goes on: from two seconds on, on a terminal alone, and gone when it is over.

    `total`: how many there are to be done; `until_s`: how long it takes, where that is known. One at a time: within
    another one it shows nothing.
    """

    def __init__(self, what: str, total: int = 0, *, until_s: float = 0.0) -> None:
        self._what = plain(what)
        self._total = total
        self._until_s = until_s
        self._begun_s = time.monotonic()
        self._done = 0
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._is_drawn = False
        # A thread, so that it is shown as well while the program reads, reckons, or waits in a loop of its own.
        self._drawing: threading.Thread | None = None

    def advance(self, number: int = 1) -> None:
        """So many more are done."""
        self._done += number

    def __enter__(self) -> Self:
        shown = _shown.get()
        if shown is not None and shown.progress is None and is_drawn_on(sys.stderr):
            self._begun_s = time.monotonic()
            shown.progress = self
            self._drawing = threading.Thread(target=self._draw, name="registryctl-progress", daemon=True)
            self._drawing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shown = _shown.get()
        if shown is not None and self._drawing is not None:
            self._is_over.set()
            self._drawing.join()
            shown.progress = None
            with contextlib.suppress(OSError, ValueError), self.aside():
                pass

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """The line is away meanwhile."""
        with self._lock:
            if self._is_drawn:
                self._is_drawn = False
                sys.stderr.write(_ERASE)
                sys.stderr.flush()
            yield

    def _draw(self) -> None:
        if self._is_over.wait(PATIENCE_S):
            return
        with contextlib.suppress(OSError, ValueError):  # nobody sees it any more
            while not self._is_over.is_set():
                with self._lock:
                    width = os.get_terminal_size(sys.stderr.fileno()).columns
                    sys.stderr.write(_ERASE + self.text(time.monotonic() - self._begun_s)[: max(0, width - 1)])
                    sys.stderr.flush()
                    self._is_drawn = True
                self._is_over.wait(_REST_S)

    def text(self, elapsed_s: float) -> str:
        """As of so many seconds after the begin."""
        if self._until_s:
            return f"{self._what}: {elapsed_s:.0f} of {self._until_s:g} s"
        if not self._total:
            return f"{self._what}: {f'{self._done}, ' if self._done else ''}{elapsed_s:.0f} s"
        left_s = elapsed_s * (self._total - self._done) / self._done if self._done else 0.0
        rest = f", about {left_s:.0f} s to go" if left_s >= 1 else ""
        return f"{self._what}: {self._done} of {self._total}, {elapsed_s:.0f} s{rest}"


@dataclass(slots=True)
class _Shown:
    """What one run of the program shows: what is written goes above its progress."""

    progress: Progress | None = None


_shown: ContextVar[_Shown | None] = ContextVar("shown", default=None)
# All that a run begins has it, as it is there from the first.


def begin() -> None:
    """One run of the program: it may show progress, and letters that the output lacks come out as escapes."""
    _shown.set(_Shown())
    for stream in (sys.stdout, sys.stderr):
        _soften(stream)


def is_drawn_on(stream: TextIO | None) -> bool:
    """Whether it is a terminal, and one that takes more than lines of text."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def _has_colours() -> bool:
    """No colours for who asks for none (no-color.org), whatever is in the variable."""
    return is_drawn_on(sys.stdout) and not os.environ.get("NO_COLOR")
