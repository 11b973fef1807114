"""SHELL: balanced channels for asyncio. `aio_channel` makes one.

A balanced channel is a `grpc.aio.Channel`: any generated stub works on it. Behind it there is one connection
per endpoint that the pool wants, and every call goes to the endpoint that the policy picks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import weakref
from typing import TYPE_CHECKING, Any

import grpc

from balancer import native
from balancer.calls import HedgedCall, StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from balancer.driver import NO_CONNECTION, Driver
from balancer.health import Stream, health_stream, keep_up, load_stream
from balancer.options import ChannelOptions, GrpcOptions, Settings, info_maker, settings_of
from balancer.pool import ANY, ConnectivityState, Node, Open, Pick, Picker, PickInfo, Pool, PoolStatistics, Wait
from balancer.retry import Hedging, Retrying
from balancer.service_config import MethodConfig, ServiceConfig, parse_service_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from balancer.endpoints import Resolved
    from balancer.policies.base import Policy
    from balancer.resolvers import Resolver

log = logging.getLogger(__name__)

TO_GRPC = {state: grpc.ChannelConnectivity[state.name] for state in ConnectivityState}
FROM_GRPC = {grpc_state: state for state, grpc_state in TO_GRPC.items()}


def aio_channel(
    resolver: Resolver | str,
    *,
    policy: str | Policy | None = None,
    options: GrpcOptions | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
    balancing: ChannelOptions | None = None,
    rng: random.Random | None = None,
) -> BalancedChannel:
    """A `grpc.aio.Channel` over the endpoints that `resolver` tells of.

    resolver: an object of the `balancer.resolvers.Resolver` protocol, or a target: `static://…` or `dns://…`.
    policy: a policy's name, with options as `name?option=value`, or a policy object; None = the target's, the
    service config's, round_robin.
    options: gRPC's channel options, for the connections to the endpoints. `grpc.service_config` is honoured by
    this channel
        itself, across endpoints: a retry goes to another one.
    credentials: for the connections to the endpoints; None = plaintext.
    compression, interceptors: as for `grpc.aio.insecure_channel`.
    balancing: everything else that may be set.
    rng: the source of randomness, for tests.

    The channel does nothing until its first call, `channel_ready`, or `get_state(try_to_connect=True)`; close
    it when it is no longer needed. Raises ValueError, naming the part, for arguments that make no sense.
    """
    return BalancedChannel(
        settings_of(resolver, policy, options, balancing),
        credentials,
        compression,
        interceptors,
        rng or random.Random(),  # noqa: S311
    )


class Subchannel:
    """The connection to one endpoint: a plain grpc.aio channel, watched by one task."""

    __slots__ = ("_channel", "_core", "_handles", "_task", "active", "call", "draining")

    def __init__(self, engine: Engine, node: Node) -> None:
        self._channel = engine.dial(node.endpoint.address)
        self._core = native.core_channel(self._channel)
        self.call = self._core.call
        """Begins an attempt."""
        self.active = 0
        """Attempts under way."""
        self.draining = False
        self._handles: dict[bytes, int] = {}
        self._task = engine.loop.create_task(
            self._watch(engine.driver, node, engine.options), name=f"balancer-watch-{node.endpoint.address}"
        )
        self._task.add_done_callback(self._close)
        engine.own(self._task)

    def handle(self, path: bytes) -> int:
        """gRPC core's handle of a method that generated code registered."""
        handle = self._handles.get(path)
        if handle is None:
            handle = self._handles[path] = self._core.get_registered_call_handle(path)
        return handle

    @property
    def state(self) -> ConnectivityState:
        return FROM_GRPC[self._channel.get_state()]

    def connect(self) -> None:
        self._channel.get_state(try_to_connect=True)

    def close_soon(self) -> None:
        """Closes the connection in the next round of the loop."""
        self._task.cancel()

    def _close(self, _task: asyncio.Task[None]) -> None:
        # With no grace there is nothing to wait for: the coroutine ends at its first step. Not in a `finally` of the
        # watch, which never begins when it is cancelled at once.
        with contextlib.suppress(StopIteration):
            self._channel.close().send(None)

    async def _watch(self, driver: Driver, node: Node, options: ChannelOptions) -> None:
        state = self._channel.get_state(try_to_connect=True)
        while True:
            streams = _streams(driver, node, options) if state is grpc.ChannelConnectivity.READY else []
            # Until its health service has spoken, a back end counts as connecting (gRFC A17).
            waits = bool(streams) and options.health_service is not None
            driver.report(node, ConnectivityState.CONNECTING if waits else FROM_GRPC[state], NO_CONNECTION)
            await self._stays(state, streams)
            state = self._channel.get_state()

    async def _stays(self, state: grpc.ChannelConnectivity, streams: list[Stream]) -> None:
        """Waits while the connection is in this state, with these streams on it."""
        tasks = [asyncio.get_running_loop().create_task(keep_up(stream, self._channel)) for stream in streams]
        try:
            await self._channel.wait_for_state_change(state)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)


