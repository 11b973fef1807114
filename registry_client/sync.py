"""SHELL: the client for threads. An event loop in a private thread runs the asyncio client; this is its front.

    with registry_client.sync.connect("127.0.0.1:7400") as registry:
        for view in registry.watch("player"):
            ...

Everything here may be called from any thread, and blocks. What is not described is as in `registry_client.client`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Self, TypeVar

from registry_api.limits import DEFAULT_NAMESPACE
from registry_client import checks, client
from registry_client.cache import MAX_AGE_S
from registry_client.client import DEFAULT_DRAIN_S, DEFAULT_TIMEOUT_S, CacheDir
from registry_client.errors import ClientClosed, Misuse, RegistryError
from registry_client.place import check_forks, check_process
from registry_client.registration import mark_used
from registry_client.signals import SignalDrains

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Unpack

    import grpc

    from registry_client.backoff import Backoff
    from registry_client.bridge.balanced import AnyPolicy, PoolStatistics
    from registry_client.bridge.balanced import Balanced as AioBalanced
    from registry_client.bridge.balanced import Turn as AioTurn
    from registry_client.callbacks import Subscription as AioSubscription
    from registry_client.discovery import Discovery as AioDiscovery
    from registry_client.discovery import DiscoveryStatistics
    from registry_client.errors import RegistrationLost
    from registry_client.health import Health, HealthCheck, HealthStats, Pace, Prober
    from registry_client.instance import Fields, Filters, Instance, NamespaceSummary, Removed, ServiceSummary
    from registry_client.lease import State
    from registry_client.monitor import Monitor as AioMonitor
    from registry_client.registration import Registration as AioRegistration
    from registry_client.steps import WatchLimits
    from registry_client.view import View
    from registry_client.watcher import Watch as AioWatch

_T = TypeVar("_T")


def connect(
    addresses: str | Sequence[str],
    *,
    namespace: str = DEFAULT_NAMESPACE,
    credentials: grpc.ChannelCredentials | None = None,
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
        cache_dir=cache_dir,
        timeout=timeout,
        backoff=backoff,
        cache_max_age=cache_max_age,
        watch_limits=watch_limits,
    )
    return RegistryClient(inner)


def from_config(config: Mapping[str, object] | str | Path) -> RegistryClient:
    """As `registry_client.from_config`, for threads. Raises InvalidArgument also for several registries."""
    from registry_client.config import from_config as make

    inner = make(config)
    if isinstance(inner, client.RegistryClient):
        return RegistryClient(inner)
    raise checks.wrong("adapters", "several registries are for asyncio alone")


class LoopThread:
    """An event loop in a thread of its own, from `start` to `close`."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="registry-client", daemon=True)
        self._pid = os.getpid()
        self._lock = threading.Lock()  # of the three below
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: set[Future[Any]] = set()
        self._is_closing = False

    @property
    def is_open(self) -> bool:
        """True from `start` to `close`, in the process that started it."""
        return self._loop is not None and not self._is_closing and self.is_here

    @property
    def is_here(self) -> bool:
        """False in a process that was forked since it was made."""
        return os.getpid() == self._pid

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop. Raises ClientClosed if there is none."""
        if self._loop is None:
            raise _closed()
        return self._loop

    def start(self) -> None:
        """Start it, and wait until it runs."""
        self._thread.start()
        self._ready.wait()

    def _main(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self._loop.call_soon(self._ready.set)
            self._loop.run_forever()
        self._loop = None

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine there and wait for its result. An interrupt here cancels it there.

        Raises Misuse in a forked process and in its own thread, ClientClosed when it was closed meanwhile.
        """
        try:
            check_process(self._pid, "the client")
            if threading.current_thread() is self._thread:
                raise Misuse("the client was used from within its own event loop, which would wait for itself for ever")
            with self._lock:
                if self._is_closing:
                    raise _closed()
                future = self._submit(work)
        except RegistryError:
            work.close()
            raise
        return self._wait(future)

    def _submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        self._pending.add(future)
        return future

    def _wait(self, future: Future[_T]) -> _T:
        try:
            return future.result()
        except CancelledError:
            raise _closed() from None
        except BaseException:
            future.cancel()
            raise
        finally:
            self._pending.discard(future)

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Run `last`, stop it, and wait until the thread has ended. Whoever still waits is told ClientClosed."""
        with self._lock:
            if self._is_closing or self._loop is None:
                return
            self._is_closing, loop = True, self._loop
        try:
            if last is not None:
                self._wait(self._submit(last()))
        finally:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            for future in list(self._pending):
                future.cancel()


def _closed() -> ClientClosed:
    return ClientClosed("the client is not open: use `with registry_client.sync.connect(…) as registry`")


class RegistryClient:
    """`registry_client.RegistryClient` for threads. Made by `connect`; use it with `with`, from any thread.

    Once closed it may be entered again. In a process that was forked meanwhile it has to be entered anew.
    """

    def __init__(self, inner: client.RegistryClient) -> None:
        self._inner = inner
        self._thread = LoopThread()
        self._changing = threading.Lock()  # of `_thread`
        self._signals = SignalDrains()

    def __enter__(self) -> Self:
        check_forks()
        if not self._thread.is_here:  # the one who holds the lock may not have come along
            self._changing = threading.Lock()
        with self._changing:
            if self._thread.is_open:
                raise Misuse("the client was entered already: make another by connect(…), or close this one first")
            thread = self._thread = LoopThread()
            thread.start()
        try:
            thread.run(self._inner.__aenter__())
        except BaseException:
            thread.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Deregister what is still registered, end the watches, and close. May be called more than once.

        Does nothing in a process that was forked meanwhile: all of it is the parent's.
        """
        if self._thread.is_here:
            with self._changing:
                self._thread.close(self._inner.aclose)

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses of the registry."""
        return self._inner.addresses

    @property
    def namespace(self) -> str:
        """The namespace of all that names none."""
        return self._inner.namespace

    @property
    def stale_for(self) -> float | None:
        """Seconds since the view that the last answer came from was confirmed by the store; None if it was fresh."""
        return self._inner.stale_for

    def register(
        self,
        instance: Instance,
        ttl: float | None = None,
        *,
        drain: float = DEFAULT_DRAIN_S,
        timeout: float | None = None,
        drain_on_signals: bool = False,
    ) -> Registration:
        """Keep an instance registered while a block lasts: `with registry.register(…) as registration`."""
        checks.yes_or_no("drain_on_signals", drain_on_signals)
        make = functools.partial(self._inner.register, instance, ttl, drain=drain, timeout=timeout)
        return Registration(self._thread, make, self._signals if drain_on_signals else None)

    def deregister(
        self, service: str, instance_id: str, *, drain: float = 0.0, namespace: str = "", timeout: float | None = None
    ) -> int:
        """Remove an instance, at once or after `drain` seconds as DRAINING; how many were removed."""
        return self._thread.run(
            self._inner.deregister(service, instance_id, drain=drain, namespace=namespace, timeout=timeout)
        )

    def update(
        self,
        service: str,
        instance_id: str,
        *,
        namespace: str = "",
        timeout: float | None = None,
        **fields: Unpack[Fields],
    ) -> Instance:
        """Change what is named and leave the rest as it is; the instance as it is now."""
        return self._thread.run(
            self._inner.update(service, instance_id, namespace=namespace, timeout=timeout, **fields)
        )

    def get(self, service: str, instance_id: str, *, namespace: str = "", timeout: float | None = None) -> Instance:
        """One instance."""
        return self._thread.run(self._inner.get(service, instance_id, namespace=namespace, timeout=timeout))

    def list(
        self,
        service: str = "",
        *,
        min_revision: int = 0,
        page_size: int = 0,
        namespace: str = "",
        all_namespaces: bool = False,
        timeout: float | None = None,
        **filters: Unpack[Filters],
    ) -> list[Instance]:
        """The instances of a service, or of the whole namespace, or of all of them, in the order of namespace, service
        and id."""
        return self._thread.run(
            self._inner.list(
                service,
                min_revision=min_revision,
                page_size=page_size,
                namespace=namespace,
                all_namespaces=all_namespaces,
                timeout=timeout,
                **filters,
            )
        )

    def services(
        self, *, namespace: str = "", all_namespaces: bool = False, timeout: float | None = None
    ) -> Sequence[ServiceSummary]:
        """The services that have instances, in the order of namespace and name."""
        return self._thread.run(
            self._inner.services(namespace=namespace, all_namespaces=all_namespaces, timeout=timeout)
        )

    def health(self, service: str, *, namespace: str = "", timeout: float | None = None) -> HealthStats:
        """How well a service is: how many of its instances have which health, and the share that is HEALTHY."""
        return self._thread.run(self._inner.health(service, namespace=namespace, timeout=timeout))

    def probers(self, *, timeout: float | None = None) -> Sequence[Prober]:
        """The servers of the registry that run checks; none before there is one to run."""
        return self._thread.run(self._inner.probers(timeout=timeout))

    def namespaces(self, *, timeout: float | None = None) -> Sequence[NamespaceSummary]:
        """The namespaces that have instances, in the order of their names."""
        return self._thread.run(self._inner.namespaces(timeout=timeout))

    def watch(
        self, *services: str, namespace: str = "", all_namespaces: bool = False, **filters: Unpack[Filters]
    ) -> Watch:
        """Follow services, or without any name the whole namespace: `for view in registry.watch("player")`.

        `all_namespaces`: of every namespace, also of those to come.
        """

        async def begin() -> AioWatch:
            return self._inner.watch(*services, namespace=namespace, all_namespaces=all_namespaces, **filters)

        return Watch(self._thread, self._thread.run(begin()))

    def on_change(
        self,
        *services: str,
        added: Callable[[Instance], object] | None = None,
        updated: Callable[[Instance], object] | None = None,
        removed: Callable[[Removed], object] | None = None,
        namespace: str = "",
        all_namespaces: bool = False,
        **filters: Unpack[Filters],
    ) -> Subscription:
        """Call back for every instance that is added, updated, removed, until the result is cancelled.

        Callbacks are called one after the other, in a thread that is theirs to block.
        """

        async def begin() -> AioSubscription:
            return self._inner.on_change(
                *services,
                added=added,
                updated=updated,
                removed=removed,
                namespace=namespace,
                all_namespaces=all_namespaces,
                **filters,
            )

        return Subscription(self._thread.run(begin()))

    def on_health(
        self, service: str, callback: Callable[[Instance, Health, Health], object], *, namespace: str = ""
    ) -> Subscription:
        """Call back when the health of an instance changes: `callback(instance, before, now)`; see `on_change`."""

        async def begin() -> AioSubscription:
            return self._inner.on_health(service, callback, namespace=namespace)

        return Subscription(self._thread.run(begin()))

    def monitor(self, service: str, check: HealthCheck, *, namespace: str = "", **pace: Unpack[Pace]) -> Monitor:
        """Look at the instances of a service from this process, and tell the registry of their health."""

        async def begin() -> AioMonitor:
            return self._inner.monitor(service, check, namespace=namespace, **pace)

        return Monitor(self._thread, self._thread.run(begin()))

    # ---- discovery

    def discover(self, service: str, *, namespace: str = "", **filters: Unpack[Filters]) -> Discovery:
        """The instances of a service, from memory."""
        return Discovery(self._thread, self._discover(service, namespace, filters))

    def balancer(
        self, service: str, *, policy: AnyPolicy | None = None, namespace: str = "", **filters: Unpack[Filters]
    ) -> Balanced:
        """The same instances behind a policy: `players.get()`, `with players.request() as call`."""

        async def make() -> AioBalanced:
            return self._inner.balancer(service, policy=policy, namespace=namespace, **filters)

        return Balanced(self._thread, self._thread.run(make()))

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

        chosen = self._inner.checked_policy(service, policy, credentials)
        return open_blocking_channel(self._discover(service, namespace, filters), chosen, credentials)

    def _discover(self, service: str, namespace: str, filters: Filters) -> AioDiscovery:
        async def make() -> AioDiscovery:
            return self._inner.discover(service, namespace=namespace, **filters)

        return self._thread.run(make())

    @property
    def policies(self) -> Mapping[str, AnyPolicy]:
        """The policy of each service, for `balancer` and `channel`."""
        return self._inner.policies

    @policies.setter
    def policies(self, given: Mapping[str, AnyPolicy]) -> None:
        self._inner.policies = given


class Discovery:
    """The instances of a service, from memory; as `registry_client.Discovery`."""

    def __init__(self, thread: LoopThread, inner: AioDiscovery) -> None:
        self._thread = thread
        self._inner = inner

    def instances(self, *, timeout: float | None = None) -> tuple[Instance, ...]:
        """Those that there are now, in the order of their ids."""
        return self._thread.run(self._inner.instances(timeout=timeout))

    def stats(self) -> DiscoveryStatistics:
        """How many questions there were, and how many were answered from memory."""
        return self._inner.stats()


class Balanced:
    """The instances of one service that get traffic, and a policy that chooses among them."""

    def __init__(self, thread: LoopThread, inner: AioBalanced) -> None:
        self._thread = thread
        self._inner = inner

    def get(
        self, key: str | bytes | int | None = None, *, exclude: Collection[Instance] = (), timeout: float | None = None
    ) -> Instance:
        """The instance for a call. Raises NotFound when none gets traffic."""
        return self._thread.run(self._inner.get(key, exclude=exclude, timeout=timeout))

    def request(
        self, key: str | bytes | int | None = None, *, exclude: Collection[Instance] = (), timeout: float | None = None
    ) -> Turn:
        """One call: `with players.request() as call: … call.instance`. An exception counts as a failure."""
        return Turn(self._thread, self._inner.request(key, exclude=exclude, timeout=timeout))

    def call(
        self,
        method: str,
        request: bytes,
        *,
        key: str | bytes | None = None,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> bytes:
        """Call a unary method by its name: `call("/game.Player/UpdatePosition", encoded)`. Raises grpc.RpcError."""
        return self._thread.run(self._inner.call(method, request, key=key, timeout=timeout, metadata=metadata))

    def stats(self) -> PoolStatistics:
        """Calls, failures, latency and more of each instance, by `request`."""
        return self._inner.stats()

    def close(self) -> None:
        """Close the channel of `call`, if there was any and its client is open. May be called more than once."""
        if self._thread.is_open:
            self._thread.run(self._inner.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Monitor:
    """Looks until it is closed, or its client is; as `registry_client.Monitor`."""

    def __init__(self, thread: LoopThread, inner: AioMonitor) -> None:
        self._thread = thread
        self._inner = inner

    def stats(self) -> HealthStats:
        """How well the service is, as seen from here."""

        async def count() -> HealthStats:
            return self._inner.stats()

        return self._thread.run(count())

    def close(self) -> None:
        """Look no more, unless its client is closed, which has ended it. May be called more than once."""
        if self._thread.is_open:
            self._thread.run(self._inner.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Turn:
    """One call, from entering to leaving; `instance` is where it goes."""

    def __init__(self, thread: LoopThread, inner: AioTurn) -> None:
        self._thread = thread
        self._inner = inner

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
        self._inner.leave(kind, error, trace)


class Watch:
    """An endless iterator over the views of a watch; as `registry_client.Watch`."""

    def __init__(self, thread: LoopThread, inner: AioWatch) -> None:
        self._thread = thread
        self._inner = inner

    @property
    def view(self) -> View | None:
        """The latest view as it is now, without changes; None before there is one."""

        async def peek() -> View | None:
            return self._inner.view

        return self._thread.run(peek())

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
        if self._thread.is_open:
            self._thread.run(self._inner.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Subscription:
    """Callbacks on a watch, until `cancel`."""

    def __init__(self, inner: AioSubscription) -> None:
        self._inner = inner

    def cancel(self) -> None:
        """Call no callback any more. From any thread, and from within a callback; it waits for none."""

        self._inner.cancel()

    @property
    def is_active(self) -> bool:
        """True until it is cancelled, its client closes, or the registry refuses the question (which is logged)."""
        return self._inner.is_active


class Registration:
    """One instance that is kept registered; as `registry_client.Registration`."""

    def __init__(self, thread: LoopThread, make: Callable[[], AioRegistration], signals: SignalDrains | None) -> None:
        self._thread = thread
        self._inner = thread.run(_made(make))
        self._signals = signals

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

    def update(self, **fields: Unpack[Fields]) -> Instance:
        """Change what is named of it and leave the rest as it is; as it is now, and as it is registered again."""
        return self._thread.run(self._inner.update(**fields))

    def wait_lost(self, timeout: float | None = None) -> RegistrationLost:
        """Wait until somebody else has taken the id or had it leave, and return what says so. Raises TimeoutError."""
        seconds = checks.wait(timeout)

        async def wait() -> RegistrationLost:
            async with asyncio.timeout(seconds):
                return await self._inner.wait_lost()

        return self._thread.run(wait())

    def start(self) -> Self:
        """Register, and wait until that is done."""
        return self._begin(self._inner.start)

    def _begin(self, begin: Callable[[], Coroutine[Any, Any, AioRegistration]]) -> Self:
        mark_used(self._inner)
        if self._signals is not None and self._thread.is_open:
            self._signals.add(self, self._inner.aclose, self._thread.loop)
        try:
            self._thread.run(begin())
        except BaseException:
            self._release()
            raise
        return self

    def _release(self) -> None:
        if self._signals is not None:
            self._signals.remove(self)

    def __enter__(self) -> Self:
        return self._begin(self._inner.__aenter__)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end(lambda: self._inner.__aexit__(kind))

    def close(self, drain: float | None = None) -> None:
        """Drain for `drain` seconds (by default as asked for at first) and deregister. May be called more than once.

        Does nothing once its client is closed, which has deregistered it, nor in a process that was forked meanwhile.
        """
        self._end(lambda: self._inner.aclose(drain))

    def _end(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        mark_used(self._inner)
        if not self._thread.is_here:
            return
        self._release()
        if self._thread.is_open:
            self._thread.run(end())


async def _made(make: Callable[[], AioRegistration]) -> AioRegistration:
    return make()
