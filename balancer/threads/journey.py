"""A call that does not block, on its way: in several threads, and in its caller's context.

It begins in its caller's thread, if an endpoint is ready. What follows when the first attempt failed, or while there is
no endpoint, happens one event at a time, in whichever thread brought it, and never in the channel's own loop.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from collections import deque
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

import grpc

from balancer.calls.outcome import Outcome, Verdict
from balancer.calls.retry import HEADERS_SETTLE_S
from balancer.channels.journey import Journey
from balancer.channels.tally import NO_SAMPLE, Tally
from balancer.pool.picker import Wait
from balancer.pulse import SLIP_S
from balancer.threads.native import CHANNEL_CLOSED, CODES, LOCALLY_CANCELLED, Ended, outcome_of
from balancer.threads.workers import check_interpreter

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.calls.course import Course, End, Rest, Step
    from balancer.calls.plan import Plan
    from balancer.channels.types import Arguments
    from balancer.policies.base import Node, PickInfo
    from balancer.threads.connection import Connection
    from balancer.threads.engine import ThreadsEngine
    from balancer.threads.native import NativeCall, NativeError, NativeMethod
    from balancer.threads.requests import Source

log = logging.getLogger(__name__)

Event: TypeAlias = "Callable[[Course, float], Step]"


class Common(Protocol):
    """What all calls of one method have in common."""

    engine: ThreadsEngine
    plan: Plan
    is_unary: bool
    """The time a call takes says something about the endpoint."""
    streams_responses: bool
    is_future_of_a_stream: bool

    def at(self, connection: Connection, again: bool) -> NativeMethod:
        """The multi-callable of the method on a connection; `again`: for attempts that others went before."""


class Attempt(Tally):
    """One attempt of a call, which it does not keep: a call that nobody holds ends."""

    __slots__ = ("_owner", "native", "number")

    native: NativeCall | NativeError

    def __init__(self, call: ThreadsJourney, node: Node, connection: Connection, now: float, number: int) -> None:
        super().__init__(node, connection, now)
        self._owner: weakref.ref[ThreadsJourney] | None = weakref.ref(call)
        self.number = number

    @classmethod
    def failed(cls, native: NativeError, connection: Connection, started: float) -> Attempt:
        """A call's first, made without it, which has failed; counted in, and yet to be counted out."""
        attempt = cls.__new__(cls)
        attempt.take(connection.node, connection, started)
        attempt.number, attempt.native = 0, native
        return attempt

    @property
    def call(self) -> NativeCall:
        """The native call, for an attempt that is under way or was once."""
        return cast("NativeCall", self.native)

    def let_go(self) -> None:
        """Its call is over without it, and has been counted."""
        self._owner = None

    def ended(self, _native: object) -> None:
        owner = self._owner
        call = None if owner is None else owner()
        if call is not None:
            call.attempt_ended(self)
            return
        self.out(Verdict.OURS, time.monotonic())
        if owner is not None:
            cast("Connection", self.connection).forgotten()


def _see_headers(owner: weakref.ref[ThreadsJourney], attempt: Attempt) -> None:
    """For a future that nobody may be waiting for: in a worker's thread."""
    attempt.native.initial_metadata()
    call = owner()
    if call is not None:
        call.headers_stay(attempt)


