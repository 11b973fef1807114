"""CORE: traffic policies into what the balancer takes: a service config, and the endpoints that get calls at all."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from balancer.calls.retry import ATTEMPTS_LIMIT, RetryPolicy
from balancer.policies.split import Marked, Part
from balancer.pool.outlier import FailurePercentage, OutlierOptions, SuccessRate
from balancer.service_config import MethodConfig, ServiceConfig
from registry_api.registry.v1 import policies_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.duration_pb2 import Duration

Taken = TypeVar("Taken", bound=Marked)

DEFAULT_POLICY = "weighted_round_robin"
UNASKED = ServiceConfig()
"""Of a service without a policy, or no more."""

_BALANCING: Mapping[int, str] = MappingProxyType(
    {
        pb.Policy.ROUND_ROBIN: "weighted_round_robin",
        pb.Policy.LEAST_REQUEST: "least_connections",
        pb.Policy.RING_HASH: "consistent_hash",
        pb.Policy.PICK_FIRST: "pick_first",
    }
)
# gRPC's retries double their pauses.
_GROWS = 2.0
# Of a percentage: channels eject beyond their threshold, as gRFC A50 has it, and policies are of "this part or more".
_A_LITTLE = 1e-6
MAX_PARTS = 16
_HEADER = re.compile(r"[a-z0-9_.-]+")


def config_of(policy: pb.Policy | None) -> ServiceConfig:
    """What a channel goes by under that policy, but for its parts. Raises ValueError for one that cannot be."""
    if policy is None:
        return UNASKED
    if policy.hash_header and _HEADER.fullmatch(policy.hash_header) is None:
        raise ValueError("its hash_header is no metadata key")
    if len(policy.split) > MAX_PARTS:
        raise ValueError(f"its split has {len(policy.split)} parts")
    if policy.HasField("timeout") and not _seconds(policy.timeout):
        raise ValueError("its timeout leaves calls no time")
    method = MethodConfig(
        timeout_s=_seconds(policy.timeout) if policy.HasField("timeout") else None,
        retry=_retries(policy.retries) if policy.HasField("retries") else None,
    )
    return ServiceConfig(
        methods={("", ""): method} if method != MethodConfig() else {},
        policy=_BALANCING.get(policy.balancing),
        outlier=_outliers(policy.outlier_detection) if policy.HasField("outlier_detection") else None,
        hash_header=policy.hash_header or None,
        most_calls=max(1, policy.circuit_breaking.max_requests) if policy.HasField("circuit_breaking") else None,
    )


def divided(policy: pb.Policy | None, endpoints: Sequence[Taken]) -> tuple[tuple[Part, ...], Sequence[Taken]]:
    """The parts that have a share and somebody to take it, and the endpoints in them, in the given order.

    No parts, and all endpoints, for a policy without a split, and where nobody is in a part that has a share.
    """
    if policy is None or not policy.split:
        return (), endpoints
    given = [Part(max(1, part.weight), part.version, part.tag) for part in policy.split]
    found: dict[int, None] = {}
    taken: list[Taken] = []
    for endpoint in endpoints:
        number = next((number for number, part in enumerate(given) if part.fits(endpoint)), None)
        if number is not None and policy.split[number].weight:
            found[number] = None
            taken.append(endpoint)
    if not taken:
        return (), endpoints
    return tuple(given[number] for number in sorted(found)), taken


def _retries(it: pb.Retries) -> RetryPolicy:
    first_s, most_s = _seconds(it.backoff), _seconds(it.max_backoff)
    if not (first_s > 0 and most_s > 0 and it.attempts):
        raise ValueError("its retries have no pause, or no attempts")
    return RetryPolicy(min(it.attempts + 1, ATTEMPTS_LIMIT), first_s, most_s, _GROWS, frozenset(map(int, it.codes)))


def _outliers(it: pb.OutlierDetection) -> OutlierOptions:
    by_rate, by_failures = it.success_rate, it.failure_percentage
    return OutlierOptions(
        _seconds(it.interval),
        _seconds(it.base_ejection_time),
        _seconds(it.max_ejection_time),
        it.max_ejection_percent,
        SuccessRate(by_rate.stdev_factor, 100, by_rate.minimum_hosts, by_rate.request_volume)
        if it.HasField("success_rate")
        else None,
        FailurePercentage(by_failures.threshold - _A_LITTLE, 100, by_failures.minimum_hosts, by_failures.request_volume)
        if it.HasField("failure_percentage")
        else None,
        it.consecutive_failures or None,
    )


def _seconds(span: Duration) -> float:
    found = span.ToNanoseconds() / 1e9
    if found < 0:
        raise ValueError("a time span of it is negative")
    return found
