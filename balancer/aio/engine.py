"""The engine of an asyncio channel: its connections, its tasks, and the calls that wait for a picker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import warnings
from typing import TYPE_CHECKING, Protocol

import grpc.aio

from balancer.aio.connection import Connection
from balancer.aio.native import CLOSED, code_of
from balancer.channels.driver import NO_CONNECTION
from balancer.channels.engine import Engine, asleep_s, ready, wanted
from balancer.channels.process import FORKS
from balancer.channels.traces import Tracing
from balancer.policies.base import ANY, ConnectivityState, Node
from balancer.pool.picker import Open
from balancer.pulse import BEAT_S, REST_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from balancer.aio.dial import AioDialler
    from balancer.channels.options import Settings
    from balancer.policies.base import PickInfo
    from balancer.pool.picker import Pick, Picker

log = logging.getLogger(__name__)


class Waiter(Protocol):
    """A call without an attempt."""

    def new_picker(self) -> None:
        """The picker, or the channel's state, is another one. Must not raise."""

    def woke(self) -> None:
        """The time that it waited for has come. Must not raise."""

    def cancel(self) -> bool: ...


class AioEngine(Engine):
    """What an asyncio channel's methods and calls share. Everything happens in one loop."""

    def __init__(self, settings: Settings, dialler: AioDialler, rng: Random) -> None:
        super().__init__(settings, rng, Tracing(code_of))
        self.loop = _loop()
        self.front = dialler.front()
        self.waiting: dict[Waiter, None] = {}
        """Calls that wait for the next picker."""
        self._dialler = dialler
        self._next: asyncio.Future[None] | None = None
        self._connections: set[Connection] = set()
        self._beat_timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self.driver is None and not self.closed:
            FORKS.begun(self)
            driver = self.driver = self.new_driver(self, self.loop)
            self.install(driver.pool.picker, driver.pool.state)
            driver.start()

    def pick(self, info: PickInfo) -> Pick:
        """A pick for a call without an attempt. Raises UsageError when the channel is closed."""
        now = time.monotonic()
        if self.resting:
            self.stir(now)
        pick = self.note(ready(self.picker.pick(info, now)))
        if isinstance(pick, Open) and self.driver is not None:
            self.driver.connect(wanted(pick))
        return pick

    def stir(self, now: float) -> None:
        """A call comes while nobody beats."""
        if not self.closed:
            self.resting = False
            self._beat_again(now, BEAT_S)

    def _beat(self) -> None:
        """Until there is no call any more; less often while those that there are last."""
        now, pool = time.monotonic(), None if self.driver is None else self.driver.pool
        if pool is None or not pool.in_flight:
            self.resting, self._beat_timer = True, None
            self.pulse.beat(now, asleep_s())
        else:
            self._beat_again(now, BEAT_S if now - (pool.last_used or 0.0) < REST_S else REST_S)

    def _beat_again(self, now: float, after_s: float) -> None:
        self.pulse.beat(now, asleep_s(), now + after_s)
        self._beat_timer = self.loop.call_later(after_s, self._beat)

    def connect(self) -> None:
        """The channel is wanted connected, though no call waits."""
        if not self.closed and not isinstance(self.pick(ANY), Open) and self.driver is not None:
            self.driver.connect(self.one_idle())

    async def changed(self) -> None:
        """Waits for another picker or another state."""
        if self._next is None:
            self._next = self.loop.create_future()
        await asyncio.shield(self._next)

    def look_at_loads(self) -> None:
        if self.driver is not None:
            self.driver.tick()

    def connection_failed(self, node: Node, details: str) -> bool:
        """A call found no connection although the pool took it for ready: the watch has not spoken yet.

        False when there is one again: the node may be asked once more.
        """
        connection = node.connection
        if connection is None or self.driver is None:
            return True
        state = connection.state
        if state is ConnectivityState.READY:
            return False
        self.driver.report(node, state, details)
        return True

    # balancer.channels.driver.Connections

    def open_node(self, node: Node) -> None:
        if node.connection is None:
            node.connection = self._dialled(node)
        else:
            node.connection.connect()

    def _dialled(self, node: Node) -> Connection:
        connection = Connection(self, node, self.way_to(node), self._dialler.dial_aio)
        self._connections.add(connection)
        connection.task.add_done_callback(lambda _task: self._connections.discard(connection))
        return connection

    def told(self, connection: Connection, state: ConnectivityState) -> None:
        if self.driver is not None and connection.node.connection is connection:
            self.driver.report(connection.node, state, NO_CONNECTION)

    def soon(self, function: Callable[[], object]) -> None:
        self.loop.call_soon_threadsafe(function)

    def close_node(self, node: Node) -> None:
        connection, node.connection = node.connection, None
        if connection is not None:
            connection.drain()

    def install(self, picker: Picker, state: ConnectivityState) -> None:
        if self.closed:
            return
        self.picker, self.state = picker, state
        self._wake()

    def _wake(self) -> None:
        future, self._next = self._next, None
        if future is not None and not future.done():
            future.set_result(None)
        waiting, self.waiting = self.waiting, {}
        for call in waiting:
            call.new_picker()

    # The end

    async def aclose(self, grace_s: float | None) -> None:
        """No new calls; those under way get `grace_s` seconds, then are cancelled; then everything ends."""
        if self.closed:
            return
        self._shut()
        connections = tuple(self._connections)
        ending = {connection.task for connection in connections}
        if grace_s and ending:
            for connection in connections:
                connection.drain()
            await asyncio.wait(ending, timeout=grace_s)
        for call in tuple(self.waiting):
            call.cancel()
        for connection in tuple(self._connections):
            connection.close_soon()
        ending |= self._end()
        if ending:
            await asyncio.wait(ending)
        if self.front is not None:
            await self.front.close()

    def stop(self) -> None:
        """Ends everything at once and waits for nothing. Idempotent."""
        self._shut()
        self._end()
        for connection in tuple(self._connections):
            connection.close_soon()

    def too_late(self) -> grpc.aio.UsageError:
        return grpc.aio.UsageError(self.refusal)

    def _shut(self) -> None:
        self.refuse(CLOSED)
        self.state = ConnectivityState.SHUTDOWN
        if self._beat_timer is not None:
            self._beat_timer.cancel()
        future, self._next = self._next, None
        if future is not None and not future.done():
            future.set_result(None)

    def _end(self) -> set[asyncio.Task[None]]:
        return set() if self.driver is None else self.driver.stop()


def _loop() -> asyncio.AbstractEventLoop:
    """The running loop, or the one that is to run: as grpc.aio finds it."""
    with contextlib.suppress(RuntimeError):
        return asyncio.get_running_loop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return asyncio.get_event_loop_policy().get_event_loop()
