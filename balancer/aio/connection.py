"""The connection to one endpoint, and what the back end tells of itself on it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import grpc

from balancer import native
from balancer.connectivity import FROM_GRPC
from balancer.driver import NO_CONNECTION, Driver
from balancer.health import Stream, health_stream, keep_up, load_stream
from balancer.policies.base import ConnectivityState

if TYPE_CHECKING:
    from balancer.aio.engine import Engine
    from balancer.options import ChannelOptions
    from balancer.policies.base import Node

# A call that has ended lets its attempt go, so a watch is mostly over in a millisecond: only somebody's hold on what is
# not ours to let go takes so long.
_LAST_WORDS_S = 1.0


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
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(keep_up(stream, self._channel)) for stream in streams]
        watch = loop.create_task(self._channel.wait_for_state_change(state))
        try:
            await asyncio.shield(watch)
        except asyncio.CancelledError:
            # Of a watch that is given up gRPC's core tells later, to a loop that may be gone by then. A channel that
            # closes ends it, once no call object holds on to the channel: so all that calls had to be told is told too.
            await self._channel.close()
            await _ended(watch)
            raise
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)


async def _ended(watch: asyncio.Task[None]) -> None:
    await asyncio.wait([watch], timeout=_LAST_WORDS_S)
    if not watch.cancel():
        with contextlib.suppress(native.UsageError):
            watch.result()


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
