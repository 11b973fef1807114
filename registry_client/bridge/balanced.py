"""SHELL: a service behind a policy: an instance for each call, what became of it, and calls by a method's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from balancer import LoadBalancer, NoEndpointError, hash_key
from balancer.aio.channel import aio_channel
from balancer.threads.channel import blocking_channel
from registry_client import checks
from registry_client.bridge.resolver import LiveResolver
from registry_client.bridge.translate import DEFAULT_POLICY
from registry_client.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from types import TracebackType

    import grpc
    import grpc.aio

    from balancer import PoolStatistics as PoolStatistics
    from balancer.lb import Request
    from balancer.policies import AnyPolicy as AnyPolicy  # as others know it
    from registry_client.discovery import Discovery
    from registry_client.instance import Instance


def check_policy(policy: AnyPolicy) -> AnyPolicy:
    """A policy that there is. Raises InvalidArgument."""
    try:
        LoadBalancer(policy)
    except (TypeError, ValueError) as error:
        raise checks.wrong("policy", str(error)) from None
    return policy


class Balanced:
    """The instances of one service that get traffic, and a policy that chooses among them. Made by `balancer`.

    Keep it: turns, latencies and failures are remembered here. It needs closing if `call` was used, by `aclose` or
    `async with`; else it ends as a `Discovery` does.
    """

    def __init__(self, discovery: Discovery, policy: AnyPolicy = DEFAULT_POLICY) -> None:
        self._discovery = discovery
        self._policy = check_policy(policy)
        self._balancer = LoadBalancer(policy)
        self._channel: grpc.aio.Channel | None = None

    async def get(
        self, key: str | bytes | int | None = None, *, exclude: Collection[Instance] = (), timeout: float | None = None
    ) -> Instance:
        """The instance for a call. `key`: what consistent_hash and ip_hash go by; `exclude`: where this call failed.

        Raises NotFound, saying why, when none gets traffic; else what `Discovery.instances` raises.
        """
        await self._discovery.known(timeout)
        live = self._discovery.live
        try:
            return self._balancer.select(live.routable, key, exclude)
        except NoEndpointError:
            raise NotFound(self._discovery.why_none()) from None

    def request(
        self, key: str | bytes | int | None = None, *, exclude: Collection[Instance] = (), timeout: float | None = None
    ) -> Turn:
        """One call: `async with players.request() as call: … call.instance`. An exception counts as a failure."""
        return Turn(self, key, exclude, timeout)

    async def call(
        self,
        method: str,
        request: bytes,
        *,
        key: str | bytes | None = None,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> bytes:
        """Call a unary method by its name, for those who have no stub: `call("/game.Player/UpdatePosition", encoded)`.

        It goes over a channel of this balancer, with the policy and gRPC's own retries. Raises grpc.aio.AioRpcError.
        """
        path = checks.text("method", method)
        if not path.startswith("/") or path.count("/") != 2:
            raise checks.wrong("method", "must be /PACKAGE.SERVICE/METHOD", method)
        if self._channel is None:
            self._channel = open_channel(self._discovery, self._policy)
        token = hash_key.set(key)
        try:
            multi: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(path)
            calling = multi(request, timeout=timeout, metadata=tuple(metadata))
        finally:
            hash_key.reset(token)
        return await calling

    def counting(self, instance: Instance) -> Request:
        """Counts one call to that instance."""
        return self._balancer.request(instance)

    def stats(self) -> PoolStatistics:
        """Calls, failures, latency and more of each instance, by `request`, and why the last choice fell as it did."""
        return self._balancer.stats()

    async def aclose(self) -> None:
        """Close the channel of `call`, if there was any. May be called more than once, and used again afterwards."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Turn:
    """One call, from entering to leaving; `instance` is where it goes."""

    def __init__(
        self,
        balanced: Balanced,
        key: str | bytes | int | None,
        exclude: Collection[Instance],
        timeout: float | None,
    ) -> None:
        self._balanced = balanced
        self._how = key, exclude, timeout
        self._request: Request
        self.instance: Instance

    def mark_failed(self) -> None:
        """The call speaks against the instance, although no exception says so."""
        self._request.mark_failed()

    async def __aenter__(self) -> Self:
        key, exclude, timeout = self._how
        self.instance = await self._balanced.get(key, exclude=exclude, timeout=timeout)
        self._request = self._balanced.counting(self.instance).__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave(kind, error, trace)

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The call is over."""
        self._request.__exit__(kind, error, trace)


def open_channel(
    discovery: Discovery, policy: AnyPolicy = DEFAULT_POLICY, credentials: grpc.ChannelCredentials | None = None
) -> grpc.aio.Channel:
    """A channel in the loop of the client."""
    return aio_channel(_resolver(discovery), policy=policy, credentials=credentials)


def open_blocking_channel(
    discovery: Discovery, policy: AnyPolicy = DEFAULT_POLICY, credentials: grpc.ChannelCredentials | None = None
) -> grpc.Channel:
    """A channel for threads."""
    made: grpc.Channel = blocking_channel(_resolver(discovery), policy=policy, credentials=credentials)
    return made


def _resolver(discovery: Discovery) -> LiveResolver:
    return LiveResolver(discovery.service, discovery.live, filtered=discovery.filtered)
