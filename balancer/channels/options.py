"""What may be set on a channel, whichever kind it is, and how a target's query sets it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from balancer.policies import policy as policy_named
from balancer.policies.base import ANY, Connect, PickInfo, connect_of
from balancer.policies.split import Split
from balancer.pool.options import PoolOptions
from balancer.resolvers import Resolver, parse_target, resolver_for
from balancer.service_config import ServiceConfig, parse_service_config, policy_of_grpc

if TYPE_CHECKING:
    from balancer.policies import AnyPolicy
    from balancer.policies.base import Policy
    from balancer.pool.outlier import OutlierOptions

GrpcOptions: TypeAlias = Sequence[tuple[str, Any]]
InfoOf: TypeAlias = Callable[[str, Iterable[tuple[str, str | bytes]]], PickInfo]

SERVICE_CONFIG = "grpc.service_config"
DEFAULT_POLICY = "round_robin"
DEFAULT_SUBSET_SIZE = 128
REPLAY_LIMIT = "grpc.per_rpc_retry_buffer_size"
ENABLE_RETRIES = "grpc.enable_retries"
LB_POLICY = "grpc.lb_policy_name"
IDLE_TIMEOUT = "grpc.client_idle_timeout_ms"
AUTHORITY = "grpc.default_authority"
TLS_NAME = "grpc.ssl_target_name_override"
CONNECTION = "grpc_registry.connection"
"""gRPC's core shares a connection among channels of equal options. Two balanced channels, or two endpoints at one
address, must not share fate or state: so each has an option of its own, of which the core knows nothing else."""
_NEVER_MS = 2**31 - 1
"""What gRPC takes for no timeout at all."""
# Of the connections to the endpoints, where the user's own options say nothing else.
_UNLESS_ASKED = (
    # An endpoint registered by name that moves to another address: looked up again as soon as connecting fails, and not
    # half a minute later. What bounds the look-ups is the backoff between the attempts to connect.
    ("grpc.dns_min_time_between_resolutions_ms", 100),
    # Calls go straight to the endpoints, whatever proxies the environment names for the web.
    ("grpc.enable_http_proxy", 0),
)

hash_key: ContextVar[str | bytes | None] = ContextVar("hash_key", default=None)
"""What consistent_hash and ip_hash hash for the calls made in this context; wins over `hash_header`."""


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """How a balanced channel behaves. Raises ValueError, naming the field, for what makes no sense."""

    hash_header: str | None = None
    """The metadata key, lower case, whose value consistent_hash and ip_hash hash."""
    pool: PoolOptions = field(default_factory=PoolOptions)
    authority: str | None = None
    """`:authority` of every call, and the name TLS checks; None = each endpoint's own address."""
    health_service: str | None = None
    """Watch this service's `grpc.health.v1` status on every back end (gRFC A17); "" = the whole server. None =
    what the service config's `healthCheckConfig` says."""

    load_report_interval_s: float | None = None
    """Ask every back end for its load this often (ORCA, gRFC A51), and weigh it by that (gRFC A58) instead of
    by its configured weight; for the weighted policies. None = do not ask."""

    def __post_init__(self) -> None:
        if self.hash_header is not None and (not self.hash_header or self.hash_header != self.hash_header.lower()):
            raise ValueError(f"hash_header: {self.hash_header!r} is not a lower-case metadata key")
        if self.load_report_interval_s is not None and not 0 < self.load_report_interval_s < float("inf"):
            raise ValueError(f"load_report_interval_s: must be above 0, is {self.load_report_interval_s}")


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a channel was given, checked."""

    resolver: Resolver
    policy: Policy
    options: ChannelOptions
    child_options: tuple[tuple[str, Any], ...]
    """gRPC options of the connections to the endpoints."""
    service_config: ServiceConfig
    replay_limit: int
    tries_again: bool
    """False: retries and hedging are switched off (`grpc.enable_retries`)."""
    policy_given: bool
    """By name or as an object, so that no service config chooses another."""
    config_given: bool
    """As a channel option, so that the resolver's service configs are not asked."""
    default_policy: str = DEFAULT_POLICY
    """Where nothing says which."""
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    """Of the channel, among all."""

    def config_under(self, config: ServiceConfig) -> ServiceConfig:
        """The config while the resolver's `config` holds. Beside one that is a channel option only that is left of it
        which the other says nothing of, or cannot."""
        if not self.config_given:
            return config
        given = self.service_config
        return replace(given, policy=given.policy or config.policy, parts=config.parts, most_calls=config.most_calls)

    def policy_under(self, config: ServiceConfig) -> Policy:
        """The policy while the resolver's `config` holds."""
        chosen = self.policy if self.policy_given else policy_named(config.policy or self.default_policy)
        return Split(config.parts, chosen) if config.parts else chosen

    def outlier_under(self, config: ServiceConfig) -> OutlierOptions | None:
        """What outlier detection goes by while the resolver's `config` holds."""
        return self.options.pool.outlier or config.outlier

    def options_under(self, config: ServiceConfig) -> ChannelOptions:
        """The options while `config` holds."""
        options = self.options
        if options.health_service is None and config.health_service is not None:
            options = replace(options, health_service=config.health_service)
        if options.hash_header is None and config.hash_header is not None:
            options = replace(options, hash_header=config.hash_header)
        return options

    def dial_options(self, config: ServiceConfig, *, retries: bool = True, number: int = 0) -> GrpcOptions:
        """gRPC options of a connection made while `config` holds. Channels with the same `number` share one.

        gRPC core's own retries undo the header that tells a server how many attempts went before, so attempts that have
        it go out on connections without (`retries` False). All others keep them on, for streams that a server refused
        while it went away. What the config limits per method is core's to see to.
        """
        options = (*self.child_options, (CONNECTION, f"{self.name}/{number}"))
        if not retries:
            options = (*(option for option in options if option[0] != ENABLE_RETRIES), (ENABLE_RETRIES, 0))
        return options if config.limits is None else (*options, (SERVICE_CONFIG, config.limits))

    @property
    def wants_all(self) -> bool:
        """True for a user's own policy, which may look at a call's method and metadata."""
        return not type(self.policy).__module__.startswith("balancer.")


