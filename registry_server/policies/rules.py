"""CORE: what may stand in a traffic policy: the same rules for a request and for what a store holds.

Each check names the field it finds wrong by raising InvalidField, and fills in the defaults of what is not set.
"""

import re

from google.protobuf.duration_pb2 import Duration

from registry_api.limits import MAX_NAME, MAX_WEIGHT
from registry_api.registry.v1 import policies_pb2 as pb
from registry_server import fields
from registry_server.errors import InvalidField
from registry_server.rules import seconds

DAY_S = 86_400.0
MIN_TIMEOUT_S = 0.001
# With pauses below 2 ms, calls that C-core tries again hang for good.
MIN_BACKOFF_S, BACKOFF_S, MAX_BACKOFF_S, MAX_PAUSE_S = 0.005, 0.025, 60.0, 600.0
# The longest pause is by default so many times the first one.
BACKOFF_GROWS = 10
MAX_RETRIES = 4
MAX_PARTS = 16
MIN_INTERVAL_S, INTERVAL_S, MAX_INTERVAL_S = 0.1, 10.0, 3600.0
EJECTION_S, MAX_EJECTION_S = 30.0, 300.0
EJECTED_PERCENT = 10
# Of what is counted in outlier detection.
MOST = 1_000_000
THRESHOLD, STDEV_FACTOR, HOSTS = 85, 1_900, 5
FAILURES_OF, SUCCESSES_OF = 50, 100

_BALANCING = frozenset(pb.Policy.Balancing.values())
_CODES = frozenset(pb.Retries.Code.values()) - {pb.Retries.CODE_UNSPECIFIED}
_HEADER = re.compile(r"(?!grpc-)(?!.*-bin$)[a-z0-9_.-]{1,128}")
_HEADER_RULE = "must be 1 to 128 lower-case letters, digits and any of _ . -, and not grpc-… nor …-bin"


def settled(asked: pb.Policy, field: str = "policy") -> pb.Policy:
    """A policy as it is kept, as a value of its own. `field` is where it stands. Raises InvalidField."""
    it = pb.Policy()
    it.CopyFrom(asked)
    it.DiscardUnknownFields()
    it.ClearField("revision")
    it.ClearField("flaw")
    it.namespace = fields.namespace(f"{field}.namespace", it.namespace)
    fields.name(f"{field}.service", it.service)
    _balancing(it, field)
    if it.HasField("timeout"):
        _time(f"{field}.timeout", it.timeout, MIN_TIMEOUT_S, DAY_S)
    if it.HasField("retries"):
        _retries(it.retries, f"{field}.retries")
    if it.HasField("circuit_breaking") and not it.circuit_breaking.max_requests:
        raise InvalidField(f"{field}.circuit_breaking.max_requests", "must be 1 or more")
    if it.HasField("outlier_detection"):
        _outliers(it.outlier_detection, f"{field}.outlier_detection")
    _split(it, f"{field}.split")
    return it


def _balancing(it: pb.Policy, field: str) -> None:
    if it.balancing not in _BALANCING:
        raise InvalidField(f"{field}.balancing", f"has no value {it.balancing}")
    if it.balancing != pb.Policy.RING_HASH:
        if it.hash_header:
            raise InvalidField(f"{field}.hash_header", "goes with RING_HASH")
    elif _HEADER.fullmatch(it.hash_header) is None:
        raise InvalidField(f"{field}.hash_header", _HEADER_RULE if it.hash_header else "is required with RING_HASH")


def _retries(it: pb.Retries, field: str) -> None:
    if not 1 <= it.attempts <= MAX_RETRIES:
        raise InvalidField(f"{field}.attempts", f"must be 1 to {MAX_RETRIES}, is {it.attempts}")
    for code in it.codes:
        if code not in _CODES:
            raise InvalidField(f"{field}.codes", f"has no value {code}")
    codes = sorted(set(it.codes)) or [pb.Retries.UNAVAILABLE]
    del it.codes[:]
    it.codes.extend(codes)
    first_s = _span(f"{field}.backoff", it.backoff, MIN_BACKOFF_S, MAX_BACKOFF_S, BACKOFF_S)
    _span(f"{field}.max_backoff", it.max_backoff, first_s, MAX_PAUSE_S, first_s * BACKOFF_GROWS)


