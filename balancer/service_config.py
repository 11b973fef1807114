"""CORE: gRPC's service config (grpc/doc/service_config.md, gRFCs A2, A6, A17), from its JSON form to checked values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from balancer.calls.retry import ATTEMPTS_LIMIT, HedgingPolicy, RetryPolicy, Throttle
from balancer.endpoints import Configured
from balancer.policies import names
from balancer.policies import policy as policy_named
from balancer.policies.ring import VIRTUAL_NODES
from balancer.policies.split import Part  # noqa: TC001 - a field's type, which tools resolve at run time
from balancer.pool.outlier import FailurePercentage, OutlierOptions, SuccessRate

T = TypeVar("T")

_CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
_DURATION = re.compile(r"(\d+)(\.\d{1,9})?s")

_SIZES = ("maxRequestMessageBytes", "maxResponseMessageBytes")
_OUTLIER_DETECTION = "outlier_detection_experimental"
_RING_LIMIT = 8 * 1024 * 1024  # A42
_RING_CAP = 4096  # what gRPC's clients cut it to
_MOST = 2**32 - 1

# gRPC's names of load-balancing policies, and ours of the same thing; our own names are taken, too.
_POLICIES = {
    "pick_first": "pick_first",
    "round_robin": "round_robin",
    "weighted_round_robin": "weighted_round_robin",
    "least_request_experimental": "least_connections",
    "ring_hash_experimental": "consistent_hash",
}


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """What one entry of `methodConfig` asks for."""

    timeout_s: float | None = None
    wait_for_ready: bool | None = None
    retry: RetryPolicy | None = None
    hedging: HedgingPolicy | None = None


@dataclass(frozen=True, slots=True)
class ServiceConfig(Configured):
    """A whole service config."""

    methods: Mapping[tuple[str, str], MethodConfig] = field(default_factory=dict)
    """By service and method; an empty method stands for all of a service, an empty service for everything."""
    throttle: Throttle | None = None
    policy: str | None = None
    """`loadBalancingConfig`: the first policy of the list that is known here, as `balancer.policy` takes it."""
    health_service: str | None = None
    outlier: OutlierOptions | None = None
    """What an `outlier_detection_experimental` around the policy asks for."""
    limits: str | None = None
    """What is asked for of the sizes of messages, as a service config of its own for the connections."""
    hash_header: str | None = None
    """The metadata key whose value hashing policies hash. This and what follows has no JSON form: resolvers say it."""
    parts: tuple[Part, ...] = ()
    """The traffic in parts; none: it is one."""
    most_calls: int | None = None
    """So many calls of the channel may be in flight, and one more fails; None = any number."""

    def method(self, path: str) -> MethodConfig | None:
        """The entry for `/package.Service/Method`: the most specific one that names it."""
        _, service, name = ("", *path.strip("/").split("/", 1), "")[:3]
        for key in ((service, name), (service, ""), ("", "")):
            if key in self.methods:
                return self.methods[key]
        return None


def parse_service_config(config: str | bytes | Mapping[str, object] | None) -> ServiceConfig:
    """A service config from JSON text or from its mapping; None gives an empty one.

    Raises ValueError that names the field for what A2 and A6 do not allow, and when no policy of `loadBalancingConfig`
    is known. Other unknown fields are ignored, as they say.
    """
    if config is None:
        return ServiceConfig()
    if isinstance(config, str | bytes):
        try:
            config = json.loads(config)
        except ValueError as error:
            raise ValueError(f"service config: not JSON: {error}") from error
    fields = _object("service config", config)
    throttling = fields.get("retryThrottling")
    health = _object("healthCheckConfig", fields.get("healthCheckConfig") or {})
    policy, outlier = _policy(fields)
    return ServiceConfig(
        _methods(fields.get("methodConfig", [])),
        None if throttling is None else _throttle(_object("retryThrottling", throttling)),
        policy,
        _optional(health, "serviceName", lambda value: _string("healthCheckConfig.serviceName", value)),
        outlier,
        _limits(_object("methodConfig", entry) for entry in _list("methodConfig", fields.get("methodConfig", []))),
    )


def config_of(given: Mapping[str, object] | Configured) -> ServiceConfig:
    """What a resolver gives as one. Raises as `parse_service_config` does."""
    if isinstance(given, ServiceConfig):
        return given
    return parse_service_config(_object("service config", given))


def _limits(entries: Iterable[Mapping[str, object]]) -> str | None:
    """The part of the entries that limits the sizes of messages; None when there is none."""
    kept = [
        {"name": entry.get("name", []), **{key: entry[key] for key in _SIZES if key in entry}}
        for entry in entries
        if any(key in entry for key in _SIZES)
    ]
    return json.dumps({"methodConfig": kept}) if kept else None


def _methods(entries: object) -> dict[tuple[str, str], MethodConfig]:
    methods: dict[tuple[str, str], MethodConfig] = {}
    for index, entry in enumerate(_list("methodConfig", entries)):
        where = f"methodConfig[{index}]"
        fields = _object(where, entry)
        config = _method(where, fields)
        for name in _list(f"{where}.name", fields.get("name", [])):
            key = _name(f"{where}.name", _object(f"{where}.name", name))
            if key in methods:
                raise ValueError(f"{where}.name: {'/'.join(key)!r} is named twice")
            methods[key] = config
    return methods


def _name(where: str, fields: Mapping[str, object]) -> tuple[str, str]:
    service = _string(f"{where}.service", fields.get("service") or "")
    method = _string(f"{where}.method", fields.get("method") or "")
    if method and not service:
        raise ValueError(f"{where}: method {method!r} without its service")
    return service, method


def _method(where: str, fields: Mapping[str, object]) -> MethodConfig:
    for key in _SIZES:
        if key in fields:
            _size(f"{where}.{key}", fields[key])
    if "retryPolicy" in fields and "hedgingPolicy" in fields:
        raise ValueError(f"{where}: retryPolicy and hedgingPolicy exclude each other")
    return MethodConfig(
        _optional(fields, "timeout", lambda value: _duration(f"{where}.timeout", value)),
        _optional(fields, "waitForReady", lambda value: _boolean(f"{where}.waitForReady", value)),
        _optional(fields, "retryPolicy", lambda value: _retry(f"{where}.retryPolicy", _object(where, value))),
        _optional(fields, "hedgingPolicy", lambda value: _hedging(f"{where}.hedgingPolicy", _object(where, value))),
    )


def _retry(where: str, fields: Mapping[str, object]) -> RetryPolicy:
    policy = RetryPolicy(
        _attempts(where, fields),
        _positive(f"{where}.initialBackoff", _duration(f"{where}.initialBackoff", fields.get("initialBackoff"))),
        _positive(f"{where}.maxBackoff", _duration(f"{where}.maxBackoff", fields.get("maxBackoff"))),
        _positive(f"{where}.backoffMultiplier", fields.get("backoffMultiplier")),
        _codes(f"{where}.retryableStatusCodes", fields.get("retryableStatusCodes", [])),
    )
    if not policy.retryable:
        raise ValueError(f"{where}.retryableStatusCodes: must name at least one code")
    return policy


def _hedging(where: str, fields: Mapping[str, object]) -> HedgingPolicy:
    return HedgingPolicy(
        _attempts(where, fields),
        _duration(f"{where}.hedgingDelay", fields.get("hedgingDelay", "0s")),
        _codes(f"{where}.nonFatalStatusCodes", fields.get("nonFatalStatusCodes", [])),
    )


def _attempts(where: str, fields: Mapping[str, object]) -> int:
    attempts = fields.get("maxAttempts")
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 2:
        raise ValueError(f"{where}.maxAttempts: must be a whole number above 1, is {attempts!r}")
    return min(attempts, ATTEMPTS_LIMIT)


def _throttle(fields: Mapping[str, object]) -> Throttle:
    tokens = _positive("retryThrottling.maxTokens", fields.get("maxTokens"))
    if tokens > 1000:
        raise ValueError(f"retryThrottling.maxTokens: must not be above 1000, is {tokens:g}")
    return Throttle(tokens, round(_positive("retryThrottling.tokenRatio", fields.get("tokenRatio")), 3))


def policy_of_grpc(name: str | None) -> str | None:
    """Our name of a policy that gRPC or we have by this one; None when there is none."""
    return None if name is None else _POLICIES.get(name, name if name in names() else None)


def _policy(fields: Mapping[str, object]) -> tuple[str | None, OutlierOptions | None]:
    """Policy and outlier detection of the first entry that is known here, as gRFC A24 has it."""
    entries = _list("loadBalancingConfig", fields.get("loadBalancingConfig", []))
    if not entries:
        return policy_of_grpc(str(fields.get("loadBalancingPolicy", "")).lower()), None
    given = [_entry(entry) for entry in entries]
    for name, config in given:
        if name == _OUTLIER_DETECTION:
            options = _object(name, config)
            return _policy({"loadBalancingConfig": options.get("childPolicy", [])})[0], _outlier(name, options)
        if name in _POLICIES or name in names():
            return _spec(name, _object(name, config)), None
    unknown = ", ".join(repr(name) for name, _ in given)
    known = sorted({*_POLICIES, *names(), _OUTLIER_DETECTION})
    raise ValueError(f"loadBalancingConfig: no policy is known of {unknown}; known are {', '.join(known)}")


def _entry(entry: object) -> tuple[str, object]:
    named = _object("loadBalancingConfig", entry)
    if len(named) != 1:
        raise ValueError("loadBalancingConfig: each entry names exactly one policy")
    return next(iter(named.items()))


def _spec(name: str, config: Mapping[str, object]) -> str:
    """What `balancer.policies.policy` takes, checked by it."""
    ours = _POLICIES.get(name, name)
    options = _TRANSLATED[name](config) if name in _TRANSLATED else config
    pairs = [f"{option}={_text(f'{name}.{option}', value)}" for option, value in options.items()]
    spec = "?".join((ours, "&".join(pairs))) if pairs else ours
    try:
        policy_named(spec)
    except ValueError as error:
        raise ValueError(f"loadBalancingConfig: {error}") from error
    return spec


def _text(where: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():  # JSON knows one kind of number
        return str(int(value))
    if not isinstance(value, str | int | float) or "&" in str(value):
        raise ValueError(f"{where}: must be a text without & or a number, is {value!r}")
    return str(value)


def _no_options(_config: Mapping[str, object]) -> dict[str, object]:
    return {}


def _pick_first(config: Mapping[str, object]) -> dict[str, object]:
    shuffle = config.get("shuffleAddressList", config.get("shuffle", False))
    return {"shuffle": True} if _boolean("pick_first.shuffleAddressList", shuffle) else {}


def _least_request(config: Mapping[str, object]) -> dict[str, object]:
    # A48 allows a number above two to be taken as another one; here it is two, or all of a small fleet.
    count = _whole("least_request_experimental.choiceCount", config.get("choiceCount", _MOST), 2, _MOST)
    return {"choices": 2} if count == 2 else {}


def _ring_hash(config: Mapping[str, object]) -> dict[str, object]:
    where = "ring_hash_experimental"
    least = _whole(f"{where}.minRingSize", config.get("minRingSize", 1), 1, _RING_LIMIT)
    _whole(f"{where}.maxRingSize", config.get("maxRingSize", _RING_LIMIT), least, _RING_LIMIT)
    # Points of each node, not of all: a number that followed the size of the fleet would move keys that stay.
    points = min(least, _RING_CAP)
    return {"virtual_nodes": points} if points > VIRTUAL_NODES else {}


def _outlier(where: str, fields: Mapping[str, object]) -> OutlierOptions | None:
    """gRFC A50. None when neither rule is asked for: nothing would ever be ejected."""
    rate = _optional(fields, "successRateEjection", lambda value: _success_rate(f"{where}.successRateEjection", value))
    failures = _optional(
        fields, "failurePercentageEjection", lambda value: _failures(f"{where}.failurePercentageEjection", value)
    )
    if rate is None and failures is None:
        return None
    return OutlierOptions(
        _positive(f"{where}.interval", _duration(f"{where}.interval", fields.get("interval", "10s"))),
        _positive(
            f"{where}.baseEjectionTime", _duration(f"{where}.baseEjectionTime", fields.get("baseEjectionTime", "30s"))
        ),
        _positive(
            f"{where}.maxEjectionTime", _duration(f"{where}.maxEjectionTime", fields.get("maxEjectionTime", "300s"))
        ),
        _whole(f"{where}.maxEjectionPercent", fields.get("maxEjectionPercent", 10), 0, 100),
        rate,
        failures,
        consecutive_failures=None,
    )


def _success_rate(where: str, value: object) -> SuccessRate:
    fields = _object(where, value)
    return SuccessRate(
        _whole(f"{where}.stdevFactor", fields.get("stdevFactor", 1900), 0, _MOST),
        _whole(f"{where}.enforcementPercentage", fields.get("enforcementPercentage", 100), 0, 100),
        _whole(f"{where}.minimumHosts", fields.get("minimumHosts", 5), 0, _MOST),
        _whole(f"{where}.requestVolume", fields.get("requestVolume", 100), 0, _MOST),
    )


def _failures(where: str, value: object) -> FailurePercentage:
    fields = _object(where, value)
    return FailurePercentage(
        _whole(f"{where}.threshold", fields.get("threshold", 85), 0, 100),
        _whole(f"{where}.enforcementPercentage", fields.get("enforcementPercentage", 100), 0, 100),
        _whole(f"{where}.minimumHosts", fields.get("minimumHosts", 5), 0, _MOST),
        _whole(f"{where}.requestVolume", fields.get("requestVolume", 50), 0, _MOST),
    )


_TRANSLATED: Mapping[str, Callable[[Mapping[str, object]], dict[str, object]]] = MappingProxyType(
    {
        "pick_first": _pick_first,
        "round_robin": _no_options,
        "weighted_round_robin": _no_options,
        "least_request_experimental": _least_request,
        "ring_hash_experimental": _ring_hash,
    }
)


def _optional(fields: Mapping[str, object], key: str, parse: Callable[[object], T]) -> T | None:
    return None if fields.get(key) is None else parse(fields[key])


def _object(where: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: must be an object, is {value!r}")  # noqa: TRY004 - a mistake in the config, not in the program
    return value


def _list(where: str, value: object) -> list[object] | tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: must be a list, is {value!r}")  # noqa: TRY004
    return value


def _string(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: must be a text, is {value!r}")  # noqa: TRY004
    return value


def _boolean(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where}: must be true or false, is {value!r}")  # noqa: TRY004
    return value


def _size(where: str, value: object) -> int:
    """A number of bytes; JSON has them as text, too."""
    return _whole(where, int(value) if isinstance(value, str) and value.isdecimal() else value, 0, _MOST)


def _positive(where: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"{where}: must be a number above 0, is {value!r}")
    return float(value)


def _whole(where: str, value: object, least: int, most: int) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or value != value // 1
        or not least <= value <= most
    ):
        raise ValueError(f"{where}: must be a whole number, {least} to {most}, is {value!r}")
    return int(value)


def _duration(where: str, value: object) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{where}: must be a duration such as '1.5s', is {value!r}")
    return float(match[0][:-1])


def _codes(where: str, values: object) -> frozenset[int]:
    return frozenset(_code(where, value) for value in _list(where, values))


def _code(where: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(_CODES):
        return value
    if isinstance(value, str) and value.upper() in _CODES:
        return _CODES.index(value.upper())
    raise ValueError(f"{where}: {value!r} is not a status code")
