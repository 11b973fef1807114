"""The call objects of an asyncio channel: an attempt at one endpoint, and another one when it must be.

A call that finds a ready endpoint begins there at once. What the application asks of it goes straight to that attempt,
a call object of grpc.aio; when the attempt has ended well, that was all. Only a call that finds no endpoint, or whose
attempt failed, gets a `Course`, which decides what follows.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from typing import TYPE_CHECKING, Protocol, TypeAlias

import grpc
import grpc.aio

from balancer.aio.native import CANCELLED, CODES, LOCALLY_CANCELLED, OK, at_once, outcome_of
from balancer.calls.course import Ask, Begin, Course, End, Rest
from balancer.calls.outcome import Verdict
from balancer.calls.plan import PLAIN
from balancer.calls.retry import marked
from balancer.channels.tally import NO_SAMPLE, Tally
from balancer.policies.base import Node, PickInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.aio.connection import Connection
    from balancer.aio.engine import AioEngine
    from balancer.aio.native import NativeCall, NativeMethod
    from balancer.calls.course import Step
    from balancer.calls.plan import Plan
    from balancer.channels.types import Metadata

log = logging.getLogger(__name__)

Arguments: TypeAlias = (
    "tuple[float | None, Metadata | None, grpc.CallCredentials | None, bool | None, grpc.Compression | None]"
)
"""timeout, metadata, credentials, wait_for_ready, compression: as a multi-callable takes them."""


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

    _call: Call | None
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

    def serves(self, call: Call) -> None:
        """Has the call told when the attempt ended."""
        self._call = call
        self.native.add_done_callback(self.ended)

    def ended(self, _native: object) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.attempt_ended(self)


class LooseAttempt(Attempt):
    """One that does not keep its call: a stream that nobody holds ends."""

    __slots__ = ("_owner",)

    def serves(self, call: Call) -> None:
        self._owner = weakref.ref(call)
        self.native.add_done_callback(self.ended)

    def ended(self, _native: object) -> None:
        call = self._owner()
        if call is None:
            self.out(Verdict.OURS, time.monotonic())
        else:
            call.attempt_ended(self)


class Call(grpc.aio.Call):
    """What the four kinds of call share."""

    is_unary = True
    """The time it takes says something about the endpoint."""
    attempt_type: type[Attempt] = Attempt
    attempt: Attempt | None = None
    """The attempt under way or, once the call is over, the one it ended as; None while there is none."""
    over = False
    _course: Course | None = None
    _attempts: dict[int, Attempt] | None = None
    """All attempts, once there may be more than one."""
    _ending: grpc.aio.AioRpcError | BaseException | None = None
    """How the call ended, when it did not as an attempt."""
    _cancelled = False
    _callbacks: list[Callable[[Call], None]] | None = None
    _changed: asyncio.Future[None] | None = None
    _timer: asyncio.TimerHandle | None = None
    _began = 0.0
    _channel = None
    """An older grpc.aio asks every call that some task is in for its channel when one of its own closes: it is none."""

    def __init__(self, method: Common, request: object, arguments: Arguments, info: PickInfo) -> None:
        self._method = method
        self._plan = method.plan
        self._request = request
        self._arguments = arguments
        self._info = info

    # How it begins

    def begin_on(self, node: Node, now: float) -> None:
        """Begins at an endpoint that is ready. Raises what grpc.aio raises for arguments that make no sense."""
        connection: Connection | None = node.subchannel
        if connection is None:
            self.begin_without(now)
            return
        self._began = now
        native = self._begun(connection, self._arguments)
        self.attempt = attempt = self.attempt_type(node, connection, now, 0, native)
        attempt.serves(self)

    def begin_without(self, now: float) -> None:
        """Begins with no endpoint, or with more than one to come."""
        self._began = now
        waits = self._plan.waits(self._arguments[3])
        self._course = course = Course(self._plan, self._method.engine.rng, self._deadline, wait_for_ready=waits)
        self._attempts = {}
        self._follow(course.woke(now))

    def _begun(self, connection: Connection, arguments: Arguments, *, again: bool = False) -> NativeCall:
        """Begins an attempt on a connection."""
        raise NotImplementedError

    # What follows

    def attempt_ended(self, attempt: Attempt) -> None:
        """An attempt has its status. Must not raise: grpc.aio is in the middle of something."""
        if self.over and attempt is self.attempt:
            return
        now = time.monotonic()
        rtt_s = now - attempt.started if self.is_unary else NO_SAMPLE
        course = self._course
        if course is None and at_once(attempt.native.code()) is OK:
            attempt.answered(now, rtt_s)
            retrying = self._plan.retrying
            if retrying is not None and retrying.throttle is not None:
                retrying.throttle.succeeded()
            self._finish()
            return
        try:
            self._failed(attempt, now, rtt_s)
        except Exception as error:
            log.exception("a call could not go on")
            self._break(error)

    def _failed(self, attempt: Attempt, now: float, rtt_s: float) -> None:
        engine, native = self._method.engine, attempt.native
        outcome = outcome_of(native, committed=self._committed, connected=False)
        if not attempt.out(outcome.verdict, now, rtt_s) or self.over:
            return
        if outcome.verdict is Verdict.REFUSED:
            gone = engine.connection_failed(attempt.node, at_once(native.details()))
            outcome = outcome_of(native, committed=self._committed, connected=not gone)
        if self._course is None:
            self._course = self._going_on(attempt)
        self._follow(self._course.ended(attempt.number, outcome, now))

    @property
    def _deadline(self) -> float | None:
        timeout = self._arguments[0]
        return None if timeout is None else self._began + timeout

    @property
    def _committed(self) -> bool:
        """There is no going back: another attempt cannot take this one's place."""
        return False

    def _going_on(self, attempt: Attempt) -> Course:
        waits = self._plan.waits(self._arguments[3])
        self._attempts = {0: attempt}
        return Course.going_on(self._plan, self._method.engine.rng, self._deadline, attempt.node, wait_for_ready=waits)

    def _follow(self, step: Step) -> None:
        """Does what the course says, until there is nothing to do by now."""
        course = self._course
        assert course is not None  # noqa: S101 - it is whose step this is
        while not isinstance(step, End):
            if isinstance(step, Rest):
                self._rest(step)
                return
            step = self._ask(course) if isinstance(step, Ask) else self._begin(course, step)
        self._end(step)

    def _ask(self, course: Course) -> Step:
        info = self._info
        if course.tried:
            info = PickInfo(info.key, course.tried, info.method, info.metadata)
        return course.picked(self._method.engine.pick(info), time.monotonic())

    def _begin(self, course: Course, step: Begin) -> Step:
        timeout, metadata, credentials, waits, compression = self._arguments
        now = time.monotonic()
        if self._deadline is not None:
            timeout = max(0.0, self._deadline - now)
        if step.previous:
            metadata = marked(tuple(metadata or ()), step.previous)
        connection: Connection = step.node.subchannel
        try:
            arguments = (timeout, metadata, credentials, waits, compression)
            native = self._begun(connection, arguments, again=step.previous > 0)
        except grpc.aio.UsageError:
            if not connection.closed:
                raise
            return course.not_begun(step.number, now)
        attempt = self.attempt_type(step.node, connection, now, step.number, native)
        assert self._attempts is not None  # noqa: S101 - there is a course
        self._attempts[step.number] = attempt
        if self._plan.hedging is None:
            self.attempt = attempt
            self._tell()
        attempt.serves(self)
        self._started(attempt)
        return course.begun(now)

    def _started(self, attempt: Attempt) -> None:
        """An attempt after the first, or the first of a call that waited, is under way."""

    def _rest(self, step: Rest) -> None:
        engine = self._method.engine
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.attempt is not None and self.attempt.is_out:
            self.attempt = None
        if step.until is not None:
            self._timer = engine.loop.call_later(max(0.0, step.until - time.monotonic()), self._woke)
        if step.picker or step.until is not None:
            engine.waiting[self] = None

    def _woke(self) -> None:
        if not self.over and self._course is not None:
            self._try(self._course.woke)

    def new_picker(self) -> None:
        if not self.over and self._course is not None:
            self._try(self._course.new_picker)

    def _try(self, happened: Callable[[float], Step]) -> None:
        try:
            self._follow(happened(time.monotonic()))
        except Exception as error:
            self._break(error)

    # How it ends

    def _end(self, step: End) -> None:
        attempts = self._attempts or {}
        self.attempt = None if step.by is None else attempts[step.by]
        if self.attempt is None:
            details = LOCALLY_CANCELLED if self._cancelled else step.details
            self._ending = _error(CODES[step.code], details)
        self._finish()
        for number in step.drop:
            attempts[number].native.cancel()

    def _break(self, error: BaseException) -> None:
        """Something of the caller's, or of a policy of its own, does not work: that is how the call ends."""
        attempts = [*(self._attempts or {}).values(), *([self.attempt] if self.attempt is not None else [])]
        if not self.over:
            self.attempt = None
            self._ending = error
            self._finish()
        for attempt in attempts:
            attempt.native.cancel()

    def _finish(self) -> None:
        self.over = True
        if self._course is not None:
            self._method.engine.waiting.pop(self, None)
            if self._timer is not None:
                self._timer.cancel()
        if self._changed is not None:
            self._tell()
        if self._callbacks is not None:
            callbacks, self._callbacks = self._callbacks, None
            for callback in callbacks:
                self._call_back(callback)

    def _call_back(self, callback: Callable[[Call], None]) -> None:
        try:
            callback(self)
        except Exception as error:
            context = {"message": "a callback of a call failed", "exception": error}
            self._method.engine.loop.call_exception_handler(context)

    def _tell(self) -> None:
        """Whoever waits for a change looks again."""
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)

    # For those who wait

    async def _change(self) -> None:
        """Waits until there is another attempt or the call is over."""
        if self._changed is None:
            self._changed = self._method.engine.loop.create_future()
        await asyncio.shield(self._changed)

    async def _under_way(self) -> Attempt | None:
        """The attempt under way, or the one the call ended as; None when it ended without one."""
        while self.attempt is None and not self.over:
            await self._change()
        return self.attempt

    def is_last(self, attempt: Attempt) -> bool:
        """For an attempt that has failed: no other one takes its place."""
        if not self.over and attempt is self.attempt and attempt.native.done():
            self.attempt_ended(attempt)
        return self.over and attempt is self.attempt

    async def _decided(self) -> Attempt | None:
        """Waits until the call is over."""
        while not self.over:
            await self._change()
        return self.attempt

    def _raise_ending(self) -> None:
        if self._cancelled or self._ending is None:
            raise asyncio.CancelledError
        raise self._ending

    # grpc.aio.RpcContext, grpc.aio.Call

    def cancelled(self) -> bool:
        if self.attempt is not None:
            return self.attempt.native.cancelled()
        return self.over and self._code() is CANCELLED

    def done(self) -> bool:
        return self.over

    def time_remaining(self) -> float | None:
        if self.attempt is not None:
            return self.attempt.native.time_remaining()
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

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

    def add_done_callback(self, callback: Callable[[Call], None]) -> None:
        if self.over:
            self._call_back(callback)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def _code(self) -> grpc.StatusCode:
        ending = self._ending
        return ending.code() if isinstance(ending, grpc.aio.AioRpcError) else grpc.StatusCode.UNKNOWN

    async def code(self) -> grpc.StatusCode:
        attempt = await self._decided()
        return self._code() if attempt is None else await attempt.native.code()

    async def details(self) -> str:
        attempt = await self._decided()
        if attempt is not None:
            return await attempt.native.details()
        ending = self._ending
        return (ending.details() or "") if isinstance(ending, grpc.aio.AioRpcError) else str(ending)

    async def debug_error_string(self) -> str | None:
        attempt = await self._decided()
        return None if attempt is None else await attempt.native.debug_error_string()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        attempt = await self._decided()
        return grpc.aio.Metadata() if attempt is None else await attempt.native.trailing_metadata()

    async def initial_metadata(self) -> grpc.aio.Metadata:
        while True:
            attempt = await (self._under_way() if self._plan is PLAIN else self._decided())
            if attempt is None:
                return grpc.aio.Metadata()
            metadata = await attempt.native.initial_metadata()
            if attempt is self.attempt and (self.over or not attempt.native.done() or self.is_last(attempt)):
                return metadata

    async def wait_for_connection(self) -> None:
        while True:
            attempt = await self._under_way()
            if attempt is None:
                self._raise_ending()
            else:
                try:
                    await attempt.native.wait_for_connection()
                except grpc.RpcError:
                    if self.is_last(attempt):
                        raise
                else:
                    return

    def __repr__(self) -> str:
        if self.attempt is not None:
            return repr(self.attempt.native)
        state = f"ended: {self._ending}" if self.over else "waiting for an endpoint"
        return f"<{type(self).__name__} {state}>"

    __str__ = __repr__


def _error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details, details)
