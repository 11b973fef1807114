"""SHELL: a service behind a policy: an instance for each call, what became of it, and calls by a method's name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from balancer import LoadBalancer, NoEndpointError, hash_key
from balancer import Why as Why  # as others know it
from balancer.aio.channel import aio_channel
from balancer.likeness import as_endpoint
from balancer.policies import policy as policy_of
from balancer.policies.split import Split
from balancer.threads.channel import blocking_channel
from registry_client import checks
from registry_client.bridge.resolver import LiveResolver
from registry_client.bridge.sums import together
from registry_client.bridge.traffic import DEFAULT_POLICY, config_of, divided
from registry_client.bridge.translate import left_out
from registry_client.errors import Misuse, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    import grpc
    import grpc.aio

    from balancer import PoolStatistics as PoolStatistics
    from balancer.aio.channel import BalancedChannel
    from balancer.lb import Request
    from balancer.policies import AnyPolicy as AnyPolicy  # as others know it
    from balancer.policies.split import Part
    from registry_api.registry.v1 import policies_pb2
    from registry_client.discovery import Discovery
    from registry_client.instance import Instance
    from registry_client.traffic import Traffic

LONGEST = 400  # of what is said of a policy


def check_policy(policy: AnyPolicy) -> AnyPolicy:
    """A policy that there is. Raises InvalidArgument."""
    try:
        LoadBalancer(policy)
    except (TypeError, ValueError) as error:
        text = str(error)
        raise checks.wrong("policy", text if len(text) <= LONGEST else f"{text[:LONGEST]}…") from None
    return policy


class Balanced:
    """The instances of one service that get traffic, and a policy that chooses among them. Made by `balancer`.

    Keep it: turns, latencies and failures are remembered here. It needs closing if `call` was used, by `aclose` or
    `async with`; else it ends as a `Discovery` does.
    """

    def __init__(self, discovery: Discovery, traffic: Traffic, policy: AnyPolicy | None = None) -> None:
        self._discovery = discovery
        self._traffic = traffic
        self._policy = None if policy is None else check_policy(policy)
        self._balancer = LoadBalancer(DEFAULT_POLICY if policy is None else policy)
        self._chosen = Chosen(self._balancer, policy)
        self._channel: BalancedChannel | None = None
        self._exposes: list[Callable[[object], None]] = []
        self._called: PoolStatistics | None = None  # over channels that were closed

    async def get(
        self, key: str | bytes | int | None = None, *, exclude: Collection[Instance] = (), timeout: float | None = None
    ) -> Instance:
        """The instance for a call. `key`: what consistent_hash and ip_hash go by; `exclude`: where this call failed.

        Raises NotFound, saying why, when none gets traffic; else what `Discovery.instances` raises.
        """
        _check(key, exclude)
        await self._discovery.known(timeout)
        await self._traffic.known()
        live = self._discovery.live
        try:
            return self._balancer.select(self._chosen.of(self._traffic.policy, live.routable), key, exclude)
        except NoEndpointError:
            raise NotFound(self._discovery.why_none()) from None

    def request(
        self, key: str | bytes | int | None = None, *, exclude: Collection[Instance] = (), timeout: float | None = None
    ) -> Turn:
        """One call: `async with players.request() as call: … call.instance`. An exception counts as a failure."""
        _check(key, exclude)
        return Turn(self, key, exclude, timeout)

    async def call(
        self,
        method: str,
        request: bytes,
        *,
        key: str | bytes | int | None = None,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> bytes:
        """Call a unary method by its name, for those who have no stub: `call("/game.Player/UpdatePosition", encoded)`.

        It goes over a channel of this balancer, with the policy and gRPC's own retries. Raises grpc.aio.AioRpcError.
        """
        path = checks.text("method", method)
        if not path.startswith("/") or path.count("/") != 2:
            raise checks.wrong("method", "must be /PACKAGE.SERVICE/METHOD", method)
        if not isinstance(request, bytes):
            raise checks.wrong_type("request", "must be bytes, such as message.SerializeToString()", request)
        _check(key)
        self._discovery.live.place.check("the balancer")
        seconds, pairs = None if timeout is None else checks.timeout(timeout), checks.call_metadata(metadata)
        if self._channel is None:
            self._channel = open_channel(self._discovery, self._traffic, self._policy)
            for expose in self._exposes:
                expose(self._channel)
        token = hash_key.set(str(key) if isinstance(key, int) else key)
        try:
            multi: Any = self._channel.unary_unary(path)
            calling = multi(request, timeout=seconds, metadata=pairs)
        finally:
            hash_key.reset(token)
        answer: bytes = await calling
        return answer

    def exposed(self, expose: Callable[[object], None]) -> None:
        """Have it told of what chooses here, and of the channel of `call` whenever there is another."""
        self._exposes.append(expose)
        for it in (self._balancer, self._channel):
            if it is not None:
                expose(it)

    @property
    def service(self) -> str:
        """Whose instances they are."""
        return self._discovery.service

    def counting(self, instance: Instance) -> Request:
        """Counts one call to that instance."""
        return self._balancer.request(instance)

    def stats(self) -> PoolStatistics:
        """Calls, failures, latency and more of each instance, by `request` and `call`, and why the last pick was so."""
        channel = self._channel
        told = together(self._balancer.stats(), self._called)
        return told if channel is None else together(told, channel.stats())

    def why(self) -> Why:
        """Why each instance is chosen or not, as of the last choice: by `get` and `request`."""
        view = self._discovery.live.view
        if view is None:
            return Why(usable=False, verdict=f"no instance of {self._discovery.service} is known yet")
        told = self._balancer.why()
        left = left_out(view.instances, self._traffic.policy)
        return replace(told, endpoints=(*told.endpoints, *left))

    async def aclose(self) -> None:
        """Close the channel of `call`, if there was any. May be called more than once, and used again afterwards."""
        channel, place = self._channel, self._discovery.live.place
        if place.is_over:
            return
        place.check("the balancer")
        self._channel = None
        if channel is None:
            return
        told = channel.stats()
        self._called = told and together(_without_calls_under_way(told), self._called)
        await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Chosen:
    """The instances that get traffic under the policy of the service, for a balancer, which is had go by it.

    `policy`: None for what the traffic policy says.
    """

    def __init__(self, balancer: LoadBalancer, policy: AnyPolicy | None) -> None:
        self._balancer = balancer
        self._policy = policy
        self._given: tuple[policies_pb2.Policy | None, tuple[Instance, ...]] = (None, ())
        self._taken: tuple[Instance, ...] = ()
        self._how: tuple[object, tuple[Part, ...]] = (DEFAULT_POLICY if policy is None else policy, ())

    def of(self, traffic: policies_pb2.Policy | None, routable: tuple[Instance, ...]) -> tuple[Instance, ...]:
        """The very same tuple until something changes."""
        if self._given[0] is not traffic or self._given[1] is not routable:
            self._given = traffic, routable
            self._take(traffic, routable)
        return self._taken

    def _take(self, traffic: policies_pb2.Policy | None, routable: tuple[Instance, ...]) -> None:
        try:
            named = config_of(traffic).policy or DEFAULT_POLICY
        except ValueError:  # which is no policy: the channel of the service says so
            traffic, named = None, DEFAULT_POLICY
        parts, taken = divided(traffic, routable)
        chosen: AnyPolicy = named if self._policy is None else self._policy
        self._taken = routable if not parts else tuple(taken)
        if self._how != (chosen, parts):
            self._how = chosen, parts
            self._balancer.choose_by(Split(parts, policy_of(chosen)) if parts else chosen)


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
        self._begun: tuple[Instance, Request] | None = None
        self._is_entering = self._is_over = False

    @property
    def instance(self) -> Instance:
        """Where the call goes, or went. Raises Misuse before it was entered."""
        return self._entered[0]

    @property
    def _entered(self) -> tuple[Instance, Request]:
        if self._begun is None:
            raise Misuse("the request was not entered: use `async with players.request() as call` (in threads `with`)")
        return self._begun

    def mark_failed(self) -> None:
        """The call speaks against the instance, although no exception says so."""
        self._entered[1].mark_failed()

    async def __aenter__(self) -> Self:
        if self._begun is not None or self._is_entering:
            raise Misuse("this request was entered already: make another by players.request()")
        key, exclude, timeout = self._how
        self._is_entering = True
        try:
            instance = await self._balanced.get(key, exclude=exclude, timeout=timeout)
        finally:
            self._is_entering = False
        self._begun = instance, self._balanced.counting(instance).__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave(kind, error, trace)

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The call is over. It counts once."""
        _, request = self._entered
        if not self._is_over:
            self._is_over = True
            request.__exit__(kind, error, trace)


