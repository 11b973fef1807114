"""SHELL: where a client lives: in one event loop of one process. Elsewhere it says so, at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from registry_client.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEE = "see docs/processes.md"
# How grpcio names the thread that waits for events on behalf of all asyncio channels of a process.
_POLLER = "_poll_wrapper"
# How gRPC's core names its own, which end a while after the last channel has closed. Linux cuts names at 15 characters.
_OF_CORE = ("event_engine", "lifeguard", "grpc_", "timer_manager", "default-executo", "resolver-execut")
# With these in the environment core begins no threads anew in a child.
_LEFT_ALONE = ("0", "f", "false", "n", "no")
_TASKS = Path("/proc/self/task")
_LETS_GO_S = 1.0
_LOOK_AGAIN_S = 0.001


@dataclass(slots=True)
class Forks:
    """Whether this process can use gRPC at all.

    gRPC for asyncio keeps a thread and locks that do not survive a fork: in the child every call would hang or crash,
    also those of new channels; and so do its other channels where core is told to care for no forks. Nothing mends
    that, and only the parent can see it coming. Once the last channel is closed core lets go of all that by itself,
    which a fork waits for.
    """

    spoiled: bool = False
    _was_at_work: bool = False
    _closed_one: bool = False
    _due: list[Callable[[], None]] = field(default_factory=list)

    @contextlib.contextmanager
    def then(self, undo: Callable[[], None]) -> Iterator[None]:
        """A block in which `undo` is called in each child, in its main thread."""
        self._due.append(undo)
        try:
            yield
        finally:
            self._due.remove(undo)

    def closed(self) -> None:
        """A client was closed, or another user of gRPC."""
        self._closed_one = True

    def before(self) -> None:
        """The process is about to fork. Waits for core, for a moment, if a client was closed since the last time."""
        if self._closed_one:
            self._closed_one = False
            _wait_for_core(time.monotonic() + _LETS_GO_S)
        self._was_at_work = _is_polling() or (_is_left_alone() and _is_core_at_work())

    def in_child(self) -> None:
        """This is the child."""
        self.spoiled = self.spoiled or self._was_at_work
        for undo in self._due:
            undo()


def _is_polling() -> bool:
    return any(_POLLER in thread.name for thread in threading.enumerate())


def _is_left_alone() -> bool:
    """Whether core is told not to care for forks."""
    return os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "").lower() in _LEFT_ALONE


def _wait_for_core(until: float) -> None:
    """Waits for core to end if it is to end; at most until then, since others of this process may use it."""
    if _is_polling():
        gc.collect()  # a call holds on to core, also one that nobody can reach any more
    while (_is_polling() or _is_core_at_work()) and time.monotonic() < until:
        time.sleep(_LOOK_AGAIN_S)


def _is_core_at_work() -> bool:
    """Whether core has threads; False where nobody can tell."""
    try:
        return any(_name_of(task).startswith(_OF_CORE) for task in _TASKS.iterdir())
    except OSError:
        return False


def _name_of(task: Path) -> str:
    try:
        return (task / "comm").read_text(errors="replace")
    except OSError:  # it has ended
        return ""


# Of the process, as is what it tells of; changed by forks alone.
FORKS = Forks()
os.register_at_fork(before=FORKS.before, after_in_child=FORKS.in_child)


def check_grpc() -> None:
    """Raises Misuse if gRPC for asyncio cannot work in this process."""
    if FORKS.spoiled:
        raise Misuse(
            "this process was forked while its parent used gRPC (a registry client or channel that was open), and gRPC"
            f" cannot work in it: connect after the fork, or start processes by 'spawn'; {SEE}"
        )
    if isinstance(threading.get_ident, types.FunctionType):  # and not the interpreter's own any more
        raise Misuse(
            "gRPC for asyncio needs threads, and those of this process are greenlets (gevent or eventlet has patched"
            f" `threading`), which would wait for each other for ever; {SEE}"
        )


def check_process(pid: int, what: str) -> None:
    """Raises Misuse unless this process is `pid`."""
    if os.getpid() != pid:
        raise Misuse(f"{what} belongs to the process that this one was forked from: connect after the fork; {SEE}")


@dataclass(frozen=True, slots=True)
class Place:
    """An event loop of a process: by default the running one, of this process."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    pid: int = field(default_factory=os.getpid)
    thread: str = field(default_factory=lambda: threading.current_thread().name)

    def check(self, what: str) -> None:
        """Raises Misuse unless this is the place."""
        check_process(self.pid, what)
        running = asyncio._get_running_loop()  # noqa: SLF001 - None, where the public one raises
        if running is self.loop:
            return
        if self.loop.is_closed():
            raise Misuse(f"{what} belongs to an event loop that has ended: connect anew in this one")
        raise Misuse(
            f"{what} belongs to the event loop of the thread {self.thread!r} and was used from"
            f" {'another loop' if running else 'no loop'} in {threading.current_thread().name!r}:"
            " connect there too, or use registry_client.sync, which all threads may share"
        )

    @property
    def is_here(self) -> bool:
        """True in the loop and the process that this is."""
        return os.getpid() == self.pid and asyncio._get_running_loop() is self.loop  # noqa: SLF001

    @property
    def is_over(self) -> bool:
        """True when nothing can live there any more, or nothing of this process does."""
        return self.loop.is_closed() or os.getpid() != self.pid
