"""What the application holds of a call that does not block: a future or a stream of grpcio's own kind."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import grpc

from balancer.threads.journey import ThreadsJourney
from balancer.threads.native import Future, made_here
from balancer.threads.workers import check_interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from balancer.channels.types import Metadatum
    from balancer.threads.journey import Attempt
    from balancer.threads.native import NativeCall, NativeError


class Call(ThreadsJourney, grpc.RpcError, grpc.Call, Future):
    """A future or a stream. As with gRPC's own, the object is its own error when the call fails."""

    @property
    def as_seen(self) -> object:
        """What the application gets: this, or what a plain channel would give it that is no call."""
        attempt = self.attempt
        return attempt.native if self._foreign and attempt is not None else self

    # grpc.RpcContext, grpc.Call

    def is_active(self) -> bool:
        return not self.over

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self.done():
            return False
        check_interpreter()
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
            check_interpreter()
            metadata = attempt.native.initial_metadata()
            if metadata or self._received or attempt.call.is_active() or self._is_last(attempt):
                return cast("tuple[Metadatum, ...]", metadata)

    def _ended(self) -> NativeError:
        if self._heads_matter:
            self.see_headers()
        return self._outcome()

    def trailing_metadata(self) -> tuple[Metadatum, ...]:  # type: ignore[override]
        return cast("tuple[Metadatum, ...]", self._ended().trailing_metadata())

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
            check_interpreter()
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