def _outliers(it: pb.OutlierDetection, field: str) -> None:
    if not (it.consecutive_failures or it.HasField("failure_percentage") or it.HasField("success_rate")):
        raise InvalidField(field, "needs one of consecutive_failures, failure_percentage and success_rate")
    _span(f"{field}.interval", it.interval, MIN_INTERVAL_S, MAX_INTERVAL_S, INTERVAL_S)
    first_s = _span(f"{field}.base_ejection_time", it.base_ejection_time, MIN_INTERVAL_S, DAY_S, EJECTION_S)
    _span(f"{field}.max_ejection_time", it.max_ejection_time, first_s, DAY_S, max(first_s, MAX_EJECTION_S))
    it.max_ejection_percent = _count(f"{field}.max_ejection_percent", it.max_ejection_percent, 100, EJECTED_PERCENT)
    _count(f"{field}.consecutive_failures", it.consecutive_failures, MOST, 0)
    if it.HasField("failure_percentage"):
        rule, at = it.failure_percentage, f"{field}.failure_percentage"
        rule.threshold = _count(f"{at}.threshold", rule.threshold, 100, THRESHOLD)
        _counted(rule, at, FAILURES_OF)
    if it.HasField("success_rate"):
        at = f"{field}.success_rate"
        it.success_rate.stdev_factor = _count(f"{at}.stdev_factor", it.success_rate.stdev_factor, MOST, STDEV_FACTOR)
        _counted(it.success_rate, at, SUCCESSES_OF)


def _counted(it: pb.OutlierDetection.FailurePercentage | pb.OutlierDetection.SuccessRate, at: str, volume: int) -> None:
    it.minimum_hosts = _count(f"{at}.minimum_hosts", it.minimum_hosts, MOST, HOSTS)
    it.request_volume = _count(f"{at}.request_volume", it.request_volume, MOST, volume)


def _split(it: pb.Policy, field: str) -> None:
    if not it.split:
        return
    if len(it.split) > MAX_PARTS:
        raise InvalidField(field, f"must be at most {MAX_PARTS} parts, are {len(it.split)}")
    seen: set[tuple[str | None, str, str]] = set()
    for index, part in enumerate(it.split):
        at, kind = f"{field}[{index}]", part.WhichOneof("fits")
        if kind is None and index < len(it.split) - 1:
            raise InvalidField(at, "a part without a version or a tag is the rest, and comes last")
        _text(f"{at}.version", part.version, required=kind == "version")
        _text(f"{at}.tag", part.tag, required=kind == "tag")
        if (name := (kind, part.version, part.tag)) in seen:
            raise InvalidField(at, "is there twice")
        seen.add(name)
        if part.weight > MAX_WEIGHT:
            raise InvalidField(f"{at}.weight", f"must be at most {MAX_WEIGHT}, is {part.weight}")
    if not any(part.weight for part in it.split):
        raise InvalidField(field, "one part must have a weight above 0")


def _text(field: str, value: str, *, required: bool) -> None:
    if required and not value:
        raise InvalidField(field, "must not be empty")
    if len(value) > MAX_NAME or not value.isprintable():
        raise InvalidField(field, f"must be at most {MAX_NAME} printable characters")


def _span(field: str, value: Duration, least_s: float, most_s: float, default_s: float) -> float:
    """The time span, in seconds; the default is put in its place if there is none."""
    if not value.seconds and not value.nanos:
        value.CopyFrom(seconds(default_s))
    return _time(field, value, least_s, most_s)


def _time(field: str, value: Duration, least_s: float, most_s: float) -> float:
    """A time span, in seconds, which is written in the one way that all clients take: without a sign of its nanos."""
    found = fields.duration_s(field, value, least_s, most_s)
    value.FromNanoseconds(value.ToNanoseconds())
    return found


def _count(field: str, value: int, most: int, default: int) -> int:
    if value > most:
        raise InvalidField(field, f"must be at most {most}, is {value}")
    return value or default
