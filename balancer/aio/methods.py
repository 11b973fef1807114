"""The multi-callables: what all calls of one method have in common, and how a call of each kind begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from balancer import native
from balancer.aio.hedging import HedgedCall
from balancer.aio.streams import StreamStreamCall, StreamUnaryCall, UnaryStreamCall
from balancer.aio.unary import UnaryUnaryCall
from balancer.retry import Hedging, Retrying

if TYPE_CHECKING:
    from balancer.channel import BalancedChannel
    from balancer.policies.base import PickInfo
    from balancer.service_config import MethodConfig


class Method:
    """One method of a service on a balanced channel: what all of its calls have in common."""

    kind: Any
    """The class of its calls."""
    kind_hedged: Any
    """The class of its calls under a hedging policy; streams are not hedged."""
    kind_intercepted: Any
    """The class of its calls when the user has interceptors of `kind_of_interceptor`."""
    kind_of_interceptor: type[grpc.aio.ClientInterceptor]

    def __init__(
        self, channel: BalancedChannel, method: str, serializer: Any, deserializer: Any, registered: bool | None
    ) -> None:
        self.channel = channel
        self.engine = engine = channel.engine
        self.loop = engine.loop
        self.path = method.encode()
        self.serializer = serializer
        self.deserializer = deserializer
        self.registered = bool(registered)
        self.replay_limit = engine.replay_limit
        self.calls = engine.calls
        self.retrying: Retrying | None = None
        self.hedging: Hedging | None = None
        self._config: MethodConfig | None = None
        self._interceptors = channel.interceptors_for(self)
        self._others: dict[str, Method] = {}
        self._name = method
        self._info_of = engine.info_of
        engine.methods.add(self)
        self.configure()

    def configure(self) -> None:
        """Takes over what the service config says of this method."""
        self._config = config = self.engine.config.method(self._name)
        throttle = self.engine.config.throttle
        self.retrying = None if config is None or config.retry is None else Retrying(config.retry, throttle)
        self.hedging = None if config is None or config.hedging is None else Hedging(config.hedging, throttle)
        self._kind = self.kind if self.hedging is None else self.kind_hedged

    def info(self, metadata: tuple[Any, ...]) -> PickInfo:
        """What a pick may know of a call."""
        return self._info_of(self._name, metadata)

    def begin(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Begins a call, past all interceptors."""
        config = self._config
        if config is not None:
            if config.timeout_s is not None and (timeout is None or config.timeout_s < timeout):
                timeout = config.timeout_s
            if wait_for_ready is None:
                wait_for_ready = config.wait_for_ready
        sent = () if metadata is None and compression is None else native.merged_metadata(metadata, compression)
        return self._kind(self, request, timeout, sent, credentials, wait_for_ready)

    def intercepted(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        """Begins a call whose innermost interceptor begins the real one."""
        if self.engine.closed:
            raise native.UsageError("Channel is closed.")
        sent = native.init_metadata(metadata, compression)
        call = self.kind_intercepted(
            self._interceptors,
            request,
            timeout,
            sent,
            credentials,
            wait_for_ready,
            None,
            self.path,
            self.serializer,
            self.deserializer,
            self.loop,
        )
        self.calls.add(call)
        call.add_done_callback(self.calls.discard)
        return call

    def at(self, path: str | bytes) -> Method:
        """The method an interceptor chose; nearly always this one."""
        name = path.decode() if isinstance(path, bytes) else path
        if name == self._name:
            return self
        other = self._others.get(name)
        if other is None:
            other = type(self)(self.channel, name, self.serializer, self.deserializer, False)
            self._others[name] = other
        return other


class _UnaryRequestMethod(Method):
    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        begin = self.intercepted if self._interceptors else self.begin
        return begin(request, timeout, metadata, credentials, wait_for_ready, compression)


class _StreamRequestMethod(Method):
    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        begin = self.intercepted if self._interceptors else self.begin
        return begin(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)


class UnaryUnaryMethod(_UnaryRequestMethod, grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    kind = UnaryUnaryCall
    kind_hedged = HedgedCall
    kind_intercepted = native.InterceptedUnaryUnaryCall
    kind_of_interceptor = grpc.aio.UnaryUnaryClientInterceptor


class UnaryStreamMethod(_UnaryRequestMethod, grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    kind = kind_hedged = UnaryStreamCall
    kind_intercepted = native.InterceptedUnaryStreamCall
    kind_of_interceptor = grpc.aio.UnaryStreamClientInterceptor


class StreamUnaryMethod(_StreamRequestMethod, grpc.aio.StreamUnaryMultiCallable[Any, Any]):
    kind = kind_hedged = StreamUnaryCall
    kind_intercepted = native.InterceptedStreamUnaryCall
    kind_of_interceptor = grpc.aio.StreamUnaryClientInterceptor


class StreamStreamMethod(_StreamRequestMethod, grpc.aio.StreamStreamMultiCallable[Any, Any]):
    kind = kind_hedged = StreamStreamCall
    kind_intercepted = native.InterceptedStreamStreamCall
    kind_of_interceptor = grpc.aio.StreamStreamClientInterceptor