def settings_of(
    resolver: Resolver | str,
    policy: AnyPolicy | None,
    options: GrpcOptions | None,
    balancing: ChannelOptions | None,
) -> Settings:
    """Checks and completes the arguments of a channel factory.

    Raises ValueError, naming the part, for a target, a policy, an option or a service config that makes no sense.
    """
    balancing = balancing or ChannelOptions()
    given = _first_of_each(options or ())
    if isinstance(resolver, str):
        target = parse_target(resolver)
        resolver, query = resolver_for(target)
        policy, balancing = from_query(query, policy, balancing)
        if target.scheme == "dns" and TLS_NAME not in given:
            given.setdefault(AUTHORITY, target.path)  # as any gRPC channel to this target says, and checks by TLS
    elif not isinstance(resolver, Resolver):
        raise TypeError(f"resolver: neither a target nor a resolver: {resolver!r}")
    text = given.pop(SERVICE_CONFIG, None)
    config = parse_service_config(text)
    balancing = _pooled(balancing, config, given.pop(IDLE_TIMEOUT, None))
    replay_limit = int(given.pop(REPLAY_LIMIT, 256 * 1024))
    if balancing.authority is not None:
        given[AUTHORITY] = balancing.authority
    named = given.pop(LB_POLICY, None)
    default: str = getattr(resolver, "default_policy", DEFAULT_POLICY)
    default = policy_of_grpc(named) or default
    chosen = policy_named(config.policy or default if policy is None else policy)
    balancing = replace(balancing, pool=_bounded(balancing.pool, chosen))
    return Settings(
        resolver,
        chosen,
        balancing,
        _of_connections(given),
        config,
        replay_limit,
        bool(given.get(ENABLE_RETRIES, 1)),
        policy is not None,
        text is not None,
        default,
    )


def _first_of_each(options: GrpcOptions) -> dict[str, Any]:
    """Of an option that is given twice gRPC takes the first."""
    given: dict[str, Any] = {}
    for key, value in options:
        given.setdefault(key, value)
    return given


