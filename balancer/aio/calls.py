"""The four kinds of call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc.aio

from balancer.aio.call import Call
from balancer.aio.requests import StreamRequest
from balancer.aio.responses import StreamResponse, UnaryResponse

if TYPE_CHECKING:
    from balancer.aio.connection import Connection
    from balancer.aio.native import NativeCall
    from balancer.channels.types import Arguments

if TYPE_CHECKING:
    _UnaryUnary = grpc.aio.UnaryUnaryCall[object, object]
    _UnaryStream = grpc.aio.UnaryStreamCall[object, object]
    _StreamUnary = grpc.aio.StreamUnaryCall[object, object]
    _StreamStream = grpc.aio.StreamStreamCall[object, object]
else:  # generic for type checkers alone: not every grpcio lets them be subscripted
    _UnaryUnary, _UnaryStream = grpc.aio.UnaryUnaryCall, grpc.aio.UnaryStreamCall
    _StreamUnary, _StreamStream = grpc.aio.StreamUnaryCall, grpc.aio.StreamStreamCall


class _UnaryRequest(Call):
    def _native(self, connection: Connection, arguments: Arguments, *, again: bool = False) -> NativeCall:
        timeout, metadata, credentials, _, compression = arguments
        return self._method.at(connection, again)(
            self._request, timeout=timeout, metadata=metadata, credentials=credentials, compression=compression
        )


class UnaryUnaryCall(_UnaryRequest, UnaryResponse, _UnaryUnary):  # type: ignore[misc]
    """One request, one response."""


class UnaryStreamCall(_UnaryRequest, StreamResponse, _UnaryStream):
    """One request, a stream of responses."""


class StreamUnaryCall(StreamRequest, UnaryResponse, _StreamUnary):  # type: ignore[misc]
    """A stream of requests, one response."""


class StreamStreamCall(StreamRequest, StreamResponse, _StreamStream):
    """A stream of requests, a stream of responses."""
