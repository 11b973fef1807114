"""SHELL: the file of the audit log, written by a thread of its own: the disk may be slow, full or gone.

Whoever writes to the registry never waits for it. What cannot be written down is counted, said in the log of the server
once in a while, and in the file as soon as that takes lines again: `"lost": 3`. A file that was moved or deleted, as
programs do that rotate logs, is opened anew under its name.
"""

import contextlib
import logging
import os
import queue
import select
import stat
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from registry_server.audit import lines
from registry_server.rarely import Rarely

STDOUT = "-"
# So many lines may wait to be written, and so many are written at once.
MOST, AT_ONCE = 10_000, 500
# How long a pipe may take no more; how long a stop waits. In seconds.
PATIENCE_S = 1.0
STOP_S = 2.0
# Without waiting, if it is a pipe: neither for a reader, nor for one that reads no more.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
_MODE = 0o600

log = logging.getLogger(__name__)


class AuditLog:
    """A file, or `-` for the standard output; a Scribe. `now` is wall-clock time, `clock` a steady one, in seconds.

    Raises OSError if it cannot be opened. All is called by one thread. To be closed.
    """

    def __init__(
        self, path: str, now: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.written = 0  # lines, up to now
        self._dropped = 0  # because too many waited
        self._failed = 0  # because the file took no more
        self._told = 0  # of these, in the file
        self._is_torn = False  # the last line in the file has no end
        self._path = path
        self._now = now
        self._clock = clock
        self._complaints = Rarely(partial(log.warning, "%s"))
        self._file = os.dup(1) if path == STDOUT else os.open(path, _FLAGS, _MODE)
        self._lines: queue.Queue[bytes] = queue.Queue(MOST)
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry-audit", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """How many lines could not be written, up to now."""
        return self._dropped + self._failed

    def write(self, line: bytes) -> None:
        """Take a line, which ends with a newline."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1
            self._say("it does not keep up")

    def close(self) -> None:
        """Write what waits, for a moment, and let go of the file. Blocks so long."""
        self._is_closing.set()
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(b"")  # to wake it
        self._thread.join(STOP_S)

    # ---- in the thread

    def _run(self) -> None:
        while not (self._is_closing.is_set() and self._lines.empty()):
            found = [self._lines.get()]
            with contextlib.suppress(queue.Empty):
                while len(found) < AT_ONCE:
                    found.append(self._lines.get_nowait())
            self._try([line for line in found if line])
        os.close(self._file)

    def _try(self, found: Sequence[bytes]) -> None:
        """Whatever happens costs these lines, and not the ones to come."""
        before = self.written + self._failed
        try:
            if found:
                self._put(found)
        except Exception as error:
            self._failed += len(found) - (self.written + self._failed - before)
            self._say(repr(error))

    def _put(self, found: Sequence[bytes]) -> None:
        if not self._open_if_moved():
            self._failed += len(found)
            self._say("it was deleted, and cannot be opened anew")
            return
        lost = self.lost
        head = b"\n" if self._is_torn else b""
        if lost > self._told:
            head += lines.line(self._now(), {"lost": lost - self._told})
        text = head + b"".join(found)
        sent, error = self._sent(text)
        done = text[len(head) : sent].count(b"\n")
        self.written, self._failed = self.written + done, self._failed + len(found) - done
        if sent >= len(head):
            self._told = lost
        if sent:
            self._is_torn = not text[:sent].endswith(b"\n")
        if error is not None:
            self._say(error.strerror or repr(error))

    def _sent(self, text: bytes) -> tuple[int, OSError | None]:
        """How much of it is in the file, and why not all."""
        sent = 0
        while sent < len(text):
            try:
                sent += os.write(self._file, memoryview(text)[sent:])
            except BlockingIOError as full:
                if not self._may_take_more():
                    return sent, full
            except OSError as error:
                return sent, error
        return sent, None

    def _may_take_more(self) -> bool:
        """Wait a moment for it. (Not by `select`, which knows no file behind the first 1,024.)"""
        waiting = select.poll()
        waiting.register(self._file, select.POLLOUT)
        return bool(waiting.poll(0.0 if self._is_closing.is_set() else 1_000 * PATIENCE_S))

    def _open_if_moved(self) -> bool:
        """What cannot be opened anew is written on where it is. False if it was deleted: nobody would find it there."""
        if self._path == STDOUT:
            return True
        try:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(Path(self._path).stat(), os.fstat(self._file)):
                    return True
            opened = os.open(self._path, _FLAGS, _MODE)
        except OSError as error:
            if _is_deleted(self._file):
                return False
            self._say(f"it was moved, and cannot be opened anew: {error.strerror or error!r}")
            return True
        os.close(self._file)
        self._file, self._is_torn = opened, False
        return True

    def _say(self, why: str) -> None:
        text = f"the audit log {self._path}: {why}; {self.lost} lines are lost so far"
        self._complaints.tell(text, self._clock())


def _is_deleted(file: int) -> bool:
    """Whether it is no pipe, which has a reader all the same, and has no name any more."""
    it = os.fstat(file)
    return stat.S_ISREG(it.st_mode) and not it.st_nlink
