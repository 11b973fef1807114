"""SHELL: how commands end: when they are done, or in order when a signal comes, and at once at the second one.

What goes on for ever ends as well when nobody reads it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

_T = TypeVar("_T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signalled(Exception):
    """A signal ended the command before it was done. `exit_code` is what a shell makes of that."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.strsignal(signum))
        self.exit_code = 128 + signum


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run `main` in an event loop of its own. The first SIGINT, SIGTERM or SIGHUP cancels it, so that it leaves in
    order.

    Raises Signalled when that ended it without a result. A second SIGINT or SIGTERM kills the process.
    """
    return asyncio.run(_until_signal(main))


async def _until_signal(main: Coroutine[Any, Any, _T]) -> _T:
    loop = asyncio.get_running_loop()
    task = loop.create_task(main)
    came: list[int] = []

    def on_signal(signum: int) -> None:
        came.append(signum)
        for each in heard:
            loop.remove_signal_handler(each)
            # That a terminal is gone is often said twice, by the system and by its shell; nobody is impatient then.
            signal.signal(each, signal.SIG_IGN if each is signal.SIGHUP else signal.SIG_DFL)
        task.cancel()

    # Elsewhere nobody hears signals, and one that is ignored (by `nohup`, say) stays so.
    in_main = threading.current_thread() is threading.main_thread()
    heard = [each for each in _SIGNALS if in_main and signal.getsignal(each) is not signal.SIG_IGN]
    for each in heard:
        loop.add_signal_handler(each, on_signal, each)
    try:
        return await task
    except asyncio.CancelledError:
        if came:
            raise Signalled(came[0]) from None
        raise
    finally:
        for each in heard if not came else ():
            loop.remove_signal_handler(each)


async def while_read(main: Coroutine[Any, Any, _T]) -> _T:
    """Await `main` as long as somebody reads stdout: without that a pipe's end is noticed when the next line comes.

    Raises BrokenPipeError, as writing would.
    """
    task, gone = asyncio.create_task(main), False

    def leave() -> None:
        nonlocal gone
        gone = True
        task.cancel()

    with _told_when_unread(leave):
        try:
            return await task
        except asyncio.CancelledError:
            if gone:
                raise BrokenPipeError from None
            raise
        finally:
            task.cancel()


@contextlib.contextmanager
def _told_when_unread(leave: Callable[[], None]) -> Iterator[None]:
    """`leave` is called once, if stdout is a pipe and has lost its reader: it becomes readable by that alone."""
    loop, pipe = asyncio.get_running_loop(), _pipe()

    def on_end() -> None:
        loop.remove_reader(pipe)
        leave()

    if pipe >= 0:
        loop.add_reader(pipe, on_end)
    try:
        yield
    finally:
        if pipe >= 0:
            loop.remove_reader(pipe)


def _pipe() -> int:
    """Stdout's descriptor where it is a pipe, else -1."""
    try:
        stdout = sys.stdout.fileno()
        return stdout if stat.S_ISFIFO(os.fstat(stdout).st_mode) else -1
    except (AttributeError, OSError, ValueError):  # there is none, or it is closed, or no file
        return -1
