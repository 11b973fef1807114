"""The call objects of an asyncio channel: native calls whose connection is chosen late, and again when it must be.

The life of a call, from the point of view of its `_cython_call` (the attempt that grpcio's own methods work on):

    Unsent ──picked──> attempt on a node ──ended──> final
      ^  └─deadline, cancel, no endpoint──> final     │
      └──────────── never left, or retried ───────────┘

A call that finds a ready node begins on it at once; there is no task, no wrapper and no copy on that path. `Unsent`
stands in while there is no attempt, so that done(), cancel(), code() and the rest of grpcio's methods need no second
version.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from balancer import native
from balancer.aio.unsent import Unsent
from balancer.policies.base import Node, PickInfo
from balancer.pool.picker import Fail
from balancer.retry import never_left, speaks_against

if TYPE_CHECKING:
    import grpc

    from balancer.aio.connection import Subchannel
    from balancer.aio.methods import Method
    from balancer.retry import Retries

NO_SAMPLE = float("nan")
"""Latency of a streaming call: it lasts as long as the application likes, so it says nothing about the endpoint."""


class BalancedCall(native.Call):  # type: ignore[misc]
    """What the four kinds of call share: where the call goes, and what is reported of how it went."""

    _cython_call: Any
    """The attempt that grpcio's methods work on; `Unsent` when there is none."""
    _final = False
    _callbacks: list[Any] | None = None
    _node: Node | None = None
    """Where the attempt under way is counted; None when there is none."""
    _last: Any = None
    """The last attempt that was refused: its status is the call's when no other node is left."""
    _tried: tuple[Node, ...] = ()
    """Nodes of earlier attempts: the next goes elsewhere if it can."""
    _refused: tuple[Node, ...] = ()
    """Nodes that could not be connected to although the picker offered them: not again before the next picker."""
    _retries: Retries | None = None
    _not_before = 0.0
    """When the next attempt may begin."""

    def _begin_call(
        self,
        method: Method,
        timeout: float | None,
        metadata: tuple[Any, ...],
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
    ) -> None:
        self._method = method
        self._loop = method.loop
        self._metadata = metadata
        self._request_serializer = method.serializer
        self._response_deserializer = method.deserializer
        self._context = native.build_census_context()
        self._deadline = None if timeout is None else time.time() + timeout
        self._credentials = credentials
        self._wait_for_ready = wait_for_ready
        if method.retrying is not None:
            self._retries = method.retrying.begin()
        self._info = method.info(metadata)
        now = time.monotonic()
        node = method.engine.picker.pick(self._info, now)
        if node.__class__ is Node:
            self._begin_attempt(node, now)
        else:
            self._cython_call = Unsent(self._deadline)
        method.calls.add(self)

    def _begin_attempt(self, node: Node, now: float) -> None:
        subchannel: Subchannel = node.subchannel
        method = self._method
        # Never wait-for-ready: should the back end not be ready after all, another is asked rather than waited
        # for this one.
        self._cython_call = subchannel.call(
            method.path,
            self._deadline,
            self._credentials,
            False,
            subchannel.handle(method.path) if method.registered else 0,
        )
        self._node = node
        self._subchannel = subchannel
        self._started = now
        subchannel.active += 1
        node.load.started(now)

    async def _settle(self) -> bool:
        """Waits, while there is no attempt, until one begins (True) or the call ends without (False)."""
        unsent = self._cython_call
        await self._back_off(unsent)
        engine = self._method.engine
        while not unsent.done():
            pick = engine.pick(self._info)
            node = pick if pick.__class__ is Node else None
            if node is not None and node not in self._refused:
                self._begin_attempt(node, time.monotonic())
                unsent.release()
                return True
            if not self._wait_for_ready and (node is not None or pick.__class__ is Fail):
                self._give_up(unsent, pick)
            elif await engine.swapped(unsent.time_remaining()):
                self._refused = ()
            else:
                unsent.end(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        self._finish()
        return False

    async def _back_off(self, unsent: Unsent) -> None:
        pause_s = self._not_before - time.monotonic()
        if pause_s <= 0:
            return
        left_s = unsent.time_remaining()
        await asyncio.sleep(pause_s if left_s is None else min(pause_s, left_s))
        if left_s is not None and left_s <= pause_s:
            unsent.end(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def _give_up(self, unsent: Unsent, pick: Any) -> None:
        if self._last is None:
            unsent.end(StatusCode.UNAVAILABLE, pick.reason if isinstance(pick, Fail) else "no endpoint is ready")
        else:
            unsent.end_as(self._last)

    def _leave(self, rtt_s: float, ok: bool | None) -> None:
        """The attempt ended: `ok` False speaks against its node, None says nothing. Counts it once."""
        node, self._node = self._node, None
        if node is not None:
            self._count_out(node, self._subchannel, rtt_s, ok)

    def _count_out(self, node: Node, subchannel: Subchannel, rtt_s: float, ok: bool | None) -> None:
        subchannel.active -= 1
        if subchannel.draining and not subchannel.active:
            subchannel.close_soon()
        if ok is None:
            node.load.abandoned()
        elif node.load.finished(time.monotonic(), rtt_s, ok):
            self._method.engine.look_at_loads()

    def _succeeded(self, rtt_s: float) -> None:
        self._leave(rtt_s, ok=True)
        if self._retries is not None:
            self._retries.succeeded()

    def _failed(self, attempt: Any, rtt_s: float, *, committed: bool) -> bool:
        """Counts a failed attempt; True when another one is to take its place: then there is none (`Unsent`) by now."""
        node = self._node
        status = attempt._status  # noqa: SLF001 - the public way to it is a coroutine
        if attempt.is_locally_cancelled() or node is None:
            self._leave(rtt_s, None)
            return False
        refused = never_left(status.code(), status.details())
        self._leave(rtt_s, None if refused else not speaks_against(status.code()))
        if not self._another(status, refused=refused, committed=committed):
            return False
        if refused and self._method.engine.connection_failed(node, status.details()):
            self._refused = (*self._refused, node)
        self._last = attempt if refused else None
        self._tried = (*self._tried, node)
        self._info = PickInfo(self._info.key, self._tried, self._info.method, self._info.metadata)
        self._cython_call = Unsent(self._deadline)
        return True

    def _another(self, status: Any, *, refused: bool, committed: bool) -> bool:
        if refused:
            return (
                True  # nobody saw the call, so nothing is done twice: gRFC A6's transparent retry, no policy is asked
            )
        if self._retries is None:
            return False
        pause_s = self._retries.pause_after(
            status.code(), status.trailing_metadata(), self._method.engine.rng, committed=committed
        )
        if pause_s is None:
            return False
        self._not_before = time.monotonic() + pause_s
        self._metadata = self._retries.marked(self._metadata)
        return True

    def _finish(self) -> None:
        """The call has its final status: tells those who asked to be told. Idempotent."""
        if self._final:
            return
        self._final = True
        self._method.calls.discard(self)
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            callback(self)

    def _cancel(self, details: str) -> bool:
        attempt = self._cython_call
        if self._final or attempt.done():
            return False
        attempt.cancel(details)
        self._leave(NO_SAMPLE, None)
        self._finish()
        self._let_go()
        return True

    def done(self) -> bool:
        return self._final

    def add_done_callback(self, callback: Any) -> None:
        if self._final:
            callback(self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def _let_go(self) -> None:
        """Keeps of the last attempt what can still be asked for, and not the attempt.

        gRPC's core keeps a connection for as long as there is a call object that was on it, and tells who watches it
        of its end only then: users keep calls, and exceptions keep the frames that have them.
        """
        attempt = self._cython_call
        if attempt.__class__ is not Unsent and attempt.done():
            told = Unsent(self._deadline)
            told.end_as(attempt, attempt._initial_metadata)  # noqa: SLF001 - the public way to it is a coroutine
            self._cython_call = told
        self._last = None

    async def _decided(self) -> None:
        """Waits until the attempt that ended was the last."""
        while True:
            attempt = self._cython_call
            await attempt.status()
            if attempt is self._cython_call:
                return

    async def initial_metadata(self) -> Any:
        while True:
            attempt = self._cython_call
            await attempt.initial_metadata()
            if attempt is self._cython_call:
                return await super().initial_metadata()

    async def trailing_metadata(self) -> Any:
        await self._decided()
        return await super().trailing_metadata()

    async def code(self) -> Any:
        await self._decided()
        return await super().code()

    async def details(self) -> Any:
        await self._decided()
        return await super().details()

    async def debug_error_string(self) -> Any:
        await self._decided()
        return await super().debug_error_string()
