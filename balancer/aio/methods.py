"""The multi-callables: what all calls of one method have in common, and how a call of each kind begins."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import grpc
import grpc.aio

from balancer.aio.calls import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from balancer.aio.dial import begin_of
from balancer.aio.native import CLOSED
from balancer.calls.plan import PLAIN
from balancer.channels.kinds import Kind, Signature
from balancer.policies.base import Node

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.aio.call import Call
    from balancer.aio.connection import Connection
    from balancer.aio.engine import AioEngine
    from balancer.aio.native import NativeMethod
    from balancer.calls.replay import Kept
    from balancer.channels.types import Metadata


class Method:
    """One method of a service on a balanced channel: what all of its calls have in common."""

    call_type: type[Call]

    def __init__(self, engine: AioEngine, signature: Signature) -> None:
        self.engine = engine
        self.plan = PLAIN
        self.replay_limit: int | None = None
        self._signature = signature
        self._revision = -1
        self._firsts: dict[Connection, NativeMethod]
        """For first attempts; and those for attempts that others went before."""
        self._laters: dict[Connection, NativeMethod]
        self._others: dict[str, Method] = {}
        self._front = self._in_front(engine.front)
        self._replan()

    def _in_front(self, front: grpc.aio.Channel | None) -> NativeMethod | None:
        if front is None:
            return None
        signature = self._signature
        make = cast("Callable[..., NativeMethod]", getattr(front, signature.kind.value))
        return make(signature.path, signature.serializer, signature.deserializer)

    def _replan(self) -> None:
        """Takes over what the service config says of this method."""
        self._revision = self.engine.revision
        self._firsts, self._laters = {}, {}
        self.plan = plan = self.engine.plan(self._signature)
        self.replay_limit = None if plan.retrying is None else self.engine.settings.replay_limit

    def at(self, connection: Connection, again: bool) -> NativeMethod:
        """This method's multi-callable on a connection. Kept here: a connection outlives many stubs."""
        natives = self._laters if again else self._firsts
        return natives.get(connection) or self._made(connection, again)

    def _made(self, connection: Connection, again: bool) -> NativeMethod:
        natives = self._laters if again else self._firsts
        for gone in [other for other in natives if other.closed]:
            del natives[gone]
        signature = self._signature
        channel = connection.retries if again else connection.channel
        make = cast("Callable[..., NativeMethod]", getattr(channel, signature.kind.value))
        keeps = signature.kind.streams_requests and self.replay_limit is not None
        serializer = self._encoded if keeps else signature.serializer
        native = make(signature.path, serializer, signature.deserializer, _registered_method=signature.registered)
        natives[connection] = native
        return native

    def _encoded(self, kept: Kept) -> object:
        return kept.encoded(self._signature.serializer)

    def begin(
        self,
        request: object,
        timeout: float | None,
        metadata: Metadata | None,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Call:
        """Begins a call, past all interceptors."""
        engine = self.engine
        if self._revision != engine.revision:
            self._replan()
        plan = self.plan
        if plan is not PLAIN:
            timeout = plan.timeout(timeout)
        if metadata is not None and not isinstance(metadata, tuple | grpc.aio.Metadata):
            metadata = _checked(metadata)
        info = engine.info_of(self._signature.path, metadata or ())
        now = time.monotonic()
        pick = engine.picker.pick(info, now) if plan.hedging is None else None
        call = self.call_type(self, request, (timeout, metadata, credentials, wait_for_ready, compression), info)
        if isinstance(pick, Node):
            call.begin_on(pick, now)
        else:
            call.begin_without(now)
        return call

    def through_front(self, front: NativeMethod, request: object, **arguments: object) -> Call:
        """Begins a call whose innermost interceptor begins the real one."""
        if self.engine.closed:
            raise grpc.aio.UsageError(CLOSED)
        token = begin_of.set(self._begin)
        try:
            return cast("Call", front(request, **arguments))
        finally:
            begin_of.reset(token)

    def _begin(self, details: grpc.aio.ClientCallDetails, request: object) -> Call:
        # What the call's compression asks for is among its metadata by now.
        method = self._at(details.method)
        metadata, credentials = details.metadata, details.credentials
        return method.begin(request, details.timeout, metadata, credentials, details.wait_for_ready, None)

    def _at(self, path: str | bytes) -> Method:
        """The method an interceptor chose; nearly always this one."""
        name = path.decode() if isinstance(path, bytes) else path
        if name == self._signature.path:
            return self
        other = self._others.get(name)
        if other is None:
            signature = self._signature
            changed = Signature(signature.kind, name, signature.serializer, signature.deserializer, False)
            other = self._others[name] = type(self)(self.engine, changed)
        return other


def _checked(metadata: Metadata) -> Metadata:
    """Raises what grpc.aio raises for what cannot be metadata."""
    return tuple(metadata)


class _UnaryRequestMethod(Method):
    def __call__(
        self,
        request: object,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Call:
        if self._front is None:
            return self.begin(request, timeout, metadata, credentials, wait_for_ready, compression)
        return self.through_front(
            self._front,
            request,
            timeout=timeout,
            metadata=metadata,
            credentials=credentials,
            wait_for_ready=wait_for_ready,
            compression=compression,
        )


class _StreamRequestMethod(Method):
    def __call__(
        self,
        request_iterator: object = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Call:
        if self._front is None:
            return self.begin(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)
        return self.through_front(
            self._front,
            request_iterator,
            timeout=timeout,
            metadata=metadata,
            credentials=credentials,
            wait_for_ready=wait_for_ready,
            compression=compression,
        )


class UnaryUnaryMethod(_UnaryRequestMethod, grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[misc, type-arg]
    call_type = UnaryUnaryCall


class UnaryStreamMethod(_UnaryRequestMethod, grpc.aio.UnaryStreamMultiCallable):  # type: ignore[misc, type-arg]
    call_type = UnaryStreamCall


class StreamUnaryMethod(_StreamRequestMethod, grpc.aio.StreamUnaryMultiCallable):  # type: ignore[misc, type-arg]
    call_type = StreamUnaryCall


class StreamStreamMethod(_StreamRequestMethod, grpc.aio.StreamStreamMultiCallable):  # type: ignore[misc, type-arg]
    call_type = StreamStreamCall


METHODS: dict[Kind, type[Method]] = {
    Kind.UNARY_UNARY: UnaryUnaryMethod,
    Kind.UNARY_STREAM: UnaryStreamMethod,
    Kind.STREAM_UNARY: StreamUnaryMethod,
    Kind.STREAM_STREAM: StreamStreamMethod,
}
