"""What a channel's methods and calls share: its picker, its connections and its tasks."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from itertools import islice
from typing import TYPE_CHECKING, Any

from balancer import native
from balancer.aio.connection import Subchannel
from balancer.driver import Driver
from balancer.options import Settings, info_maker
from balancer.policies.base import ANY, ConnectivityState, Node, PickInfo
from balancer.pool.picker import Open, Pick, Picker, Wait
from balancer.pool.pool import Pool
from balancer.service_config import ServiceConfig, parse_service_config

if TYPE_CHECKING:
    import random

    import grpc

    from balancer.aio.methods import Method
    from balancer.endpoints import Resolved

log = logging.getLogger(__name__)


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
        self.options = settings.options_under(settings.service_config)
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

    def connect(self) -> None:
        """The channel is wanted connected, though no call waits."""
        if not isinstance(self.pick(ANY), Open):
            idle = (node for node in self.driver.pool.members if node.state is ConnectivityState.IDLE)
            self.driver.connect(islice(idle, 1))

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
        if resolution.service_config is None or self._settings.config_given:
            return
        try:
            config = parse_service_config(resolution.service_config)
        except ValueError as error:
            log.warning("service config refused, the one before stays: %s", error)
            return
        if config.policy != self.config.policy and not self._settings.policy_given:
            self.driver.choose_by(self._settings.policy_under(config))
        self.config, self.options = config, self._settings.options_under(config)
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
