"""SHELL: balanced channels for threads. `sync_channel` makes one.

The resolver and the pool live in an event loop in a thread of the channel's own; calls are made in the
callers' threads, which only read the current picker. The channel must be made after forking, like any gRPC channel.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import grpc

from balancer.options import ChannelOptions, GrpcOptions, Settings, settings_of
from balancer.threads.engine import Engine
from balancer.threads.methods import StreamStreamMethod, StreamUnaryMethod, UnaryStreamMethod, UnaryUnaryMethod

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.policies.base import Policy
    from balancer.pool.statistics import PoolStatistics
    from balancer.resolvers import Resolver


def sync_channel(
    resolver: Resolver | str,
    *,
    policy: str | Policy | None = None,
    options: GrpcOptions | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    compression: grpc.Compression | None = None,
    balancing: ChannelOptions | None = None,
    rng: random.Random | None = None,
) -> BalancedChannel:
    """A `grpc.Channel` over the endpoints that `resolver` tells of; arguments as for `balancer.aio_channel`.

    The resolver runs in the channel's private event loop. For interceptors use `grpc.intercept_channel`, as
    with any channel.
    """
    settings = settings_of(resolver, policy, options, balancing)
    return BalancedChannel(settings, credentials, compression, rng or random.Random())  # noqa: S311


class BalancedChannel(grpc.Channel):
    """A channel over many endpoints; made by `sync_channel`."""

    def __init__(
        self,
        settings: Settings,
        credentials: grpc.ChannelCredentials | None,
        compression: grpc.Compression | None,
        rng: random.Random,
    ) -> None:
        def dial(address: str, options: GrpcOptions) -> grpc.Channel:
            if credentials is None:
                return grpc.insecure_channel(address, options, compression)
            return grpc.secure_channel(address, credentials, options, compression)

        self.engine = Engine(settings, dial, rng)

    def stats(self) -> PoolStatistics | None:
        """The pool as it is now; None before the first call."""
        driver = self.engine.driver
        return None if driver is None else driver.pool.statistics(time.monotonic())

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = None
    ) -> None:
        """Tells `callback`, in another thread, the channel's state now and whenever it changes."""
        self.engine.connectivity.subscribe(callback)
        if try_to_connect:
            self.engine.connect()

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self.engine.connectivity.unsubscribe(callback)

    def close(self) -> None:
        """Cancels the calls under way and closes all connections."""
        self.engine.close()

    def __enter__(self) -> BalancedChannel:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        engine = getattr(self, "engine", None)
        if engine is not None and not engine.closed:
            engine.stop()

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return UnaryUnaryMethod(self, method, request_serializer, response_deserializer, _registered_method)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return UnaryStreamMethod(self, method, request_serializer, response_deserializer, _registered_method)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return StreamUnaryMethod(self, method, request_serializer, response_deserializer, _registered_method)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return StreamStreamMethod(self, method, request_serializer, response_deserializer, _registered_method)
