"""The connection to one endpoint: a plain grpc.Channel for calls, and what the back end tells of itself beside it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import grpc
import grpc.aio

from balancer.channels import connection
from balancer.channels.connectivity import FROM_GRPC
from balancer.channels.health import keep_up
from balancer.grpcio_internals import ended, look_of
from balancer.policies.base import ConnectivityState

if TYPE_CHECKING:
    from balancer.channels.connection import Way
    from balancer.channels.options import GrpcOptions
    from balancer.policies.base import Node
    from balancer.threads.dial import ThreadsDialler


class Owner(connection.Overseer, Protocol):
    """Whom a connection tells. From any thread."""

    def one_left(self) -> None:
        """An attempt has ended on a connection that is to close once all have."""


class Connection(connection.BalancedConnection[grpc.Channel]):
    """The connection to one endpoint. It belongs to the private loop, but for `channel` and `retries`.

    Where the back end is to tell of itself, it does so on a connection of its own, a grpc.aio channel in the private
    loop: streams on the calls' own would cost a thread each.
    """

    _owner: Owner

    def __init__(self, owner: Owner, node: Node, way: Way, dialler: ThreadsDialler) -> None:
        self._dialler = dialler
        super().__init__(owner, node, way)
        self._aside: grpc.aio.Channel | None = None
        self._told = grpc.ChannelConnectivity.IDLE
        self._tasks: list[asyncio.Task[None]] = []
        self.draining = False
        self._look = look_of(self.channel)
        self.connect()

    def _dial(self, options: GrpcOptions) -> grpc.Channel:
        return self._dialler.dial(self._way.address, options)

    def _shut(self, channel: grpc.Channel) -> None:
        channel.close()

    @property
    def is_ready(self) -> bool:
        """From any thread: calls can go out at once."""
        try:
            return self._look(False) is grpc.ChannelConnectivity.READY
        except ValueError:  # closed
            return False

    @property
    def is_settled(self) -> bool:
        """Ready, as was told: there is nothing to look for."""
        return self._told is grpc.ChannelConnectivity.READY

    def connect(self) -> None:
        """Begins to connect if nothing else does."""
        self._look(True)

    def look(self) -> ConnectivityState | None:
        """The connection's state if it is another than at the last look. One that is idle still, though it was asked to
        connect, is asked again."""
        state = self._look(self._told is grpc.ChannelConnectivity.IDLE)
        if state is self._told:
            return None
        self._told = state
        self._end_streams()
        if state is not grpc.ChannelConnectivity.READY:
            return FROM_GRPC[state]
        self._begin_streams()
        # Until its health service has spoken, a back end counts as connecting (gRFC A17).
        return ConnectivityState.CONNECTING if self._way.waits_for_health else ConnectivityState.READY

    def _begin_streams(self) -> None:
        if self._way.streams:
            if self._aside is None:
                self._aside = self._dialler.dial_aio(self._way.address, self._way.firsts)
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(keep_up(stream, self._aside)) for stream in self._way.streams]

    def _end_streams(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()

    async def aclose(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        with self._lock:
            self.closed = True
        tasks = self._tasks
        self._end_streams()
        if tasks:
            await asyncio.wait(tasks)
        if self._aside is not None:
            await self._aside.close()
        await ended(self._look)
        self._shut_calls()

    # balancer.channels.tally.Counted

    def left(self) -> None:
        if self.draining:
            self._owner.one_left()
