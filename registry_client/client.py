"""SHELL: the client of a registry, for asyncio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Self, Unpack

import grpc

from registry_api.limits import DEFAULT_NAMESPACE, MAX_PAGE, MAX_SERVICES
from registry_api.registry.v1 import access_pb2, policies_pb2, why_pb2
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import answers, checks
from registry_client.addresses import parse_addresses
from registry_client.backoff import Backoff
from registry_client.cache import MAX_AGE_S, PolicyFile, ViewFile
from registry_client.callbacks import (
    Callback,
    Callbacks,
    HealthChanges,
    OnHealth,
    RemovedCallback,
    Subscription,
    is_async,
    leave_within,
)
from registry_client.check_rules import CheckRules
from registry_client.discovery import Discovery
from registry_client.errors import ClientClosed, Misuse
from registry_client.event import MOST_EVENTS, filter_of
from registry_client.events import EventWatch, listed
from registry_client.health import Health, HealthCheck, HealthStats, Pace, Prober
from registry_client.inside import Inside, store_url
from registry_client.instance import (
    Fields,
    Filters,
    Instance,
    Key,
    NamespaceSummary,
    ServiceSummary,
    check_registrable,
    filter_to_proto,
)
from registry_client.live import Live
from registry_client.papers import check_papers
from registry_client.place import check_grpc
from registry_client.policies import TrafficPolicies
from registry_client.registration import Registration
from registry_client.serving import is_serving
from registry_client.session import CacheDir, Session, Settings, check_cache_dir
from registry_client.stay import Wish
from registry_client.steps import WatchLimits
from registry_client.traffic import Traffic
from registry_client.verdicts import Why, joined
from registry_client.watcher import Following, Watch
from registry_client.whoami import WhoAmI
from registry_client.xds_clients import XdsClients

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry_client.bearer import Token
    from registry_client.bridge.balanced import AnyPolicy, Balanced
    from registry_client.counts import ClientNumbers
    from registry_client.event import EventFilters, Events
    from registry_client.monitor import Monitor, OwnCheck
    from registry_client.tls import TLS

# Long enough for every watcher to hear that an instance drains before it is gone.
DEFAULT_DRAIN_S = 0.2
DEFAULT_TIMEOUT_S = 5.0
MOST_CACHE_AGE_S = 10 * 366 * 24 * 3600.0


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
    """A client of one registry: `async with registry_client.connect("127.0.0.1:7400") as registry`.

    `addresses`: `h1:7400,h2:7400` or a sequence, any of which may be down; nothing is connected before it is needed.
    Or the URL of a store, such as `memory:` or `etcd://HOST:PORT`: the registry then runs inside of this process.
    `namespace`: for all that names none. `tls`: whom to trust and what to show, as files; or `credentials`, as gRPC has
    them. `token`: shown with each call, by default $REGISTRY_TOKEN, "" for none: a string, also `file:PATH` or
    `env:NAME`, or a function that gives one. Without TLS it only goes to this machine, unless `plaintext_token`.
    `cache_dir`: where the last views are kept for a start without a registry, None for nowhere. `timeout`: seconds for
    one request, over all addresses and retries. `backoff`: the pauses between tries. `cache_max_age`: seconds after
    which a view on disk is not used any more. `watch_limits`: the most that one watch takes from a registry. Raises
    InvalidTarget for the addresses, InvalidArgument for the rest.
    """
    store = store_url(addresses)
    where = () if store else parse_addresses(addresses)
    settings = Settings(
        where,
        checks.name("namespace", namespace, empty=True) or DEFAULT_NAMESPACE,
        check_papers(where, credentials, tls, token, plaintext_token=plaintext_token),
        check_cache_dir(None if store else cache_dir),
        checks.timeout(timeout),
        checks.instance_of("backoff", Backoff, backoff) or Backoff(),
        checks.seconds("cache_max_age", cache_max_age, 0, MOST_CACHE_AGE_S),
        checks.instance_of("watch_limits", WatchLimits, watch_limits) or WatchLimits(),
        store,
    )
    return RegistryClient(settings)


def in_order(client: RegistryClient, first: int) -> RegistryClient:
    """The same, but that it begins with one of the first addresses, and asks the others when none of these works."""
    return RegistryClient(replace(client._settings, first=first))  # noqa: SLF001 - it is of this module


def reading(clients: Iterable[RegistryClient]) -> RegistryClient:
    """A client that asks the first of several registries that works; to be entered after the clients of them."""
    of = tuple(clients)
    both = tuple((client, client._settings.papers) for client in of)  # noqa: SLF001 - as above
    return RegistryClient(replace(of[0]._settings, addresses=(), store="", of=both))  # noqa: SLF001 - as above


def places(client: RegistryClient) -> tuple[str, ...]:
    """By which two clients are of the same registry: its addresses, or the store if others have that, too."""
    it = client._settings  # noqa: SLF001 - as above
    return it.addresses if it.addresses or it.store == "memory:" else (it.store,)


def numbers(client: RegistryClient) -> ClientNumbers | None:
    """What metrics tell of it, as it is now; None while it is not open. May be asked for in any thread."""
    session = client._session  # noqa: SLF001 - as above
    return None if session is None or session.place.is_over else session.numbers()


def with_defaults(client: RegistryClient, ttl: float, health_checks: Sequence[HealthCheck]) -> RegistryClient:
    """The same with a ttl, in seconds, and checks for all that is registered without. Raises InvalidArgument."""
    defaults = {"ttl_s": checks.ttl(ttl), "checks": tuple(health_checks)}
    return RegistryClient(replace(client._settings, **defaults))  # type: ignore[arg-type]  # noqa: SLF001 - as above


class RegistryClient:
    """Registers, watches and asks. Made by `connect`; use it with `async with`, in one event loop at a time.

    All methods raise RegistryError: RegistryUnavailable when no address answers in time, InvalidArgument (with the
    field) for what is wrong, NotFound, and the others of `registry_client.errors`. Once closed it may be entered again,
    in another loop too.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: Session | None = None
        self._policies: Mapping[str, AnyPolicy] = {}

    # ---- its life

    async def __aenter__(self) -> Self:
        check_grpc()
        self._check_closed()
        if not self._settings.store:
            self._session = Session(self._settings)
            return self
        inside = await Inside.begin(self._settings.store, self._settings.timeout_s)
        try:
            self._check_closed()  # somebody else may have been faster
        except Misuse:
            await inside.aclose()
            raise
        self._session = Session(self._settings, inside)
        return self

    def _check_closed(self) -> None:
        if self._session is not None and not self._session.place.is_over:
            raise Misuse("the client was entered already: make another by connect(…), or close this one first")

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Deregister what is still registered, end the watches, and close. May be called more than once.

        Does nothing in a process that was forked meanwhile: all of it is the parent's.
        """
        leave_within()
        session = self._session
        if session is None or session.place.is_over:
            return
        session.place.check("the client")
        self._session = None
        await session.aclose()

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses of the registry. That of one inside of this process is known while the client is open."""
        return self._settings.addresses if self._session is None else self._session.addresses

    @property
    def namespace(self) -> str:
        """The namespace of all that names none."""
        return self._settings.namespace

    @property
    def stale_for(self) -> float | None:
        """Seconds since the view that the last answer came from was confirmed by the store; None if it was fresh."""
        return None if self._session is None else self._session.reach.stale_for

    @property
    def epoch(self) -> str:
        """The epoch of the state that the last answer came from; empty before there was one."""
        return "" if self._session is None else self._session.reach.epoch

    @property
    def revision(self) -> int:
        """Its revision, which is good for `min_revision` within that epoch; 0 before there was an answer."""
        return 0 if self._session is None else self._session.reach.revision

    def _here(self) -> Session:
        session = self._session
        if session is None:
            raise ClientClosed("the client is not open: use `async with registry_client.connect(…) as registry`")
        session.place.check("the client")
        return session

    # ---- registering

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
        """Keep an instance registered while a block lasts: `async with registry.register(…) as registration`.

        `ttl`: seconds until a crash is noticed, 2 to 3600, by default 15; the registry may raise it. `drain`: seconds
        to stay visible as DRAINING when leaving. `timeout`: how long entering may take; None tries for ever.
        `drain_on_signals`: a SIGTERM or SIGINT first drains and deregisters, a second one ends at once (main thread
        only). `if_absent`: take neither the id nor the address from anybody; entering raises RegistrationLost where
        somebody has it. Raises InvalidArgument for what a registry would refuse.
        """
        keeper = self._here().keeper
        named = self._named(instance)
        limit = None if timeout is None else checks.timeout(timeout)
        ttl_s = self._settings.ttl_s if ttl is None else checks.ttl(ttl)
        by_signals = checks.yes_or_no("drain_on_signals", drain_on_signals)
        alone = checks.yes_or_no("if_absent", if_absent)
        return Registration(keeper, Wish(named, ttl_s, checks.drain(drain), limit, by_signals, alone))

    async def register_once(
        self, instance: Instance, ttl: float | None = None, *, timeout: float | None = None
    ) -> Instance:
        """Register an instance without keeping it up: it is there for `ttl` seconds, or until its owner takes it over.

        As the registry stored it. It takes the place of whoever has its id or its address.
        """
        session, seconds = self._here(), self._seconds(timeout)
        named = self._named(instance)
        request = pb.RegisterRequest(instance=named.to_proto())
        request.ttl.FromNanoseconds(round((self._settings.ttl_s if ttl is None else checks.ttl(ttl)) * 1e9))
        answer = await session.link.call(
            lambda stub: stub.Register,
            request,
            seconds,
            f"register {named.service} at {named.address}",
            check=lambda it: answers.check_registered(it, named, ""),
        )
        return Instance.from_proto(answer.instance)

    def _named(self, instance: Instance) -> Instance:
        """With what the client has for those that have none of their own. Raises InvalidArgument."""
        checked = check_registrable(instance)
        named = checked if checked.namespace else replace(checked, namespace=self.namespace)
        if self._settings.checks and not named.checks:
            named = replace(named, checks=self._settings.checks)
        return named

    async def deregister(
        self, service: str, instance_id: str, *, drain: float = 0.0, namespace: str = "", timeout: float | None = None
    ) -> int:
        """Remove an instance, at once or after `drain` seconds as DRAINING; how many were removed. Raises NotFound.

        With `drain`, an owner that is alive is told (RegistrationLost), and stays away until it is asked to register
        again. Without, it registers again what was removed under its hands; `update` its status to take an instance out
        of the traffic for good.
        """
        session, key = self._here(), self._key("key", service, instance_id, namespace)
        request = pb.DeregisterRequest(key=key.to_proto())
        request.drain.FromNanoseconds(round(checks.drain(drain) * 1e9))
        doing = f"deregister {key}"
        answer = await session.link.call(lambda stub: stub.Deregister, request, self._seconds(timeout), doing)
        return max(0, answer.removed)

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

        Fields: `status`, `weight`, `metadata`, `tags`, `version`, `health` (of an instance without checks: with them,
        its health is what they find).
        """
        session, key = self._here(), self._key("instance", service, instance_id, namespace)
        return await session.keeper.update(key, fields, self._seconds(timeout))

    # ---- asking

    async def get(
        self, service: str, instance_id: str, *, namespace: str = "", timeout: float | None = None
    ) -> Instance:
        """One instance. Raises NotFound."""
        session, key = self._here(), self._key("key", service, instance_id, namespace)
        answer = await session.link.call(
            lambda stub: stub.Get,
            pb.GetRequest(key=key.to_proto()),
            self._seconds(timeout),
            f"get {key}",
            check=lambda it: answers.check_found(it, key),
        )
        return Instance.from_proto(answer.instance)

    async def list(
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
        and id.

        Filters: `tags`, `metadata`, `version`, `statuses`, `healths`, `locality`, `healthy_only`; see `Filters`.
        `min_revision`: wait until the registry has seen that revision. All pages are fetched, of `page_size` each (0:
        as the registry likes), each within `timeout` seconds.
        """
        session, seconds, pages = self._here(), self._seconds(timeout), answers.Pages()
        request = pb.ListRequest(
            namespace=self._asked_space(namespace, all_namespaces),
            all_namespaces=all_namespaces,
            service=checks.name("service", service, empty=True),
            page_size=checks.whole("page_size", page_size, 0, MAX_PAGE),
            min_revision=checks.whole("min_revision", min_revision, 0, checks.MAX_INT64),
            filter=filter_to_proto(**filters),
        )
        found: list[Instance] = []
        while True:
            doing = f"list {service or 'all services'}"
            answer = await session.link.call(lambda stub: stub.List, request, seconds, doing)
            names = [(it.namespace, it.service, it.id) for it in answer.instances]
            request.page_token = pages.next_token(names, answer.ByteSize(), answer.next_page_token)
            found += map(Instance.from_proto, answer.instances)
            if not request.page_token:
                return found

    async def services(
        self, *, namespace: str = "", all_namespaces: bool = False, timeout: float | None = None
    ) -> Sequence[ServiceSummary]:
        """The services that have instances, in the order of namespace and name."""
        session, seconds, pages = self._here(), self._seconds(timeout), answers.Pages()
        space = self._asked_space(namespace, all_namespaces)
        request = pb.ListServicesRequest(namespace=space, all_namespaces=all_namespaces)
        found: list[ServiceSummary] = []
        while True:
            answer = await session.link.call(lambda stub: stub.ListServices, request, seconds, "list services")
            names = [(it.namespace, it.service) for it in answer.services]
            request.page_token = pages.next_token(names, answer.ByteSize(), answer.next_page_token)
            found += map(ServiceSummary.from_proto, answer.services)
            if not request.page_token:
                return found

    async def why(
        self,
        service: str,
        instance_id: str = "",
        *,
        namespace: str = "",
        timeout: float | None = None,
        **filters: Unpack[Filters],
    ) -> Why:
        """Why an instance gets traffic or none, or why a service does: `print(await registry.why("player", "p1"))`.

        Also of what is not there: when it left and why, or that it never was. Filters as in `list`: what a client asks
        for that gets to none. All pages are fetched, each within `timeout` seconds.
        """
        session, seconds, pages = self._here(), self._seconds(timeout), answers.Pages()
        request = why_pb2.WhyRequest(
            namespace=self._space(namespace),
            service=checks.name("service", service),
            id=checks.name("id", instance_id, empty=True),
            filter=filter_to_proto(**filters),
        )
        found: list[why_pb2.WhyResponse] = []
        while True:
            answer = await session.link.call(lambda stub: stub.diagnosis.Why, request, seconds, f"ask why of {service}")
            names = [(it.instance.id,) for it in answer.instances]
            request.page_token = pages.next_token(names, answer.ByteSize(), answer.next_page_token)
            found.append(answer)
            if not request.page_token:
                return Why.from_proto(joined(found))

    async def health(self, service: str, *, namespace: str = "", timeout: float | None = None) -> HealthStats:
        """How well a service is: how many of its instances have which health, and the share that is HEALTHY."""
        return HealthStats.of(it.health for it in await self.list(service, namespace=namespace, timeout=timeout))

    async def probers(self, *, timeout: float | None = None) -> Sequence[Prober]:
        """The servers of the registry that run checks; none before there is one to run."""
        request = pb.ListServicesRequest(namespace=self.namespace, page_size=1)
        seconds = self._seconds(timeout)
        answer = await self._here().link.call(lambda stub: stub.ListServices, request, seconds, "list probers")
        return [Prober.from_proto(it) for it in answer.probers]

    @property
    def check_rules(self) -> CheckRules:
        """The checks of instances that bring none, by service: to put, get, list and delete."""
        return CheckRules(lambda: self._here().link, self.namespace, self._settings.timeout_s)

    @property
    def xds_clients(self) -> XdsClients:
        """Who is connected by xDS, and what such clients report of their calls."""
        return XdsClients(lambda: self._here().link, self.namespace, self._settings.timeout_s)

    @property
    def policy(self) -> TrafficPolicies:
        """The traffic policies of services, which all of their clients follow: to put, get, list, delete, explain."""
        return TrafficPolicies(lambda: self._here().link, self.namespace, self._settings.timeout_s)

    async def events(
        self,
        service: str = "",
        *,
        namespace: str = "",
        all_namespaces: bool = False,
        limit: int = 1_000,
        timeout: float | None = None,
        **filters: Unpack[EventFilters],
    ) -> Events:
        """What became of the instances of a service, or of a whole namespace, as far as the registry that answers
        remembers: the latest `limit` events that the filters mean, the oldest first."""
        space = self._asked_space(namespace, all_namespaces)
        question = filter_of(service, filters, datetime.now(UTC), space)
        most = checks.whole("limit", limit, 1, MOST_EVENTS)
        return await listed(self._here().link, question, most, self._seconds(timeout))

    def watch_events(
        self,
        service: str = "",
        *,
        namespace: str = "",
        all_namespaces: bool = False,
        from_revision: int = 0,
        **filters: Unpack[EventFilters],
    ) -> EventWatch:
        """Follow what becomes of instances as it happens; with `since`, or from a revision on, what is remembered
        first."""
        space, session = self._asked_space(namespace, all_namespaces), self._here()
        question = filter_of(service, filters, datetime.now(UTC), space)
        begin = checks.whole("from_revision", from_revision, 0, checks.MAX_INT64)
        return EventWatch(session.means, session.tasks, question, begin)

    async def namespaces(self, *, timeout: float | None = None) -> Sequence[NamespaceSummary]:
        """The namespaces that have instances, in the order of their names."""
        session, seconds, pages = self._here(), self._seconds(timeout), answers.Pages()
        request = pb.ListNamespacesRequest()
        found: list[NamespaceSummary] = []
        while True:
            answer = await session.link.call(lambda stub: stub.ListNamespaces, request, seconds, "list namespaces")
            names = [(it.namespace,) for it in answer.namespaces]
            request.page_token = pages.next_token(names, answer.ByteSize(), answer.next_page_token)
            found += [NamespaceSummary(it.namespace, it.services, it.instances) for it in answer.namespaces]
            if not request.page_token:
                return found

    async def whoami(self, *, timeout: float | None = None) -> WhoAmI:
        """Who this client is to the registry, and what it may do there. Unauthenticated: its token is not good."""
        seconds = self._seconds(timeout)
        request = access_pb2.WhoAmIRequest()
        answer = await self._here().link.call(lambda stub: stub.access.WhoAmI, request, seconds, "ask who I am")
        return WhoAmI.from_proto(answer)

    async def serving(self, service: str = "", *, namespace: str = "", timeout: float | None = None) -> bool:
        """Whether the registry serves, by `grpc.health.v1`; of a service, whether an instance of that gets traffic.

        True as soon as one address says so. RegistryUnavailable when none answers, NotFound for a service that has no
        instance.
        """
        seconds = self._seconds(timeout)
        name = f"{self._space(namespace)}/{checks.name('service', service)}" if service else ""
        return await is_serving(self._here().dialers, name, seconds)

    # ---- watching

    def watch(
        self, *services: str, namespace: str = "", all_namespaces: bool = False, **filters: Unpack[Filters]
    ) -> Watch:
        """Follow services, or without any name the whole namespace: `async for view in registry.watch("player")`.

        `all_namespaces`: of every namespace, also of those to come. Filters as in `list`. See `Watch` for when views
        come, and `View` for what is in them.
        """
        question = self._question(services, namespace, all_namespaces, filters)
        return self._watch(question)

    def _question(
        self, services: tuple[object, ...], namespace: str, all_namespaces: bool, filters: Filters
    ) -> pb.WatchRequest:
        return pb.WatchRequest(
            namespace=self._asked_space(namespace, all_namespaces),
            all_namespaces=all_namespaces,
            services=_services(services),
            filter=filter_to_proto(**filters),
        )

    def _watch(self, question: pb.WatchRequest) -> Watch:
        session = self._here()
        directory, max_age_s = self._settings.cache_dir, self._settings.cache_max_age_s
        file = ViewFile(directory, self.addresses, question, max_age_s) if directory else None
        following = Following(session.means, question, file)
        return Watch(following, session.tasks.start(following.run(), "registry-watch"))

    def on_change(
        self,
        *services: str,
        added: Callback | None = None,
        updated: Callback | None = None,
        removed: RemovedCallback | None = None,
        namespace: str = "",
        all_namespaces: bool = False,
        **filters: Unpack[Filters],
    ) -> Subscription:
        """Call back for every instance that is added, updated, removed, until the result is cancelled.

        Callbacks are functions of one Instance (as it is now; a removed one as it was last, with its `cause`), called
        one after the other: coroutine functions in this loop, plain ones in a thread of this subscription, which is
        theirs to block. What they raise is logged and ends nothing. While one takes its time the next ones wait, and
        then hear of what differs from what was told before. Raises InvalidArgument.
        """
        callbacks = Callbacks(added, updated, removed)
        watch = self.watch(*services, namespace=namespace, all_namespaces=all_namespaces, **filters)
        subscription = Subscription(watch, callbacks)
        subscription.begin(self._here().tasks.start(subscription.run(), "registry-callbacks"))
        return subscription

    def on_health(self, service: str, callback: OnHealth, *, namespace: str = "") -> Subscription:
        """Call back when the health of an instance of the service changes, until the result is cancelled:
        `callback(instance, before, now)`, a plain function or a coroutine function; see `on_change`."""
        if not callable(callback):
            raise checks.wrong_type("callback", "must be a function of instance, before, now", callback)
        changes = HealthChanges(callback)
        return self.on_change(
            checks.name("service", service),
            added=changes.added,
            updated=changes.updated,
            removed=changes.removed,
            namespace=namespace,
        )

    def monitor(
        self,
        service: str,
        check: HealthCheck | OwnCheck,
        *,
        on_change: OnHealth | None = None,
        namespace: str = "",
        **pace: Unpack[Pace],
    ) -> Monitor:
        """Look at the instances of a service from this process, and tell the registry of their health, until the result
        or the client is closed: `registry.monitor("logic", HealthCheck.http("/healthz"), interval=5, failures=3)`.

        `check` is also a coroutine function of an instance, which raises or returns False for a failure. `on_change` is
        called with the instance, its health before, and now, as by `on_health`. For instances without checks of their
        own: with them, their health is the registry's to say. Raises InvalidArgument.
        """
        from registry_client.monitor import Monitor  # few programs look themselves

        session, own = self._here(), None if isinstance(check, HealthCheck) else check
        if not isinstance(check, HealthCheck) and not is_async(check):
            raise checks.wrong_type("check", "must be a HealthCheck or a coroutine function (async def)", check)
        if on_change is not None and not callable(on_change):
            raise checks.wrong_type("on_change", "must be a function of instance, before, now", on_change)
        asked = (HealthCheck.ttl() if not isinstance(check, HealthCheck) else check).paced(**pace)
        watch = self.watch(checks.name("service", service), namespace=namespace)
        monitor = Monitor(watch, asked, own, _Health(self))
        told = self.on_health(service, on_change, namespace=namespace) if on_change is not None else None
        monitor.begin(session.tasks.start(monitor.run(), "registry-monitor"), session.place, told)
        return monitor

    # ---- discovery

    def discover(self, service: str, *, namespace: str = "", **filters: Unpack[Filters]) -> Discovery:
        """The instances of a service, from memory: `await registry.discover("player", healthy_only=True).instances()`.

        A watch keeps them up to date, which all share who ask the same. Filters as in `list`.
        """
        named = (checks.name("service", service),)
        live, counts = self._live(self._question(named, namespace, False, filters)), self._here().reach.counts
        return Discovery(service, live, self._settings.timeout_s, counts, filtered=bool(filters))

    def balancer(
        self, service: str, *, policy: AnyPolicy | None = None, namespace: str = "", **filters: Unpack[Filters]
    ) -> Balanced:
        """The same instances behind a policy: `await players.get()`, `async with players.request() as call`.

        `policy`: by default the one in `policies`, or that of the service's traffic policy, or weighted_round_robin.
        Raises InvalidArgument.
        """
        from registry_client.bridge.balanced import Balanced

        discovery = self.discover(service, namespace=namespace, **filters)
        return Balanced(discovery, self.traffic(service, namespace=namespace), self._policy(service, policy))

    def channel(
        self,
        service: str,
        *,
        policy: AnyPolicy | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        namespace: str = "",
        **filters: Unpack[Filters],
    ) -> grpc.aio.Channel:
        """A channel to a service, for any generated stub, over the connection and the watch of this client.

        Close it before the client: afterwards it calls whom it knew last. `credentials`: towards the instances. For
        what else a channel can be told, there is `registry_client.aio.channel`.
        """
        from registry_client.bridge.balanced import open_channel

        chosen = self.checked_policy(service, policy, credentials)
        discovery = self.discover(service, namespace=namespace, **filters)
        return open_channel(discovery, self.traffic(service, namespace=namespace), chosen, credentials)

    def traffic(self, service: str, *, namespace: str = "") -> Traffic:
        """The traffic policy of a service, followed by one stream that all share: for channels and balancers."""
        session, key = self._here(), (self._space(namespace), checks.name("service", service))
        known = session.traffics.get(key)
        if known is None:
            question, it = policies_pb2.PoliciesWatchRequest(namespace=key[0], services=[key[1]]), self._settings
            file = PolicyFile(it.cache_dir, self.addresses, question, it.cache_max_age_s) if it.cache_dir else None
            known = session.traffics[key] = Traffic(session.means, session.tasks, question, file)
        return known

    @property
    def policies(self) -> Mapping[str, AnyPolicy]:
        """The policy of each service, for `balancer` and `channel`; the others have that of their traffic policy, or
        weighted_round_robin.

        What is set is for those that are made afterwards. Raises InvalidArgument for one that does not exist.
        """
        return self._policies

    @policies.setter
    def policies(self, given: Mapping[str, AnyPolicy]) -> None:
        from registry_client.bridge.balanced import check_policy

        if not isinstance(given, Mapping):
            raise checks.wrong_type("policies", "must be a dict", given, "{'player': 'round_robin'}")
        self._policies = MappingProxyType(
            {checks.name("policies", service): check_policy(policy) for service, policy in given.items()}
        )

    def checked_policy(
        self, service: str, given: AnyPolicy | None, credentials: grpc.ChannelCredentials | None
    ) -> AnyPolicy | None:
        """What a channel to that service goes by; None for what its traffic policy says. Raises InvalidArgument for a
        policy or credentials that are none."""
        from registry_client.bridge.balanced import check_policy

        checks.instance_of("credentials", grpc.ChannelCredentials, credentials)
        chosen = self._policy(checks.name("service", service), given)
        return None if chosen is None else check_policy(chosen)

    def _policy(self, service: str, given: AnyPolicy | None) -> AnyPolicy | None:
        return self._policies.get(service) if given is None else given

    def _live(self, question: pb.WatchRequest) -> Live:
        session, asked = self._here(), question.SerializeToString(deterministic=True)
        live = session.lives.get(asked)
        if live is None or live.is_over:
            live = session.lives[asked] = Live(self._watch(question), session.tasks, session.place)
        return live

    # ---- within

    def _key(self, field: str, service: str, instance_id: str, namespace: str) -> Key:
        names = checks.name(f"{field}.service", service), checks.name(f"{field}.id", instance_id)
        return Key(self._space(namespace), *names)

    def _space(self, namespace: str) -> str:
        return checks.name("namespace", namespace, empty=True) or self.namespace

    def _asked_space(self, namespace: str, all_namespaces: bool) -> str:
        return checks.space(namespace, all_namespaces, self.namespace)

    def _seconds(self, timeout: float | None) -> float:
        return self._settings.timeout_s if timeout is None else checks.timeout(timeout)


class _Health:
    """Where a monitor writes what it found."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    async def write(self, key: Key, health: Health) -> None:
        """See monitor.Writer."""
        await self._client.update(key.service, key.id, namespace=key.namespace, health=health)

    async def remove(self, key: Key) -> None:
        """See monitor.Writer."""
        await self._client.deregister(key.service, key.id, namespace=key.namespace)


def _services(named: tuple[object, ...]) -> list[str]:
    """The names of services to watch, each once."""
    if len(named) == 1 and isinstance(named[0], Iterable) and not isinstance(named[0], str | bytes):
        raise checks.wrong_type("services", "must be strings", named[0], 'watch("a", "b")')
    names = sorted({checks.name("services", name) for name in named})
    if len(names) > MAX_SERVICES:
        raise checks.wrong("services", f"must be at most {MAX_SERVICES}, are {len(names)}")
    return names
