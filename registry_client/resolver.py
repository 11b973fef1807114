"""The bridge to `balancer`: views become resolutions, and `registry://` URLs become gRPC channels."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

import balancer
from balancer.aio.channel import aio_channel as _aio_channel
from balancer.channels.options import SERVICE_CONFIG, ChannelOptions, from_query
from balancer.resolvers import parse_target as parse_plain_target
from balancer.resolvers import resolver_for
from balancer.service_config import parse_service_config
from balancer.threads.channel import blocking_channel as _blocking_channel
from registry_client import checks
from registry_client.bridge.resolver import under
from registry_client.bridge.traffic import DEFAULT_POLICY
from registry_client.bridge.translate import FIRST_VIEW_S, Translator
from registry_client.client import connect, in_order
from registry_client.errors import InvalidTarget, RegistryError
from registry_client.instance import filter_to_proto
from registry_client.lack import why_none
from registry_client.papers import Shown, check_papers
from registry_client.place import FORKS
from registry_client.session import CacheDir, check_cache_dir
from registry_client.target import Target, parse_target, show_url
from registry_client.tls import TLS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from balancer.policies import AnyPolicy
    from registry_api.registry.v1 import policies_pb2
    from registry_client.bearer import Token
    from registry_client.client import RegistryClient
    from registry_client.instance import Filters
    from registry_client.view import View
    from registry_client.watcher import Watch

# How long a set that a filter leaves empty waits for the number of those that it leaves out.
COUNTED_WITHIN_S = 1.0
# What a URL may say about which instances are meant.
_TAGS, _VERSION = "tags", "version"
# ... and, over TLS, about the files of it.
_TLS = ("ca", "cert", "key")
_OURS = (_TAGS, _VERSION, *_TLS)
# Targets that the balancer resolves by itself.
_WITHOUT_REGISTRY = ("static", "dns")

_Built = TypeVar("_Built")


@dataclass(frozen=True, slots=True)
class Source:
    """What a channel watches, and how it reaches the registry."""

    target: Target
    filters: Filters
    papers: Shown = field(default_factory=Shown)
    cache_dir: str | Path | CacheDir | None = CacheDir.DEFAULT


class RegistryResolver:
    """Tells a channel of the instances of one service, for as long as the channel runs it."""

    default_policy = DEFAULT_POLICY

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name = source.target.service
        self._translator = Translator(self.name)
        self._watch: Watch | None = None

    def left_out(self) -> tuple[balancer.EndpointWhy, ...]:
        """The instances that get no calls, and why: see balancer.resolvers.Resolver."""
        return self._translator.left_out()

    @property
    def trouble(self) -> str:
        """Why no registry tells of changes just now; empty while one does."""
        return "" if self._watch is None else self._watch.trouble

    async def run(self, push: Callable[[balancer.Resolution], None]) -> None:
        """Push every view until cancelled. Raises RegistryError when the registry refuses the question."""
        target, source = self._source.target, self._source
        translator = self._translator = Translator(target.service)
        shown = _Shown(translator, push)
        made = connect(target.addresses, namespace=target.namespace, cache_dir=source.cache_dir, **source.papers)
        async with (
            in_order(made, target.first) as registry,
            registry.watch(target.service, **source.filters) as watch,
        ):
            self._watch = watch
            traffic = registry.traffic(target.service)
            traffic.follow(shown)
            view = await _first(watch, push)
            await traffic.known()
            while True:
                resolution = shown.resolution(view)
                if isinstance(resolution, balancer.Absent) and source.filters and view.stale_for is None:
                    resolution = balancer.Absent(await _filtered_out(registry, target.service))
                push(resolution)
                view = await anext(watch)

    def resolve_now(self) -> None:
        """Nothing to do: the watch tells of every change by itself."""


class _Shown:
    """What a channel is shown: of each view, and of the latest one when the traffic policy is another."""

    def __init__(self, translator: Translator, push: Callable[[balancer.Resolution], None]) -> None:
        self._translator = translator
        self._push = push

    def resolution(self, view: View) -> balancer.Resolution:
        return self._translator.resolution(view)

    def told(self, policy: policies_pb2.Policy | None) -> None:
        resolution = under(self._translator, policy)
        if isinstance(resolution, balancer.Resolved):
            self._push(resolution)


async def _filtered_out(registry: RegistryClient, service: str) -> str:
    """Why nothing matches the filter. Asked of the registry, as the watch tells of what matches alone."""
    try:
        async with asyncio.timeout(COUNTED_WITHIN_S):
            registered = await registry.list(service)
    except (RegistryError, TimeoutError):
        return f"no instance of {service} matches the filter"
    return why_none(service, registered, filtered=True)


async def _first(watch: Watch, push: Callable[[balancer.Resolution], None]) -> View:
    """The first view. When that takes long, calls are told why, and the wait goes on."""
    first = asyncio.ensure_future(anext(watch))
    try:
        while not (await asyncio.wait([first], timeout=FIRST_VIEW_S))[0]:
            push(balancer.Failed(f"the registry cannot be reached: {watch.trouble or 'no answer yet'}"))
        return await first
    finally:
        first.cancel()


def aio_channel(
    target: str,
    *,
    policy: AnyPolicy | None = None,
    options: Sequence[tuple[str, Any]] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
    registry_credentials: grpc.ChannelCredentials | None = None,
    registry_tls: TLS | None = None,
    registry_token: Token | None = None,
    cache_dir: str | Path | CacheDir | None = CacheDir.DEFAULT,
    balancing: ChannelOptions | None = None,
    filters: Filters | None = None,
) -> grpc.aio.Channel:
    """A `grpc.aio.Channel` to a registered service, for any generated stub: `registry://127.0.0.1:7400/player`.

    The URL is `registry://ADDRESSES/[NAMESPACE/]SERVICE[?policy=…&tags=a,b&version=…]`, with the further options of
    `balancer` channels (`hash_header`, `subset_size`, …). In the addresses `,` stands between replicas of a registry,
    and `|` before another registry, for when the first does not work. What is given as an argument wins over the URL.
    `policy`: by default weighted_round_robin. `options`: of the connections to the instances; `grpc.service_config` is
    honoured across instances. `credentials`: towards the instances; `registry_credentials`: towards the registry.
    `filters`: which instances are meant, as in `RegistryClient.list`.

    `static://` and `dns://` targets are taken as well, as `balancer.aio_channel` takes them: no registry is asked then.

    Raises InvalidTarget, naming the part, for a mistake in the URL, and ValueError for one in another argument.
    """
    checks.instance_of("credentials", grpc.ChannelCredentials, credentials)
    checks.instance_of("compression", grpc.Compression, compression)
    papers = Shown(credentials=registry_credentials, tls=registry_tls, token=registry_token)
    settings = _settings(target, policy, options, balancing, filters, papers, cache_dir)
    return _aio_channel(
        settings.resolver,
        policy=settings.policy,
        options=options,
        credentials=credentials,
        compression=compression,
        interceptors=interceptors,
        balancing=settings.balancing,
    )


def channel(
    target: str,
    *,
    policy: AnyPolicy | None = None,
    options: Sequence[tuple[str, Any]] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    compression: grpc.Compression | None = None,
    registry_credentials: grpc.ChannelCredentials | None = None,
    registry_tls: TLS | None = None,
    registry_token: Token | None = None,
    cache_dir: str | Path | CacheDir | None = CacheDir.DEFAULT,
    balancing: ChannelOptions | None = None,
    filters: Filters | None = None,
) -> grpc.Channel:
    """A `grpc.Channel` to a registered service, for any generated stub; arguments as of `registry_client.aio.channel`.

    Interceptors go on top of it with `grpc.intercept_channel`.
    """
    checks.instance_of("credentials", grpc.ChannelCredentials, credentials)
    checks.instance_of("compression", grpc.Compression, compression)
    papers = Shown(credentials=registry_credentials, tls=registry_tls, token=registry_token)
    settings = _settings(target, policy, options, balancing, filters, papers, cache_dir)
    made: grpc.Channel = _blocking_channel(
        settings.resolver,
        policy=settings.policy,
        options=options,
        credentials=credentials,
        compression=compression,
        balancing=settings.balancing,
    )
    FORKS.closed()  # the arguments were tried on a channel of gRPC's
    return made


@dataclass(frozen=True, slots=True)
class _Settings:
    resolver: RegistryResolver | str
    """A string: a target that the balancer reads itself."""
    policy: AnyPolicy | None
    balancing: ChannelOptions | None


def _settings(
    url: str,
    policy: AnyPolicy | None,
    options: Sequence[tuple[str, Any]] | None,
    balancing: ChannelOptions | None,
    filters: Filters | None,
    papers: Shown,
    cache_dir: str | Path | CacheDir | None,
) -> _Settings:
    if not isinstance(url, str):
        raise InvalidTarget(f"target {checks.shown(url)}: must be a string, such as 'registry://127.0.0.1:7400/player'")
    given = checks.channel_options(options)
    checks.instance_of("balancing", ChannelOptions, balancing)
    for name, kind in (("credentials", grpc.ChannelCredentials), ("tls", TLS)):
        checks.instance_of(f"registry_{name}", kind, papers.get(name))
    check_cache_dir(cache_dir)
    if url.partition(":")[0] in _WITHOUT_REGISTRY:
        return _Settings(_checked(url, filters), policy, balancing)
    target = parse_target(url)
    papers = _with_url(url, target, papers)
    rest = {name: value for name, value in target.options.items() if name not in _OURS}
    chosen, completed = _in_url(url, lambda: from_query(rest, policy, balancing))
    parse_service_config(given.get(SERVICE_CONFIG))  # a mistake is told now
    source = Source(replace(target, options={}), _filters(target.options, filters), papers, cache_dir)
    return _Settings(RegistryResolver(source), chosen, completed)


def _with_url(url: str, target: Target, papers: Shown) -> Shown:
    """With what the URL says of TLS. Raises InvalidTarget and InvalidArgument, before anything is dialed."""
    files = {name: target.options[name] for name in _TLS if name in target.options}
    if files and not target.over_tls:
        raise InvalidTarget(f"target {show_url(url)}: {', '.join(files)}: must be of a registrys:// URL")
    beside = next((f"registry_{name}" for name in ("credentials", "tls") if papers.get(name)), None)
    if files and beside:
        raise InvalidTarget(f"target {show_url(url)}: {', '.join(files)}: must not be there beside {beside}")
    if target.over_tls and not beside:
        papers = {**papers, "tls": _in_url(url, lambda: TLS(**files))}
    token = _in_url(url, lambda: check_papers(target.addresses, **papers)).token
    return {**papers, "token": token or ""}


def _checked(url: str, filters: Filters | None) -> str:
    """A `static://` or `dns://` target, if it can be read and nothing is asked of it that needs a registry."""
    if filters:
        raise InvalidTarget(f"target {show_url(url)}: filters need a registry:// target")
    _, query = _in_url(url, lambda: resolver_for(parse_plain_target(url)))
    _in_url(url, lambda: from_query(query))
    return url


def _filters(query: Mapping[str, str], filters: Filters | None) -> Filters:
    meant: Filters = {}
    if query.get(_TAGS):
        meant["tags"] = query[_TAGS].split(",")
    if query.get(_VERSION):
        meant["version"] = query[_VERSION]
    if filters is not None and not isinstance(filters, Mapping):
        raise checks.wrong_type("filters", "must be a dict", filters, "{'tags': ['eu']}")
    meant.update(filters or {})
    filter_to_proto(**meant)  # a mistake is told now, and not by every call
    return meant


def _in_url(url: str, parse: Callable[[], _Built]) -> _Built:
    try:
        return parse()
    except ValueError as error:
        raise InvalidTarget(f"target {show_url(url)}: {error}") from None
