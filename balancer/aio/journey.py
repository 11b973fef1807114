"""A call of an asyncio channel on its way: an attempt at one endpoint, and another one when it must be.

A call that finds a ready endpoint begins there at once. What the application asks of it goes straight to that attempt,
a call object of grpc.aio; when the attempt has ended well, that was all. Only a call that finds no endpoint, or whose
attempt failed, gets a `Course`, which decides what follows.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from typing import TYPE_CHECKING, Protocol

import grpc
import grpc.aio

from balancer.aio.native import CODES, LOCALLY_CANCELLED, OK, at_once, code_of, outcome_of
from balancer.calls.outcome import Verdict
from balancer.calls.plan import PLAIN
from balancer.channels.journey import Journey
from balancer.channels.tally import NO_SAMPLE, Tally
from balancer.numbers import BROKEN, SUCCEEDED
from balancer.pulse import SLIP_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.aio.connection import Connection
    from balancer.aio.engine import AioEngine, Waiter
    from balancer.aio.native import NativeCall, NativeMethod
    from balancer.calls.course import End, Rest, Step
    from balancer.calls.plan import Plan
    from balancer.channels.types import Arguments
    from balancer.policies.base import Node, PickInfo

log = logging.getLogger(__name__)


class Common(Protocol):
    """What all calls of one method have in common."""

    engine: AioEngine
    plan: Plan
    replay_limit: int | None
    """Bytes of requests to keep for another attempt; None: nothing tries again."""

    def at(self, connection: Connection, again: bool) -> NativeMethod:
        """The multi-callable of the method on a connection; `again`: for attempts that others went before."""


class Attempt(Tally):
    """One attempt of a call. The call lives on until it has ended."""

    __slots__ = ("_call", "native", "number")

    _call: AioJourney | None
    connection: Connection

    def __init__(self, node: Node, connection: Connection, now: float, number: int, native: NativeCall) -> None:
        # All that nearly every call does is written out here and in `answered`: it is done for each.
        self.node, self.connection, self.started, self._open = node, connection, now, True
        self.number, self.native = number, native
        node.load.started(now)
        connection.active += 1

    def answered(self, now: float, rtt_s: float) -> None:
        """As `out`, for an attempt that ended well."""
        if self._open:
            self._open = False
            connection = self.connection
            if self.node.load.finished(now, rtt_s):
                connection.alarm()
            connection.left()

    def serves(self, call: AioJourney) -> None:
        """Has the call told when the attempt ended."""
        self._call = call
        self.native.add_done_callback(self.ended)

    def ended(self, _native: object) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.attempt_ended(self)

    def let_go(self) -> None:
        """Its call is over without it, and has been counted."""


class LooseAttempt(Attempt):
    """One that does not keep its call: a stream that nobody holds ends."""

    __slots__ = ("_owner",)

    def serves(self, call: AioJourney) -> None:
        self._owner: weakref.ref[AioJourney] | None = weakref.ref(call)
        self.native.add_done_callback(self.ended)

    def let_go(self) -> None:
        self._owner = None

    def ended(self, _native: object) -> None:
        owner = self._owner
        call = None if owner is None else owner()
        if call is not None:
            call.attempt_ended(self)
            return
        self.out(Verdict.OURS, time.monotonic())
        if owner is not None:
            self.connection.forgotten()


class LooseWaiter:
    """What waits on behalf of a call that it does not keep: a stream that nobody holds ends."""

    __slots__ = ("_owner",)

    def __init__(self, call: AioJourney) -> None:
        self._owner = weakref.ref(call)

    def new_picker(self) -> None:
        """As a call does, if there is one still."""
        if (call := self._owner()) is not None:
            call.new_picker()

    def woke(self) -> None:
        """As a call does, if there is one still."""
        if (call := self._owner()) is not None:
            call.woke()

    def cancel(self) -> bool:
        call = self._owner()
        return call is not None and call.cancel()


class AioJourney(Journey[Attempt, "Connection"]):
    """How the four kinds of call get from their begin to their end."""

    is_unary = True
    """The time it takes says something about the endpoint."""
    attempt_type: type[Attempt] = Attempt
    _engine: AioEngine
    _ending: grpc.aio.AioRpcError | BaseException | None = None
    """How the call ended, when it did not as an attempt."""
    _cancelled = False
    _callbacks: list[Callable[..., None]] | None = None
    _changed: asyncio.Future[None] | None = None
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, method: Common, request: object, arguments: Arguments, info: PickInfo) -> None:
        self._method = method
        self._engine = method.engine
        self._plan = method.plan
        self._request = request
        self._arguments = arguments
        self._info = info

    # How it begins

    def begin_on(self, node: Node, now: float) -> None:
        """Begins at an endpoint that is ready. Raises what grpc.aio raises for arguments that make no sense."""
        connection: Connection | None = node.connection
        if connection is None:
            self.begin_without(now)
            return
        self._began = now
        native = self._begun(node, connection, self._arguments, 0, again=False)
        self.attempt = attempt = self.attempt_type(node, connection, now, 0, native)
        attempt.serves(self)

    def begin_without(self, now: float) -> None:
        """Begins with no endpoint, or with more than one to come."""
        self._began = now
        self._follow(self._plot().woke(now))

    def _native(self, connection: Connection, arguments: Arguments, *, again: bool = False) -> NativeCall:
        """Begins an attempt on a connection."""
        raise NotImplementedError

    def _begun(
        self, node: Node, connection: Connection, arguments: Arguments, number: int, *, again: bool
    ) -> NativeCall:
        if self._spans is None:
            return self._native(connection, arguments, again=again)
        return self._spans.attempt(number, node, arguments, lambda it: self._native(connection, it, again=again))

    def _set_out(
        self,
        node: Node,
        connection: Connection,
        arguments: Arguments,
        now: float,
        number: int = 0,
        *,
        again: bool = False,
    ) -> Attempt | None:
        try:
            native = self._begun(node, connection, arguments, number, again=again)
        except grpc.aio.UsageError:
            if not connection.closed:
                raise
            return None
        return self.attempt_type(node, connection, now, number, native)

    def _started(self, attempt: Attempt) -> None:
        attempt.serves(self)
        if self._plan.hedging is None:
            self.attempt = attempt
            self._tell()

    # What follows

    def attempt_ended(self, attempt: Attempt) -> None:
        """An attempt has its status. Must not raise: grpc.aio is in the middle of something."""
        if self.over and attempt is self.attempt:
            return
        now = time.monotonic()
        rtt_s = now - attempt.started if self.is_unary else NO_SAMPLE
        if rtt_s > SLIP_S:
            rtt_s = self._engine.pulse.latency_s(attempt.started, now)
        if self._course is None and at_once(attempt.native.code()) is OK:
            attempt.answered(now, rtt_s)
            if self._plan is not PLAIN:
                self._plan.succeeded()
            self._count(SUCCEEDED, now)
            self._finish()
            return
        try:
            self._failed(attempt, now, rtt_s)
        except Exception as error:
            log.exception("a call could not go on")
            self._break(error)

    def _failed(self, attempt: Attempt, now: float, rtt_s: float) -> None:
        native = attempt.native
        outcome = self._judged(outcome_of(native, committed=self._committed, connected=False), attempt, now)
        if not attempt.out(outcome.verdict, now, rtt_s) or self.over:
            return
        if outcome.verdict is Verdict.REFUSED:
            gone = self._engine.connection_failed(attempt.node, at_once(native.details()))
            outcome = outcome_of(native, committed=self._committed, connected=not gone)
        course = self._course or self._plot(attempt)
        self._follow(course.ended(attempt.number, outcome, now))

    @property
    def _committed(self) -> bool:
        """There is no going back: another attempt cannot take this one's place."""
        return False

    def _rest(self, step: Rest) -> None:
        engine = self._engine
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.attempt is not None and self.attempt.is_out:
            self.attempt = None
        if step.until is not None:
            self._timer = engine.loop.call_later(max(0.0, step.until - time.monotonic()), self._waiter.woke)
        if step.picker or step.until is not None:
            engine.waiting[self._waiter] = None

    @property
    def _waiter(self) -> Waiter:
        """What waits on its behalf while it has no attempt."""
        return self

    def woke(self) -> None:
        if not self.over and self._course is not None:
            self._try(self._course.woke)

    def new_picker(self) -> None:
        """There is another picker. Does not raise."""
        if not self.over and self._course is not None:
            self._try(self._course.new_picker)

    def _try(self, happened: Callable[[float], Step]) -> None:
        try:
            self._follow(happened(time.monotonic()))
        except Exception as error:
            self._break(error)

    # How it ends

    def cancel(self) -> bool:
        if self.over:
            return False
        attempt = self.attempt
        if attempt is not None and self._plan.hedging is None:
            return attempt.native.cancel()
        self._cancelled = True
        if self._course is not None:
            self._follow(self._course.cancelled())
        return True

    def _end(self, step: End) -> None:
        attempts = self._attempts or {}
        self.attempt = None if step.by is None else attempts[step.by]
        if self.attempt is None:
            details = LOCALLY_CANCELLED if self._cancelled else step.details
            self._ending = _error(CODES[step.code], details)
        code = CODES[step.code] if self.attempt is None else at_once(self.attempt.native.code())
        self._count(code.name, time.monotonic())
        self._finish()
        for number in step.drop:
            attempts[number].native.cancel()

    def _break(self, error: BaseException) -> None:
        """Something of the caller's, or of a policy of its own, does not work: that is how the call ends."""
        attempts = [*(self._attempts or {}).values(), *([self.attempt] if self.attempt is not None else [])]
        if not self.over:
            self.attempt = None
            self._ending = error
            self._count(BROKEN, time.monotonic())
            self._finish()
        for attempt in attempts:
            attempt.native.cancel()

    def _count(self, code: str, now: float) -> None:
        counts = self._engine.counts
        if counts is not None:
            counts.ended(code, now - self._began if self.is_unary else NO_SAMPLE)

    def _finish(self) -> None:
        self.over = True
        if self._course is not None:
            self._engine.waiting.pop(self._waiter, None)
            for attempt in (self._attempts or {}).values():
                attempt.let_go()
            if self._timer is not None:
                self._timer.cancel()
        if self._spans is not None:
            self._spans.over(self._code().value[0] if self.attempt is None else code_of(self.attempt.native))
        if self._changed is not None:
            self._tell()
        if self._callbacks is not None:
            callbacks, self._callbacks = self._callbacks, None
            for callback in callbacks:
                self._call_back(callback)

    def _call_back(self, callback: Callable[..., None]) -> None:
        try:
            callback(self)
        except Exception as error:
            context = {"message": "a callback of a call failed", "exception": error}
            self._engine.loop.call_exception_handler(context)

    def _tell(self) -> None:
        """Whoever waits for a change looks again."""
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)

    # For those who wait

    async def _change(self) -> None:
        """Waits until there is another attempt or the call is over."""
        if self._changed is None:
            self._changed = self._engine.loop.create_future()
        await asyncio.shield(self._changed)

    async def _under_way(self) -> Attempt | None:
        """The attempt under way, or the one the call ended as; None when it ended without one."""
        while self.attempt is None and not self.over:
            await self._change()
        return self.attempt

    async def is_last(self, attempt: Attempt) -> bool:
        """For an attempt that has failed: no other one takes its place."""
        if not self.over and attempt is self.attempt and attempt.native.done():
            self.attempt_ended(attempt)
        return self.over and attempt is self.attempt

    async def _decided(self) -> Attempt | None:
        """Waits until the call is over."""
        while not self.over:
            await self._change()
        return self.attempt

    def _code(self) -> grpc.StatusCode:
        """Of a call that ended without an attempt."""
        ending = self._ending
        return ending.code() if isinstance(ending, grpc.aio.AioRpcError) else grpc.StatusCode.UNKNOWN

    def _raise_ending(self) -> None:
        if self._cancelled or self._ending is None:
            raise asyncio.CancelledError
        raise self._ending


def _error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details, details)
