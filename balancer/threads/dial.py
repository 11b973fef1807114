"""How the connections of a channel for threads are made."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.channels.options import GrpcOptions

_INSECURE: Callable[..., grpc.aio.Channel] = inspect.unwrap(grpc.aio.insecure_channel)
_SECURE: Callable[..., grpc.aio.Channel] = inspect.unwrap(grpc.aio.secure_channel)
_NOWHERE = "dns:///balanced.invalid:1"


class Dialler:
    """Makes channels with the credentials and the compression that a balanced channel was given.

    Calls go through whatever stands at `grpc.insecure_channel`, so that tools that trace calls see them.
    """

    def __init__(self, credentials: grpc.ChannelCredentials | None, compression: grpc.Compression | None) -> None:
        self._credentials = credentials
        self._compression = compression

    def dial(self, address: str, options: GrpcOptions) -> grpc.Channel:
        """A connection to an endpoint. It does nothing until it is asked to connect."""
        if self._credentials is None:
            return grpc.insecure_channel(address, options, self._compression)
        return grpc.secure_channel(address, self._credentials, options, self._compression)

    def dial_aside(self, address: str, options: GrpcOptions) -> grpc.aio.Channel:
        """One for what the back end tells of itself; in the loop that is to use it. Nobody traces it."""
        if self._credentials is None:
            return _INSECURE(address, options, self._compression)
        return _SECURE(address, self._credentials, options, self._compression)

    def check(self, options: GrpcOptions) -> None:
        """Raises what grpcio raises for arguments that no channel can be made with."""
        self.dial(_NOWHERE, options).close()