def _streams(driver: Driver, node: Node, options: ChannelOptions) -> list[Stream]:
    """What a back end is to tell of itself while it is connected."""

    def on_health(serving: bool) -> None:
        driver.report_health(node, serving=serving)
        driver.report(node, ConnectivityState.READY)

    streams = []
    if options.health_service is not None:
        streams.append(health_stream(options.health_service, on_health))
    if options.load_report_interval_s is not None:
        streams.append(load_stream(options.load_report_interval_s, lambda weight: driver.report_weight(node, weight)))
    return streams


class Engine:
    """What a channel's methods and calls share: the current picker, those who wait for the next, and the
    connections."""

    def __init__(self, settings: Settings, dial: Any, rng: random.Random) -> None:
        self.loop: asyncio.AbstractEventLoop = native.get_working_loop()
        self.rng = rng
        self._dial = dial
        self.info_of = info_maker(settings)
        self.replay_limit = settings.replay_limit
        self.config: ServiceConfig = settings.service_config
        self.methods: weakref.WeakSet[Method] = weakref.WeakSet()
        self.calls: set[Any] = set()
        """Calls under way."""
        self.state = ConnectivityState.IDLE
        self.closed = False
        self.picker: Any = _Dormant(self)
        self._current: Any = self.picker
        self._next: asyncio.Future[None] | None = None
        self.options = settings.options
        self._settings = settings
        self._tasks: set[asyncio.Task[Any]] = set()
        self.driver: Any = None

    def start(self) -> None:
        """Begins to resolve and to connect."""
        pool = Pool(self._settings.policy, options=self._settings.options.pool, rng=self.rng, now=time.monotonic())
        self.driver = Driver(self._settings.resolver, pool, self, self.loop)
        self.install(pool.picker, pool.state)
        self.driver.start()

    def dial(self, address: str) -> grpc.aio.Channel:
        """A connection of the kind that the service config asks for."""
        channel: grpc.aio.Channel = self._dial(address, self._settings.dial_options(self.config))
        return channel

    def pick(self, info: PickInfo) -> Pick:
        """A pick for a call that waited, and for one that came while the channel was idle."""
        pick: Pick = self._current.pick(info, time.monotonic())
        if isinstance(pick, Open):
            self.driver.connect(pick.nodes)
        return pick

    async def swapped(self, timeout_s: float | None) -> bool:
        """Waits for another picker or another state; False when `timeout_s` went by first."""
        if self._next is None:
            self._next = self.loop.create_future()
        done, _ = await asyncio.wait({self._next}, timeout=timeout_s)
        return bool(done)

    def look_at_loads(self) -> None:
        """A load has something the pool should act on."""
        self.driver.tick()

    def connection_failed(self, node: Node, details: str) -> bool:
        """A call found no connection although the pool took it for ready: the watch has not spoken yet.

        False when there is one again: the node may be asked once more.
        """
        subchannel = node.subchannel
        if subchannel is None:
            return True
        if subchannel.state is ConnectivityState.READY:
            return False
        self.driver.report(node, subchannel.state, details)
        return True

    def own(self, task: asyncio.Task[Any]) -> None:
        """Holds a task until it ends, at the latest when the channel closes."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a connection's watch failed", exc_info=task.exception())

    # What the driver asks for (balancer.driver.Connections).

    def open_node(self, node: Node) -> None:
        if node.subchannel is None:
            node.subchannel = Subchannel(self, node)
        else:
            node.subchannel.connect()

    def close_node(self, node: Node) -> None:
        subchannel, node.subchannel = node.subchannel, None
        if subchannel is not None:
            subchannel.draining = True
            if not subchannel.active:
                subchannel.close_soon()

    def install(self, picker: Picker, state: ConnectivityState) -> None:
        self._current, self.state = picker, state
        if not self.closed:
            self.picker = picker
        self._wake()

    def configured(self, resolution: Resolved) -> None:
        if resolution.service_config is None:
            return
        try:
            self.config = parse_service_config(resolution.service_config)
        except ValueError as error:
            log.warning("service config refused, the one before stays: %s", error)
            return
        for method in self.methods:
            method.configure()

    def _wake(self) -> None:
        future, self._next = self._next, None
        if future is not None and not future.done():
            future.set_result(None)

    async def aclose(self, grace_s: float | None) -> None:
        """No new calls; those under way get `grace_s` seconds, then are cancelled; then everything ends."""
        if self.closed:
            return
        self.closed = True
        self.picker = _Closed()
        if grace_s:
            await self._calls_end(grace_s)
        for call in tuple(self.calls):
            call.cancel()
        tasks = self.stop()
        if tasks:
            await asyncio.wait(tasks)

    def stop(self) -> set[asyncio.Task[Any]]:
        """Ends everything at once; gives the tasks that are about to end. Idempotent."""
        self.closed = True
        self.picker = self._current = _Closed()
        self.state = ConnectivityState.SHUTDOWN
        tasks: set[asyncio.Task[Any]] = set(self._tasks)
        for task in tasks:
            task.cancel()
        if self.driver is not None:
            tasks |= self.driver.stop()
        self._wake()
        return tasks

    async def _calls_end(self, grace_s: float) -> None:
        waiting = [self.loop.create_task(call.code()) for call in self.calls]
        if not waiting:
            return
        _, late = await asyncio.wait(waiting, timeout=grace_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)


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
        raise native.UsageError("Channel is closed.")


class Method:
    """One method of a service on a balanced channel: what all of its calls have in common."""

    kind: Any
    """The class of its calls."""
    kind_hedged: Any
    """The class of its calls under a hedging policy; streams are not hedged."""
    kind_intercepted: Any

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


class UnaryStreamMethod(_UnaryRequestMethod, grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    kind = kind_hedged = UnaryStreamCall
    kind_intercepted = native.InterceptedUnaryStreamCall


class StreamUnaryMethod(_StreamRequestMethod, grpc.aio.StreamUnaryMultiCallable[Any, Any]):
    kind = kind_hedged = StreamUnaryCall
    kind_intercepted = native.InterceptedStreamUnaryCall


class StreamStreamMethod(_StreamRequestMethod, grpc.aio.StreamStreamMultiCallable[Any, Any]):
    kind = kind_hedged = StreamStreamCall
    kind_intercepted = native.InterceptedStreamStreamCall


class _Forward(
    grpc.aio.UnaryUnaryClientInterceptor,
    grpc.aio.UnaryStreamClientInterceptor,
    grpc.aio.StreamUnaryClientInterceptor,
    grpc.aio.StreamStreamClientInterceptor,
):
    """The innermost interceptor: begins the call the user's interceptors have agreed on."""

    def __init__(self, method: Method) -> None:
        self._method = method

    async def _begin(self, _continuation: Any, details: Any, request: Any) -> Any:
        method = self._method.at(details.method)
        return method.begin(request, details.timeout, details.metadata, details.credentials, details.wait_for_ready)

    # grpc.aio asks for one of these by the kind of call; to this class they are all the same.
    intercept_unary_unary: Any = _begin
    intercept_unary_stream: Any = _begin
    intercept_stream_unary: Any = _begin
    intercept_stream_stream: Any = _begin


