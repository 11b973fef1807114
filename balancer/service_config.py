"""CORE: gRPC's service config (grpc/doc/service_config.md, gRFCs A2, A6, A17), from its JSON form to checked values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from balancer.retry import ATTEMPTS_LIMIT, HedgingPolicy, RetryPolicy, Throttle

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

# gRPC's names of load-balancing policies, and ours of the same thing.
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
class ServiceConfig:
    """A whole service config."""

    methods: Mapping[tuple[str, str], MethodConfig] = field(default_factory=dict)
    """By service and method; an empty method stands for all of a service, an empty service for everything."""
    throttle: Throttle | None = None
    policy: str | None = None
    """`loadBalancingConfig`: the first policy of the list that is known here."""
    health_service: str | None = None

    @property
    def tries_again(self) -> bool:
        """True when calls of some method are retried or hedged."""
        return any(method.retry or method.hedging for method in self.methods.values())

    def method(self, path: str) -> MethodConfig | None:
        """The entry for `/package.Service/Method`: the most specific one that names it."""
        _, service, name = ("", *path.strip("/").split("/", 1), "")[:3]
        for key in ((service, name), (service, ""), ("", "")):
            if key in self.methods:
                return self.methods[key]
        return None


def parse_service_config(config: str | Mapping[str, Any] | None) -> ServiceConfig:
    """A service config from JSON text or from its mapping; None gives an empty one.

    Raises ValueError that names the field for what A2 and A6 do not allow. Unknown fields are ignored, as they say.
    """
    if config is None:
        return ServiceConfig()
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except ValueError as error:
            raise ValueError(f"service config: not JSON: {error}") from error
    fields = _object("service config", config)
    throttling = fields.get("retryThrottling")
    health = _object("healthCheckConfig", fields.get("healthCheckConfig") or {})
    return ServiceConfig(
        _methods(fields.get("methodConfig", [])),
        None if throttling is None else _throttle(_object("retryThrottling", throttling)),
        _policy(fields),
        health.get("serviceName"),
    )


def _methods(entries: Any) -> dict[tuple[str, str], MethodConfig]:
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


def _name(where: str, fields: Mapping[str, Any]) -> tuple[str, str]:
    service, method = fields.get("service") or "", fields.get("method") or ""
    if method and not service:
        raise ValueError(f"{where}: method {method!r} without its service")
    return service, method


def _method(where: str, fields: Mapping[str, Any]) -> MethodConfig:
    if "retryPolicy" in fields and "hedgingPolicy" in fields:
        raise ValueError(f"{where}: retryPolicy and hedgingPolicy exclude each other")
    return MethodConfig(
        _optional(fields, "timeout", lambda value: _duration(f"{where}.timeout", value)),
        _optional(fields, "waitForReady", lambda value: _boolean(f"{where}.waitForReady", value)),
        _optional(fields, "retryPolicy", lambda value: _retry(f"{where}.retryPolicy", _object(where, value))),
        _optional(fields, "hedgingPolicy", lambda value: _hedging(f"{where}.hedgingPolicy", _object(where, value))),
    )


def _retry(where: str, fields: Mapping[str, Any]) -> RetryPolicy:
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


def _hedging(where: str, fields: Mapping[str, Any]) -> HedgingPolicy:
    return HedgingPolicy(
        _attempts(where, fields),
        _duration(f"{where}.hedgingDelay", fields.get("hedgingDelay", "0s")),
        _codes(f"{where}.nonFatalStatusCodes", fields.get("nonFatalStatusCodes", [])),
    )


def _attempts(where: str, fields: Mapping[str, Any]) -> int:
    attempts = fields.get("maxAttempts")
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 2:
        raise ValueError(f"{where}.maxAttempts: must be a whole number above 1, is {attempts!r}")
    return min(attempts, ATTEMPTS_LIMIT)


def _throttle(fields: Mapping[str, Any]) -> Throttle:
    tokens = _positive("retryThrottling.maxTokens", fields.get("maxTokens"))
    if tokens > 1000:
        raise ValueError(f"retryThrottling.maxTokens: must not be above 1000, is {tokens:g}")
    return Throttle(tokens, round(_positive("retryThrottling.tokenRatio", fields.get("tokenRatio")), 3))


def _policy(fields: Mapping[str, Any]) -> str | None:
    for entry in _list("loadBalancingConfig", fields.get("loadBalancingConfig", [])):
        named = _object("loadBalancingConfig", entry)
        if len(named) != 1:
            raise ValueError("loadBalancingConfig: each entry names exactly one policy")
        name, config = next(iter(named.items()))
        if name in _POLICIES:
            return _POLICIES[name]
        if isinstance(config, Mapping) and "childPolicy" in config:
            return _policy({"loadBalancingConfig": config["childPolicy"]})
    name = str(fields.get("loadBalancingPolicy", "")).lower()
    return _POLICIES.get(name)


def _optional(fields: Mapping[str, Any], key: str, parse: Callable[[Any], Any]) -> Any:
    return None if fields.get(key) is None else parse(fields[key])


def _object(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: must be an object, is {value!r}")  # noqa: TRY004 - a mistake in the config, not in the program
    return value


def _list(where: str, value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: must be a list, is {value!r}")  # noqa: TRY004
    return value


def _boolean(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where}: must be true or false, is {value!r}")  # noqa: TRY004
    return value


def _positive(where: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"{where}: must be a number above 0, is {value!r}")
    return float(value)


def _duration(where: str, value: Any) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{where}: must be a duration such as '1.5s', is {value!r}")
    return float(match[0][:-1])


def _codes(where: str, values: Any) -> frozenset[int]:
    return frozenset(_code(where, value) for value in _list(where, values))


def _code(where: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(_CODES):
        return value
    if isinstance(value, str) and value.upper() in _CODES:
        return _CODES.index(value.upper())
    raise ValueError(f"{where}: {value!r} is not a status code")
