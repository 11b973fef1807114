"""CORE: how the traffic of a service is to be treated: the values that users write and see. See policies.proto."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from registry_api.limits import MAX_WEIGHT
from registry_api.registry.v1 import policies_pb2 as pb
from registry_client import checks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.duration_pb2 import Duration

DAY_S = 86_400.0
MAX_UINT32 = 2**32 - 1
REST = "rest"


class Balancing(StrEnum):
    """Which instance a call goes to."""

    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_REQUEST = "LEAST_REQUEST"
    RING_HASH = "RING_HASH"
    PICK_FIRST = "PICK_FIRST"


class RetryCode(StrEnum):
    """The statuses after which a call may be tried again."""

    CANCELLED = "CANCELLED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"


class Follows(StrEnum):
    """Whether a kind of client follows a part of a policy."""

    UNSPECIFIED = "UNSPECIFIED"
    WHOLLY = "WHOLLY"
    PARTLY = "PARTLY"
    NOT = "NOT"


@dataclass(frozen=True, slots=True)
class Retries:
    """`attempts`: how many more times, 1 to 4, after which `codes`. Pauses in seconds; None: ten times `backoff`."""

    attempts: int
    codes: Sequence[RetryCode | str] = (RetryCode.UNAVAILABLE,)
    backoff: float = 0.025
    max_backoff: float | None = None

    @classmethod
    def from_proto(cls, it: pb.Retries) -> Self:
        codes = tuple(RetryCode(pb.Retries.Code.Name(code)) for code in it.codes if code in _CODES)
        return cls(it.attempts, codes, _seconds(it.backoff) or 0.0, _seconds(it.max_backoff))

    def to_proto(self) -> pb.Retries:
        """As it is sent. Raises InvalidArgument."""
        made = pb.Retries(attempts=checks.whole("policy.retries.attempts", self.attempts, 0, MAX_UINT32))
        for code in checks.some_of("policy.retries.codes", RetryCode, self.codes):
            made.codes.append(pb.Retries.Code.Value(code))
        _span(made.backoff, "policy.retries.backoff", self.backoff)
        if self.max_backoff is not None:
            _span(made.max_backoff, "policy.retries.max_backoff", self.max_backoff)
        return made


@dataclass(frozen=True, slots=True)
class FailurePercentage:
    """Whose calls failed by this part or more, of `minimum_hosts` that had `request_volume` calls at the least."""

    threshold: int = 85
    minimum_hosts: int = 5
    request_volume: int = 50


@dataclass(frozen=True, slots=True)
class SuccessRate:
    """Whose calls went well so much less often than the others': in thousandths of the standard deviation."""

    stdev_factor: int = 1900
    minimum_hosts: int = 5
    request_volume: int = 100


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """Instances that fail more than others get no calls for a while. Times in seconds; one rule at the least."""

    consecutive_failures: int = 0
    failure_percentage: FailurePercentage | None = None
    success_rate: SuccessRate | None = None
    interval: float = 10.0
    base_ejection_time: float = 30.0
    max_ejection_time: float | None = None
    max_ejection_percent: int = 10

    @classmethod
    def from_proto(cls, it: pb.OutlierDetection) -> Self:
        by_failures, by_rate = it.failure_percentage, it.success_rate
        return cls(
            it.consecutive_failures,
            FailurePercentage(by_failures.threshold, by_failures.minimum_hosts, by_failures.request_volume)
            if it.HasField("failure_percentage")
            else None,
            SuccessRate(by_rate.stdev_factor, by_rate.minimum_hosts, by_rate.request_volume)
            if it.HasField("success_rate")
            else None,
            _seconds(it.interval) or 0.0,
            _seconds(it.base_ejection_time) or 0.0,
            _seconds(it.max_ejection_time),
            it.max_ejection_percent,
        )

    def to_proto(self) -> pb.OutlierDetection:
        """As it is sent. Raises InvalidArgument."""
        at = "policy.outlier_detection"
        made = pb.OutlierDetection()
        for name in ("consecutive_failures", "max_ejection_percent"):
            setattr(made, name, checks.whole(f"{at}.{name}", getattr(self, name), 0, MAX_UINT32))
        for name in ("interval", "base_ejection_time", "max_ejection_time"):
            if (value := getattr(self, name)) is not None:
                _span(getattr(made, name), f"{at}.{name}", value)
        by_failures = checks.instance_of(f"{at}.failure_percentage", FailurePercentage, self.failure_percentage)
        if by_failures is not None:
            _counts(made.failure_percentage, f"{at}.failure_percentage", by_failures)
        by_rate = checks.instance_of(f"{at}.success_rate", SuccessRate, self.success_rate)
        if by_rate is not None:
            _counts(made.success_rate, f"{at}.success_rate", by_rate)
        return made


