"""SHELL: balanced channels for asyncio. `aio_channel` makes one.

A balanced channel is a `grpc.aio.Channel`: any generated stub works on it. Behind it there is one connection
per endpoint that the pool wants, and every call goes to the endpoint that the policy picks for it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from balancer.aio.dial import AioDialler
from balancer.aio.engine import AioEngine
from balancer.aio.methods import METHODS, Method
from balancer.channels.connectivity import IDLING, TO_GRPC
from balancer.channels.kinds import Makers, Signature
from balancer.channels.options import ChannelOptions, GrpcOptions, settings_of
from balancer.channels.process import GREENLETS, has_greenlets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from balancer.channels.options import Settings
    from balancer.policies import AnyPolicy
    from balancer.pool.statistics import PoolStatistics
    from balancer.pool.verdicts import Why
    from balancer.resolvers import Resolver


def aio_channel(
    resolver: Resolver | str,
    *,
    policy: AnyPolicy | None = None,
    options: GrpcOptions | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
    balancing: ChannelOptions | None = None,
    rng: random.Random | None = None,
) -> BalancedChannel:
    """A `grpc.aio.Channel` over the endpoints that `resolver` tells of.

    resolver: an object of the `balancer.resolvers.Resolver` protocol, or a target: `static://…` or `dns://…`.
    policy: a policy's name, with options as `name?option=value`, or a policy object; None = the target's, the
        service config's, round_robin.
    options: gRPC's channel options, for the connections to the endpoints. `grpc.service_config` is honoured by
        this channel itself, across endpoints: a retry goes to another one.
    credentials: for the connections to the endpoints; None = plaintext.
    compression, interceptors: as for `grpc.aio.insecure_channel`.
    balancing: everything else that may be set.
    rng: the source of randomness, for tests.

    The channel does nothing until its first call, `channel_ready`, or `get_state(try_to_connect=True)`; close
    it when it is no longer needed. Raises ValueError, naming the part, for arguments that make no sense, and what
    grpc.aio raises for those that it gets; its UsageError where threads are greenlets, too.
    """
    if has_greenlets():
        raise grpc.aio.UsageError(GREENLETS)
    settings = settings_of(resolver, policy, options, balancing)
    dialler = AioDialler(credentials, compression, interceptors or ())
    dialler.check(settings.dial_options(settings.service_config))
    return BalancedChannel(settings, dialler, rng or random.Random())  # noqa: S311


class BalancedChannel(Makers[Method], grpc.aio.Channel):  # type: ignore[misc]
    """A channel over many endpoints; made by `aio_channel`."""

    def __init__(self, settings: Settings, dialler: AioDialler, rng: random.Random) -> None:
        self.engine = AioEngine(settings, dialler, rng)

    def method(self, signature: Signature) -> Method:
        return METHODS[signature.kind](self.engine, signature)

    def stats(self) -> PoolStatistics | None:
        """The pool as it is now; None before the first call."""
        return self.engine.statistics()

    def why(self) -> Why:
        """Why each endpoint gets calls or none: connected, connecting, failed and with what, ejected and for how long,
        not in the subset, of weight 0."""
        return self.engine.why()

    async def __aenter__(self) -> BalancedChannel:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Closes all connections. Calls under way have `grace` seconds to end, then they are cancelled."""
        if grace and grace < 0:
            raise ValueError(f"grace must be non-negative, got {grace}.")
        await self.engine.aclose(grace)

    def __del__(self) -> None:
        engine = getattr(self, "engine", None)
        if engine is not None and not engine.closed and not engine.loop.is_closed():
            engine.loop.call_soon_threadsafe(engine.stop)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        engine = self.engine
        if try_to_connect and engine.state in IDLING:
            engine.connect()
        return TO_GRPC[engine.state]

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        if self.engine.closed:
            raise self.engine.too_late()
        while self.get_state() is last_observed_state:
            await self.engine.changed()

    async def channel_ready(self) -> None:
        # At every change in the pool, not of the state alone, which may be idle again before anybody has looked.
        while self.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY:
            if self.engine.closed:
                raise self.engine.too_late()
            await self.engine.changed()
