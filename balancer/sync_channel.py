"""SHELL: balanced channels for threads. `sync_channel` makes one.

The resolver and the pool live in an event loop in a thread of the channel's own; calls are made in the
callers' threads, which only read the current picker. The channel must be made after forking, like any gRPC channel.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import grpc

from balancer import native
from balancer.channel import FROM_GRPC, TO_GRPC
from balancer.driver import NO_CONNECTION, Driver
from balancer.health import Stream, StreamThread, health_stream, load_stream
from balancer.options import ChannelOptions, GrpcOptions, Settings, info_maker, settings_of
from balancer.pool import ANY, ConnectivityState, Node, Open, Pick, Picker, PickInfo, Pool, PoolStatistics, Wait
from balancer.retry import Hedging, Retrying
from balancer.service_config import MethodConfig, ServiceConfig, parse_service_config
from balancer.sync_calls import NO_SAMPLE, BalancedCall, BalancedStream, HedgedCall, Requests, Route

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.endpoints import Resolved
    from balancer.policies.base import Policy
    from balancer.resolvers import Resolver

log = logging.getLogger(__name__)

_CLOSED = "Cannot invoke RPC on closed channel!"
_LOOK_FIRST_S = 0.001
_LOOK_LAST_S = 0.05
"""grpcio tells a channel's state by a thread per channel, or when it is asked. Asking takes 0.4 µs, so all connections
are asked: soon after something happened, then less and less often. Calls that meet a dead connection meanwhile go
elsewhere."""


def sync_channel(
    resolver: Resolver | str,
    *,
    policy: str | Policy | None = None,
    options: GrpcOptions | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    compression: grpc.Compression | None = None,
    balancing: ChannelOptions | None = None,
    rng: random.Random | None = None,
) -> BalancedChannel:
    """A `grpc.Channel` over the endpoints that `resolver` tells of; arguments as for `balancer.aio_channel`.

    The resolver runs in the channel's private event loop. For interceptors use `grpc.intercept_channel`, as
    with any channel.
    """
    settings = settings_of(resolver, policy, options, balancing)
    return BalancedChannel(settings, credentials, compression, rng or random.Random())  # noqa: S311


class Subchannel:
    """The connection to one endpoint: a plain grpc.Channel. It belongs to the private loop, but for `make`."""

    __slots__ = ("_channel", "_streams", "_threads", "_told", "_waits_for_health")

    def __init__(self, channel: grpc.Channel, streams: list[Stream], *, waits_for_health: bool) -> None:
        self._channel = channel
        self._streams = streams
        self._waits_for_health = waits_for_health
        self._threads: list[StreamThread] = []
        self._told: grpc.ChannelConnectivity | None = None
        self.connect()

    def make(self, method: Method) -> Any:
        """The native multi-callable of a method on this connection."""
        return method.on(self._channel)

    def connect(self) -> None:
        """Begins to connect if nothing else does."""
        native.connectivity(self._channel, try_to_connect=True)

    def look(self) -> ConnectivityState | None:
        """The connection's state if it is another than at the last look."""
        state = native.connectivity(self._channel)
        if state is self._told:
            return None
        self._told = state
        self._end_streams()
        if state is not grpc.ChannelConnectivity.READY:
            return FROM_GRPC[state]
        self._threads = [StreamThread(stream, self._channel) for stream in self._streams]
        # Until its health service has spoken, a back end counts as connecting (gRFC A17).
        return ConnectivityState.CONNECTING if self._waits_for_health else ConnectivityState.READY

    def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        self._end_streams()
        self._channel.close()

    def _end_streams(self) -> None:
        threads, self._threads = self._threads, []
        for thread in threads:
            thread.stop()


