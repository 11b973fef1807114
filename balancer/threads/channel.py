"""SHELL: balanced channels for threads. `blocking_channel` makes one.

The resolver and the pool live in an event loop in a thread of the channel's own; calls are made in the
callers' threads, which only read the current picker. The channel must be made after forking, like any gRPC channel.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import grpc

from balancer.channels.kinds import Makers, Signature
from balancer.channels.options import ChannelOptions, GrpcOptions, settings_of
from balancer.threads.dial import ThreadsDialler
from balancer.threads.engine import ThreadsEngine
from balancer.threads.methods import METHODS, Method
from balancer.threads.workers import check_interpreter

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.channels.options import Settings
    from balancer.policies import AnyPolicy
    from balancer.pool.statistics import PoolStatistics
    from balancer.pool.verdicts import Why
    from balancer.resolvers import Resolver


def blocking_channel(
    resolver: Resolver | str,
    *,
    policy: AnyPolicy | None = None,
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
    dialler = ThreadsDialler(credentials, compression)
    dialler.check(settings.dial_options(settings.service_config))
    return BalancedChannel(settings, dialler, rng or random.Random())  # noqa: S311


class BalancedChannel(Makers[Method], grpc.Channel):  # type: ignore[misc]
    """A channel over many endpoints; made by `blocking_channel`."""

    def __init__(self, settings: Settings, dialler: ThreadsDialler, rng: random.Random) -> None:
        self.engine = ThreadsEngine(settings, dialler, rng)

    def method(self, signature: Signature) -> Method:
        return METHODS[signature.kind](self.engine, signature)

    def stats(self) -> PoolStatistics | None:
        """The pool as it is now; None before the first call."""
        return self.engine.statistics()

    def why(self) -> Why:
        """Why each endpoint gets calls or none: connected, connecting, failed and with what, ejected and for how long,
        not in the subset, of weight 0."""
        return self.engine.why()

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = None
    ) -> None:
        """Tells `callback`, in another thread, the channel's state now and whenever it changes."""
        check_interpreter()
        self.engine.connectivity.subscribe(callback)
        self.engine.look()
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
