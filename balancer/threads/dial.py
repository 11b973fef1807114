"""How the connections of a channel for threads are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from balancer.channels.dial import NOWHERE, Dialler

if TYPE_CHECKING:
    from balancer.channels.options import GrpcOptions


class ThreadsDialler(Dialler):
    """As `Dialler`. Calls go through whatever stands at `grpc.insecure_channel`, so that tools that trace calls see
    them; what back ends tell of themselves is on connections that nobody traces."""

    def dial(self, address: str, options: GrpcOptions) -> grpc.Channel:
        """A connection for calls. It does nothing until it is asked to connect."""
        if self._credentials is None:
            return grpc.insecure_channel(address, options, self._compression)
        return grpc.secure_channel(address, self._credentials, options, self._compression)

    def check(self, options: GrpcOptions) -> None:
        """Raises what grpcio raises for arguments that no channel can be made with."""
        self.dial(NOWHERE, options).close()
