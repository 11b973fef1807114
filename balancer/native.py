"""The one place that touches grpcio's private names.

A call object of the balancer is a native `grpc.aio` call whose connection is chosen late and may be chosen again: it
subclasses grpcio's own classes, so that a stub, an interceptor or an exception report sees what it always saw, at the
speed it always had. What that needs beyond the public API is named here and nowhere else, so that a new grpcio release
is checked in one file. Wrappers around finished call objects would need public names alone; they were measured to cost
a few per cent of the calls per second, which these do not.
"""

import time
from typing import Any, Protocol

import grpc
from grpc import _channel as _sync
from grpc import _common
from grpc._cython import cygrpc
from grpc.aio import _call, _channel, _interceptor

EOF = cygrpc.EOF
_HEADERS = cygrpc.OperationType.receive_initial_metadata
InternalError = cygrpc.InternalError
UsageError = cygrpc.UsageError
Status: Any = cygrpc.AioRpcStatus
get_working_loop = cygrpc.get_working_loop
build_census_context = cygrpc.build_census_context
serialize = _common.serialize
deserialize = _common.deserialize

Call: Any = _call.Call
UnaryUnaryCall: Any = _call.UnaryUnaryCall
UnaryStreamCall: Any = _call.UnaryStreamCall
StreamUnaryCall: Any = _call.StreamUnaryCall
StreamStreamCall: Any = _call.StreamStreamCall

InterceptedUnaryUnaryCall: Any = _interceptor.InterceptedUnaryUnaryCall
InterceptedUnaryStreamCall: Any = _interceptor.InterceptedUnaryStreamCall
InterceptedStreamUnaryCall: Any = _interceptor.InterceptedStreamUnaryCall
InterceptedStreamStreamCall: Any = _interceptor.InterceptedStreamStreamCall

SyncCall: Any = grpc.Call
SyncFuture: Any = grpc.Future
# Types alone: the stubs make them generic, grpcio does not.
SyncUnaryUnary: Any = grpc.UnaryUnaryMultiCallable
SyncUnaryStream: Any = grpc.UnaryStreamMultiCallable
SyncStreamUnary: Any = grpc.StreamUnaryMultiCallable
SyncStreamStream: Any = grpc.StreamStreamMultiCallable


class CoreCall(Protocol):
    """One attempt on one connection: what grpcio's call objects drive."""

    _status: Any
    _initial_metadata: Any

    def done(self) -> bool: ...
    def is_ok(self) -> bool: ...
    def is_locally_cancelled(self) -> bool: ...
    def cancelled(self) -> bool: ...
    def cancel(self, details: str) -> bool: ...
    def add_done_callback(self, callback: Any) -> None: ...
    def time_remaining(self) -> float | None: ...
    def set_internal_error(self, details: str) -> None: ...
    async def status(self) -> Any: ...
    async def initial_metadata(self) -> Any: ...
    async def unary_unary(self, request: bytes, metadata: Any, context: Any) -> bytes: ...
    async def initiate_unary_stream(self, request: bytes, metadata: Any, context: Any) -> None: ...
    async def stream_unary(self, metadata: Any, sent: Any, context: Any) -> bytes: ...
    async def initiate_stream_stream(self, metadata: Any, sent: Any, context: Any) -> None: ...
    async def receive_serialized_message(self) -> Any: ...
    async def send_serialized_message(self, message: bytes) -> None: ...
    async def send_receive_close(self) -> None: ...


def core_channel(channel: grpc.aio.Channel) -> Any:
    """The Cython channel inside a grpc.aio channel; its `call` begins an attempt."""
    return channel._channel  # type: ignore[attr-defined]  # noqa: SLF001


init_metadata: Any = _channel._BaseMultiCallable._init_metadata  # noqa: SLF001


def merged_metadata(metadata: Any, compression: grpc.Compression | None) -> tuple[Any, ...]:
    """What a native multi-callable sends: the caller's metadata, and the compression asked for."""
    return tuple(init_metadata(metadata, compression))


def ended_error(code: grpc.StatusCode, details: str) -> Any:
    """The error a blocking native call raises: an RpcError, Call and Future of a call that ended so."""
    error: Any = _sync._InactiveRpcError  # noqa: SLF001
    return error(_sync._RPCState((), (), (), code, details))  # noqa: SLF001


def headers_so_far(call: Any) -> Any:
    """The initial metadata that a native call for threads has received by now; its own method would wait for them."""
    return call._state.initial_metadata or ()  # noqa: SLF001


class _Due(set[Any]):
    """What a native call for threads still waits for; it notes when the response headers came."""

    headers_at: float | None = None
    """On the monotonic clock."""

    def remove(self, operation: Any) -> None:
        super().remove(operation)
        if operation == _HEADERS:
            self.headers_at = time.monotonic()


def watch_headers(call: Any) -> None:
    """From now on it is noted when response headers come to this native call."""
    state = call._state  # noqa: SLF001
    with state.condition:
        due = state.due = _Due(state.due)
        if _HEADERS not in due:
            due.headers_at = time.monotonic()


def headers_age_s(call: Any) -> float:
    """For how long a watched call has had its response headers; 0 when it has none, or is not watched."""
    headers_at = getattr(call._state.due, "headers_at", None)  # noqa: SLF001
    return 0.0 if headers_at is None else time.monotonic() - headers_at


def connectivity(channel: grpc.Channel, *, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
    """A channel's state as it is now; `subscribe`, the public way, costs a thread and holds up `close` by 0.2 s."""
    core = channel._channel  # type: ignore[attr-defined]  # noqa: SLF001
    states = _common.CYGRPC_CONNECTIVITY_STATE_TO_CHANNEL_CONNECTIVITY
    state: grpc.ChannelConnectivity = states[core.check_connectivity_state(try_to_connect)]
    return state
