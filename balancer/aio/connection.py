"""The connection to one endpoint, and what the back end tells of itself on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Protocol, TypeAlias

import grpc
import grpc.aio

from balancer.aio.native import at_once
from balancer.channels import connection
from balancer.channels.connectivity import FROM_GRPC
from balancer.channels.health import Stream, keep_up
from balancer.policies.base import ConnectivityState

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.channels.connection import Way
    from balancer.channels.options import GrpcOptions
    from balancer.policies.base import Node

Dial: TypeAlias = "Callable[[str, GrpcOptions], grpc.aio.Channel]"

log = logging.getLogger(__name__)

# A watch is mostly over in a millisecond: only somebody's hold on what is not ours to let go takes so long.
_LAST_WORDS_S = 1.0
_LAST_WORDS_OF_CALLS_S = 0.05


class Owner(connection.Overseer, Protocol):
    """Whom a connection tells."""

    loop: asyncio.AbstractEventLoop

    def told(self, connection: Connection, state: ConnectivityState) -> None:
        """The connection's state, from connecting on."""


class Connection(connection.BalancedConnection[grpc.aio.Channel]):
    """The connection to one endpoint: plain grpc.aio channels, watched by one task, with the back end's streams on them
    while it is ready."""

    _owner: Owner

    def __init__(self, owner: Owner, node: Node, way: Way, dial: Dial) -> None:
        self._dial_to = dial
        super().__init__(owner, node, way)
        self.active = 0
        """Attempts under way."""
        self._draining = False
        # gRPC's core tells of a channel's end only when nobody holds a call of it any more, and users keep calls. So
        # what is watched is another channel on the same connection: all that is to be told of it is told as it closes.
        self._watched = self._dial(way.firsts)
        self.task = owner.loop.create_task(self._watch(), name="balancer-watch")
        self.task.add_done_callback(self._close)

    def _dial(self, options: GrpcOptions) -> grpc.aio.Channel:
        return self._dial_to(self._way.address, options)

    def _shut(self, channel: grpc.aio.Channel) -> None:
        # With no grace there is nothing to wait for: the coroutine ends at its first step.
        with contextlib.suppress(RuntimeError):
            at_once(channel.close())

    @property
    def state(self) -> ConnectivityState:
        return FROM_GRPC[self._watched.get_state()]

    def connect(self) -> None:
        """Begins to connect if nothing else does."""
        for channel in (self._watched, self.channel):
            channel.get_state(try_to_connect=True)

    def drain(self) -> None:
        """Closes the connection once its calls have ended."""
        self._draining = True
        if not self.active:
            self.close_soon()

    def close_soon(self) -> None:
        """Closes the connection in the next round of the loop."""
        self.closed = True
        self.task.cancel()

    # balancer.channels.tally.Counted

    def left(self) -> None:
        self.active -= 1
        if self._draining and not self.active:
            self.close_soon()

    # The watch

    def _close(self, _task: asyncio.Task[None]) -> None:
        # Not in a `finally` of the watch, which never begins when it is cancelled at once.
        self._shut_calls()
        self._shut(self._watched)

    async def _watch(self) -> None:
        """Whatever goes wrong in telling: the connection is watched on."""
        self.connect()
        state = self._watched.get_state()
        if state is grpc.ChannelConnectivity.IDLE:  # still: it has been asked to connect a moment ago
            await self._stays(state, ())
            state = self._watched.get_state()
        while state is not grpc.ChannelConnectivity.SHUTDOWN:
            streams = self._way.streams if state is grpc.ChannelConnectivity.READY else ()
            waits = bool(streams) and self._way.waits_for_health
            try:
                self._owner.told(self, ConnectivityState.CONNECTING if waits else FROM_GRPC[state])
            except Exception:
                log.exception("a connection's state could not be told")
            await self._stays(state, streams)
            state = self._watched.get_state()

    async def _stays(self, state: grpc.ChannelConnectivity, streams: tuple[Stream, ...]) -> None:
        """Waits while the connection is in this state, with these streams on it."""
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(keep_up(stream, self._watched)) for stream in streams]
        watch = loop.create_task(self._watched.wait_for_state_change(state))
        try:
            await asyncio.shield(watch)
        except asyncio.CancelledError:
            # Of a watch that is given up gRPC's core tells later, to a loop that may be gone by then. A channel that
            # closes ends it.
            await self._watched.close()
            await _ended(watch)
            if self.active or watch.cancelled():  # with all tasks of the loop: of their ends, too, core has yet to tell
                self._shut_calls()
                await asyncio.sleep(_LAST_WORDS_OF_CALLS_S)
            raise
        except grpc.aio.UsageError:
            return  # closed
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)


async def _ended(watch: asyncio.Task[None]) -> None:
    await asyncio.wait([watch], timeout=_LAST_WORDS_S)
    if not watch.cancel() and not watch.cancelled():
        with contextlib.suppress(grpc.aio.UsageError):
            watch.result()
