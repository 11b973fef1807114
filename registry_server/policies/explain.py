"""CORE: what each kind of client makes of a policy: measured, and true of what is sent to it (xds/traffic.py)."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from registry_api.registry.v1 import policies_pb2 as pb

REGISTRY, C_CORE, GO, JAVA, NODE, RUST, ENVOY = "registry", "c-core", "go", "java", "node", "rust", "envoy"
CLIENTS = (REGISTRY, C_CORE, GO, JAVA, NODE, RUST, ENVOY)

_Balancing = pb.Policy


class Shortcoming(NamedTuple):
    """What a kind of client does not do, or not quite."""

    follows: "pb.Verdict.Follows.ValueType"
    note: str


_IN_TURN = Shortcoming(pb.Verdict.NOT, "this client has no such policy, and takes the instances in turn, by weight")
_BY_CLASS = Shortcoming(pb.Verdict.PARTLY, "by weight first; who has fewer calls counts among instances of one weight")
_TWO_CHOICES = Shortcoming(
    pb.Verdict.PARTLY, "this client knows no weights: of two instances drawn by chance the one with fewer calls"
)
_ANYWHERE = Shortcoming(
    pb.Verdict.NOT, "this client has no such policy: of two instances drawn by chance the one with fewer calls"
)
_NO_SUCH = Shortcoming(pb.Verdict.NOT, "this client has no such thing, and goes on as without")
_NOT_IN_A_ROW = Shortcoming(
    pb.Verdict.NOT, "gRPC's xDS clients count no failures in a row; failure_percentage and success_rate they follow"
)
_UNDIVIDED = Shortcoming(
    pb.Verdict.NOT, "this client hangs when the parts of a split change, and is given none: all instances get its calls"
)

# What is not here is followed wholly. Kinds of balancing stand by their numbers, all else by its name.
_SHORT: Mapping[str, Mapping[str | int, Shortcoming]] = MappingProxyType(
    {
        REGISTRY: {},
        C_CORE: {
            _Balancing.LEAST_REQUEST: _IN_TURN,
            "outlier_detection.consecutive_failures": _NOT_IN_A_ROW,
        },
        GO: {
            _Balancing.LEAST_REQUEST: _BY_CLASS,
            "outlier_detection.consecutive_failures": _NOT_IN_A_ROW,
        },
        JAVA: {
            _Balancing.LEAST_REQUEST: _BY_CLASS,
            "outlier_detection.consecutive_failures": _NOT_IN_A_ROW,
        },
        NODE: {
            _Balancing.LEAST_REQUEST: _IN_TURN,
            _Balancing.PICK_FIRST: _IN_TURN,
            "outlier_detection.consecutive_failures": _NOT_IN_A_ROW,
        },
        RUST: {
            _Balancing.ROUND_ROBIN: _TWO_CHOICES,
            _Balancing.LEAST_REQUEST: _TWO_CHOICES,
            _Balancing.RING_HASH: _ANYWHERE,
            _Balancing.PICK_FIRST: _ANYWHERE,
            "timeout": _NO_SUCH,
            "circuit_breaking": _NO_SUCH,
            "outlier_detection": _NO_SUCH,
            "split": _UNDIVIDED,
        },
        ENVOY: {_Balancing.PICK_FIRST: _IN_TURN},
    }
)


def of(policy: pb.Policy) -> list[pb.Explanation]:
    """What becomes of a policy that is good, at each kind of client."""
    return [pb.Explanation(client=client, verdicts=_verdicts(policy, _SHORT[client])) for client in CLIENTS]


def _verdicts(policy: pb.Policy, short: Mapping[str | int, Shortcoming]) -> Iterator[pb.Verdict]:
    if policy.balancing:
        yield _verdict("balancing", short.get(policy.balancing))
    for field in ("timeout", "retries", "circuit_breaking"):
        if policy.HasField(field):
            yield _verdict(field, short.get(field))
    if policy.HasField("outlier_detection"):
        yield from _outliers(policy.outlier_detection, short)
    if policy.split:
        yield _verdict("split", short.get("split"))


def _outliers(it: pb.OutlierDetection, short: Mapping[str | int, Shortcoming]) -> Iterator[pb.Verdict]:
    name = "outlier_detection"
    if name in short:
        yield _verdict(name, short[name])
        return
    if it.HasField("failure_percentage"):
        yield _verdict(f"{name}.failure_percentage", None)
    if it.HasField("success_rate"):
        yield _verdict(f"{name}.success_rate", None)
    if it.consecutive_failures:
        yield _verdict(f"{name}.consecutive_failures", short.get(f"{name}.consecutive_failures"))


def _verdict(field: str, found: Shortcoming | None) -> pb.Verdict:
    follows, note = found or (pb.Verdict.WHOLLY, "")
    return pb.Verdict(field=field, follows=follows, note=note)
