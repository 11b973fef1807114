"""The connection to one endpoint, and what the back end tells of itself on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from balancer import native
from balancer.connectivity import FROM_GRPC
from balancer.health import Stream, StreamThread
from balancer.policies.base import ConnectivityState

if TYPE_CHECKING:
    from balancer.threads.methods import Method


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