class Connectivity:
    """Tells subscribers of the channel's state, in a thread that lives as long as there is something to tell,
    as gRPC's own does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = ConnectivityState.IDLE
        self._subscribers: list[_Subscriber] = []
        self._telling = False

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        with self._lock:
            self._subscribers.append(_Subscriber(callback))
            self._tell_soon()

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        with self._lock:
            for subscriber in self._subscribers:
                if subscriber.callback == callback:
                    self._subscribers.remove(subscriber)
                    return

    def unsubscribe_all(self) -> None:
        with self._lock:
            self._subscribers.clear()

    def update(self, state: ConnectivityState) -> None:
        with self._lock:
            if state is not self._state:
                self._state = state
                self._tell_soon()

    def _tell_soon(self) -> None:
        if self._subscribers and not self._telling:
            self._telling = True
            threading.Thread(target=self._tell, name="balancer-connectivity", daemon=True).start()

    def _tell(self) -> None:
        while True:
            with self._lock:
                state = self._state
                due = [subscriber for subscriber in self._subscribers if subscriber.told is not state]
                for subscriber in due:
                    subscriber.told = state
                if not due:
                    self._telling = False
                    return
            for subscriber in due:
                try:
                    subscriber.callback(TO_GRPC[state])
                except Exception:
                    log.exception("a connectivity callback failed")


class _Subscriber:
    __slots__ = ("callback", "told")

    def __init__(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self.callback = callback
        self.told: ConnectivityState | None = None


class Engine:
    """What a channel's methods and calls share. Picks are made in any thread, everything else happens in the
    private loop."""

    def __init__(
        self, settings: Settings, dial: Callable[[str, GrpcOptions], grpc.Channel], rng: random.Random
    ) -> None:
        self.rng = rng
        self.info_of = info_maker(settings)
        self.config: ServiceConfig = settings.service_config
        self.methods: weakref.WeakSet[Method] = weakref.WeakSet()
        self.connectivity = Connectivity()
        self.state = ConnectivityState.IDLE
        self.closed = False
        self.picker: Any = _Dormant(self)
        self.generation = 0
        """Grows with each picker."""
        self.driver: Driver | None = None
        self._settings = settings
        self._dial = dial
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._open: dict[Subchannel, Node] = {}
        self._leaving: dict[Subchannel, Node] = {}
        """Connections that end once their calls have."""
        self._look_after_s = _LOOK_FIRST_S
        self._look_timer: asyncio.TimerHandle | None = None
        self._parked: dict[BalancedCall, asyncio.TimerHandle | None] = {}

    def start(self) -> None:
        """Begins to resolve and to connect, once."""
        with self._changed:
            if self._thread is not None or self.closed:
                return
            pool = Pool(self._settings.policy, options=self._settings.options.pool, rng=self.rng, now=time.monotonic())
            self._loop = asyncio.new_event_loop()
            self.driver = Driver(self._settings.resolver, pool, self, self._loop)
            self.picker = pool.picker
            self._thread = threading.Thread(target=self._run, name="balancer-channel", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        assert self.driver is not None  # noqa: S101 - `start` made it
        self._stopping = asyncio.Event()
        if not self.closed:
            self.driver.start()
            await self._stopping.wait()
        for task in self.driver.stop():
            await asyncio.wait({task})
        for call in list(self._parked):
            call.advance()
        for subchannel in (*self._open, *self._leaving):
            subchannel.close()

    def close(self) -> None:
        """Cancels what is under way and ends the private loop. Idempotent; from any thread."""
        with self._changed:
            self.closed = True
            self.picker = _Closed()
            self.state = ConnectivityState.SHUTDOWN
            self.generation += 1
            self._changed.notify_all()
        self.connectivity.unsubscribe_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._soon(lambda: self._stopping.set())
            self._thread.join()

    def stop(self) -> None:
        """As `close`, but waits for nothing: for the garbage collector."""
        self.closed = True
        self.picker = _Closed()
        if self._thread is not None:
            self._soon(lambda: self._stopping.set())

    # From any thread.

    def sleep(self, pause_s: float, left_s: float | None) -> None:
        """Waits in the caller's thread, no longer than its deadline and the channel's life."""
        end = time.monotonic() + (pause_s if left_s is None else min(pause_s, left_s))
        with self._changed:
            self._changed.wait_for(lambda: self.closed, max(0.0, end - time.monotonic()))

    def pick(self, info: PickInfo) -> Pick:
        pick: Pick = self.picker.pick(info, time.monotonic())
        if isinstance(pick, Open) and self.driver is not None:
            self._soon(self.driver.connect, pick.nodes)
        return pick

    def wait_for_picker(self, seen: int, timeout_s: float | None) -> bool:
        """Waits for a picker newer than generation `seen`; False when `timeout_s` went by first."""
        with self._changed:
            return self._changed.wait_for(lambda: self.generation != seen, timeout_s)

    def ended(self, node: Node, rtt_s: float, *, ok: bool) -> None:
        """A call ended; `ok` False speaks against the node."""
        if node.load.finished(time.monotonic(), rtt_s, ok):
            self.look_at_loads()

    def look_at_loads(self) -> None:
        """A load has something the pool should act on."""
        if self.driver is not None:
            self._soon(self.driver.tick)

    def has_left(self, node: Node, subchannel: Subchannel) -> bool:
        """True when a connection refuses calls only because it was closed between the pick and the call."""
        return node.subchannel is not subchannel and not self.closed

    def connection_failed(self, node: Node) -> None:
        """A call found no connection although the pool took it for ready."""
        self._soon(self._look_at, node)

    def advance_later(self, call: BalancedCall, pause_s: float) -> None:
        """Has the private loop go on with a call that must not block its caller."""
        self._soon(self._advance_after, call, pause_s)

    def later(self, pause_s: float, function: Callable[[], object]) -> None:
        """Has the private loop call something after a while."""
        self._soon(lambda: self._loop.call_later(pause_s, function))

    def _soon(self, function: Callable[..., object], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            if not self.closed:
                raise

    # In the private loop.

    def _advance_after(self, call: BalancedCall, pause_s: float) -> None:
        if pause_s > 0:
            left_s = call.time_remaining()
            self._loop.call_later(pause_s if left_s is None else min(pause_s, left_s), self._park, call)
        else:
            self._park(call)

    def _park(self, call: BalancedCall) -> None:
        if call.advance():
            return
        left_s = call.time_remaining()
        self._parked[call] = None if left_s is None else self._loop.call_later(left_s, self._unpark, call)

    def _unpark(self, call: BalancedCall) -> None:
        if call.picker_changed():
            timer = self._parked.pop(call, None)
            if timer is not None:
                timer.cancel()

    def _look_at(self, node: Node) -> None:
        subchannel = node.subchannel
        if subchannel is not None:
            subchannel.connect()
            self._look_at_one(node, subchannel)
        if self.driver is not None:
            # Whatever became of the node meanwhile: the calls it refused look again.
            self.install(self.driver.pool.picker, self.driver.pool.state)

    def _look_at_one(self, node: Node, subchannel: Subchannel) -> bool:
        state = subchannel.look()
        if state is not None and self.driver is not None and node.subchannel is subchannel:
            self.driver.report(node, state, NO_CONNECTION)
        return state is not None

    def _look(self) -> None:
        """Asks all connections for their states, and closes those whose calls have ended."""
        changed = [self._look_at_one(node, subchannel) for subchannel, node in list(self._open.items())]
        for subchannel, node in list(self._leaving.items()):
            if not node.load.in_flight:
                del self._leaving[subchannel]
                subchannel.close()
                for method in list(self.methods):
                    method.forget(subchannel)
        self._look_after_s = _LOOK_FIRST_S if any(changed) else min(_LOOK_LAST_S, self._look_after_s * 1.5)
        self._look_later()

    def _look_soon(self) -> None:
        self._look_after_s = _LOOK_FIRST_S
        self._look_later()

    def _look_later(self) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
        if self._open or self._leaving:
            self._look_timer = self._loop.call_later(self._look_after_s, self._look)

    def _on_health(self, node: Node, subchannel: Subchannel, serving: bool) -> None:
        if node.subchannel is subchannel and self.driver is not None:
            self.driver.report_health(node, serving=serving)
            self.driver.report(node, ConnectivityState.READY)

    def _on_weight(self, node: Node, weight: float) -> None:
        if self.driver is not None:
            self.driver.report_weight(node, weight)

    # What the driver asks for (balancer.driver.Connections).

    def open_node(self, node: Node) -> None:
        if node.subchannel is not None:
            node.subchannel.connect()
        else:
            node.subchannel = self._dialled(node)
            self._open[node.subchannel] = node
        self._look_soon()

    def _dialled(self, node: Node) -> Subchannel:
        subchannel: Subchannel

        def on_health(serving: bool) -> None:
            self._soon(lambda: self._on_health(node, subchannel, serving))

        def on_weight(weight: float) -> None:
            self._soon(lambda: self._on_weight(node, weight))

        options = self._settings.options
        streams = []
        if options.health_service is not None:
            streams.append(health_stream(options.health_service, on_health))
        if options.load_report_interval_s is not None:
            streams.append(load_stream(options.load_report_interval_s, on_weight))
        channel = self._dial(node.endpoint.address, self._settings.dial_options(self.config))
        subchannel = Subchannel(channel, streams, waits_for_health=options.health_service is not None)
        return subchannel

    def close_node(self, node: Node) -> None:
        subchannel, node.subchannel = node.subchannel, None
        if subchannel is not None:
            del self._open[subchannel]
            self._leaving[subchannel] = node
            self._look_soon()

    def install(self, picker: Picker, state: ConnectivityState) -> None:
        with self._changed:
            if self.closed:
                return
            self.picker, self.state = picker, state
            self.generation += 1
            self._changed.notify_all()
        self.connectivity.update(state)
        for call in list(self._parked):
            self._unpark(call)

    def configured(self, resolution: Resolved) -> None:
        if resolution.service_config is None:
            return
        try:
            self.config = parse_service_config(resolution.service_config)
        except ValueError as error:
            log.warning("service config refused, the one before stays: %s", error)
            return
        for method in list(self.methods):
            method.configure()


class _Dormant:
    """The picker of a channel nobody has used yet."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def pick(self, info: PickInfo, now: float) -> Pick:
        self._engine.start()
        return Wait()