def open_channel(
    discovery: Discovery,
    traffic: Traffic,
    policy: AnyPolicy | None = None,
    credentials: grpc.ChannelCredentials | None = None,
) -> BalancedChannel:
    """A channel in the loop of the client. `policy`: None for what the traffic policy says."""
    return aio_channel(_resolver(discovery, traffic), policy=policy, credentials=credentials)


def open_blocking_channel(
    discovery: Discovery,
    traffic: Traffic,
    policy: AnyPolicy | None = None,
    credentials: grpc.ChannelCredentials | None = None,
) -> grpc.Channel:
    """A channel for threads."""
    made: grpc.Channel = blocking_channel(_resolver(discovery, traffic), policy=policy, credentials=credentials)
    return made


def _check(key: object, exclude: object = ()) -> None:
    checks.call_key(key)
    if isinstance(exclude, str | bytes) or not isinstance(exclude, Collection):
        raise checks.wrong_type("exclude", "must be a list of instances", exclude)
    for it in exclude:
        try:
            as_endpoint(it)
        except (TypeError, ValueError) as error:
            raise checks.wrong("exclude", str(error)) from None


def _without_calls_under_way(pool: PoolStatistics) -> PoolStatistics:
    return replace(pool, nodes=tuple(replace(node, in_flight=0) for node in pool.nodes))


def _resolver(discovery: Discovery, traffic: Traffic) -> LiveResolver:
    return LiveResolver(discovery.service, discovery.live, traffic, filtered=discovery.filtered)
