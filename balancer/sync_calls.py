"""The calls of a channel for threads.

A blocking call is a loop in the caller's own thread: `Route` finds the next node, waiting if it must. Calls
that must not block
(futures and streams) are `BalancedCall`s: they hold a native call, or wait for a connection without one, and
take another when that one never left or may be retried.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc

from balancer import native
from balancer.pool import Fail, Node, PickInfo
from balancer.retry import marked, never_left, speaks_against

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from balancer.retry import Hedges, Retries
    from balancer.sync_channel import Engine, Method, Subchannel

log = logging.getLogger(__name__)

NO_SAMPLE = float("nan")
KEPT_REQUESTS = 128
"""Requests of a stream that are kept for another attempt; once there are more, the attempt under way is the last."""


class Route:
    """Where one call goes: which nodes it was tried on, until when, and what the next may be."""

    __slots__ = ("_engine", "_refused", "deadline", "info", "last", "retries", "wait_for_ready")

    def __init__(self, method: Method, info: PickInfo, deadline: float | None, *, wait_for_ready: bool | None) -> None:
        self._engine: Engine = method.engine
        self.info = info
        self.deadline = deadline
        """On the monotonic clock."""
        self.wait_for_ready = wait_for_ready
        self.retries: Retries | None = None if method.retrying is None else method.retrying.begin()
        self._refused: tuple[Node, ...] = ()
        self.last: Any = None

    def left_s(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def look(self) -> Node | Any | None:
        """A node, or the error the call ends with, or None: wait for the next picker."""
        if self._engine.closed:
            return native.ended_error(grpc.StatusCode.CANCELLED, "Channel closed!")
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return native.ended_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        pick = self._engine.pick(self.info)
        if isinstance(pick, Node):
            if pick not in self._refused and pick.subchannel is not None:
                return pick
            return None if self.wait_for_ready or pick.subchannel is None else self._out()
        return self._out(pick.reason) if isinstance(pick, Fail) and not self.wait_for_ready else None

    def _out(self, reason: str = "no endpoint is ready") -> Any:
        return self.last or native.ended_error(grpc.StatusCode.UNAVAILABLE, reason)

    def another_picker(self) -> None:
        """What was refused by the last picker's word may be asked again by this one's."""
        self._refused = ()

    def wait(self) -> tuple[Node, Subchannel]:
        """Blocks until there is a node and its connection; raises the RpcError that the call ends with."""
        while True:
            seen = self._engine.generation
            found = self.look()
            if isinstance(found, Node):
                subchannel = found.subchannel
                if subchannel is not None:
                    return found, subchannel
            elif found is not None:
                raise found
            if self._engine.wait_for_picker(seen, self.left_s()):
                self.another_picker()

    def pause_after(self, node: Node, error: Any, rtt_s: float, *, committed: bool) -> float | None:
        """An attempt on `node` failed: counts it, and gives the pause before the next in seconds, or None if
        it was the last."""
        code = error.code()
        number = code.value[0]
        if code is grpc.StatusCode.CANCELLED and error.cancelled():
            node.load.abandoned()
            return None
        if never_left(number, error.details()):
            node.load.abandoned()
            self._engine.connection_failed(node)
            self._refused = (*self._refused, node)
            self.last = error
            self.exclude(node)
            return 0.0
        self._engine.ended(node, rtt_s, ok=not speaks_against(number))
        if self.retries is None:
            return None
        pause_s = self.retries.pause_after(number, error.trailing_metadata(), self._engine.rng, committed=committed)
        if pause_s is not None:
            self.last = None
            self.exclude(node)
        return pause_s

    def exclude(self, node: Node) -> None:
        """The next attempt goes elsewhere if it can."""
        info = self.info
        self.info = PickInfo(info.key, (*info.exclude, node), info.method, info.metadata)

    def marked(self, metadata: Any) -> Any:
        """The metadata of the next attempt."""
        return metadata if self.retries is None else self.retries.marked(tuple(metadata or ()))


class Requests:
    """The requests of a stream, readable once more by each attempt that replaces another."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._kept: list[Any] = []
        self._keeping = True
        self._reader: _Reader | None = None

    def reader(self) -> _Reader:
        """An iterator over all requests for the next attempt; the one before it gets no more."""
        self._reader = _Reader(self)
        return self._reader

    @property
    def again(self) -> bool:
        """True while another attempt could still get everything."""
        return self._keeping

    def commit(self) -> None:
        """The attempt under way is the last: it gets what was kept, and nothing more is."""
        self._keeping = False

    def take(self, reader: _Reader) -> Any:
        """The next request for a reader. One that was replaced while it waited leaves the request to its successor."""
        with self._lock:
            if reader is self._reader and reader.position < len(self._kept):
                request = self._kept[reader.position]
            elif reader is not self._reader:
                raise StopIteration
            else:
                request = self._from_source(reader)
            reader.position += 1
            return request

    def _from_source(self, reader: _Reader) -> Any:
        request = next(self._source)
        if not self._keeping:
            self._kept.clear()
            reader.position = -1  # `take` makes it 0: nothing is kept, so that is where the source goes on
            return request
        self._kept.append(request)
        self._keeping = len(self._kept) < KEPT_REQUESTS
        if reader is not self._reader:
            raise StopIteration
        return request


