"""SHELL: the client for threads. An event loop in a private thread runs the asyncio client; this is its front.

    with registry_client.sync.connect("127.0.0.1:7400") as registry:
        for view in registry.watch("player"):
            ...

Everything here may be called from any thread, and blocks. What is not described is as in `registry_client.client`.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from typing import TYPE_CHECKING, Any, Self

from registry_api.limits import DEFAULT_NAMESPACE
from registry_client import (
    callbacks,
    check_rules,
    checks,
    client,
    discovery,
    events,
    many,
    policies,
    registration,
    watcher,
    xds_clients,
)
from registry_client.cache import MAX_AGE_S
from registry_client.client import DEFAULT_DRAIN_S, DEFAULT_TIMEOUT_S
from registry_client.errors import RegistryError
from registry_client.registration import mark_used
from registry_client.session import CacheDir
from registry_client.signals import SignalDrains
from registry_client.thread import Closing, Front, Home, Inner, Part, gives, waits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Unpack

    import grpc

    from registry_client.backoff import Backoff
    from registry_client.bearer import Token
    from registry_client.bridge import balanced  # noqa: F401 - in quotes
    from registry_client.bridge.balanced import AnyPolicy, PoolStatistics
    from registry_client.bridge.balanced import Why as BalancerWhy
    from registry_client.discovery import DiscoveryStatistics
    from registry_client.errors import RegistrationLost
    from registry_client.event import Event
    from registry_client.health import HealthCheck, HealthStats, Pace
    from registry_client.instance import Filters, Instance
    from registry_client.lease import State
    from registry_client.many import Options
    from registry_client.monitor import Monitor as AioMonitor  # noqa: F401 - in quotes
    from registry_client.steps import WatchLimits
    from registry_client.tls import TLS
    from registry_client.traffic import Traffic
    from registry_client.view import View


def connect(
    addresses: str | Sequence[str],
    *,
    namespace: str = DEFAULT_NAMESPACE,
    credentials: grpc.ChannelCredentials | None = None,
    tls: TLS | None = None,
    token: Token | None = None,
    plaintext_token: bool = False,
    cache_dir: str | Path | CacheDir | None = CacheDir.DEFAULT,
    timeout: float = DEFAULT_TIMEOUT_S,
    backoff: Backoff | None = None,
    cache_max_age: float = MAX_AGE_S,
    watch_limits: WatchLimits | None = None,
) -> RegistryClient:
    """A client of one registry for threads; arguments as of `registry_client.connect`.

    Raises InvalidTarget for the addresses, InvalidArgument for the rest.
    """
    inner = client.connect(
        addresses,
        namespace=namespace,
        credentials=credentials,
        tls=tls,
        token=token,
        plaintext_token=plaintext_token,
        cache_dir=cache_dir,
        timeout=timeout,
        backoff=backoff,
        cache_max_age=cache_max_age,
        watch_limits=watch_limits,
    )
    return RegistryClient(inner)


def connect_many(registries: Mapping[str, str | Sequence[str]], **options: Unpack[Options]) -> Registries:
    """A client of several registries by their names, for threads; as `registry_client.connect_many`."""
    return Registries(many.connect_many(registries, **options))


def from_config(config: Mapping[str, object] | str | Path) -> RegistryClient | Registries:
    """As `registry_client.from_config`, for threads."""
    from registry_client.config import from_config as make

    inner = make(config)
    return RegistryClient(inner) if isinstance(inner, client.RegistryClient) else Registries(inner)


# ---- parts of a client


class Discovery(Part[discovery.Discovery]):
    """The instances of a service, from memory; as `registry_client.Discovery`."""

    instances = waits(discovery.Discovery.instances)

    def stats(self) -> DiscoveryStatistics:
        """How many questions there were, and how many were answered from memory."""
        return self._inner.stats()


class CheckRules(Front[check_rules.CheckRules]):
    """The checks of instances that bring none, by service; as `registry_client.CheckRules`."""

    put = waits(check_rules.CheckRules.put)
    get = waits(check_rules.CheckRules.get)
    list = waits(check_rules.CheckRules.list)
    delete = waits(check_rules.CheckRules.delete)


class XdsClients(Front[xds_clients.XdsClients]):
    """The xDS clients of the registry; as `registry_client.XdsClients`."""

    list = waits(xds_clients.XdsClients.list)
    loads = waits(xds_clients.XdsClients.loads)


class TrafficPolicies(Front[policies.TrafficPolicies]):
    """The traffic policies of services; as `registry_client.TrafficPolicies`."""

    put = waits(policies.TrafficPolicies.put)
    get = waits(policies.TrafficPolicies.get)
    list = waits(policies.TrafficPolicies.list)
    delete = waits(policies.TrafficPolicies.delete)
    explain = waits(policies.TrafficPolicies.explain)


class Watch(Closing[watcher.Watch]):
    """An endless iterator over the views of a watch; as `registry_client.Watch`."""

    @property
    def view(self) -> View | None:
        """The latest view as it is now, without changes; None before there is one."""

        async def peek() -> View | None:
            return self._inner.view

        return self._thread.run(peek())

    @property
    def trouble(self) -> str:
        """Why no registry tells of changes just now; empty while one does, and in the first second."""
        return self._inner.trouble

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> View:
        return self.next()

    def next(self, timeout: float | None = None) -> View:
        """The next view. Raises TimeoutError after `timeout` seconds, and the watch goes on."""
        seconds = checks.wait(timeout)

        async def wait() -> View:
            async with asyncio.timeout(seconds):
                return await anext(self._inner)

        return self._thread.run(wait())

    def close(self) -> None:
        """End the watch, unless its client has. May be called more than once."""
        self._close(self._inner.aclose)


class EventWatch(Closing[events.EventWatch]):
    """An endless iterator over events as they happen; as `registry_client.EventWatch`."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        return self.next()

    def next(self, timeout: float | None = None) -> Event:
        """The next event. Raises TimeoutError after `timeout` seconds, and the watch goes on."""
        seconds = checks.wait(timeout)

        async def wait() -> Event:
            async with asyncio.timeout(seconds):
                return await anext(self._inner)

        return self._thread.run(wait())

    @property
    def is_current(self) -> bool:
        """Whether a registry tells of what happens just now."""
        return self._inner.is_current

    def close(self) -> None:
        """End the watch, unless its client has. May be called more than once."""
        self._close(self._inner.aclose)


