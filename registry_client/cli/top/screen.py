"""SHELL: the terminal while all of it is ours: lines that are drawn anew, and keys. It is always given back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import termios
import time
import tty
from typing import TYPE_CHECKING, Any, Self

from rich.console import Group

from registry_client.cli.top.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from rich.live import Live
    from rich.text import Text

_USUAL = os.terminal_size((80, 24))
_MOST_KEYS = 1024
_NOTE_S = 10.0
"""For so long a note stays."""


class Screen:
    """To be entered in the loop that it is used in. `wake` is called by keys, a new size, and when Ctrl-Z is over."""

    def __init__(self, live: Live, press: Callable[[str], None], wake: Callable[[], object]) -> None:
        self._wake = wake
        self._note, self._note_until_s = "", 0.0
        self._live = live
        self._press = press
        self._keys = Keys()
        self._notes = _Notes(self)
        self._before: list[logging.Handler] = []
        self._as_it_was: list[Any] | None = None

    @property
    def size(self) -> os.terminal_size:
        """Columns and lines, as of now."""
        try:
            found = os.get_terminal_size(sys.stdout.fileno())
        except (OSError, ValueError):
            return _USUAL
        return found if all(found) else _USUAL

    @property
    def note(self) -> str:
        """What the client said of its own accord, a moment ago."""
        return self._note if time.monotonic() < self._note_until_s else ""

    @note.setter
    def note(self, text: str) -> None:
        self._note, self._note_until_s = text, time.monotonic() + _NOTE_S

    def draw(self, lines: Sequence[Text]) -> None:
        """Show these lines, in place of what was there."""
        self._live.console.size = self.size  # $COLUMNS does not know what became of the terminal  # type: ignore[assignment]
        for line in lines:
            line.no_wrap, line.overflow = True, "crop"
        self._live.update(Group(*lines), refresh=True)

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._before = logging.root.handlers[:]
        logging.root.handlers[:] = [self._notes]
        self._take()
        for signum, handler in self._handlers().items():
            loop.add_signal_handler(signum, handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for signum in self._handlers():
            loop.remove_signal_handler(signum)
        self._give_back()
        logging.root.handlers[:] = self._before

    def _handlers(self) -> dict[signal.Signals, Callable[[], object]]:
        return {signal.SIGWINCH: self._wake, signal.SIGTSTP: self._stand_still, signal.SIGCONT: self._go_on}

    def _take(self) -> None:
        with contextlib.suppress(termios.error, OSError, ValueError):
            stdin = sys.stdin.fileno()
            self._as_it_was = termios.tcgetattr(stdin)
            tty.setcbreak(stdin)
            asyncio.get_running_loop().add_reader(stdin, self._read, stdin)
        self._live.start()

    def _go_on(self) -> None:
        """Whoever stopped us has used the terminal meanwhile."""
        if self._as_it_was is not None:
            with contextlib.suppress(termios.error, OSError, ValueError):
                tty.setcbreak(sys.stdin.fileno())
        self._wake()

    def _give_back(self) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._live.stop()
        if self._as_it_was is not None:
            with contextlib.suppress(termios.error, OSError, ValueError):
                stdin = sys.stdin.fileno()
                asyncio.get_running_loop().remove_reader(stdin)
                termios.tcsetattr(stdin, termios.TCSADRAIN, self._as_it_was)
            self._as_it_was = None

    def _stand_still(self) -> None:
        """Ctrl-Z: the shell gets its terminal, and we get it back when we go on."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()
        self._wake()

    def _read(self, stdin: int) -> None:
        try:
            data = os.read(stdin, _MOST_KEYS)
        except OSError:
            data = b""
        if not data:  # nobody presses keys any more
            asyncio.get_running_loop().remove_reader(stdin)
        for key in self._keys.feed(data):
            self._press(key)
        self._wake()


class _Notes(logging.Handler):
    """What the client says of its own accord, for a line of the screen."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.note = record.getMessage()
