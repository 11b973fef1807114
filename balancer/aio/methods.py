"""The multi-callables: what all calls of one method have in common, and how a call of each kind begins."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import grpc
import grpc.aio

from balancer.aio.calls import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from balancer.aio.dial import Path, begin_of
from balancer.channels.kinds import Kind, Signature
from balancer.channels.method import BalancedMethod
from balancer.policies.base import Node

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.aio.call import Call
    from balancer.aio.engine import AioEngine
    from balancer.aio.native import NativeMethod
    from balancer.channels.types import Arguments, Metadata


class Method(BalancedMethod["NativeMethod"]):
    """One method of a service on an asyncio channel."""

    engine: AioEngine
    call_type: type[Call]

    def __init__(self, engine: AioEngine, signature: Signature) -> None:
        super().__init__(engine, signature)
        self._others: dict[str, Method] = {}
        self._front = self._in_front(engine.front)
        self._called = self.begin if self._front is None else self._through_front

    def _in_front(self, front: grpc.aio.Channel | None) -> NativeMethod | None:
        if front is None:
            return None
        signature = self._signature
        make = cast("Callable[..., NativeMethod]", getattr(front, signature.kind.value))
        path = Path(signature.path.encode())
        path.begin = self._begin
        return make(path, signature.serializer, signature.deserializer)

    @property
    def _serializer(self) -> Callable[..., object] | None:
        keeps = self._signature.kind.streams_requests and self.replay_limit is not None
        return self._encoded if keeps else self._signature.serializer

    def begin(self, request: object, arguments: Arguments) -> Call:
        """Begins a call, past all interceptors."""
        engine = self.engine
        arguments = self.planned(arguments)
        metadata = arguments[1]
        if metadata is not None and not isinstance(metadata, tuple | grpc.aio.Metadata):
            metadata = tuple(metadata)  # raises what grpc.aio raises for what cannot be metadata
            arguments = (arguments[0], metadata, *arguments[2:])
        info = engine.info_of(self.path, metadata or ())
        now = time.monotonic()
        if engine.resting:
            engine.stir(now)
        pick = engine.picker.pick(info, now) if self.plan.hedging is None else None
        call = self.call_type(self, request, arguments, info)
        if engine.tracing.is_on:
            call.trace(engine.tracing.begin(self.path, metadata))
        try:
            if isinstance(pick, Node):
                call.begin_on(pick, now)
            else:
                call.begin_without(now)
        except BaseException:
            call.refused()
            raise
        return call

    def _through_front(self, request: object, arguments: Arguments) -> Call:
        """Begins a call whose innermost interceptor begins the real one."""
        if self.engine.closed:
            raise self.engine.too_late()
        assert self._front is not None  # noqa: S101 - there is one
        token = begin_of.set(self._begin)
        try:
            return cast("Call", self._front(request, **dict(zip(_NAMES, arguments, strict=True))))
        finally:
            begin_of.reset(token)

    def _begin(self, details: grpc.aio.ClientCallDetails, request: object) -> Call:
        # What the call's compression asks for is among its metadata by now.
        arguments = details.timeout, details.metadata, details.credentials, details.wait_for_ready, None
        return self._at(details.method).begin(request, arguments)

    def _at(self, path: str | bytes) -> Method:
        """The method an interceptor chose; nearly always this one."""
        name = path.decode() if isinstance(path, bytes) else path
        if name == self.path:
            return self
        other = self._others.get(name)
        if other is None:
            signature = self._signature
            changed = Signature(signature.kind, name, signature.serializer, signature.deserializer, False)
            other = self._others[name] = type(self)(self.engine, changed)
        return other


_NAMES = ("timeout", "metadata", "credentials", "wait_for_ready", "compression")


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
        return self._called(request, (timeout, metadata, credentials, wait_for_ready, compression))


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
        return self._called(request_iterator, (timeout, metadata, credentials, wait_for_ready, compression))


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
