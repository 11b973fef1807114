"""SHELL: the client of a registry, for asyncio."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from enum import Enum
from os import PathLike, fspath
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Self, Unpack

import grpc

from protos.registry.v1 import registry_pb2 as pb
from registry_client import checks
from registry_client.backoff import Backoff
from registry_client.cache import MAX_AGE_S, Disk, ViewFile, default_dir
from registry_client.callbacks import Callback, Callbacks, Subscription, leave_within
from registry_client.errors import ClientClosed
from registry_client.instance import (
    DEFAULT_NAMESPACE,
    Fields,
    Filters,
    Instance,
    Key,
    ServiceSummary,
    check_registrable,
    filter_to_proto,
    update_to_proto,
)
from registry_client.link import Link
from registry_client.pulse import Pulse
from registry_client.registrar import Registrar, Registration, Wish
from registry_client.steps import WatchLimits
from registry_client.target import parse_addresses
from registry_client.tasks import Tasks
from registry_client.watcher import Feed, Links, Means, Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_TTL_S = 15.0
# Long enough for every watcher to hear that an instance drains before it is gone.
DEFAULT_DRAIN_S = 0.2
DEFAULT_TIMEOUT_S = 5.0
MOST_CACHE_AGE_S = 10 * 366 * 24 * 3600.0


class CacheDir(Enum):
    """Where views are kept when nothing is said: in the user's cache directory."""

    DEFAULT = "default"


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
    """A client of one registry: `async with registry_client.connect("127.0.0.1:7400") as registry`.

    `addresses`: `h1:7400,h2:7400` or a sequence, any of which may be down; nothing is connected before it is needed.
    `namespace`: for all that names none. `credentials`: for TLS. `cache_dir`: where the last views are kept for a start
    without a registry, None for nowhere. `timeout`: seconds for one request, over all addresses and retries.
    `backoff`: the pauses between tries. `cache_max_age`: seconds after which a view on disk is not used any more.
    `watch_limits`: the most that one watch takes from a registry. Raises InvalidTarget for the addresses,
    InvalidArgument for the rest.
    """
    return RegistryClient(
        parse_addresses(addresses),
        namespace=checks.name("namespace", namespace, empty=True) or DEFAULT_NAMESPACE,
        credentials=checks.instance_of("credentials", grpc.ChannelCredentials, credentials),
        cache_dir=_directory(cache_dir),
        timeout=checks.timeout(timeout),
        backoff=checks.instance_of("backoff", Backoff, backoff) or Backoff(),
        cache_max_age=checks.seconds("cache_max_age", cache_max_age, 0, MOST_CACHE_AGE_S),
        watch_limits=checks.instance_of("watch_limits", WatchLimits, watch_limits) or WatchLimits(),
    )


def _directory(given: object) -> Path | None:
    if isinstance(given, CacheDir):
        return default_dir()
    if given is None or isinstance(given, str | PathLike):
        return None if given is None else Path(checks.text("cache_dir", fspath(given)))
    raise checks.wrong_type("cache_dir", "must be a path or None", given)