class ThreadsJourney(Journey[Attempt, "Connection"]):
    """How a future or a stream gets from its begin to its end."""

    _engine: ThreadsEngine
    _ending: NativeError | None = None
    """How the call ended."""
    _raised: Exception | None = None
    """What beginning an attempt raised, when that is how it ended."""
    _seen = 0
    """The picker's generation when a pick was asked for."""
    _received = False
    _cancelled = False
    _foreign = False
    """The attempt is no call object."""
    _callbacks: tuple[Callable[[], None], ...] = ()
    _waiting: tuple[threading.Lock, ...] = ()
    """For each thread that waits for a change; few calls ever have one, so there is no Condition to be made for each.
    Bare locks: an interrupt in the midst of an Event leaves it locked, and whoever sets it waits for ever."""

    def __init__(self, method: Common, request: object, source: Source | None, arguments: Arguments, info: PickInfo):
        super().__init__()
        self._method = method
        self._engine = method.engine
        self._plan = method.plan
        self._request = request
        self._source = source
        self._arguments = arguments
        self._info = info
        self._context = copy_context()
        self._lock = threading.RLock()  # a signal handler may cancel the call that its own thread waits for
        self._inbox: deque[Event] = deque()
        self._busy = threading.Lock()

    # How it begins, in the caller's thread

    def begin_on(self, connection: Connection, now: float) -> None:
        """Begins at an endpoint that is ready. Raises what grpcio raises for arguments that make no sense."""
        self._began = now
        try:
            attempt = self._set_out(connection.node, connection, self._arguments, now, 0, again=False)
        except grpc.RpcError as error:  # something of the caller's does not work
            self._finish(cast("NativeError", error))
            raise
        except BaseException:
            self.refused()
            raise
        if attempt is None:
            self._engine.check_open()
            self.begin_without(now)
        else:
            self._started(attempt)

    def begin_without(self, now: float, seen: int | None = None) -> None:
        """Begins with no endpoint, or with more than one to come. `seen`: nothing will do that comes from the picker of
        this generation or an earlier one."""
        self._began = now
        self._plot()
        if seen is None:
            self.woke()
        else:
            self._seen = seen
            self._tell(lambda course, at: course.picked(Wait(), at))
        if self._raised is not None:
            raise self._raised

    def go_on_from(self, error: NativeError, connection: Connection, began: float) -> None:
        """Goes on after a first attempt that was made without it, and failed with this error."""
        self._began = began
        now = time.monotonic()
        self._failed(Attempt.failed(error, connection, began), now, self._engine.pulse.latency_s(began, now))

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
        native = self._method.at(connection, again)
        start = native if self._method.streams_responses else native.future
        attempt = Attempt(self, node, connection, now, number)

        def begin(arguments: Arguments) -> object:
            timeout, metadata, credentials, _, compression = arguments
            request = self._request if self._source is None else self._source.reader()
            return start(request, timeout, metadata, credentials, None, compression)

        try:
            spans = self._spans
            begun = begin(arguments) if spans is None else spans.attempt(number, node, arguments, begin)
        except BaseException as error:
            attempt.out(Verdict.OURS, now)
            if isinstance(error, ValueError) and connection.closed:
                return None
            raise
        attempt.native = cast("NativeCall", begun)
        return attempt

    def _started(self, attempt: Attempt) -> None:
        native = attempt.call
        if self._plan.hedging is None:
            with self._lock:
                self.attempt = attempt
                self._wake()
        if self._cancelled:
            native.cancel()
        if not hasattr(native, "add_done_callback"):
            # Not grpcio's own: some tools that trace calls put a generator in its place.
            attempt.lasts_as_long_as(native)
            self._foreign = True
            return
        native.add_done_callback(attempt.ended)
        if self._plan.retrying is not None and self._method.is_future_of_a_stream:
            self._engine.workers.run(partial(_see_headers, weakref.ref(self), attempt))

    # What follows

    def attempt_ended(self, attempt: Attempt) -> None:
        """An attempt has its status; in a thread of grpcio's, which serves other calls, too."""
        now = time.monotonic()
        rtt_s = now - attempt.started if self._method.is_unary else NO_SAMPLE
        if rtt_s > SLIP_S:
            rtt_s = self._engine.pulse.latency_s(attempt.started, now)
        if attempt.native.code() is not grpc.StatusCode.OK:
            # In a thread of its own: grpcio may yet have to tell of the response headers, by this one.
            self._engine.workers.run(lambda: self._failed(attempt, now, rtt_s))
            return
        attempt.out(Verdict.OK, now, rtt_s)
        if self._course is None:
            self._plan.succeeded()
            self._finish(attempt.native)
        else:
            self._tell(lambda course, at: course.ended(attempt.number, Outcome(Verdict.OK, 0), at))

    def _failed(self, attempt: Attempt, now: float, rtt_s: float) -> None:
        committed = self._received or (self._source is not None and not self._source.again)
        outcome = self._judged(outcome_of(attempt.native, committed=committed), attempt, now)
        if not attempt.out(outcome.verdict, now, rtt_s) or self.over:
            return
        if outcome.verdict is Verdict.OURS and self._course is None:
            self._finish(attempt.native)
            return
        if outcome.verdict is Verdict.REFUSED:
            self._engine.connection_failed(attempt.node, attempt.native.details() or "")
        with self._lock:
            if self._course is None:
                self._plot(attempt)
        self._tell(lambda course, at: course.ended(attempt.number, outcome, at))

    def _give_up(self, attempt: Attempt) -> None:
        """Something of the caller's did not work: grpcio says so at once, and tells of the end much later if at all."""
        attempt.out(Verdict.OURS, time.monotonic())
        attempt.let_go()
        if self._spans is not None:
            self._spans.ended(attempt.native)
        self._finish(attempt.native)

    def _tell(self, event: Event) -> None:
        """Something happened. Whoever is at it already goes on with this, too."""
        self._inbox.append(event)
        while self._inbox and self._busy.acquire(blocking=False):
            try:
                while self._inbox:
                    self._context.run(self._happened, self._inbox.popleft())
            except Exception as error:
                self._break(error)
            finally:
                self._busy.release()

    def _happened(self, event: Event) -> None:
        assert self._course is not None  # noqa: S101 - it is what there was to tell
        self._follow(event(self._course, time.monotonic()))

    def _ask(self, course: Course) -> Step:
        self._seen = self._engine.generation
        return course.cancelled() if self._engine.closed else super()._ask(course)

    def _rest(self, step: Rest) -> None:
        with self._lock:
            if self.attempt is not None and self.attempt.is_out and not self._foreign:
                self.attempt = None
        if step.picker or step.until is not None:
            self._engine.park(self, step.until, self._seen if step.picker else None)

    def woke(self) -> None:
        """The time it was parked for has come; in a worker's thread."""
        self._tell(lambda course, at: course.woke(at))

    def new_picker(self) -> None:
        """There is another picker; in a worker's thread."""
        self._tell(lambda course, at: course.new_picker(at))

    # How it ends

    def _end(self, step: End) -> None:
        attempts = self._attempts or {}
        ending: NativeError
        if step.by is not None:
            with self._lock:
                self.attempt = attempts[step.by]
            ending = attempts[step.by].native
        else:
            details = LOCALLY_CANCELLED if self._cancelled else step.details or CHANNEL_CLOSED
            ending = Ended(CODES[step.code], details)
        self._finish(ending)
        for number in step.drop:
            attempts[number].call.cancel()

    def _break(self, error: Exception) -> None:
        """Something of the caller's, or of a policy of its own, does not work: that is how the call ends."""
        self._raised = error
        attempts = tuple((self._attempts or {}).values())
        self._finish(Ended(grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}"))
        for attempt in attempts:
            if not attempt.is_out:
                attempt.call.cancel()
                attempt.out(Verdict.OURS, time.monotonic())

    def _finish(self, ending: NativeError) -> None:
        with self._lock:
            if self.over:
                return
            self._ending = ending
            self.over = True
            callbacks, self._callbacks = self._callbacks, ()
            self._wake()
        for attempt in list((self._attempts or {}).values()):
            attempt.let_go()
        counts = self._engine.counts
        if counts is not None:
            took_s = time.monotonic() - self._began if self._method.is_unary else NO_SAMPLE
            counts.ended(ending.code().name, took_s)
        if self._spans is not None:
            self._spans.over(ending.code().value[0])
        self._engine.unpark(self)
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("a callback of a call failed")

    def __del__(self) -> None:
        if self.over or self._foreign or sys.is_finalizing():
            return
        attempts = (self.attempt, *(self._attempts or {}).values())
        under_way = [attempt for attempt in attempts if attempt is not None and not attempt.is_out]
        for attempt in under_way:
            attempt.call.cancel()
        if not under_way and self._began:
            self._engine.forgotten(self._spans)

    # For those who wait

    def response(self) -> object:
        """Blocks until the call is over. Raises the error that a plain channel's blocking call would."""
        try:
            ending = self._outcome()
        except BaseException:
            self.cancel()
            raise
        if ending.code() is grpc.StatusCode.OK:
            return cast("NativeCall", ending).result()
        raise self._raised or cast("grpc.RpcError", ending)

    def _outcome(self, timeout_s: float | None = None) -> NativeError:
        """What the call ended as; raises FutureTimeoutError if it does not end in time."""
        if not self._wait_until(lambda: self.over, timeout_s):
            raise grpc.FutureTimeoutError
        assert self._ending is not None  # noqa: S101 - it is over
        return self._ending

    def _under_way(self) -> Attempt | None:
        """The attempt under way, or the one the call ended as; None when it ended without one."""
        while (attempt := self.attempt) is None and not self.over:
            self._wait_until(lambda: self.attempt is not None or self.over)
        return attempt

    def _wait_until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Blocks until the condition, of what the lock guards, holds; False when `timeout_s` went by first. Raises
        RuntimeError, as the interpreter ends, unless it holds already."""
        if condition():
            return True
        check_interpreter()
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            changed = threading.Lock()
            changed.acquire()
            with self._lock:
                self._waiting = (*self._waiting, changed)
                if condition():  # only now: a signal handler may have cancelled the call before
                    return True
            left_s = -1.0 if end is None else min(threading.TIMEOUT_MAX, max(0.0, end - time.monotonic()))
            if not changed.acquire(timeout=left_s):
                return condition()

    def _wake(self) -> None:
        """Something changed; the lock is held."""
        waiting, self._waiting = self._waiting, ()
        for changed in waiting:
            if changed.locked():
                changed.release()

    def _is_last(self, attempt: Attempt) -> bool:
        """Waits until it is decided whether another attempt takes the place of one that has failed."""
        self._wait_until(lambda: self.over or self.attempt is not attempt)
        return self.attempt is attempt

    def cancel(self) -> bool:
        if sys.is_finalizing():  # the process ends, and with it the call: no lock, which a thread that is gone may hold
            was_under_way = not (self.over or self._cancelled)
            self._cancelled = self._cancelled or was_under_way
            return was_under_way
        with self._lock:
            if self.over or self._cancelled:
                return False
            self._cancelled = True
            attempt, course = self.attempt, self._course
        if attempt is not None and not attempt.is_out and self._plan.hedging is None:
            attempt.call.cancel()
        if course is not None:
            self._tell(lambda course, _: course.cancelled())
        if course is not None or attempt is None or attempt.is_out:  # at once, whoever is just at it
            self._finish(Ended(grpc.StatusCode.CANCELLED, LOCALLY_CANCELLED))
        return True

    # Response headers commit a call (A6)

    def see_headers(self) -> None:
        """Waits for the headers of the attempt under way, and commits the call when they came by themselves: empty ones
        may be part of a failure that comes with them."""
        while not (self._received or self.over):
            attempt = self._under_way()
            if attempt is None or self.headers_stay(attempt):
                return

    def headers_stay(self, attempt: Attempt) -> bool:
        """True when it is decided: the call is committed, or over."""
        if attempt.native.initial_metadata() or not self._replaced_within(attempt, HEADERS_SETTLE_S):
            self._received |= attempt.call.is_active()
            if self._received or self._is_last(attempt):
                return True
        return False

    def _replaced_within(self, attempt: Attempt, seconds: float) -> bool:
        return self._wait_until(lambda: self.over or self.attempt is not attempt, seconds)

    @property
    def _heads_matter(self) -> bool:
        return self._plan.retrying is not None and not self._method.is_unary and not self._received