@dataclass(frozen=True, slots=True)
class TrafficPart:
    """A part of the traffic: of the instances with that version, or that tag; with neither, of all the others."""

    weight: int
    version: str = ""
    tag: str = ""

    def to_proto(self) -> pb.Part:
        """As it is sent. Raises InvalidArgument."""
        weight = checks.whole("policy.split.weight", self.weight, 0, MAX_WEIGHT)
        version, tag = checks.text("policy.split.version", self.version), checks.text("policy.split.tag", self.tag)
        if version and tag:
            raise checks.wrong("policy.split", "a part is by version or by tag, not by both")
        if version:
            return pb.Part(version=version, weight=weight)
        return pb.Part(tag=tag, weight=weight) if tag else pb.Part(weight=weight)

    def __str__(self) -> str:
        named = f"version={self.version}" if self.version else f"tag={self.tag}" if self.tag else REST
        return f"{named}:{self.weight}"


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """How the traffic of a service is to be treated. What is not set is as without a policy. Times in seconds.

    `hash_header`: with RING_HASH. `circuit_breaking`: so many calls may be under way from one client, and one more
    fails. `split`: the traffic in parts, or `{"version=2.0": 10, "rest": 90}`. `flaw`: why the registry does not follow
    it, where somebody wrote into its store what is none.
    """

    service: str
    namespace: str = ""
    balancing: Balancing | str | None = None
    hash_header: str = ""
    timeout: float | None = None
    retries: Retries | None = None
    circuit_breaking: int | None = None
    outlier_detection: OutlierDetection | None = None
    split: Sequence[TrafficPart] | Mapping[str, int] = ()
    revision: int = field(default=0, compare=False)
    flaw: str = field(default="", compare=False)

    @classmethod
    def from_proto(cls, it: pb.Policy) -> Self:
        """The policy as the registry shows it."""
        return cls(
            it.service,
            it.namespace,
            Balancing(pb.Policy.Balancing.Name(it.balancing)) if it.balancing in _BALANCING else None,
            it.hash_header,
            it.timeout.ToNanoseconds() / 1e9 if it.HasField("timeout") else None,
            Retries.from_proto(it.retries) if it.HasField("retries") else None,
            it.circuit_breaking.max_requests if it.HasField("circuit_breaking") else None,
            OutlierDetection.from_proto(it.outlier_detection) if it.HasField("outlier_detection") else None,
            tuple(TrafficPart(part.weight, part.version, part.tag) for part in it.split),
            it.revision,
            it.flaw,
        )

    def to_proto(self) -> pb.Policy:
        """As it is sent. Raises InvalidArgument, which names the field, for what is no policy by its types."""
        made = pb.Policy(
            namespace=checks.name("policy.namespace", self.namespace, empty=True),
            service=checks.name("policy.service", self.service),
            hash_header=checks.text("policy.hash_header", self.hash_header),
        )
        if self.balancing is not None:
            made.balancing = pb.Policy.Balancing.Value(checks.one_of("policy.balancing", Balancing, self.balancing))
        if self.timeout is not None:
            _span(made.timeout, "policy.timeout", self.timeout)
        if self.circuit_breaking is not None:
            most = checks.whole("policy.circuit_breaking", self.circuit_breaking, 0, MAX_UINT32)
            made.circuit_breaking.CopyFrom(pb.CircuitBreaking(max_requests=most))
        if (retries := checks.instance_of("policy.retries", Retries, self.retries)) is not None:
            made.retries.CopyFrom(retries.to_proto())
        outliers = checks.instance_of("policy.outlier_detection", OutlierDetection, self.outlier_detection)
        if outliers is not None:
            made.outlier_detection.CopyFrom(outliers.to_proto())
        made.split.extend(part.to_proto() for part in parts_of(self.split))
        return made


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one part of a policy is followed by one kind of client, and in words what it does else."""

    client: str
    field: str
    follows: Follows
    note: str


def verdicts_of(answer: pb.PoliciesExplainResponse) -> tuple[Verdict, ...]:
    """All that is told of a policy."""
    return tuple(
        Verdict(told.client, it.field, _follows(it.follows), it.note)
        for told in answer.explanations
        for it in told.verdicts
    )


def parts_of(given: Sequence[TrafficPart] | Mapping[str, int]) -> tuple[TrafficPart, ...]:
    """The parts, of which a dict names each in short. Raises InvalidArgument."""
    if isinstance(given, Mapping):
        return tuple(_part(name, weight) for name, weight in given.items())
    return checks.all_of("policy.split", TrafficPart, given)


def _part(name: object, weight: int) -> TrafficPart:
    kind, _, value = checks.text("policy.split", name).partition("=")
    if kind in ("version", "tag") and value:
        return TrafficPart(weight, **{kind: value})
    if kind == REST and not value:
        return TrafficPart(weight)
    raise checks.wrong("policy.split", f"must be version=…, tag=… or {REST}", name)


_CODES = frozenset(pb.Retries.Code.values()) - {pb.Retries.CODE_UNSPECIFIED}
_BALANCING = frozenset(pb.Policy.Balancing.values()) - {pb.Policy.BALANCING_UNSPECIFIED}


def _follows(given: int) -> Follows:
    if given not in pb.Verdict.Follows.values():
        return Follows.UNSPECIFIED
    return Follows(pb.Verdict.Follows.Name(given).removeprefix("FOLLOWS_"))  # type: ignore[arg-type]


def _seconds(given: Duration) -> float | None:
    return given.ToNanoseconds() / 1e9 if given.seconds or given.nanos else None


def _span(message: Duration, field: str, value: object) -> None:
    message.FromNanoseconds(round(checks.seconds(field, value, 0.0, DAY_S) * 1e9))


def _counts(
    made: pb.OutlierDetection.FailurePercentage | pb.OutlierDetection.SuccessRate,
    at: str,
    rule: FailurePercentage | SuccessRate,
) -> None:
    made.SetInParent()
    for name in rule.__dataclass_fields__:
        setattr(made, name, checks.whole(f"{at}.{name}", getattr(rule, name), 0, MAX_UINT32))
