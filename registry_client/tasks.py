"""SHELL: background tasks with an owner."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from registry_api.tracing import apart

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

_T = TypeVar("_T")

log = logging.getLogger(__name__)

RESTART_S = 1.0  # the pause before a task that ended unexpectedly is begun again


class Tasks:
    """The background tasks of one owner: kept until they end, cancelled and awaited when the owner closes.

    Unlike a TaskGroup it may be closed from another task than the one that made it, so that a client fits into
    fixtures and exit stacks.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._restarts: list[asyncio.TimerHandle] = []
        self._closed = False

    def start(self, work: Coroutine[Any, Any, _T], name: str, context: Context | None = None) -> asyncio.Task[_T]:
        """Run `work` in the background until it ends or the owner closes; in the context of whoever waits for it, or
        else as part of nobody's trace."""
        task = asyncio.get_running_loop().create_task(work, name=name, context=context or apart())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def keep(self, make: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Run what `make` makes until the owner closes: whatever ends it, be it a mistake or a stranger who cancels
        it, it is begun anew after a pause. The first time that is logged, with its trace.
        """
        self._begin(make, name, 0)

    def _begin(self, make: Callable[[], Coroutine[Any, Any, None]], name: str, ends: int) -> None:
        task = self.start(make(), name)

        def on_end(ended: asyncio.Task[None]) -> None:
            if self._closed:
                return
            # Not at once: if the whole loop is ending, nothing may begin in it any more, and there is nothing to tell.
            loop = ended.get_loop()
            self._restarts = [handle for handle in self._restarts if handle.when() > loop.time()]
            self._restarts.append(loop.call_later(RESTART_S, self._begin_anew, make, ended, ends))

        task.add_done_callback(on_end)

    def _begin_anew(self, make: Callable[[], Coroutine[Any, Any, None]], ended: asyncio.Task[None], ends: int) -> None:
        error = None if ended.cancelled() else ended.exception()
        level, trace = (logging.DEBUG, None) if ends else (logging.ERROR, error)
        reason = "cancelled" if error is None else repr(error)
        log.log(level, "%s ended unexpectedly (%s) and is begun anew", ended.get_name(), reason, exc_info=trace)
        self._begin(make, ended.get_name(), ends + 1)

    async def aclose(self) -> None:
        """Cancel what still runs and wait until it has ended. What a task raised stays with the task."""
        self._closed = True
        for handle in self._restarts:
            handle.cancel()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