class RegistryClient:
    """Registers, watches and asks. Made by `connect`; use it with `async with`.

    All methods raise RegistryError: RegistryUnavailable when no address answers in time, InvalidArgument (with the
    field) for what the registry refuses, NotFound, and the others of `registry_client.errors`.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        namespace: str,
        credentials: grpc.ChannelCredentials | None,
        cache_dir: Path | None,
        timeout: float,
        backoff: Backoff,
        cache_max_age: float,
        watch_limits: WatchLimits,
    ) -> None:
        self._namespace = namespace
        self._cache_dir = cache_dir
        self._cache_max_age_s = cache_max_age
        self._timeout = timeout
        rng = SystemRandom()  # shared by nobody and seeded by nobody, in a forked process too
        self._link = Link(addresses, credentials, backoff, rng)
        self._disk = Disk(time.time)
        self._watch_links = Links(lambda: Link(addresses, credentials, backoff, rng))
        self._means = Means(self._watch_links, backoff, rng, Pulse(time.monotonic), self._disk, watch_limits)
        self._tasks = Tasks()
        self._registrar = Registrar(self._link, self._tasks, backoff, rng, time.monotonic, timeout)
        self._open = False

    # ---- its life

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Deregister what is still registered, end the watches, and close. May be called more than once."""
        self._open = False
        leave_within()
        await self._registrar.aclose()
        await self._tasks.aclose()
        await self._disk.flush()
        await self._watch_links.aclose()
        await self._link.aclose()

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses of the registry."""
        return self._link.addresses

    @property
    def namespace(self) -> str:
        """The namespace of all that names none."""
        return self._namespace

    def _check_open(self) -> None:
        if not self._open:
            raise ClientClosed("the client is not open: use `async with registry_client.connect(…) as registry`")

    # ---- registering

    def register(
        self,
        instance: Instance,
        ttl: float = DEFAULT_TTL_S,
        *,
        drain: float = DEFAULT_DRAIN_S,
        timeout: float | None = None,
        drain_on_signals: bool = False,
    ) -> Registration:
        """Keep an instance registered while a block lasts: `async with registry.register(…) as registration`.

        `ttl`: seconds until a crash is noticed, 2 to 3600; the registry may raise it. `drain`: seconds to stay visible
        as DRAINING when leaving. `timeout`: how long entering may take; None tries for ever. `drain_on_signals`: a
        SIGTERM or SIGINT first drains and deregisters, a second one ends at once (main thread only). Raises
        InvalidArgument for what a registry would refuse.
        """
        self._check_open()
        checked = check_registrable(instance)
        named = checked if checked.namespace else replace(checked, namespace=self._namespace)
        limit = None if timeout is None else checks.timeout(timeout)
        by_signals = checks.yes_or_no("drain_on_signals", drain_on_signals)
        return Registration(self._registrar, Wish(named, checks.ttl(ttl), checks.drain(drain), limit, by_signals))

    async def deregister(
        self, service: str, instance_id: str, *, drain: float = 0.0, namespace: str = "", timeout: float | None = None
    ) -> int:
        """Remove an instance, at once or after `drain` seconds as DRAINING; how many were removed. Raises NotFound.

        An owner that is alive and well registers again what was removed under its hands; `update` its status to take
        an instance out of the traffic for good.
        """
        key = self._key(service, instance_id, namespace)
        request = pb.DeregisterRequest(key=key.to_proto())
        request.drain.FromNanoseconds(round(checks.drain(drain) * 1e9))
        doing = f"deregister {key}"
        answer = await self._link.call(lambda stub: stub.Deregister, request, self._seconds(timeout), doing)
        return answer.removed

    async def update(
        self,
        service: str,
        instance_id: str,
        *,
        namespace: str = "",
        timeout: float | None = None,
        **fields: Unpack[Fields],
    ) -> Instance:
        """Change what is named and leave the rest as it is; the instance as it is now. Raises NotFound.

        Fields: `status`, `weight`, `metadata`, `tags`, `version`, `health`.
        """
        key = self._key(service, instance_id, namespace)
        request = update_to_proto(key, fields)
        answer = await self._link.call(lambda stub: stub.Update, request, self._seconds(timeout), f"update {key}")
        updated = Instance.from_proto(answer.instance)
        self._registrar.updated(updated)
        return updated

    # ---- asking

    async def get(
        self, service: str, instance_id: str, *, namespace: str = "", timeout: float | None = None
    ) -> Instance:
        """One instance. Raises NotFound."""
        key = self._key(service, instance_id, namespace)
        request = pb.GetRequest(key=key.to_proto())
        answer = await self._link.call(lambda stub: stub.Get, request, self._seconds(timeout), f"get {key}")
        return Instance.from_proto(answer.instance)

    async def list(
        self,
        service: str = "",
        *,
        min_revision: int = 0,
        page_size: int = 0,
        namespace: str = "",
        timeout: float | None = None,
        **filters: Unpack[Filters],
    ) -> list[Instance]:
        """The instances of a service, or of the whole namespace, in the order of service and id.

        Filters: `tags`, `metadata`, `version`, `statuses`, `healths`, `locality`, `healthy_only`; see `Filters`.
        `min_revision`: wait until the registry has seen that revision. All pages are fetched, of `page_size` each (0:
        as the registry likes), each within `timeout` seconds.
        """
        self._check_open()
        request = pb.ListRequest(
            namespace=self._space(namespace),
            service=checks.name("service", service, empty=True),
            page_size=checks.whole("page_size", page_size, 0, checks.MAX_PAGE),
            min_revision=checks.whole("min_revision", min_revision, 0, checks.MAX_INT64),
            filter=filter_to_proto(**filters),
        )
        found: list[Instance] = []
        while True:
            doing = f"list {service or 'all services'}"
            answer = await self._link.call(lambda stub: stub.List, request, self._seconds(timeout), doing)
            found += map(Instance.from_proto, answer.instances)
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    async def services(self, *, namespace: str = "", timeout: float | None = None) -> Sequence[ServiceSummary]:
        """The services that have instances, in the order of their names."""
        self._check_open()
        request = pb.ListServicesRequest(namespace=self._space(namespace))
        found: list[ServiceSummary] = []
        while True:
            doing, limit = "list services", self._seconds(timeout)
            answer = await self._link.call(lambda stub: stub.ListServices, request, limit, doing)
            found += [ServiceSummary(it.namespace, it.service, it.instances, it.routable) for it in answer.services]
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    # ---- watching

    def watch(self, *services: str, namespace: str = "", **filters: Unpack[Filters]) -> Watch:
        """Follow services, or without any name the whole namespace: `async for view in registry.watch("player")`.

        Filters as in `list`. See `Watch` for when views come, and `View` for what is in them.
        """
        self._check_open()
        question = pb.WatchRequest(
            namespace=self._space(namespace), services=_services(services), filter=filter_to_proto(**filters)
        )
        directory, max_age_s = self._cache_dir, self._cache_max_age_s
        file = ViewFile(directory, self.addresses, question, max_age_s) if directory else None
        feed = Feed(self._means, question, file)
        return Watch(feed, self._tasks.start(feed.run(), "registry-watch"))

    def on_change(
        self,
        *services: str,
        added: Callback | None = None,
        updated: Callback | None = None,
        removed: Callback | None = None,
        namespace: str = "",
        **filters: Unpack[Filters],
    ) -> Subscription:
        """Call back for every instance that is added, updated, removed, until the result is cancelled.

        Callbacks are functions of one Instance (as it is now; a removed one as it was last), called one after the
        other: coroutine functions in this loop, plain ones in a thread of this subscription, which is theirs to block.
        What they raise is logged and ends nothing. While one takes its time the next ones wait, and then hear of what
        differs from what was told before. Raises InvalidArgument.
        """
        callbacks = Callbacks(added, updated, removed)
        subscription = Subscription(self.watch(*services, namespace=namespace, **filters), callbacks)
        subscription.begin(self._tasks.start(subscription.run(), "registry-callbacks"))
        return subscription

    # ---- within

    def _key(self, service: str, instance_id: str, namespace: str) -> Key:
        self._check_open()
        return Key(self._space(namespace), checks.name("key.service", service), checks.name("key.id", instance_id))

    def _space(self, namespace: str) -> str:
        return checks.name("namespace", namespace, empty=True) or self._namespace

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else checks.timeout(timeout)


def _services(named: tuple[object, ...]) -> list[str]:
    """The names of services to watch, each once."""
    if len(named) == 1 and isinstance(named[0], Iterable) and not isinstance(named[0], str | bytes):
        raise checks.wrong_type("services", "must be strings", named[0], 'watch("a", "b")')
    names = sorted({checks.name("services", name) for name in named})
    if len(names) > checks.MAX_SERVICES:
        raise checks.wrong("services", f"must be at most {checks.MAX_SERVICES}, are {len(names)}")
    return names
