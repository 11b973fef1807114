"""How grpc.aio channels are made: the connections to endpoints, and the front that interceptors stand in.

Interceptors are above retries: they see one call, however many attempts it takes (gRFC A6). grpc.aio runs them in a
channel, so where there are any, calls go through a channel that never connects, the front, whose innermost interceptor
begins the balanced call. Tools that trace calls put theirs in by taking the place of `grpc.aio.insecure_channel`: the
front is made with what stands there, the connections with what stood there first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from balancer.aio.native import at_once
from balancer.channels.dial import INSECURE, NOWHERE, SECURE, Dialler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from balancer.channels.options import GrpcOptions


class AioDialler(Dialler):
    """As `Dialler`, with interceptors in front."""

    def __init__(
        self,
        credentials: grpc.ChannelCredentials | None,
        compression: grpc.Compression | None,
        interceptors: Sequence[grpc.aio.ClientInterceptor],
    ) -> None:
        super().__init__(credentials, compression)
        self._interceptors = tuple(interceptors)
        self._traced = grpc.aio.insecure_channel is not INSECURE or grpc.aio.secure_channel is not SECURE

    def check(self, options: GrpcOptions) -> None:
        """Raises what grpc.aio raises for arguments that no channel can be made with."""
        at_once(self.dial_aio(NOWHERE, options).close())

    def front(self) -> grpc.aio.Channel | None:
        """The channel that interceptors stand in; None when there are none.

        Raises ValueError for one that is no interceptor.
        """
        if not self._interceptors and not self._traced:
            return None
        interceptors = [*self._interceptors, *_INNERMOST]
        if self._credentials is None:
            return grpc.aio.insecure_channel(NOWHERE, None, None, interceptors=interceptors)
        return grpc.aio.secure_channel(NOWHERE, self._credentials, None, None, interceptors=interceptors)


Begin = Callable[[grpc.aio.ClientCallDetails, object], object]
begin_of: ContextVar[Begin] = ContextVar("begin_of")
"""Begins the balanced call of the method that was called; set while a call goes through the front."""


class Path(bytes):
    """A method's path, as the front has it, with what begins a balanced call of it: interceptors hand it on, also those
    that go on in another context."""

    begin: Begin


def _begin(details: grpc.aio.ClientCallDetails, request: object) -> Any:  # as the base classes have it
    begin = begin_of.get(None)
    if begin is None:
        path: object = details.method  # which the stubs take for text
        if not isinstance(path, Path):
            raise grpc.aio.UsageError("an interceptor changed the method of a call in a context that is not the call's")
        begin = path.begin
    return begin(details, request)


Continuation = Callable[..., Awaitable[object]]


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request: object
    ) -> Any:  # as the base class has it, whose types are variables
        return _begin(client_call_details, request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request: object
    ) -> Any:  # as the base class has it, whose types are variables
        return _begin(client_call_details, request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request_iterator: object
    ) -> Any:  # as the base class has it, whose types are variables
        return _begin(client_call_details, request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request_iterator: object
    ) -> Any:  # as the base class has it, whose types are variables
        return _begin(client_call_details, request_iterator)


# One object for each: grpc.aio uses an interceptor for the first kind that it finds it to be of.
_INNERMOST = (_UnaryUnary(), _UnaryStream(), _StreamUnary(), _StreamStream())
