"""CORE: what some client would not take. A client that rejects a resource goes on with what it had, for as long as the
flaw is there: so each is looked at by the rules of them all before it is sent to any."""

from collections.abc import Iterator

from google.protobuf.duration_pb2 import Duration

from registry_api.registry.xds.v1 import resources_pb2 as xds
from registry_server.xds.kinds import MAX_PORT, numeric

# What clients take of a message, with room for what goes around a resource.
MAX_RESOURCE_BYTES = 4_000_000
# What the weights of one priority, or of one route, may add up to.
MAX_WEIGHTS = 2**32 - 1
_EDS, _ROUND_ROBIN = 3, 0
_RETRIED = frozenset({"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"})
_RETRIED_BY_ENVOY = frozenset({"connect-failure", "refused-stream"})


def of_cluster(it: xds.Cluster) -> Iterator[str]:
    """What is wrong with a cluster."""
    if not it.name:
        yield "it has no name"
    if it.type != _EDS or it.eds_cluster_config.eds_config.WhichOneof("source") != "ads":
        yield "its endpoints are not asked for on the same stream"
    if it.lb_policy != _ROUND_ROBIN:
        yield "its old kind of balancing policy is not round robin"
    for choice in it.load_balancing_policy.policies:
        if not choice.typed_extension_config.typed_config.type_url:
            yield "a balancing policy has no type"
    for thresholds in it.circuit_breakers.thresholds:
        if thresholds.HasField("max_requests") and not thresholds.max_requests.value:
            yield "it lets no call through"
    yield from _of_outliers(it.outlier_detection)


def _of_outliers(it: xds.OutlierDetection) -> Iterator[str]:
    percentages = (
        it.max_ejection_percent,
        it.enforcing_success_rate,
        it.enforcing_failure_percentage,
        it.enforcing_consecutive_5xx,
        it.failure_percentage_threshold,
    )
    if any(percentage.value > 100 for percentage in percentages):
        yield "a percentage of outlier detection is more than 100"
    if any(_ns(time) < 0 for time in (it.interval, it.base_ejection_time, it.max_ejection_time)):
        yield "a time of outlier detection is less than nothing"


def of_action(it: xds.RouteAction) -> Iterator[str]:
    """What is wrong with the way to a cluster."""
    shares = [share.weight.value for share in it.weighted_clusters.clusters]
    if not it.cluster and not (all(shares) and 0 < sum(shares) <= MAX_WEIGHTS):
        yield "it leads nowhere, or by weights that are none"
    if it.HasField("retry_policy"):
        yield from _of_retries(it.retry_policy)
    for policy in it.hash_policy:
        if not policy.header.header_name and not policy.filter_state.key:
            yield "it hashes nothing"
    for limit in (
        it.timeout,
        it.max_stream_duration.max_stream_duration,
        it.max_stream_duration.grpc_timeout_header_max,
    ):
        if _ns(limit) < 0:
            yield "a time limit is less than nothing"


def _of_retries(it: xds.RetryPolicy) -> Iterator[str]:
    if not set(filter(None, it.retry_on.split(","))) <= _RETRIED | _RETRIED_BY_ENVOY:
        yield f"nobody knows when to try again: {it.retry_on[:80]!r}"
    if it.HasField("num_retries") and not it.num_retries.value:
        yield "it is tried again no times"
    backoff = it.retry_back_off
    if it.HasField("retry_back_off") and not 0 < _ns(backoff.base_interval) <= _ns(backoff.max_interval):
        yield "the pauses between tries are none"


def of_assignment(it: xds.ClusterLoadAssignment) -> Iterator[str]:
    """What is wrong with the endpoints of a cluster."""
    if it.ByteSize() > MAX_RESOURCE_BYTES:
        yield "it is larger than a message may be"
    addresses: set[tuple[str, int]] = set()
    places: set[tuple[int, str, str, str]] = set()
    sums: dict[int, int] = {}
    for locality in it.endpoints:
        where = locality.locality
        place = (locality.priority, where.region, where.zone, where.sub_zone)
        if not locality.HasField("locality") or place in places:
            yield "a locality has no name, or that of another one"
        places.add(place)
        if not locality.load_balancing_weight.value:
            yield "a locality has no weight"
        sums[locality.priority] = sums.get(locality.priority, 0) + locality.load_balancing_weight.value
        for point in locality.lb_endpoints:
            yield from _of_endpoint(point, addresses)
    if any(total > MAX_WEIGHTS for total in sums.values()):
        yield "the weights of a priority add up to too much"
    if sorted(sums) != list(range(len(sums))):
        yield "there is a gap between priorities"


def _of_endpoint(it: xds.LbEndpoint, addresses: set[tuple[str, int]]) -> Iterator[str]:
    at = it.endpoint.address.socket_address
    if numeric(at.address) != at.address or not 0 < at.port_value <= MAX_PORT:
        yield "an address is no number, or has no port"
    if (at.address, at.port_value) in addresses:
        yield "an address is there twice"
    addresses.add((at.address, at.port_value))
    if it.HasField("load_balancing_weight") and not it.load_balancing_weight.value:
        yield "an endpoint has no weight"


def _ns(it: Duration) -> int:
    return it.seconds * 10**9 + it.nanos