_KINDS: dict[type[Method], type[grpc.aio.ClientInterceptor]] = {
    UnaryUnaryMethod: grpc.aio.UnaryUnaryClientInterceptor,
    UnaryStreamMethod: grpc.aio.UnaryStreamClientInterceptor,
    StreamUnaryMethod: grpc.aio.StreamUnaryClientInterceptor,
    StreamStreamMethod: grpc.aio.StreamStreamClientInterceptor,
}


class BalancedChannel(grpc.aio.Channel):
    """A channel over many endpoints; made by `aio_channel`."""

    def __init__(
        self,
        settings: Settings,
        credentials: grpc.ChannelCredentials | None,
        compression: grpc.Compression | None,
        interceptors: Sequence[grpc.aio.ClientInterceptor] | None,
        rng: random.Random,
    ) -> None:
        self._interceptors = _sorted(interceptors or ())

        def dial(address: str, options: GrpcOptions) -> grpc.aio.Channel:
            if credentials is None:
                return grpc.aio.insecure_channel(address, options, compression)
            return grpc.aio.secure_channel(address, credentials, options, compression)

        self.engine = Engine(settings, dial, rng)

    def stats(self) -> PoolStatistics | None:
        """The pool as it is now; None before the first call."""
        driver = self.engine.driver
        return None if driver is None else driver.pool.statistics(time.monotonic())

    async def __aenter__(self) -> BalancedChannel:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Closes all connections. Calls under way have `grace` seconds to end, then they are cancelled."""
        if grace and grace < 0:
            raise ValueError(f"grace must be non-negative, got {grace}.")
        await self.engine.aclose(grace)

    def __del__(self) -> None:
        engine = getattr(self, "engine", None)
        if engine is not None and not engine.closed and not engine.loop.is_closed():
            engine.loop.call_soon_threadsafe(engine.stop)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        engine = self.engine
        if try_to_connect and engine.state is ConnectivityState.IDLE:
            engine.pick(ANY)
        return TO_GRPC[engine.state]

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        if self.engine.closed:
            raise native.UsageError("Channel is closed.")
        while self.get_state() is last_observed_state:
            await self.engine.swapped(None)

    async def channel_ready(self) -> None:
        state = self.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            await self.wait_for_state_change(state)
            state = self.get_state(try_to_connect=True)

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

    def interceptors_for(self, method: Method) -> list[grpc.aio.ClientInterceptor]:
        """The user's interceptors for a method of this kind and the one that begins the call; empty when the
        user has none."""
        chain = self._interceptors[_KINDS[type(method)]]
        return [*chain, _Forward(method)] if chain else []


def _sorted(interceptors: Sequence[grpc.aio.ClientInterceptor]) -> dict[type, list[grpc.aio.ClientInterceptor]]:
    """Interceptors by the first kind each is of: that is the one kind grpc.aio uses an object for."""
    chains: dict[type, list[grpc.aio.ClientInterceptor]] = {kind: [] for kind in _KINDS.values()}
    for interceptor in interceptors:
        for kind, chain in chains.items():
            if isinstance(interceptor, kind):
                chain.append(interceptor)
                break
        else:
            names = " or ".join(kind.__name__ for kind in chains)
            raise ValueError(f"Interceptor {interceptor} must be {names}.")
    return chains
