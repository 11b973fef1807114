"""Calls that do not block: futures and streams.

A call begins an attempt in its caller's thread, if an endpoint is ready. What follows when that one failed, or while
there is none, is decided by a `Course`: one event at a time, in whichever thread brought it, and never in the channel's
own loop.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import grpc

from balancer.calls.course import Ask, Begin, Course, End, Rest
from balancer.calls.outcome import Outcome, Verdict
from balancer.calls.retry import HEADERS_SETTLE_S, marked
from balancer.channels.tally import NO_SAMPLE, Tally
from balancer.policies.base import Node, PickInfo
from balancer.pool.picker import Wait
from balancer.threads.native import CHANNEL_CLOSED, CODES, LOCALLY_CANCELLED, Ended, Future, made_here, outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from balancer.calls.course import Step
    from balancer.calls.plan import Plan
    from balancer.channels.types import Arguments, Metadatum
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

    def __init__(self, call: Call, node: Node, connection: Connection, now: float, number: int) -> None:
        super().__init__(node, connection, now)
        self._owner = weakref.ref(call)
        self.number = number
        self.native: NativeCall

    def ended(self, _native: object) -> None:
        call = self._owner()
        if call is None:
            self.out(Verdict.OURS, time.monotonic())
        else:
            call.attempt_ended(self)


def _see_headers(owner: weakref.ref[Call], attempt: Attempt) -> None:
    """For a future that nobody may be waiting for: in a worker's thread."""
    attempt.native.initial_metadata()
    call = owner()
    if call is not None:
        call.headers_stay(attempt)


