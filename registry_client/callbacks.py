"""SHELL: callbacks on a watch. Whatever a callback does, it harms itself alone.

Coroutine functions are called in the loop, each in a task of its own. Plain functions are called in a thread that
belongs to their subscription, so that one that blocks stops neither the loop nor anybody else's callbacks. Either way
one call follows the other. What happens meanwhile is not queued: the watch remembers what was told last, and the next
calls tell what differs from that.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from registry_client import checks
from registry_client.errors import RegistryError
from registry_client.thread import Baton

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry_client.health import Health
    from registry_client.instance import Instance, Key, Removed
    from registry_client.view import View
    from registry_client.watcher import Watch

log = logging.getLogger(__name__)

Callback = Callable[["Instance"], Awaitable[object] | object]
RemovedCallback = Callable[["Removed"], Awaitable[object] | object]
OnHealth = Callable[["Instance", "Health", "Health"], Awaitable[object] | object]
END_S = 1.0  # how long an ended subscription waits for the callback that is under way
# In a callback, and in all that it starts: whose callback that is.
_WITHIN: ContextVar[Subscription | None] = ContextVar("registry_client_within", default=None)


class Call(NamedTuple):
    """One callback to be called, and for which instance."""

    callback: Callable[[Any], Awaitable[object] | object]
    instance: Instance


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Whom to call for an instance that was added, updated, removed."""

    added: Callback | None = None
    updated: Callback | None = None
    removed: RemovedCallback | None = None

    def __post_init__(self) -> None:
        for name, callback in (("added", self.added), ("updated", self.updated), ("removed", self.removed)):
            if callback is not None and not callable(callback):
                raise checks.wrong_type(name, "must be a function of one instance, or None", callback)

    def batches(self, view: View) -> list[list[Call]]:
        """What to call for a view, in order; within a batch all are coroutine functions, or none is."""
        changes = view.changes
        told: tuple[tuple[Callable[[Any], object] | None, Sequence[Instance]], ...] = (
            (self.added, changes.added),
            (self.updated, changes.updated),
            (self.removed, changes.removed),
        )
        return [[Call(callback, it) for it in instances] for callback, instances in told if callback and instances]


class HealthChanges:
    """Calls back when the health of an instance is another than it was: callbacks of a watch, with a memory."""

    def __init__(self, callback: OnHealth) -> None:
        self._callback = callback
        self._known: dict[Key, Health] = {}

    def added(self, instance: Instance) -> None:
        """It is there."""
        self._known[instance.key] = instance.health

    def updated(self, instance: Instance) -> Awaitable[object] | None:
        """Something of it has changed."""
        before = self._known.get(instance.key, instance.health)
        self._known[instance.key] = instance.health
        if before is instance.health:
            return None
        result = self._callback(instance, before, instance.health)
        return result if inspect.isawaitable(result) else None

    def removed(self, instance: Instance) -> None:
        """It is gone."""
        self._known.pop(instance.key, None)