class _Reader:
    __slots__ = ("_requests", "position")

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self.position = 0

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> Any:
        return self._requests.take(self)


class BalancedCall(grpc.RpcError, native.SyncCall, native.SyncFuture):  # type: ignore[misc]
    """A future or a stream. As with gRPC's own, the object is its own error when the call fails."""

    is_unary = True
    """The time it takes says something about the endpoint."""
    _attempt: Any = None
    """The native call under way, or the one that was the last; None while there is none."""
    _node: Node | None = None
    _started = 0.0
    _final = False
    _received = False
    _cancelled = False
    _callbacks: tuple[Callable[[], None], ...] = ()
    _waiting: tuple[threading.Event, ...] = ()
    """Threads that wait for a change; few calls ever have one, so there is no Condition to be made for each."""

    def __init__(
        self,
        route: Route,
        begin: Callable[[Subchannel, float | None, Any], Any],
        metadata: Any,
        requests: Requests | None,
    ) -> None:
        super().__init__()
        self._route = route
        self._engine = route._engine  # noqa: SLF001 - two halves of one thing
        self._begin = begin
        self._metadata = metadata
        self._requests = requests
        self._lock = threading.Lock()

    # Finding an attempt. `advance` runs in the caller's thread first and in the channel's own thread later.

    def advance(self) -> bool:
        """Begins an attempt, or ends the call, if that can be done now; False: come back with the next picker."""
        if self._final:
            return True
        found = self._route.look()
        if found is None:
            return False
        if isinstance(found, Node):
            self._begin_on(found)
        else:
            self._end(found)
        return True

    def picker_changed(self) -> bool:
        """As `advance`, with a new picker."""
        self._route.another_picker()
        return self.advance()

    def expire(self) -> None:
        """The deadline passed while there was no attempt."""
        with self._lock:
            waiting = self._attempt is None
        if waiting:
            self._end(native.ended_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    def _begin_on(self, node: Node) -> None:
        now = time.monotonic()
        node.load.started(now)
        subchannel = node.subchannel
        try:
            attempt = self._begin(subchannel, self._route.left_s(), self._metadata)
        except grpc.RpcError as error:
            node.load.abandoned()
            self._end(error)
            return
        except ValueError:
            node.load.abandoned()
            if not self._engine.has_left(node, subchannel):
                raise
            self._engine.advance_later(self, 0.0)
            return
        except BaseException:
            node.load.abandoned()
            raise
        with self._lock:
            self._attempt, self._node, self._started = attempt, node, now
            cancelled = self._cancelled
            self._wake()
        if cancelled:
            attempt.cancel()
        attempt.add_done_callback(self._attempt_ended)

    def _attempt_ended(self, attempt: Any) -> None:
        with self._lock:
            node, self._node = self._node, None
        if node is None:
            return
        rtt_s = time.monotonic() - self._started if self._requests is None and self.is_unary else NO_SAMPLE
        if attempt.code() is grpc.StatusCode.OK:
            self._engine.ended(node, rtt_s, ok=True)
            if self._route.retries is not None:
                self._route.retries.succeeded()
            self._end(attempt)
            return
        committed = (
            self._received
            or bool(native.headers_so_far(attempt))
            or not (self._requests is None or self._requests.again)
        )
        pause_s = self._route.pause_after(node, attempt, rtt_s, committed=committed)
        if pause_s is None or self._cancelled:
            self._end(attempt)
            return
        with self._lock:
            self._attempt = None
        self._metadata = self._route.marked(self._metadata)
        self._engine.advance_later(self, pause_s)

    def _end(self, outcome: Any) -> None:
        with self._lock:
            if self._final:
                return
            self._attempt = outcome
            self._final = True
            callbacks, self._callbacks = self._callbacks, ()
            self._wake()
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("a callback of a call failed")

    def _outcome(self, timeout_s: float | None = None) -> Any:
        """The native call, or error, that the call ended with; raises FutureTimeoutError if it does not end in time."""
        if not self._wait_until(lambda: self._final, timeout_s):
            raise grpc.FutureTimeoutError
        return self._attempt

    def _under_way(self) -> Any:
        while (attempt := self._attempt) is None:
            self._wait_until(lambda: self._attempt is not None)
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

    # grpc.RpcContext, grpc.Call

    def is_active(self) -> bool:
        return not self._final

    def time_remaining(self) -> float | None:
        return self._route.left_s()

    def cancel(self) -> bool:
        with self._lock:
            if self._final:
                return False
            self._cancelled = True
            attempt = self._attempt
        if attempt is not None:
            attempt.cancel()
        else:
            self._end(native.ended_error(grpc.StatusCode.CANCELLED, "Locally cancelled by application!"))
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if self._final:
                return False
            self._callbacks = (*self._callbacks, callback)
            return True

    def initial_metadata(self) -> Any:
        while True:
            attempt = self._under_way()
            metadata = attempt.initial_metadata()
            if metadata or self._is_last(attempt):
                return metadata

    def trailing_metadata(self) -> Any:
        return self._outcome().trailing_metadata()

    def code(self) -> Any:
        return self._outcome().code()

    def details(self) -> Any:
        return self._outcome().details()

    def debug_error_string(self) -> Any:
        return self._outcome().debug_error_string()

    # grpc.Future

    def cancelled(self) -> bool:
        return self._cancelled

    def running(self) -> bool:
        return not self._final

    def done(self) -> bool:
        return self._final

    def result(self, timeout: float | None = None) -> Any:
        outcome = self._outcome(timeout)
        if outcome.code() is grpc.StatusCode.OK:
            return outcome.result()
        if self._cancelled:
            raise grpc.FutureCancelledError
        raise self

    def exception(self, timeout: float | None = None) -> Any:
        outcome = self._outcome(timeout)
        if outcome.code() is grpc.StatusCode.OK:
            return None
        if self._cancelled:
            raise grpc.FutureCancelledError
        return self

    def traceback(self, timeout: float | None = None) -> Any:
        error = self.exception(timeout)
        try:
            if error is not None:
                raise error
        except grpc.RpcError as raised:
            return raised.__traceback__
        return None

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        if not self.add_callback(lambda: fn(self)):
            fn(self)

    # A stream of responses.

    def __iter__(self) -> BalancedCall:
        return self

    def __next__(self) -> Any:
        while True:
            attempt = self._attempt
            if attempt is None:
                attempt = self._under_way()
            try:
                message = next(attempt)
            except grpc.RpcError:
                if self._is_last(attempt):
                    raise self from None
                continue
            except TypeError:
                if hasattr(attempt, "__next__"):
                    raise
                raise self from None  # there never was an attempt to read from
            if not self._received:
                self._received = True
                if self._requests is not None:
                    self._requests.commit()
            return message

    next = __next__

    def _is_last(self, attempt: Any) -> bool:
        """Waits until it is decided whether another attempt takes the place of one that seems to have failed."""
        if not self._final and not attempt.is_active():
            self._wait_until(lambda: self._final or self._attempt is not attempt)
        return self._attempt is attempt

    def __repr__(self) -> str:
        attempt = self._attempt
        return f"<{type(self).__name__} waiting for a connection>" if attempt is None else repr(attempt)

    __str__ = __repr__


class HedgedCall(BalancedCall):
    """A future that may be under way at several endpoints at once (gRFC A6, hedging); the first good answer wins."""

    def __init__(
        self,
        route: Route,
        begin: Callable[[Subchannel, float | None, Any], Any],
        metadata: Any,
        requests: Requests | None,
        hedges: Hedges,
    ) -> None:
        super().__init__(route, begin, metadata, requests)
        self._hedges = hedges
        self._racers: dict[Any, tuple[Node, float]] = {}

    def _begin_on(self, node: Node) -> None:
        now = time.monotonic()
        node.load.started(now)
        try:
            attempt = self._begin(node.subchannel, self._route.left_s(), self._metadata)
        except BaseException:
            node.load.abandoned()
            raise
        self._route.exclude(node)
        with self._lock:
            self._racers[attempt] = (node, now)
            pause_s = self._hedges.pause_s(now)
            unwanted = self._final
        if unwanted:
            attempt.cancel()
        elif pause_s is not None:
            self._engine.later(pause_s, self._hedge)
        attempt.add_done_callback(self._racer_ended)

    def _hedge(self) -> None:
        """In the private loop: begins one more attempt, if one is due and there is an endpoint without any."""
        with self._lock:
            if self._final or not self._hedges.due(time.monotonic()):
                return
            self._metadata = marked(tuple(self._metadata or ()), self._hedges.sent - 1)
        found = self._route.look()
        if isinstance(found, Node) and found not in self._route.info.exclude:
            self._begin_on(found)
            return
        with self._lock:
            self._hedges.stop()
            nobody = not self._racers
        if nobody:
            self._end(self._route.last or native.ended_error(grpc.StatusCode.UNAVAILABLE, "no endpoint is left"))

    def _racer_ended(self, attempt: Any) -> None:
        with self._lock:
            node, started = self._racers.pop(attempt)
        code = attempt.code()
        number = code.value[0]
        refused = never_left(number, attempt.details())
        if self._final or attempt.cancelled() or refused:
            node.load.abandoned()
        else:
            self._engine.ended(node, time.monotonic() - started, ok=not speaks_against(number))
        if refused:
            self._engine.connection_failed(node)
        if not self._final:
            self._judge(attempt, number, refused=refused)

    def _judge(self, attempt: Any, number: int, *, refused: bool) -> None:
        hedges = self._hedges
        with self._lock:
            if number == 0:
                hedges.succeeded()
            else:
                hedges.failed(number, attempt.trailing_metadata(), refused=refused)
                self._route.last = attempt
            last = number == 0 or hedges.over or self._cancelled
            pause_s = None if last else hedges.pause_s(time.monotonic())
            alone = not self._racers
        if last or (alone and pause_s is None):
            self._end(attempt)
        elif pause_s is not None:
            self._engine.later(pause_s, self._hedge)

    def _end(self, outcome: Any) -> None:
        super()._end(outcome)
        with self._lock:
            others = list(self._racers)
        for other in others:
            other.cancel()

    def cancel(self) -> bool:
        with self._lock:
            if self._final:
                return False
            self._cancelled = True
        self._end(native.ended_error(grpc.StatusCode.CANCELLED, "Locally cancelled by application!"))
        return True


class BalancedStream(BalancedCall):
    """A call with a stream of responses."""

    is_unary = False
