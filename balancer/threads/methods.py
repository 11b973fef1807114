"""The multi-callables: what all calls of one method have in common, and how a call of each kind begins.

A blocking call is a loop in the caller's own thread; a future or a stream is a `BalancedCall`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import grpc

from balancer import native
from balancer.policies.base import Node
from balancer.retry import Hedging, Retrying
from balancer.threads.call import NO_SAMPLE, BalancedCall
from balancer.threads.hedging import HedgedCall
from balancer.threads.route import Route
from balancer.threads.streams import BalancedStream, Requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.policies.base import PickInfo
    from balancer.service_config import MethodConfig
    from balancer.sync_channel import BalancedChannel
    from balancer.threads.connection import Subchannel


class Method:
    """One method of a service on a balanced channel: what all of its calls have in common."""

    stream_request = False
    kind = ""
    """How a grpc.Channel calls this kind of method."""

    def __init__(
        self, channel: BalancedChannel, method: str, serializer: Any, deserializer: Any, registered: bool | None
    ) -> None:
        self.channel = channel
        self.engine = engine = channel.engine
        self.name = method
        self.retrying: Retrying | None = None
        self.hedging: Hedging | None = None
        self._serializers = (serializer, deserializer)
        self._registered = bool(registered)
        self._callables: dict[Subchannel, Any] = {}
        self._lock = threading.Lock()
        self._config: MethodConfig | None = None
        self._info_of = engine.info_of
        engine.methods.add(self)
        self.configure()

    def configure(self) -> None:
        """Takes over what the service config says of this method."""
        self._config = config = self.engine.config.method(self.name)
        throttle = self.engine.config.throttle
        self.retrying = None if config is None or config.retry is None else Retrying(config.retry, throttle)
        self.hedging = None if config is None or config.hedging is None else Hedging(config.hedging, throttle)

    def at(self, subchannel: Subchannel) -> Any:
        """This method's native multi-callable on a connection. Kept here: a connection outlives many stubs."""
        return self._callables.get(subchannel) or self._make(subchannel)

    def _make(self, subchannel: Subchannel) -> Any:
        with self._lock:
            if subchannel not in self._callables:
                self._callables[subchannel] = subchannel.make(self)
            return self._callables[subchannel]

    def forget(self, subchannel: Subchannel) -> None:
        """The connection is closed."""
        self._callables.pop(subchannel, None)

    def on(self, channel: grpc.Channel) -> Any:
        """This method's native multi-callable on a connection."""
        return getattr(channel, self.kind)(self.name, *self._serializers, _registered_method=self._registered)

    def route(self, info: PickInfo, timeout: float | None, wait_for_ready: bool | None, now: float) -> Route:
        """The way of a call that was made at `now`."""
        config = self._config
        if config is not None:
            if config.timeout_s is not None and (timeout is None or config.timeout_s < timeout):
                timeout = config.timeout_s
            if wait_for_ready is None:
                wait_for_ready = config.wait_for_ready
        return Route(self, info, None if timeout is None else now + timeout, wait_for_ready=wait_for_ready)

    def _blocking(
        self,
        with_call: bool,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        """A call in the caller's thread, by any way it may have to take."""
        self.engine.check_open()
        # Where several attempts race, and where headers may come long before the response (they end the retries).
        if (self.retrying if self.stream_request else self.hedging) is not None:
            future = self._future(request, timeout, metadata, credentials, wait_for_ready, compression)
            return (future.result(), future) if with_call else future.result()
        route = self.route(self._info_of(self.name, metadata or ()), timeout, wait_for_ready, time.monotonic())
        requests = Requests(iter(request)) if self.stream_request else None
        return self._along(route, with_call, request, requests, metadata, credentials, compression)

    def _along(
        self,
        route: Route,
        with_call: bool,
        request: Any,
        requests: Requests | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        compression: grpc.Compression | None,
    ) -> Any:
        """Attempt after attempt, until one is the last."""
        while True:
            node, subchannel = route.wait()
            call = self.at(subchannel)
            if with_call:
                call = call.with_call
            sent = request if requests is None else requests.reader()
            started = time.monotonic()
            node.load.started(started)
            try:
                response = call(sent, route.left_s(), metadata, credentials, None, compression)
            except grpc.RpcError as error:
                if not self._goes_on(route, node, started, error, requests):
                    raise
                metadata = route.marked(metadata)
            except ValueError:
                node.load.abandoned()
                if not self.engine.has_left(node, subchannel):
                    raise
            except BaseException:
                node.load.abandoned()
                raise
            else:
                self.engine.ended(node, time.monotonic() - started if requests is None else NO_SAMPLE, ok=True)
                if route.retries is not None:
                    route.retries.succeeded()
                return response

    def _goes_on(self, route: Route, node: Node, started: float, error: Any, requests: Requests | None) -> bool:
        """An attempt failed: True after the pause before the next, False when it was the last."""
        committed = bool(error.initial_metadata()) or not (requests is None or requests.again)
        pause_s = route.pause_after(node, error, time.monotonic() - started, committed=committed)
        if pause_s is None:
            return False
        self.engine.sleep(pause_s, route.left_s())
        return True

    def _future(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> BalancedCall:
        def begin(native_method: Any, sent_request: Any, left_s: float | None, sent: Any) -> Any:
            return native_method.future(sent_request, left_s, sent, credentials, None, compression)

        return self._begin(BalancedCall, begin, request, timeout, metadata, wait_for_ready, stream=self.stream_request)

    def _begin(
        self,
        kind: type[BalancedCall],
        begin: Callable[[Any, Any, float | None, Any], Any],
        request: Any,
        timeout: float | None,
        metadata: Any,
        wait_for_ready: bool | None,
        *,
        stream: bool,
    ) -> BalancedCall:
        self.engine.check_open()
        requests = Requests(iter(request)) if stream else None
        info = self._info_of(self.name, metadata or ())
        route = self.route(info, timeout, wait_for_ready, time.monotonic())

        def on(subchannel: Subchannel, left_s: float | None, sent: Any) -> Any:
            return begin(self.at(subchannel), request if requests is None else requests.reader(), left_s, sent)

        if self.hedging is not None and kind is BalancedCall and not stream:
            call: BalancedCall = HedgedCall(route, on, metadata, requests, self.hedging.begin())
        else:
            call = kind(route, on, metadata, requests)
        if not call.advance():
            self.engine.advance_later(call, 0.0)
        return call


class _UnaryResponse(Method):
    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._blocking(False, request, timeout, metadata, credentials, wait_for_ready, compression)

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._blocking(True, request, timeout, metadata, credentials, wait_for_ready, compression)

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._future(request, timeout, metadata, credentials, wait_for_ready, compression)


class _StreamResponse(Method):
    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        def begin(native_method: Any, sent_request: Any, left_s: float | None, sent: Any) -> Any:
            return native_method(sent_request, left_s, sent, credentials, None, compression)

        return self._begin(
            BalancedStream, begin, request, timeout, metadata, wait_for_ready, stream=self.stream_request
        )


class UnaryUnaryMethod(_UnaryResponse, native.SyncUnaryUnary):  # type: ignore[misc]
    kind = "unary_unary"

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        # The same as `_blocking` does, at a third of its cost, for the call that nearly every call is. A pick counts
        # as a turn, so there must not be two for one call: first see whether this way will do.
        if self._config is not None:
            return self._blocking(False, request, timeout, metadata, credentials, wait_for_ready, compression)
        info = self._info_of(self.name, metadata or ())
        started = time.monotonic()
        node = self.engine.picker.pick(info, started)
        subchannel = node.subchannel if node.__class__ is Node else None
        if subchannel is None:
            return self._blocking(False, request, timeout, metadata, credentials, wait_for_ready, compression)
        call = self._callables.get(subchannel) or self._make(subchannel)
        load = node.load
        load.started(started)
        try:
            response = call(request, timeout, metadata, credentials, None, compression)
        except grpc.RpcError as error:
            route = self.route(info, timeout, wait_for_ready, started)
            if not self._goes_on(route, node, started, error, None):
                raise
        except ValueError:
            load.abandoned()
            if not self.engine.has_left(node, subchannel):
                raise
            route = self.route(info, timeout, wait_for_ready, started)
        except BaseException:
            load.abandoned()
            raise
        else:
            ended = time.monotonic()
            if load.finished(ended, ended - started):
                self.engine.look_at_loads()
            return response
        return self._along(route, False, request, None, metadata, credentials, compression)


class StreamUnaryMethod(_UnaryResponse, native.SyncStreamUnary):  # type: ignore[misc]
    kind = "stream_unary"
    stream_request = True


class UnaryStreamMethod(_StreamResponse, native.SyncUnaryStream):  # type: ignore[misc]
    kind = "unary_stream"


class StreamStreamMethod(_StreamResponse, native.SyncStreamStream):  # type: ignore[misc]
    kind = "stream_stream"
    stream_request = True
