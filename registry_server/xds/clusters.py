"""CORE: clusters, and the way to them: what is the same with every policy and without one."""

from functools import cache

from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from registry_api.registry.xds.v1 import resources_pb2 as xds
from registry_server import wire
from registry_server.xds.listeners import ADS, NEVER, SELF, any_message, encoded

_EDS = 3
_NAME, _EDS_CONFIG, _SERVICE_NAME = 1, 3, 2
_TYPE = xds.Cluster(type=_EDS).SerializeToString()
_ADS = xds.EdsClusterConfig(eds_config=ADS).SerializeToString()
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
CONNECT_TIMEOUT_S = 5
# Without a word about it, clients let no more than 1,024 calls be under way.
_NO_LIMIT = UInt32Value(value=2**32 - 1)
_HTTP2 = any_message(
    _HTTP, xds.HttpProtocolOptions(explicit_http_config=xds.ExplicitHttpConfig(http2_protocol_options=xds.Nothing()))
)


def cluster(name: str) -> xds.Cluster:
    """A cluster whose endpoints are asked for by its own name: round robin by weight, no limits, loads reported.

    HTTP/2 has to be said for Envoy, and that it may not call whom it should not where most are ill.
    """
    found = xds.Cluster(
        name=name,
        type=_EDS,
        eds_cluster_config=xds.EdsClusterConfig(eds_config=ADS, service_name=name),
        connect_timeout=Duration(seconds=CONNECT_TIMEOUT_S),
        circuit_breakers=xds.CircuitBreakers(thresholds=[_thresholds()]),
        common_lb_config=xds.CommonLbConfig(healthy_panic_threshold=xds.Percent()),
        lrs_server=SELF,
    )
    found.typed_extension_protocol_options[_HTTP].CopyFrom(_HTTP2)
    return found


def plain(name: str) -> bytes:
    """The same, encoded to the same bytes, of which its version is made: there may be very many of them."""
    eds = _ADS + wire.message_field(_SERVICE_NAME, name.encode())
    return wire.message_field(_NAME, name.encode()) + _TYPE + wire.message_field(_EDS_CONFIG, eds) + _same()


@cache
def _same() -> bytes:
    """What all have in common."""
    found = cluster("")
    found.ClearField("type")
    found.ClearField("eds_cluster_config")
    return encoded(found)


def _thresholds() -> xds.Thresholds:
    return xds.Thresholds(
        max_connections=_NO_LIMIT, max_pending_requests=_NO_LIMIT, max_requests=_NO_LIMIT, max_retries=_NO_LIMIT
    )


def action(shares: list[tuple[str, int]]) -> xds.RouteAction:
    """The way to one cluster, or to several by weight; calls take as long as their callers let them."""
    found = xds.RouteAction(timeout=NEVER, max_stream_duration=xds.MaxStreamDuration(grpc_timeout_header_max=NEVER))
    if len(shares) == 1:
        found.cluster = shares[0][0]
        return found
    for name, weight in shares:
        found.weighted_clusters.clusters.add(name=name, weight=UInt32Value(value=weight))
    return found
