"""SHELL: writes lines of the log to a file, a terminal or a pipe, and waits for nobody who does not read them."""

import logging
import os
import select

STDERR = 2
# A pipe that takes anything takes so much at once without waiting.
PIECE_BYTES = 4096
# How long a reader may need who has taken so many lines without being waited for; else none is waited for.
PATIENCE_S, TRUSTED = 0.1, 100


class LogWriter(logging.Handler):
    """Writes to the descriptor `file`. The next line that is taken says how many were left out before it."""

    def __init__(self, file: int = STDERR, encoding: str = "utf-8", patience_s: float = PATIENCE_S) -> None:
        super().__init__()
        self._file = file
        self._encoding = encoding
        self._patience_ms = 1000 * patience_s
        self._left_out = 0
        self._taken = TRUSTED  # lines, since somebody was waited for
        self._is_torn = False  # the last line has no end

    def emit(self, record: logging.LogRecord) -> None:
        """See Handler."""
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if not self._takes_more():
            self._left_out += 1
            return
        if self._left_out:
            why = "%d lines before this are missing: nobody took them"
            note = logging.LogRecord(record.name, record.levelno, "", 0, why, (self._left_out,), None)
            line = f"{self.format(note)}\n{line}"
        if self._write(("\n" * self._is_torn + line + "\n").encode(self._encoding, "backslashreplace")):
            self._left_out, self._is_torn = 0, False
            self._taken += 1
        else:
            self._left_out += 1

    def _write(self, data: bytes) -> bool:
        """Whether all of it is written."""
        at = 0
        try:
            while at < len(data) and (at == 0 or self._takes_more()):
                at += os.write(self._file, data[at : at + PIECE_BYTES])
        except OSError:  # it is full, or nobody is there any more
            pass
        self._is_torn = self._is_torn or 0 < at < len(data)
        return at == len(data)

    def _takes_more(self) -> bool:
        """Whether writing a piece now keeps nobody waiting. (Not by `select`, which knows no file behind the first
        1,024.)"""
        asked = select.poll()
        asked.register(self._file, select.POLLOUT)
        if asked.poll(0):
            return True
        is_trusted, self._taken = self._taken >= TRUSTED, 0
        return is_trusted and bool(asked.poll(self._patience_ms))
