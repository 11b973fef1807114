"""SHELL: a watch that never ends by itself: streams, reconnects, the cache on disk, and the iterator users see."""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio

from protos.registry.v1 import registry_pb2 as pb
from registry_client.errors import (
    ClientClosed,
    InvalidArgument,
    PermissionDenied,
    RegistryError,
    Unauthenticated,
    from_rpc_error,
)
from registry_client.link import end
from registry_client.view import SILENCE_S, Folded, View, ViewFold

if TYPE_CHECKING:
    from random import Random

    from registry_client.backoff import Backoff
    from registry_client.cache import ViewFile
    from registry_client.instance import Instance
    from registry_client.link import Connection, Link

log = logging.getLogger(__name__)

FIRST_ANSWER_S = 2.0  # how long a cold start waits for the registry before it shows what is on disk
FIRST_RESPONSE_S = 5.0  # a stream begins with a full set, at once
SAVE_EVERY_S = 5.0
Callback = Callable[["Instance"], Awaitable[None] | None]


@dataclass(frozen=True, slots=True)
class Means:
    """What all watches of one client share. `clock` is steady, `wall_clock` is the time of day; both in seconds."""

    link: Link
    backoff: Backoff
    rng: Random
    clock: Callable[[], float]
    wall_clock: Callable[[], float]


class Feed:
    """One question followed over streams and addresses. `run` is its task; readers wait on `wait_new`."""

    def __init__(self, means: Means, question: pb.WatchRequest, file: ViewFile | None) -> None:
        self._means = means
        self._question = question
        self._file = file
        self._fold = ViewFold()
        self._new = asyncio.Event()
        self._failure: BaseException | None = None
        self.trouble = ""  # why there is no stream just now
        self._ready = False  # a registry has answered, or will not soon
        self._was_stale = False
        self._timer: asyncio.TimerHandle | None = None
        self._saved_at_s = float("-inf")
        self._unsaved = False

    # ---- what readers ask

    async def wait_new(self) -> View:
        """The newest view, once there is one that was not taken yet. Raises RegistryError if the watch was refused."""
        await self._new.wait()
        if self._failure is not None:
            raise self._failure
        self._new.clear()
        return self._fold.take(self._means.clock())

    def peek(self) -> View | None:
        """The view as it is now, if there is one to show."""
        return self._fold.peek(self._means.clock()) if self._ready and self._fold.has_view else None

    # ---- the task

    async def run(self) -> None:
        """Follow the registry until cancelled. Ends by itself only when the registry refuses the question."""
        try:
            await self._restore()
            self._arm(FIRST_ANSWER_S)
            await self._follow_on_and_on()
        except asyncio.CancelledError:
            self._fail(ClientClosed("the watch was closed"))
            raise
        except RegistryError as error:
            self._fail(error)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._disarm()
            self._save_now()

    async def _follow_on_and_on(self) -> None:
        attempt = 0
        while True:
            connection = self._means.link.current
            useful = await self._follow(connection)
            self._fold.on_disconnect(self._means.clock())
            self._means.link.rotate(connection)
            if not useful:
                self._show_stale()
            await asyncio.sleep(self._means.backoff.delay(attempt, self._means.rng))
            attempt = 0 if useful else attempt + 1

    async def _follow(self, connection: Connection) -> bool:
        """Read one stream to its end. Whether anything useful came. Raises RegistryError if asking again is no use."""
        request = pb.WatchRequest()
        request.CopyFrom(self._question)
        request.resume_token = self._fold.token
        self._fold.on_connect()
        call = connection.stub.Watch(request)
        useful = False
        try:
            while True:
                async with asyncio.timeout(SILENCE_S if useful else FIRST_RESPONSE_S):
                    response = await call.read()
                if not isinstance(response, pb.WatchResponse) or not await self._take(response):
                    return useful
                useful, self.trouble = True, ""
        except TimeoutError:
            self.trouble = f"{connection.address} does not answer"
            log.warning("the watch of %s is silent", connection.address)
        except grpc.aio.AioRpcError as error:
            self._judge(error, connection)
        finally:
            await end(call)
        return useful

    def _judge(self, error: grpc.aio.AioRpcError, connection: Connection) -> None:
        """Decide whether a broken stream is worth another try. A question that was answered before always is."""
        failure = from_rpc_error(error, "watch")
        self.trouble = f"{connection.address}: {failure}"
        log.debug("the watch of %s ended: %s", connection.address, failure)
        if isinstance(failure, InvalidArgument) and self._fold.token:
            self._fold.token = ""  # not a token of this registry
        elif isinstance(failure, InvalidArgument | PermissionDenied | Unauthenticated) and not self._fold.has_view:
            raise failure

    async def _take(self, response: pb.WatchResponse) -> bool:
        """Fold one response in. False when the stream is of no more use."""
        folded = self._fold.on_response(response, self._means.clock())
        if folded is Folded.MISMATCH:
            log.warning("the watch missed something: the checksum does not match; it starts anew")
            return False
        if folded is not Folded.PART:
            self._show(changed=folded is Folded.CHANGED)
            await self._save()
        return True

    # ---- showing

    def _show(self, *, changed: bool) -> None:
        """Wake the readers when there is something to see: another set, the first set, or staleness that flipped."""
        stale = self._fold.stale_for(self._means.clock()) is not None
        first, self._ready = not self._ready, True
        if changed or first or stale != self._was_stale:
            self._new.set()
        self._was_stale = stale
        self._unsaved |= changed or first
        self._arm()

    def _show_stale(self) -> None:
        """The registry is out of reach: what is known is shown as old. If nothing is known, readers go on waiting."""
        if not self._was_stale:
            log.warning("the registry cannot be reached; watches show what they know")
        self._fold.on_away()
        if self._fold.has_view:
            self._show(changed=False)

    def _arm(self, after_s: float | None = None) -> None:
        """Set the timer for what time alone changes."""
        self._disarm()
        tick_at = self._fold.next_tick()
        now = self._means.clock()
        delay_s = min(
            SILENCE_S if after_s is None else after_s, SILENCE_S if tick_at is None else max(0.0, tick_at - now)
        )
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        changed = self._fold.tick(self._means.clock())
        if self._fold.has_view:
            self._show(changed=changed)

    def _fail(self, failure: BaseException) -> None:
        self._failure = failure
        self._new.set()

    # ---- on disk

    async def _restore(self) -> None:
        if self._file is None:
            return
        saved = await asyncio.to_thread(self._file.read, self._means.wall_clock())
        if saved is not None:
            self._fold.restore(saved.view, saved.token, saved.age_s, self._means.clock())

    async def _save(self) -> None:
        """Write the view down, every few seconds at most, once all in it is what the current epoch says."""
        now = self._means.clock()
        if self._file is None or not self._may_save() or now - self._saved_at_s < SAVE_EVERY_S:
            return
        self._saved_at_s = now
        view, token = self._fold.peek(now), self._fold.token
        await asyncio.to_thread(self._file.write, view, token, self._means.wall_clock())
        self._unsaved = self._fold.token != token

    def _save_now(self) -> None:
        """The same at the end, when nothing may be awaited any more."""
        if self._file is not None and self._may_save():
            self._file.write(self._fold.peek(self._means.clock()), self._fold.token, self._means.wall_clock())

    def _may_save(self) -> bool:
        return self._unsaved and self._fold.is_settled


