"""What a balanced call asks of an attempt: a call object of grpc.aio, by its public names alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, cast

import grpc
import grpc.aio

from balancer.calls.outcome import Outcome, Verdict, verdict_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Generator

T = TypeVar("T")

OK = grpc.StatusCode.OK
CANCELLED = grpc.StatusCode.CANCELLED
CODES = {code.value[0]: code for code in grpc.StatusCode}
LOCALLY_CANCELLED = "Locally cancelled by application!"
CLOSED = "Channel is closed."


class NativeCall(Protocol):
    """A call on the connection to one endpoint."""

    def done(self) -> bool: ...
    def cancel(self) -> bool: ...
    def cancelled(self) -> bool: ...
    def time_remaining(self) -> float | None: ...
    def add_done_callback(self, callback: Callable[[NativeCall], None]) -> None: ...
    def code(self) -> Coroutine[None, None, grpc.StatusCode]: ...
    def details(self) -> Coroutine[None, None, str]: ...
    def debug_error_string(self) -> Coroutine[None, None, str | None]: ...
    def initial_metadata(self) -> Coroutine[None, None, grpc.aio.Metadata]: ...
    def trailing_metadata(self) -> Coroutine[None, None, grpc.aio.Metadata]: ...
    def wait_for_connection(self) -> Coroutine[None, None, None]: ...


NativeMethod: TypeAlias = "Callable[..., NativeCall]"
"""A multi-callable of a plain channel, of any kind."""


class NativeUnary(NativeCall, Protocol):
    """… with one response."""

    def __await__(self) -> Generator[object, None, object]: ...


class NativeReader(NativeCall, Protocol):
    """… with a stream of responses."""

    def __aiter__(self) -> AsyncIterator[object]: ...
    def read(self) -> Coroutine[None, None, object]: ...


class NativeWriter(NativeCall, Protocol):
    """… with a stream of requests."""

    def write(self, request: object) -> Coroutine[None, None, None]: ...
    def done_writing(self) -> Coroutine[None, None, None]: ...


def at_once(coroutine: Coroutine[None, None, T]) -> T:
    """What a coroutine returns that has nothing to wait for, such as one that tells of a call that has ended."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        value: T = ended.value
        return value
    coroutine.close()
    raise RuntimeError("it waits")


def code_of(call: object) -> int:
    """The number of the code with which a call, which is done, ended."""
    code: int = at_once(cast("NativeCall", call).code()).value[0]
    return code


# Core's own account of an error has this when a message could not be sent, mostly since the call was over by then.
_NOT_SENT = "execute_batch"


def not_sent(call: NativeCall) -> bool:
    """A message could not be sent: grpc.aio says so, of a call that has ended, before it tells what the server said."""
    return call.done() and _NOT_SENT in (_report(call) or "")


def _report(call: NativeCall) -> str | None:
    return at_once(call.debug_error_string()) if hasattr(call, "debug_error_string") else "?"


def _made_here(call: NativeCall) -> bool:
    """Statuses that grpc.aio makes up lack core's account of the error, or say that grpc.aio itself failed."""
    report = _report(call)
    return not report or _NOT_SENT in report


def outcome_of(call: NativeCall, *, committed: bool, connected: bool) -> Outcome:
    """How an attempt, which is done, ended. Response headers with something in them commit a call (A6)."""
    code = code_of(call)
    verdict = verdict_of(code, at_once(call.details()), made_here=_made_here(call))
    if verdict in (Verdict.OK, Verdict.OURS, Verdict.REFUSED):
        return Outcome(verdict, code, connected=connected)
    committed = committed or bool(at_once(call.initial_metadata()))
    return Outcome(verdict, code, tuple(at_once(call.trailing_metadata()) or ()), committed)