class _Closed:
    """The picker of a closed channel."""

    def pick(self, info: PickInfo, now: float) -> Pick:
        raise ValueError(_CLOSED)


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
        if self.hedging is not None and not self.stream_request:
            hedged = self._future(request, timeout, metadata, credentials, wait_for_ready, compression)
            return (hedged.result(), hedged) if with_call else hedged.result()
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
        # The same as `_blocking` does, at a third of its cost, for the call that nearly every call is.
        info = self._info_of(self.name, metadata or ())
        started = time.monotonic()
        node = self.engine.picker.pick(info, started)
        subchannel = node.subchannel if node.__class__ is Node else None
        if subchannel is None or self._config is not None:
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


class BalancedChannel(grpc.Channel):
    """A channel over many endpoints; made by `sync_channel`."""

    def __init__(
        self,
        settings: Settings,
        credentials: grpc.ChannelCredentials | None,
        compression: grpc.Compression | None,
        rng: random.Random,
    ) -> None:
        def dial(address: str, options: GrpcOptions) -> grpc.Channel:
            if credentials is None:
                return grpc.insecure_channel(address, options, compression)
            return grpc.secure_channel(address, credentials, options, compression)

        self.engine = Engine(settings, dial, rng)

    def stats(self) -> PoolStatistics | None:
        """The pool as it is now; None before the first call."""
        driver = self.engine.driver
        return None if driver is None else driver.pool.statistics(time.monotonic())

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = None
    ) -> None:
        """Tells `callback`, in another thread, the channel's state now and whenever it changes."""
        self.engine.connectivity.subscribe(callback)
        if try_to_connect:
            self.engine.pick(ANY)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self.engine.connectivity.unsubscribe(callback)

    def close(self) -> None:
        """Cancels the calls under way and closes all connections."""
        self.engine.close()

    def __enter__(self) -> BalancedChannel:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        engine = getattr(self, "engine", None)
        if engine is not None and not engine.closed:
            engine.stop()

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return UnaryUnaryMethod(self, method, request_serializer, response_deserializer, _registered_method)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return UnaryStreamMethod(self, method, request_serializer, response_deserializer, _registered_method)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return StreamUnaryMethod(self, method, request_serializer, response_deserializer, _registered_method)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return StreamStreamMethod(self, method, request_serializer, response_deserializer, _registered_method)