class Watch:
    """An endless iterator over the views of a watch: `async for view in registry.watch("player")`.

    The first view comes once the registry has said what there is; at a cold start without a registry it is the one
    from disk, marked stale. Then one comes whenever the set changes, a new epoch begins, or staleness begins or ends.
    Who is slow gets the newest view, whose `changes` cover all that was skipped. It ends with RegistryError only when
    the registry refuses the question. Dropping the iterator ends the watch; `aclose`, or `async with`, ends it at once.
    """

    def __init__(self, feed: Feed, task: asyncio.Task[None]) -> None:
        self._feed = feed
        self._task = task
        # A loop that is left by `break` drops its iterator, and nobody can say so but the collector.
        self._finalizer = weakref.finalize(self, _cancel_soon, task)
        self._finalizer.atexit = False

    @property
    def view(self) -> View | None:
        """The latest view as it is now, without changes; None before there is one."""
        return self._feed.peek()

    @property
    def trouble(self) -> str:
        """Why no registry tells of changes just now; empty while one does, or before the first answer was due."""
        return self._feed.trouble

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> View:
        return await self._feed.wait_new()

    async def aclose(self) -> None:
        """End the watch. May be called more than once."""
        self._finalizer.detach()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _cancel_soon(task: asyncio.Task[Any]) -> None:
    loop = task.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)


class Subscription:
    """Callbacks on a watch, until `cancel`."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def cancel(self) -> None:
        """Call no callback any more. May be called more than once."""
        self._task.cancel()

    @property
    def is_active(self) -> bool:
        """True until it is cancelled, its client closes, or the registry refuses the question (which is logged)."""
        return not self._task.done()


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Whom to call for an instance that was added, updated, removed."""

    added: Callback | None = None
    updated: Callback | None = None
    removed: Callback | None = None

    async def run(self, watch: Watch) -> None:
        """Call them for every change. What a callback raises is logged and ends nothing."""
        async with watch:
            try:
                async for view in watch:
                    await self._tell(view)
            except RegistryError as error:
                log.error("the callbacks end: %s", error)  # noqa: TRY400 - it is an answer, its origin here tells nothing

    async def _tell(self, view: View) -> None:
        changes = view.changes
        for callback, instances in (
            (self.added, changes.added),
            (self.updated, changes.updated),
            (self.removed, changes.removed),
        ):
            for instance in instances if callback else ():
                await _call(callback, instance)


async def _call(callback: Callback | None, instance: Instance) -> None:
    if callback is None:
        return
    try:
        result = callback(instance)
        if inspect.isawaitable(result):
            await result
    except Exception:
        log.exception("the callback %r failed for %s", callback, instance.key)