class Subscription:
    """Callbacks on a watch, until `cancel`."""

    def __init__(self, watch: Watch, callbacks: Callbacks) -> None:
        self._watch = watch
        self._callbacks = callbacks
        self._loop = asyncio.get_running_loop()
        self._thread = CallThread(self)
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._left_within = False  # it was ended by one of its own callbacks, which is not to be waited for

    def begin(self, task: asyncio.Task[None]) -> None:
        """`task` is what runs `run`."""
        self._task = task

    def cancel(self) -> None:
        """Call no callback any more. From any thread, and from within a callback, which then goes on to its end.

        A coroutine that is under way otherwise is cancelled; nothing waits for a plain function. May be called more
        than once.
        """
        self._cancelled = True
        self.leave_within()
        self._thread.stop()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._cancel_task)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def leave_within(self) -> None:
        """If this is called from within a callback: do not wait for that one, nor cancel it, when all ends."""
        self._left_within |= _WITHIN.get() is self

    @property
    def is_active(self) -> bool:
        """True until it is cancelled, its client closes, or the registry refuses the question (which is logged)."""
        return not self._cancelled and self._task is not None and not self._task.done()

    # ---- its task

    async def run(self) -> None:
        """Call the callbacks for every change, until cancelled."""
        try:
            async with self._watch:
                async for view in self._watch:
                    for batch in self._callbacks.batches(view):
                        await self._call(batch)
        except RegistryError as error:
            log.error("the callbacks end: %s", error)  # noqa: TRY400 - it is an answer, its origin here tells nothing
        finally:
            self._thread.stop()

    async def _call(self, batch: list[Call]) -> None:
        in_loop, position = is_async(batch[0].callback), 0
        while position < len(batch) and not self._cancelled:
            done, result = (1, None) if in_loop else await self._in_thread(batch[position:])
            position += done
            if in_loop or result is not None:  # what a plain function returned may have to be awaited
                await self._in_loop(batch[position - 1], result)

    async def _in_loop(self, call: Call, result: Awaitable[object] | None) -> None:
        """Call a coroutine function, or await what a plain one returned, in a task that may end however it likes."""
        task = asyncio.create_task(self._finish(call, result), name="registry-callback")
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if not self._left_within:
                task.cancel()
                await asyncio.wait([task], timeout=END_S)
            raise

    async def _finish(self, call: Call, result: Awaitable[object] | None) -> None:
        """What is raised is logged, whatever it is, unless it is the end of the subscription that it tells of."""
        _WITHIN.set(self)
        try:
            if result is None:
                result = cast("Awaitable[object]", call.callback(call.instance))
            await result
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError | GeneratorExit) and self._is_ending:
                raise
            _log_failure(call)

    @property
    def _is_ending(self) -> bool:
        return self._task is None or self._task.done() or self._task.cancelling() > 0

    async def _in_thread(self, batch: Sequence[Call]) -> tuple[int, Awaitable[object] | None]:
        """Have some of them called: how many were, and what the last one wants awaited."""
        answer: asyncio.Future[tuple[int, Awaitable[object] | None]] = self._loop.create_future()
        self._thread.call(batch, answer)
        try:
            await asyncio.wait([answer])
        except asyncio.CancelledError:
            self._thread.stop()
            if not self._left_within:
                await asyncio.wait([answer], timeout=END_S)
            answer.cancel()
            raise
        return answer.result()


def leave_within() -> None:
    """To be called before a client closes: the callback that closes it, if that is so, goes on to its end."""
    subscription = _WITHIN.get()
    if subscription is not None:
        subscription.leave_within()


def is_async(callback: object) -> bool:
    """Whether it is a coroutine function, or an object that is called like one."""
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(getattr(callback, "__call__", None))  # noqa: B004


def _log_failure(call: Call) -> None:
    name = getattr(call.callback, "__qualname__", type(call.callback).__name__)
    log.exception("the callback %s failed for %s", name, call.instance.key)


# ---- in a thread


class CallThread:
    """A daemon thread that calls plain functions, one after the other. It begins with the first of them."""

    def __init__(self, owner: Subscription) -> None:
        self._owner = owner
        self._batch: _Batch | None = None
        # No lock is held: a signal handler may stop what its own thread is about to call, and `__del__` what a thread
        # that is gone was about to.
        self._due = Baton()
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    def call(self, calls: Sequence[Call], answer: asyncio.Future[tuple[int, Awaitable[object] | None]]) -> None:
        """Call them until one returns an awaitable; `answer` gets how many were called, and that. One batch at once."""
        if self._thread is None:
            thread = threading.Thread(target=self._main, name="registry-callbacks", daemon=True)
            thread.start()
            self._thread = thread
        self._batch = _Batch(calls, answer)
        self._due.give()

    def stop(self) -> None:
        """Begin no call any more. The thread ends when the one under way does."""
        self._is_stopped = True
        self._due.give()

    def _main(self) -> None:
        _WITHIN.set(self._owner)
        while not self._is_stopped:
            self._due.take()
            batch, self._batch = self._batch, None
            if batch is not None:
                batch.give(*self._run(batch.calls))

    def _run(self, calls: Sequence[Call]) -> tuple[int, Awaitable[object] | None]:
        for number, call in enumerate(calls, 1):
            if self._is_stopped:
                break
            try:
                result = call.callback(call.instance)
            except BaseException:
                _log_failure(call)
            else:
                if inspect.isawaitable(result):
                    return number, result
        return len(calls), None


class _Batch(NamedTuple):
    calls: Sequence[Call]
    answer: asyncio.Future[tuple[int, Awaitable[object] | None]]

    def give(self, done: int, result: Awaitable[object] | None) -> None:
        """From the thread to the loop, if that is still there."""
        with contextlib.suppress(RuntimeError):
            self.answer.get_loop().call_soon_threadsafe(self._give, done, result)
            return
        _drop(result)

    def _give(self, done: int, result: Awaitable[object] | None) -> None:
        if self.answer.done():
            _drop(result)
        else:
            self.answer.set_result((done, result))


def _drop(result: Awaitable[object] | None) -> None:
    """A coroutine that will not be awaited must be told so."""
    if inspect.iscoroutine(result):
        result.close()
