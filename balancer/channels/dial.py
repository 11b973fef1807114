"""How the connections of a balanced channel are made.

Tools that trace calls take the place of `grpc.aio.insecure_channel`: what is to be seen by nobody is made with what
stood there first.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.channels.options import GrpcOptions

INSECURE: Callable[..., grpc.aio.Channel] = inspect.unwrap(grpc.aio.insecure_channel)
SECURE: Callable[..., grpc.aio.Channel] = inspect.unwrap(grpc.aio.secure_channel)
NOWHERE = "dns:///balanced.invalid:1"


class Dialler:
    """Makes channels with the credentials and the compression that a balanced channel was given."""

    def __init__(self, credentials: grpc.ChannelCredentials | None, compression: grpc.Compression | None) -> None:
        self._credentials = credentials
        self._compression = compression

    def dial_aio(self, address: str, options: GrpcOptions) -> grpc.aio.Channel:
        """A connection to an endpoint, in the loop that is to use it; it does nothing until it is asked to connect."""
        if self._credentials is None:
            return INSECURE(address, options, self._compression)
        return SECURE(address, self._credentials, options, self._compression)
