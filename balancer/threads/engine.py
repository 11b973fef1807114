"""What a channel's methods and calls share: its picker, its connections and its private loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from itertools import islice
from typing import TYPE_CHECKING, Any

from balancer.connectivity import IDLING
from balancer.driver import NO_CONNECTION, Driver
from balancer.health import health_stream, load_stream
from balancer.options import GrpcOptions, Settings, info_maker
from balancer.policies.base import ANY, ConnectivityState, Node, PickInfo
from balancer.pool.picker import Open, Pick, Picker, Wait
from balancer.pool.pool import Pool
from balancer.service_config import ServiceConfig, parse_service_config
from balancer.threads.connection import Subchannel
from balancer.threads.subscribers import Connectivity

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    import grpc

    from balancer.endpoints import Resolved
    from balancer.threads.call import BalancedCall
    from balancer.threads.methods import Method

log = logging.getLogger(__name__)

_CLOSED = "Cannot invoke RPC on closed channel!"
_LAST_WORDS_S = 0.02
"""A resolver may use grpc.aio. What gRPC's core has yet to tell of its cancelled calls must not find the loop gone."""
_LOOK_FIRST_S = 0.001
_LOOK_LAST_S = 0.05
"""grpcio tells a channel's state by a thread per channel, or when it is asked. Asking takes 0.4 µs, so all connections
are asked: soon after something happened, then less and less often. Calls that meet a dead connection meanwhile go
elsewhere."""


class Engine:
    """What a channel's methods and calls share. Picks are made in any thread, everything else happens in the
    private loop."""

    def __init__(
        self, settings: Settings, dial: Callable[[str, GrpcOptions], grpc.Channel], rng: random.Random
    ) -> None:
        self.rng = rng
        self.info_of = info_maker(settings)
        self.config: ServiceConfig = settings.service_config
        self.options = settings.options_under(settings.service_config)
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
        self._is_wanted = False
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
        if self._look_timer is not None:
            self._look_timer.cancel()
        for subchannel in (*self._open, *self._leaving):
            subchannel.close()
        await asyncio.sleep(_LAST_WORDS_S)

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

    def check_open(self) -> None:
        """Raises ValueError once the channel is closed, as grpcio does."""
        if self.closed:
            raise ValueError(_CLOSED)

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

    def connect(self) -> None:
        """The channel is wanted connected, though no call waits."""
        self._is_wanted = True
        if not isinstance(self.pick(ANY), Open):
            self._soon(self._connect_one)

    def _connect_one(self) -> None:
        if self.driver is not None and self.state in IDLING:
            idle = (node for node in self.driver.pool.members if node.state is ConnectivityState.IDLE)
            self.driver.connect(islice(idle, 1))

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

        options = self.options
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
        if self._is_wanted:
            self._is_wanted = state is not ConnectivityState.READY
            self._soon(self._connect_one)

    def configured(self, resolution: Resolved) -> None:
        if resolution.service_config is None or self._settings.config_given:
            return
        try:
            config = parse_service_config(resolution.service_config)
        except ValueError as error:
            log.warning("service config refused, the one before stays: %s", error)
            return
        if self.driver is not None and config.policy != self.config.policy and not self._settings.policy_given:
            self.driver.choose_by(self._settings.policy_under(config))
        self.config, self.options = config, self._settings.options_under(config)
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
