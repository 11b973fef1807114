"""CORE: traffic policies for xDS clients: what each kind of them takes, and no more. See policies/explain.py for what
becomes of the rest.

None may be given what it would reject, for then it would follow nothing: Envoy and Node know no pick_first, C-core and
Node no least_request, and Rust looks at next to nothing.
"""

from collections.abc import Mapping
from types import MappingProxyType

from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import UInt32Value, UInt64Value

from registry_api.registry.v1 import policies_pb2 as pb
from registry_api.registry.xds.v1 import resources_pb2 as xds
from registry_server.xds.kinds import ClientKind
from registry_server.xds.listeners import any_message

_POLICIES = "envoy.extensions.load_balancing_policies."
_XX_HASH = 1
# Envoy would give an instance of a very small share its place on the ring at the price of 8,388,608 places, of 400 MB,
# and of seconds with each change. gRPC's clients stop at less than this, and Node refuses to be told of it.
_MAX_RING = UInt64Value(value=65_536)
_HASHING = frozenset({ClientKind.C_CORE, ClientKind.GO, ClientKind.JAVA, ClientKind.NODE, ClientKind.ENVOY})
_PICKING_FIRST = frozenset({ClientKind.C_CORE, ClientKind.GO, ClientKind.JAVA})
_CONDITIONS: Mapping[int, str] = MappingProxyType(
    {
        pb.Retries.CANCELLED: "cancelled",
        pb.Retries.DEADLINE_EXCEEDED: "deadline-exceeded",
        pb.Retries.INTERNAL: "internal",
        pb.Retries.RESOURCE_EXHAUSTED: "resource-exhausted",
        pb.Retries.UNAVAILABLE: "unavailable",
    }
)
# Envoy says so itself of what never reached an instance, which gRPC's clients call UNAVAILABLE.
_NEVER_THERE = ("connect-failure", "refused-stream")


def one_locality(policy: pb.Policy | None) -> bool:
    """Whether the weights of endpoints are to stand in one locality: hashing would count those of several twice."""
    return policy is not None and policy.balancing == pb.Policy.RING_HASH


def divides(kind: ClientKind) -> bool:
    """Whether that kind of client is given the parts of a split. tonic-xds takes them, but its calls hang for good once
    the parts are others."""
    return kind is not ClientKind.RUST


def to_cluster(cluster: xds.Cluster, policy: pb.Policy, kind: ClientKind) -> None:
    """Have a cluster follow a policy, as far as that kind of client does."""
    choice = _choice(policy.balancing, kind)
    if choice is not None:
        cluster.load_balancing_policy.policies.append(choice)
    if policy.HasField("circuit_breaking"):
        for thresholds in cluster.circuit_breakers.thresholds:
            thresholds.max_requests.value = policy.circuit_breaking.max_requests
    if policy.HasField("outlier_detection"):
        found = _outliers(policy.outlier_detection, in_a_row=kind is ClientKind.ENVOY)
        if found is not None:
            cluster.outlier_detection.CopyFrom(found)


def to_route(action: xds.RouteAction, policy: pb.Policy, kind: ClientKind) -> None:
    """Have the way to a service follow its policy."""
    if policy.HasField("timeout"):
        # With a timeout of the caller's own the shorter one counts, and without one this: the first is for that case.
        action.max_stream_duration.grpc_timeout_header_max.CopyFrom(policy.timeout)
        action.max_stream_duration.max_stream_duration.CopyFrom(policy.timeout)
    if policy.HasField("retries"):
        action.retry_policy.CopyFrom(_retries(policy.retries, kind))
    if policy.balancing == pb.Policy.RING_HASH and kind in _HASHING:
        action.hash_policy.add(header=xds.HashHeader(header_name=policy.hash_header))


def _choice(balancing: int, kind: ClientKind) -> xds.LoadBalancingChoice | None:
    """None where what clients do without a word about it comes nearest: in turn, by weight."""
    match balancing:
        case pb.Policy.RING_HASH if kind in _HASHING:
            most = _MAX_RING if kind is ClientKind.ENVOY else None
            return _named("ring_hash.v3.RingHash", xds.RingHash(hash_function=_XX_HASH, maximum_ring_size=most))
        case pb.Policy.PICK_FIRST if kind in _PICKING_FIRST:
            return _named("pick_first.v3.PickFirst", xds.PickFirst())
        case pb.Policy.LEAST_REQUEST if kind is ClientKind.ENVOY:
            return _least_request()
        case pb.Policy.LEAST_REQUEST if kind in (ClientKind.GO, ClientKind.JAVA):
            within = xds.LoadBalancingPolicy(policies=[_least_request()])
            return _named("wrr_locality.v3.WrrLocality", xds.WrrLocality(endpoint_picking_policy=within))
    return None


def _least_request() -> xds.LoadBalancingChoice:
    return _named("least_request.v3.LeastRequest", xds.LeastRequest())


def _named(name: str, config: Message) -> xds.LoadBalancingChoice:
    extension = xds.Extension(
        name=_POLICIES + name.partition(".")[0], typed_config=any_message(_POLICIES + name, config)
    )
    return xds.LoadBalancingChoice(typed_extension_config=extension)


def _outliers(it: pb.OutlierDetection, *, in_a_row: bool) -> xds.OutlierDetection | None:
    """`in_a_row`: the client counts failures in a row. None if nothing is left that it does.

    Each rule is switched off where it is not asked for: some of them are on where nothing is said.
    """
    by_rate, by_failures = it.HasField("success_rate"), it.HasField("failure_percentage")
    row = it.consecutive_failures if in_a_row else 0
    if not (by_rate or by_failures or row):
        return None
    found = xds.OutlierDetection(
        interval=it.interval,
        base_ejection_time=it.base_ejection_time,
        max_ejection_time=it.max_ejection_time,
        max_ejection_percent=UInt32Value(value=it.max_ejection_percent),
        enforcing_consecutive_5xx=_on(bool(row)),
        enforcing_consecutive_gateway_failure=_on(False),
        enforcing_success_rate=_on(by_rate),
        enforcing_failure_percentage=_on(by_failures),
    )
    if row:
        found.consecutive_5xx.value = row
    if by_rate:
        found.success_rate_stdev_factor.value = it.success_rate.stdev_factor
        found.success_rate_minimum_hosts.value = it.success_rate.minimum_hosts
        found.success_rate_request_volume.value = it.success_rate.request_volume
    if by_failures:
        # gRPC's clients eject beyond it, which at 100 would be nobody.
        found.failure_percentage_threshold.value = min(it.failure_percentage.threshold, 100 if in_a_row else 99)
        found.failure_percentage_minimum_hosts.value = it.failure_percentage.minimum_hosts
        found.failure_percentage_request_volume.value = it.failure_percentage.request_volume
    return found


def _on(asked: bool) -> UInt32Value:
    return UInt32Value(value=100 if asked else 0)


def _retries(it: pb.Retries, kind: ClientKind) -> xds.RetryPolicy:
    conditions = [_CONDITIONS[code] for code in it.codes]
    if kind is ClientKind.ENVOY and pb.Retries.UNAVAILABLE in it.codes:
        conditions += _NEVER_THERE
    return xds.RetryPolicy(
        retry_on=",".join(conditions),
        num_retries=UInt32Value(value=it.attempts),
        retry_back_off=xds.RetryBackOff(base_interval=it.backoff, max_interval=it.max_backoff),
    )
