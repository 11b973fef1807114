"""Calls that do not block: futures and streams.

They hold a native call, or wait for a connection without one, and take another when that one never left or may be
retried.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc

from balancer import native
from balancer.policies.base import Node
from balancer.retry import HEADERS_SETTLE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.threads.connection import Subchannel
    from balancer.threads.route import Route
    from balancer.threads.streams import Requests

log = logging.getLogger(__name__)

NO_SAMPLE = float("nan")


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
        if self._route.retries is not None:
            native.watch_headers(attempt)
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
            or native.headers_age_s(attempt) > HEADERS_SETTLE_S
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
            if metadata or self._headers_stay(attempt) or self._is_last(attempt):
                return metadata

    def _headers_stay(self, attempt: Any) -> bool:
        """True when empty headers came by themselves, and not with a failure that is retried: they commit the call."""
        if self._route.retries is None or not attempt.is_active():
            return False
        self._received |= not self._wait_until(lambda: self._final or self._attempt is not attempt, HEADERS_SETTLE_S)
        return self._received

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