class Subscription(Part[callbacks.Subscription]):
    """Callbacks on a watch, until `cancel`. They are called in a thread that is theirs to block."""

    def cancel(self) -> None:
        """Call no callback any more. From any thread, and from within a callback; it waits for none."""
        self._inner.cancel()

    @property
    def is_active(self) -> bool:
        """True until it is cancelled, its client closes, or the registry refuses the question (which is logged)."""
        return self._inner.is_active


class Monitor(Closing["AioMonitor"]):
    """Looks until it is closed, or its client is; as `registry_client.Monitor`."""

    def stats(self) -> HealthStats:
        """How well the service is, as seen from here."""

        async def count() -> HealthStats:
            return self._inner.stats()

        return self._thread.run(count())

    def close(self) -> None:
        """Look no more, unless its client is closed, which has ended it. May be called more than once."""
        self._close(self._inner.aclose)


class Balanced(Closing["balanced.Balanced"]):
    """The instances of one service that get traffic, and a policy that chooses among them."""

    def get(
        self, key: str | bytes | int | None = None, *, exclude: Collection[Instance] = (), timeout: float | None = None
    ) -> Instance:
        """The instance for a call. Raises NotFound when none gets traffic."""
        return self._thread.run(self._inner.get(key, exclude=exclude, timeout=timeout))

    def request(
        self, key: str | bytes | int | None = None, *, exclude: Collection[Instance] = (), timeout: float | None = None
    ) -> Turn:
        """One call: `with players.request() as call: … call.instance`. An exception counts as a failure."""
        return Turn(self._home, self._inner.request(key, exclude=exclude, timeout=timeout))

    def call(
        self,
        method: str,
        request: bytes,
        *,
        key: str | bytes | int | None = None,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> bytes:
        """Call a unary method by its name: `call("/game.Player/UpdatePosition", encoded)`. Raises grpc.RpcError."""
        return self._thread.run(self._inner.call(method, request, key=key, timeout=timeout, metadata=metadata))

    def stats(self) -> PoolStatistics:
        """Calls, failures, latency and more of each instance, by `request` and `call`."""

        async def count() -> PoolStatistics:
            return self._inner.stats()

        return self._thread.run(count())

    def why(self) -> BalancerWhy:
        """Why each instance is chosen or not, as of the last choice."""

        async def look() -> BalancerWhy:
            return self._inner.why()

        return self._thread.run(look())

    def close(self) -> None:
        """Close the channel of `call`, if there was any and its client is open. May be called more than once."""
        self._close(self._inner.aclose)


class Turn(Part["balanced.Turn"]):
    """One call, from entering to leaving; `instance` is where it goes."""

    @property
    def instance(self) -> Instance:
        """Where the call goes."""
        return self._inner.instance

    def mark_failed(self) -> None:
        """The call speaks against the instance, although no exception says so."""
        self._inner.mark_failed()

    def __enter__(self) -> Self:
        self._thread.run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not sys.is_finalizing():  # nobody counts any more
            self._inner.leave(kind, error, trace)


class _Stay(Part[Inner]):
    """What is registered from entering to leaving, and on signals drains."""

    def __init__(self, home: Home, inner: Inner, signals: SignalDrains | None = None) -> None:
        super().__init__(home, inner)
        self._signals = signals

    def _begin(
        self, begin: Callable[[], Coroutine[Any, Any, Inner]], end: Callable[[], Coroutine[Any, Any, None]]
    ) -> Self:
        try:
            if self._signals is not None and self._thread.is_open:
                self._signals.add(self, end, self._thread.loop)
            self._thread.run(begin())
        except BaseException:
            self._release()
            raise
        return self

    def _end(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._thread.is_here:
            self._release()
        self._close(end)

    def _release(self) -> None:
        if self._signals is not None:
            self._signals.remove(self)


class Registration(_Stay[registration.Registration]):
    """One instance that is kept registered; as `registry_client.Registration`."""

    @property
    def instance(self) -> Instance:
        """As the registry stored it last, or as it is wanted while it was never registered."""
        return self._inner.instance

    @property
    def lease_id(self) -> str:
        """The lease that holds it; empty while there is none."""
        return self._inner.lease_id

    @property
    def ttl_s(self) -> float:
        """The time to live in force, in seconds."""
        return self._inner.ttl_s

    @property
    def state(self) -> State:
        """How it stands; WANTED before it was entered."""
        return self._inner.state

    @property
    def invisible_for(self) -> float | None:
        """Seconds since the registry last was known to show it; None while it is."""
        return self._inner.invisible_for

    @property
    def trouble(self) -> str:
        """What was tried last to register it and why that failed; empty while all is well."""
        return self._inner.trouble

    update = waits(registration.Registration.update)

    def wait_lost(self, timeout: float | None = None) -> RegistrationLost:
        """Wait until somebody else has taken the id or had it leave, and return what says so. Raises TimeoutError."""
        seconds = checks.wait(timeout)

        async def wait() -> RegistrationLost:
            async with asyncio.timeout(seconds):
                return await self._inner.wait_lost()

        return self._thread.run(wait())

    def start(self) -> Self:
        """Register, and wait until that is done."""
        mark_used(self._inner)
        return self._begin(self._inner.start, self._inner.aclose)

    def __enter__(self) -> Self:
        mark_used(self._inner)
        return self._begin(self._inner.__aenter__, self._inner.aclose)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        mark_used(self._inner)
        self._end(lambda: self._inner.__aexit__(kind))

    def close(self, drain: float | None = None) -> None:
        """Drain for `drain` seconds (by default as asked for at first) and deregister. May be called more than once.

        Does nothing once its client is closed, which has deregistered it, nor in a process that was forked meanwhile.
        """
        mark_used(self._inner)
        self._end(lambda: self._inner.aclose(drain))


class InEach(_Stay[many.InEach]):
    """One instance, registered in several registries and kept up in each; as `registry_client.InEach`."""

    @property
    def results(self) -> Mapping[str, Registration | RegistryError]:
        """What became of it in each registry."""
        return {
            name: it if isinstance(it, RegistryError) else Registration(self._home, it)
            for name, it in self._inner.results.items()
        }

    update = waits(many.InEach.update)

    def __enter__(self) -> Self:
        self._inner.mark_used()
        return self._begin(self._inner.__aenter__, self._inner.aclose)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drain and deregister in each. May be called more than once."""
        self._inner.mark_used()
        self._end(self._inner.aclose)


# ---- clients


class _Reader(Front[client.RegistryClient]):
    """What only asks."""

    get = waits(client.RegistryClient.get)
    list = waits(client.RegistryClient.list)
    services = waits(client.RegistryClient.services)
    namespaces = waits(client.RegistryClient.namespaces)
    why = waits(client.RegistryClient.why)
    watch = gives(client.RegistryClient.watch, Watch)
    on_change = gives(client.RegistryClient.on_change, Subscription)
    discover = gives(client.RegistryClient.discover, Discovery)
    balancer = gives(client.RegistryClient.balancer, Balanced)

    def channel(
        self,
        service: str,
        *,
        policy: AnyPolicy | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        namespace: str = "",
        **filters: Unpack[Filters],
    ) -> grpc.Channel:
        """A `grpc.Channel` to a service over the watch of this client; close it before the client."""
        from registry_client.bridge.balanced import open_blocking_channel

        async def discover() -> tuple[discovery.Discovery, Traffic]:
            found = self._inner.discover(service, namespace=namespace, **filters)
            return found, self._inner.traffic(service, namespace=namespace)

        chosen = self._inner.checked_policy(service, policy, credentials)
        return open_blocking_channel(*self._thread.run(discover()), chosen, credentials)

    @property
    def policies(self) -> Mapping[str, AnyPolicy]:
        """The policy of each service, for `balancer` and `channel`."""
        return self._inner.policies

    @policies.setter
    def policies(self, given: Mapping[str, AnyPolicy]) -> None:
        self._inner.policies = given

    @property
    def stale_for(self) -> float | None:
        """Seconds since the view that the last answer came from was confirmed by the store; None if it was fresh."""
        return self._inner.stale_for

    def __enter__(self) -> Self:
        self._home.open(self._inner.__aenter__)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Deregister what is still registered, end the watches, and close. May be called more than once.

        Does nothing in a process that was forked meanwhile: all of it is the parent's.
        """
        self._home.close(self._inner.aclose)


class RegistryClient(_Reader):
    """`registry_client.RegistryClient` for threads. Made by `connect`; use it with `with`, from any thread.

    Once closed it may be entered again. In a process that was forked meanwhile it has to be entered anew.
    """

    def __init__(self, inner: client.RegistryClient) -> None:
        super().__init__(Home(), inner)
        self._signals = SignalDrains()

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses of the registry."""
        return self._inner.addresses

    @property
    def namespace(self) -> str:
        """The namespace of all that names none."""
        return self._inner.namespace

    @property
    def epoch(self) -> str:
        """The epoch of the state that the last answer came from; empty before there was one."""
        return self._inner.epoch

    @property
    def revision(self) -> int:
        """Its revision, which is good for `min_revision` within that epoch; 0 before there was an answer."""
        return self._inner.revision

    def register(
        self,
        instance: Instance,
        ttl: float | None = None,
        *,
        drain: float = DEFAULT_DRAIN_S,
        timeout: float | None = None,
        drain_on_signals: bool = False,
        if_absent: bool = False,
    ) -> Registration:
        """Keep an instance registered while a block lasts: `with registry.register(…) as registration`."""
        checks.yes_or_no("drain_on_signals", drain_on_signals)
        signals = self._signals if drain_on_signals else None
        make = gives(client.RegistryClient.register, functools.partial(Registration, signals=signals))
        return make(self, instance, ttl, drain=drain, timeout=timeout, if_absent=if_absent)

    register_once = waits(client.RegistryClient.register_once)
    deregister = waits(client.RegistryClient.deregister)
    update = waits(client.RegistryClient.update)
    health = waits(client.RegistryClient.health)
    probers = waits(client.RegistryClient.probers)
    whoami = waits(client.RegistryClient.whoami)
    events = waits(client.RegistryClient.events)
    watch_events = gives(client.RegistryClient.watch_events, EventWatch)
    serving = waits(client.RegistryClient.serving)
    on_health = gives(client.RegistryClient.on_health, Subscription)

    def monitor(self, service: str, check: HealthCheck, *, namespace: str = "", **pace: Unpack[Pace]) -> Monitor:
        """Look at the instances of a service from this process, and tell the registry of their health."""
        make = gives(client.RegistryClient.monitor, Monitor)
        return make(self, service, check, namespace=namespace, **pace)

    @property
    def check_rules(self) -> CheckRules:
        """The checks of instances that bring none, by service: to put, get, list and delete."""
        return CheckRules(self._home, self._inner.check_rules)

    @property
    def xds_clients(self) -> XdsClients:
        """Who is connected by xDS, and what such clients report of their calls."""
        return XdsClients(self._home, self._inner.xds_clients)

    @property
    def policy(self) -> TrafficPolicies:
        """The traffic policies of services: to put, get, list, delete, explain."""
        return TrafficPolicies(self._home, self._inner.policy)


class _Member(RegistryClient):
    """One of several registries: opened and closed with all of them."""

    def __init__(self, home: Home, inner: client.RegistryClient) -> None:
        super().__init__(inner)
        self._home = home

    def __enter__(self) -> Self:
        self._thread.run(self._inner.__aenter__())  # which says that it is open
        return self

    def close(self) -> None:
        """Deregister what is still registered in this one. May be called more than once."""
        if self._thread.is_open:
            self._thread.run(self._inner.aclose())


class Registries(_Reader):
    """`registry_client.Registries` for threads. Made by `connect_many`; use it with `with`, from any thread."""

    def __init__(self, inner: many.Registries) -> None:
        super().__init__(Home(), inner.reader)
        self._all = inner
        self._signals = SignalDrains()
        self._members = {name: _Member(self._home, inner[name]) for name in inner.names}

    @property
    def names(self) -> tuple[str, ...]:
        """The registries, the one to be preferred first."""
        return self._all.names

    def __getitem__(self, name: str) -> RegistryClient:
        """The client of one of them, for all that is meant for that one alone. Raises KeyError."""
        return self._members[name]

    def register(
        self,
        instance: Instance,
        ttl: float | None = None,
        *,
        drain: float = DEFAULT_DRAIN_S,
        timeout: float | None = None,
        drain_on_signals: bool = False,
    ) -> InEach:
        """Keep an instance registered in each: `with registries.register(…) as registered: registered.results`."""
        checks.yes_or_no("drain_on_signals", drain_on_signals)

        async def make() -> many.InEach:
            return self._all.register(instance, ttl, drain=drain, timeout=timeout)

        return InEach(self._home, self._thread.run(make()), self._signals if drain_on_signals else None)

    def __enter__(self) -> Self:
        self._home.open(self._all.__aenter__)
        return self

    def close(self) -> None:
        """Deregister what is still registered, and close. May be called more than once."""
        self._home.close(self._all.aclose)
