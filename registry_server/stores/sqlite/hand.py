"""SHELL: the thread that has the file open: whatever the disk does, the event loop goes on."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from registry_server.stores.sqlite.database import Database

T = TypeVar("T")

# The file is closed within so many seconds, or left to its thread: a disk may stand still.
CLOSE_S = 2.0


class _Job(NamedTuple):
    work: Callable[[Database], object]
    outcome: "asyncio.Future[Any]"


class Hand:
    """Opens a file, does one thing after the other with it, and closes it. `opened` is what tells it from others, or
    raises what opening it raises."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[object] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        # What is given up while it is being done, and the end.
        self._jobs: queue.Queue[_Job | None] = queue.Queue(3)
        self.is_at_work = True  # and may have the file, also when it was left
        # A daemon, because a disk that stands still must not keep the process from ending.
        threading.Thread(target=self._main, args=(path,), name="sqlite", daemon=True).start()

    def do(self, work: Callable[[Database], T]) -> "asyncio.Future[T]":
        """Do it in the thread. Raises what it raises. Only once what was asked for before is done, or given up."""
        outcome: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put_nowait(_Job(work, outcome))
        return outcome

    async def leave(self, last: Callable[[Database], object] | None) -> None:
        """Close the file, when what is under way is done, and `last`, if that can be."""
        if last is not None:
            self.do(last).add_done_callback(lambda outcome: outcome.cancelled() or outcome.exception())
        self._jobs.put_nowait(None)
        await asyncio.wait([self._ended], timeout=CLOSE_S)
        if self.opened.done() and not self.opened.cancelled():
            self.opened.exception()  # which somebody has seen, or nobody wants to

    # ---- in the thread

    def _main(self, path: Path) -> None:
        try:
            self._work(path)
        finally:
            self.is_at_work = False
            self._settle(self._ended, None, None)

    def _work(self, path: Path) -> None:
        try:
            database = Database(path)
        except Exception as error:
            self._settle(self.opened, None, error)
            return
        self._settle(self.opened, database.identity, None)
        while job := self._jobs.get():
            self._do(job, database)
        database.close()

    def _do(self, job: _Job, database: Database) -> None:
        try:
            result = job.work(database)
        except Exception as error:
            self._settle(job.outcome, None, error)
        else:
            self._settle(job.outcome, result, None)

    def _settle(self, outcome: "asyncio.Future[Any]", result: object, error: Exception | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(_settle, outcome, result, error)


def _settle(outcome: "asyncio.Future[Any]", result: object, error: Exception | None) -> None:
    if outcome.done():
        return
    if error is None:
        outcome.set_result(result)
    else:
        outcome.set_exception(error)
