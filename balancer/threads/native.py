"""What a balanced call asks of an attempt, a call of a plain channel, and how one that has no attempt ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

import grpc

from balancer.calls.outcome import Outcome, Verdict, verdict_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from balancer.channels.types import Metadata

CODES = {code.value[0]: code for code in grpc.StatusCode}
CLOSED = "Cannot invoke RPC on closed channel!"
CHANNEL_CLOSED = "Channel closed!"
LOCALLY_CANCELLED = "Locally cancelled by application!"


if TYPE_CHECKING:
    Future = grpc.Future[object]
else:  # generic for type checkers alone
    Future = grpc.Future


class NativeError(Protocol):
    """What tells of a call that has ended: the error that a blocking call raises, or a call object."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def initial_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...
    def debug_error_string(self) -> str | None: ...


class NativeCall(NativeError, Protocol):
    """A call on the connection to one endpoint that does not block: a future or a stream."""

    def cancel(self) -> bool: ...
    def is_active(self) -> bool: ...
    def result(self, timeout: float | None = None) -> object: ...
    def add_done_callback(self, fn: Callable[[NativeCall], None]) -> None: ...
    def __next__(self) -> object: ...


class NativeMethod(Protocol):
    """A multi-callable of a plain channel, of any kind."""

    with_call: Callable[..., tuple[object, object]]
    future: Callable[..., NativeCall]

    def __call__(
        self,
        request: object,
        timeout: float | None,
        metadata: Metadata | None,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> object: ...


def code_of(call: object) -> int:
    """The number of the code with which a call ended."""
    code: int = cast("NativeError", call).code().value[0]
    return code


def outcome_of(ended: NativeError, *, committed: bool) -> Outcome:
    """How an attempt, which is done, ended. Response headers with something in them commit a call (A6)."""
    code = code_of(ended)
    verdict = verdict_of(code, ended.details(), made_here=made_here(ended))
    if verdict in (Verdict.OK, Verdict.OURS, Verdict.REFUSED):
        return Outcome(verdict, code)
    committed = committed or bool(ended.initial_metadata())
    return Outcome(verdict, code, tuple(ended.trailing_metadata() or ()), committed)


# What grpcio says when something of the caller's did not work. A server says the same of its own side in other words.
_OURS = (
    "Exception deserializing response!",
    "Exception iterating requests!",
    "Exception serializing request!",
    "Invalid metadata",
    "metadata was invalid: ",
)


def made_here(ended: NativeError) -> bool:
    """True for what ended on this side: cancelled, or since something of the caller's did not work."""
    cancelled: Callable[[], bool] | None = getattr(ended, "cancelled", None)
    return (ended.details() or "").startswith(_OURS) or (cancelled is not None and cancelled())


class Ended(grpc.RpcError, grpc.Call, Future):
    """A call that ended without an attempt, and the error it raises: as grpcio's own errors, it is Call and Future."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(code, details)
        self._code = code
        self._details = details

    def initial_metadata(self) -> tuple[()]:
        return ()

    def trailing_metadata(self) -> tuple[()]:
        return ()

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def debug_error_string(self) -> str:
        return self._details

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return None

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return self._code is grpc.StatusCode.CANCELLED

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> object:
        raise self

    def exception(self, timeout: float | None = None) -> Ended:
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        try:
            raise self
        except Ended as raised:
            return raised.__traceback__

    def add_done_callback(self, fn: Callable[[Ended], None]) -> None:
        fn(self)

    def __repr__(self) -> str:
        name = type(self).__name__
        return f'<{name} of RPC that terminated with:\n\tstatus = {self._code}\n\tdetails = "{self._details}"\n>'

    __str__ = __repr__
