"""Threads for what may take as long as it likes: users' code never runs in the channel's own loop."""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_LINGER_S = 1.0
_MOST = 64


def check_interpreter() -> None:
    """Raises RuntimeError once the interpreter is ending: whoever waited for a thread would wait for ever."""
    if sys.is_finalizing():
        raise RuntimeError("the interpreter is ending, and runs no threads any more: close the channel before")


class Workers:
    """Runs functions, each in a thread that nothing else waits for.

    A thread that is free takes the next; one that finds nothing for a while ends, so a channel at rest has none. Above
    a limit functions wait for a thread to get free.
    """

    def __init__(self, name: str, later: Callable[[Callable[[], object]], object]) -> None:
        """`later` calls a function in a moment, in whichever thread."""
        self._name = name
        self._later = later
        self._changed = threading.Condition()
        self._due: deque[Callable[[], object]] = deque()
        self._threads = 0
        self._free = 0
        self._linger_s = _LINGER_S

    def close(self) -> None:
        """Threads that are free end. What is given from now on is run all the same."""
        with self._changed:
            self._linger_s = 0.0
            self._changed.notify_all()

    def run(self, function: Callable[[], object]) -> None:
        """Runs it soon. What it raises is logged."""
        with self._changed:
            self._due.append(function)
            if len(self._due) <= self._free or self._threads >= _MOST:
                self._changed.notify()
                return
            self._threads += 1
        self._begin()

    def _begin(self) -> None:
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError:  # the system gives no more threads now: those that there are will do
            with self._changed:
                self._threads -= 1
                if self._threads:
                    return
            self._later(self._again)

    def _again(self) -> None:
        with self._changed:
            if not self._due or self._threads:
                return
            self._threads += 1
        self._begin()

    def _work(self) -> None:
        while (function := self._next()) is not None:
            try:
                function()
            except Exception:
                log.exception("a channel's worker failed")
            del function

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            self._free += 1
            try:
                if self._due or (self._changed.wait(self._linger_s) and self._due):
                    return self._due.popleft()
                self._threads -= 1
                return None
            finally:
                self._free -= 1