class Call(grpc.RpcError, grpc.Call, Future):
    """A future or a stream. As with gRPC's own, the object is its own error when the call fails."""

    attempt: Attempt | None = None
    """The attempt under way or, once the call is over, the one it ended as; None while there is none."""
    over = False
    _ending: NativeError | None = None
    """How the call ended."""
    _raised: Exception | None = None
    """What beginning an attempt raised, when that is how it ended."""
    _course: Course | None = None
    _inbox: deque[Event]
    _busy: threading.Lock
    _seen = 0
    """The picker's generation when a pick was asked for."""
    _attempts: Mapping[int, Attempt] = MappingProxyType({})
    """All attempts, once there may be more than one."""
    _received = False
    _cancelled = False
    _foreign = False
    """The attempt is no call object."""
    _deadline: float | None = None
    _callbacks: tuple[Callable[[], None], ...] = ()
    _waiting: tuple[threading.Event, ...] = ()
    """Threads that wait for a change; few calls ever have one, so there is no Condition to be made for each."""

    def __init__(self, method: Common, request: object, source: Source | None, arguments: Arguments, info: PickInfo):
        super().__init__()
        self._method = method
        self._engine: ThreadsEngine = method.engine
        self._plan = method.plan
        self._request = request
        self._source = source
        self._arguments = arguments
        self._info = info
        self._lock = threading.Lock()

    # How it begins, in the caller's thread

    def begin_on(self, node: Node, connection: Connection, now: float) -> None:
        """Begins at an endpoint that is ready. Raises what grpcio raises for arguments that make no sense."""
        timeout = self._arguments[0]
        if timeout is not None:
            self._deadline = now + timeout
        attempt = Attempt(self, node, connection, now, 0)
        try:
            self._set_out(attempt, self._arguments, again=False)
        except BaseException as error:
            attempt.out(Verdict.OURS, now)
            if not isinstance(error, ValueError) or not connection.closed or self._engine.closed:
                raise
            self.begin_without(now)

    def begin_without(self, now: float, seen: int | None = None) -> None:
        """Begins with no endpoint, or with more than one to come. `seen`: nothing will do that comes from the picker of
        this generation or an earlier one."""
        timeout = self._arguments[0]
        if timeout is not None:
            self._deadline = now + timeout
        waits = self._plan.waits(self._arguments[3])
        self._inbox = deque()
        self._busy = threading.Lock()
        self._course = Course(self._plan, self._engine.rng, self._deadline, wait_for_ready=waits)
        if seen is None:
            self.woke()
        else:
            self._seen = seen
            self._tell(lambda course, at: course.picked(Wait(), at))
        if self._raised is not None:
            raise self._raised

    @property
    def as_seen(self) -> object:
        """What the application gets: this, or what a plain channel would give it that is no call."""
        attempt = self.attempt
        return attempt.native if self._foreign and attempt is not None else self

    def _set_out(self, attempt: Attempt, arguments: Arguments, *, again: bool) -> None:
        timeout, metadata, credentials, _, compression = arguments
        native = self._method.at(cast("Connection", attempt.connection), again)
        request = self._request if self._source is None else self._source.reader()
        begin = native if self._method.streams_responses else native.future
        begun = begin(request, timeout, metadata, credentials, None, compression)
        attempt.native = cast("NativeCall", begun)
        if self._plan.hedging is None:
            with self._lock:
                self.attempt = attempt
                self._wake()
        if self._cancelled:
            attempt.native.cancel()
        if not hasattr(begun, "add_done_callback"):
            # Not grpcio's own: some tools that trace calls put a generator in its place.
            attempt.lasts_as_long_as(begun)
            self._foreign = True
            return
        attempt.native.add_done_callback(attempt.ended)
        if self._plan.retrying is not None and self._method.is_future_of_a_stream:
            self._engine.workers.run(partial(_see_headers, weakref.ref(self), attempt))

    # What follows

    def attempt_ended(self, attempt: Attempt) -> None:
        """An attempt has its status; in a thread of grpcio's, which serves other calls, too."""
        now = time.monotonic()
        rtt_s = now - attempt.started if self._method.is_unary else NO_SAMPLE
        if attempt.native.code() is grpc.StatusCode.OK:
            attempt.out(Verdict.OK, now, rtt_s)
            self._answered(attempt)
            return
        self._engine.workers.run(lambda: self._failed(attempt, now, rtt_s))

    def _answered(self, attempt: Attempt) -> None:
        if self._course is not None:
            outcome = Outcome(Verdict.OK, 0)
            self._tell(lambda course, at: course.ended(attempt.number, outcome, at))
            return
        retrying = self._plan.retrying
        if retrying is not None and retrying.throttle is not None:
            retrying.throttle.succeeded()
        self._finish(attempt.native)

    def _failed(self, attempt: Attempt, now: float, rtt_s: float) -> None:
        """In a thread of its own: grpcio may yet have to tell of the response headers, by the thread that told of the
        status."""
        committed = self._received or (self._source is not None and not self._source.again)
        outcome = outcome_of(attempt.native, committed=committed)
        if not attempt.out(outcome.verdict, now, rtt_s) or self.over:
            return
        if outcome.verdict is Verdict.OURS and self._course is None:
            self._finish(attempt.native)
            return
        if outcome.verdict is Verdict.REFUSED:
            self._engine.connection_failed(attempt.node, attempt.native.details() or "")
        with self._lock:
            if self._course is None:
                self._go_on(attempt)
        self._tell(lambda course, at: course.ended(attempt.number, outcome, at))

    def _give_up(self, attempt: Attempt) -> None:
        """Something of the caller's did not work: grpcio says so at once, and tells of the end much later if at all."""
        attempt.out(Verdict.OURS, time.monotonic())
        self._finish(attempt.native)

    def _go_on(self, attempt: Attempt) -> None:
        self._attempts = {0: attempt}
        self._inbox = deque()
        self._busy = threading.Lock()
        waits = self._plan.waits(self._arguments[3])
        self._course = Course.going_on(self._plan, self._engine.rng, self._deadline, attempt.node, wait_for_ready=waits)

    def _tell(self, event: Event) -> None:
        """Something happened. Whoever is at it already goes on with this, too."""
        self._inbox.append(event)
        while self._inbox and self._busy.acquire(blocking=False):
            try:
                while self._inbox:
                    self._follow(self._inbox.popleft())
            except Exception as error:
                self._break(error)
            finally:
                self._busy.release()

    def _follow(self, event: Event) -> None:
        course = self._course
        assert course is not None  # noqa: S101 - it is what there was to tell
        step = event(course, time.monotonic())
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
        engine = self._engine
        self._seen = engine.generation
        if engine.closed:
            return course.cancelled()
        return course.picked(engine.pick(info), time.monotonic())

    def _begin(self, course: Course, step: Begin) -> Step:
        timeout, metadata, credentials, waits, compression = self._arguments
        now = time.monotonic()
        if self._deadline is not None:
            timeout = max(0.0, self._deadline - now)
        if step.previous:
            metadata = marked(tuple(metadata or ()), step.previous)
        connection: Connection | None = step.node.subchannel
        if connection is None:
            return course.not_begun(step.number, now)
        attempt = Attempt(self, step.node, connection, now, step.number)
        self._attempts = {**self._attempts, step.number: attempt}
        try:
            self._set_out(attempt, (timeout, metadata, credentials, waits, compression), again=step.previous > 0)
        except ValueError:
            attempt.out(Verdict.OURS, now)
            if not connection.closed:
                raise
            return course.not_begun(step.number, now)
        return course.begun(now)

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
        ending: NativeError
        if step.by is not None:
            with self._lock:
                self.attempt = self._attempts[step.by]
            ending = self._attempts[step.by].native
        else:
            details = LOCALLY_CANCELLED if self._cancelled else step.details or CHANNEL_CLOSED
            ending = Ended(CODES[step.code], details)
        self._finish(ending)
        for number in step.drop:
            self._attempts[number].native.cancel()

    def _break(self, error: Exception) -> None:
        """Something of the caller's, or of a policy of its own, does not work: that is how the call ends."""
        self._raised = error
        attempts = tuple(self._attempts.values())
        self._finish(Ended(grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}"))
        for attempt in attempts:
            if hasattr(attempt, "native"):
                attempt.native.cancel()
            attempt.out(Verdict.OURS, time.monotonic())

    def _finish(self, ending: NativeError) -> None:
        with self._lock:
            if self.over:
                return
            self._ending = ending
            self.over = True
            callbacks, self._callbacks = self._callbacks, ()
            self._wake()
        self._engine.unpark(self)
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("a callback of a call failed")

    def __del__(self) -> None:
        if not self.over:
            for attempt in (self.attempt, *self._attempts.values()):
                if attempt is not None and hasattr(attempt, "native") and not self._foreign:
                    attempt.native.cancel()

    # For those who wait

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
        """Blocks until the condition, of what the lock guards, holds; False when `timeout_s` went by first."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with self._lock:
                if condition():
                    return True
                changed = threading.Event()
                self._waiting = (*self._waiting, changed)
            if not changed.wait(None if end is None else max(0.0, end - time.monotonic())):
                return condition()

    def _wake(self) -> None:
        """Something changed; the lock is held."""
        waiting, self._waiting = self._waiting, ()
        for changed in waiting:
            changed.set()

    def _is_last(self, attempt: Attempt) -> bool:
        """Waits until it is decided whether another attempt takes the place of one that has failed."""
        self._wait_until(lambda: self.over or self.attempt is not attempt)
        return self.attempt is attempt

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
            self._received |= attempt.native.is_active()
            if self._received or self._is_last(attempt):
                return True
        return False

    def _replaced_within(self, attempt: Attempt, seconds: float) -> bool:
        return self._wait_until(lambda: self.over or self.attempt is not attempt, seconds)

    @property
    def _heads_matter(self) -> bool:
        return self._plan.retrying is not None and not self._method.is_unary and not self._received

    # grpc.RpcContext, grpc.Call

    def is_active(self) -> bool:
        return not self.over

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def cancel(self) -> bool:
        with self._lock:
            if self.over or self._cancelled:
                return False
            self._cancelled = True
            attempt, course = self.attempt, self._course
        if attempt is not None and not attempt.is_out and self._plan.hedging is None:
            attempt.native.cancel()
        if course is not None:
            self._tell(lambda course, _: course.cancelled())
        elif attempt is None or attempt.is_out:
            self._finish(Ended(grpc.StatusCode.CANCELLED, LOCALLY_CANCELLED))
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if self.over:
                return False
            self._callbacks = (*self._callbacks, callback)
        self._engine.hold(self)
        return True

    def initial_metadata(self) -> tuple[Metadatum, ...]:
        if self._heads_matter:
            self.see_headers()
        while True:
            attempt = self._under_way()
            if attempt is None:
                return ()
            metadata = attempt.native.initial_metadata()
            if metadata or self._received or attempt.native.is_active() or self._is_last(attempt):
                return cast("tuple[Metadatum, ...]", metadata)

    def _ended(self) -> NativeError:
        if self._heads_matter:
            self.see_headers()
        return self._outcome()

    def trailing_metadata(self) -> Any:
        return self._ended().trailing_metadata()

    def code(self) -> grpc.StatusCode:
        return self._ended().code()

    def details(self) -> str:
        return cast("str", self._ended().details())

    def debug_error_string(self) -> str | None:
        return self._ended().debug_error_string()

    # grpc.Future

    def cancelled(self) -> bool:
        return self._cancelled

    def running(self) -> bool:
        return not self.over

    def done(self) -> bool:
        return self.over

    def result(self, timeout: float | None = None) -> object:
        outcome = self._outcome(timeout)
        if outcome.code() is grpc.StatusCode.OK:
            return cast("NativeCall", outcome).result()
        if self._cancelled:
            raise grpc.FutureCancelledError
        if self._raised is not None:
            raise self._raised
        raise self

    def exception(self, timeout: float | None = None) -> Exception | None:
        outcome = self._outcome(timeout)
        if outcome.code() is grpc.StatusCode.OK:
            return None
        if self._cancelled:
            raise grpc.FutureCancelledError
        return self._raised or self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        try:
            self.result(timeout)
        except grpc.RpcError as raised:
            return raised.__traceback__
        return None

    def add_done_callback(self, fn: Callable[[Call], None]) -> None:
        if not self.add_callback(lambda: fn(self)):
            fn(self)

    # A stream of responses

    def __iter__(self) -> Call:
        return self

    def __next__(self) -> object:
        if self._heads_matter:
            self.see_headers()
        while True:
            attempt = self.attempt or self._under_way()
            if attempt is None:
                raise (self._raised or self) from None
            try:
                response = next(cast("Iterator[object]", attempt.native))
            except grpc.RpcError:
                self._last_word(attempt)
                continue
            except StopIteration:
                if not self._foreign:
                    self._wait_until(lambda: self.over)
                raise
            if not self._received:
                self._received = True
                if self._source is not None:
                    self._source.commit()
            return response

    def _last_word(self, attempt: Attempt) -> None:
        """An attempt has failed: raises the call, which is its own error, unless another one takes its place."""
        if made_here(attempt.native):
            self._give_up(attempt)
        if self._is_last(attempt):
            raise self from None

    next = __next__

    def __repr__(self) -> str:
        ending = self.attempt.native if self.attempt is not None else self._ending
        return f"<{type(self).__name__} waiting for an endpoint>" if ending is None else repr(ending)

    __str__ = __repr__