def _of_connections(given: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The options of the connections to the endpoints."""
    proxied = "grpc.http_proxy" in given and "grpc.enable_http_proxy" not in given
    for option, value in _UNLESS_ASKED:
        given.setdefault(option, value)
    if proxied:
        del given["grpc.enable_http_proxy"]  # a proxy that is named is asked for
    given[IDLE_TIMEOUT] = _NEVER_MS  # the pool decides what closes
    return tuple(given.items())


def _pooled(balancing: ChannelOptions, config: ServiceConfig, idle_ms: int | None) -> ChannelOptions:
    """With what a service config and gRPC's own options say of the pool, where the user's options say nothing."""
    pool = balancing.pool
    if pool.outlier is None and config.outlier is not None:
        pool = replace(pool, outlier=config.outlier)
    if idle_ms is not None and pool.idle_timeout_s == PoolOptions().idle_timeout_s:
        pool = replace(pool, idle_timeout_s=None if idle_ms >= _NEVER_MS else idle_ms / 1000)
    return replace(balancing, pool=pool)


def _bounded(pool: PoolOptions, policy: Policy) -> PoolOptions:
    """So that ten thousand endpoints are not ten thousand connections.

    Policies that connect as they pick need no bound, and hashing over a part of the endpoints would send one key to
    different places.
    """
    if pool.subset_size is not None or connect_of(policy) is not Connect.ALL:
        return pool
    salt = pool.subset_salt or secrets.token_hex(8)
    return replace(pool, subset_size=DEFAULT_SUBSET_SIZE, subset_of_connected=True, subset_salt=salt)


_TEXTS = ("hash_header", "health_service", "authority")


def from_query(
    query: Mapping[str, str], policy: AnyPolicy | None = None, options: ChannelOptions | None = None
) -> tuple[AnyPolicy | None, ChannelOptions]:
    """Policy and options that a target's query asks for: `policy`, `hash_header`, `health_service`,
    `authority`, `subset_size`, and `policy.NAME` for an option of the policy itself
    (`?policy=least_connections&policy.choices=full`).

    What was given in Python wins. Raises ValueError for any other key.
    """
    options = options or ChannelOptions()
    known = ("policy", "subset_size", *_TEXTS)
    for key in query:
        if key not in known and not key.startswith("policy."):
            raise ValueError(f"target option {key!r}: unknown; known are policy.…, {', '.join(known)}")
    for key in _TEXTS:
        if key in query and getattr(options, key) is None:
            options = _with_text(options, key, query[key])
    extra = {key.removeprefix("policy."): value for key, value in query.items() if key.startswith("policy.")}
    if "subset_size" in query and options.pool.subset_size is None:
        options = replace(options, pool=replace(options.pool, subset_size=_count("subset_size", query["subset_size"])))
    if policy is None and "policy" in query:
        policy = policy_named(query["policy"], extra)
    elif extra and "policy" not in query:
        raise ValueError(f"target option 'policy.{next(iter(extra))}': there is no policy option to belong to")
    return policy, options


def _with_text(options: ChannelOptions, key: str, value: str) -> ChannelOptions:
    changes: dict[str, Any] = {key: value}
    return replace(options, **changes)


def _count(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"target option {name!r}: {text!r} is not a whole number above 0")
    return int(text)


def info_maker(settings: Settings, header: str | None = None) -> InfoOf:
    """The function from a call's method and metadata to what its pick may know; costs next to nothing when
    there is nothing. `header`: what calls are hashed by where the settings do not say."""
    header = settings.options.hash_header or header
    context_key = hash_key.get
    if settings.wants_all:
        return lambda method, metadata: PickInfo(_key(header, metadata), (), method, tuple(metadata))
    if header is not None:
        return lambda _method, metadata: PickInfo(_key(header, metadata))

    def info(_method: str, _metadata: Iterable[tuple[str, str | bytes]]) -> PickInfo:
        key = context_key()
        return ANY if key is None else PickInfo(key)

    return info


def _key(header: str | None, metadata: Iterable[tuple[str, str | bytes]]) -> str | bytes | None:
    key = hash_key.get()
    if key is None and header is not None:
        return key_of_header(header, metadata)
    return key if isinstance(key, str | bytes) else None


def key_of_header(header: str, metadata: Iterable[tuple[str, str | bytes]]) -> str | bytes | None:
    """The value of that metadata key; None if there is none."""
    try:
        key = next((value for name, value in metadata if name == header), None)
    except (TypeError, ValueError):  # no metadata at all, of which gRPC itself will complain
        return None
    return key if isinstance(key, str | bytes) else None
