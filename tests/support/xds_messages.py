"""The messages of xDS that tests read and write, made from descriptors at run time by their published field numbers.

They are no part of the product and share nothing with it: what both would get wrong alike no test could see. The pool
is their own, so whatever else of xDS is imported does not matter.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "tests.xds"
_TYPES = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _TYPES.TYPE_BOOL,
    "int32": _TYPES.TYPE_INT32,
    "int64": _TYPES.TYPE_INT64,
    "uint32": _TYPES.TYPE_UINT32,
    "uint64": _TYPES.TYPE_UINT64,
    "double": _TYPES.TYPE_DOUBLE,
    "bytes": _TYPES.TYPE_BYTES,
    "string": _TYPES.TYPE_STRING,
}

# message -> field -> (number, type); a leading * = repeated, a leading % = a map from string. Enums are read as int32.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Any": {"type_url": (1, "string"), "value": (2, "bytes")},
    "Status": {"code": (1, "int32"), "message": (2, "string"), "details": (3, "*Any")},
    "Duration": {"seconds": (1, "int64"), "nanos": (2, "int32")},
    "UInt32": {"value": (1, "uint32")},
    "UInt64": {"value": (1, "uint64")},
    "Locality": {"region": (1, "string"), "zone": (2, "string"), "sub_zone": (3, "string")},
    "Value": {"string_value": (3, "string")},
    "Struct": {"fields": (1, "%Value")},
    "Node": {
        "id": (1, "string"),
        "cluster": (2, "string"),
        "metadata": (3, "Struct"),
        "locality": (4, "Locality"),
        "user_agent_name": (6, "string"),
        "user_agent_version": (7, "string"),
        "client_features": (10, "*string"),
    },
    "ControlPlane": {"identifier": (1, "string")},
    "ResourceName": {"name": (1, "string")},
    "ResourceError": {"resource_name": (1, "ResourceName"), "error_detail": (2, "Status")},
    "DiscoveryRequest": {
        "version_info": (1, "string"),
        "node": (2, "Node"),
        "resource_names": (3, "*string"),
        "type_url": (4, "string"),
        "response_nonce": (5, "string"),
        "error_detail": (6, "Status"),
    },
    "DiscoveryResponse": {
        "version_info": (1, "string"),
        "resources": (2, "*Any"),
        "type_url": (4, "string"),
        "nonce": (5, "string"),
        "control_plane": (6, "ControlPlane"),
        "resource_errors": (7, "*ResourceError"),
    },
    "DeltaDiscoveryRequest": {
        "node": (1, "Node"),
        "type_url": (2, "string"),
        "resource_names_subscribe": (3, "*string"),
        "resource_names_unsubscribe": (4, "*string"),
        "initial_resource_versions": (5, "%string"),
        "response_nonce": (6, "string"),
        "error_detail": (7, "Status"),
    },
    "Resource": {
        "version": (1, "string"),
        "resource": (2, "Any"),
        "name": (3, "string"),
        "aliases": (4, "*string"),
        "ttl": (6, "Duration"),
    },
    "DeltaDiscoveryResponse": {
        "system_version_info": (1, "string"),
        "resources": (2, "*Resource"),
        "type_url": (4, "string"),
        "nonce": (5, "string"),
        "removed_resources": (6, "*string"),
        "control_plane": (7, "ControlPlane"),
        "resource_errors": (9, "*ResourceError"),
    },
    # ---- the resources
    "AggregatedConfigSource": {},
    "ConfigSource": {"ads": (3, "AggregatedConfigSource"), "self": (5, "AggregatedConfigSource")},
    "SocketAddress": {"address": (2, "string"), "port_value": (3, "uint32")},
    "Address": {"socket_address": (1, "SocketAddress")},
    "ApiListener": {"api_listener": (1, "Any")},
    "Filter": {"name": (1, "string"), "typed_config": (4, "Any")},
    "FilterChain": {"filters": (3, "*Filter")},
    "Listener": {
        "name": (1, "string"),
        "address": (2, "Address"),
        "filter_chains": (3, "*FilterChain"),
        "api_listener": (19, "ApiListener"),
    },
    "Rds": {"config_source": (1, "ConfigSource"), "route_config_name": (2, "string")},
    "HttpConnectionManager": {
        "stat_prefix": (2, "string"),
        "rds": (3, "Rds"),
        "route_config": (4, "RouteConfiguration"),
        "http_filters": (5, "*Filter"),
    },
    "ClusterWeight": {"name": (1, "string"), "weight": (2, "UInt32")},
    "WeightedCluster": {"clusters": (1, "*ClusterWeight")},
    "RouteMatch": {"prefix": (1, "string"), "path": (2, "string"), "path_separated_prefix": (14, "string")},
    "RouteAction": {
        "cluster": (1, "string"),
        "weighted_clusters": (3, "WeightedCluster"),
        "timeout": (8, "Duration"),
    },
    "Route": {"match": (1, "RouteMatch"), "route": (2, "RouteAction")},
    "VirtualHost": {"name": (1, "string"), "domains": (2, "*string"), "routes": (3, "*Route")},
    "RouteConfiguration": {"name": (1, "string"), "virtual_hosts": (2, "*VirtualHost")},
    "EdsClusterConfig": {"eds_config": (1, "ConfigSource"), "service_name": (2, "string")},
    "Thresholds": {"priority": (1, "int32"), "max_requests": (4, "UInt32")},
    "CircuitBreakers": {"thresholds": (1, "*Thresholds")},
    "Cluster": {
        "name": (1, "string"),
        "type": (2, "int32"),
        "eds_cluster_config": (3, "EdsClusterConfig"),
        "lb_policy": (6, "int32"),
        "circuit_breakers": (10, "CircuitBreakers"),
        "typed_extension_protocol_options": (36, "%Any"),
    },
    "Endpoint": {"address": (1, "Address"), "hostname": (3, "string")},
    "LbEndpoint": {"endpoint": (1, "Endpoint"), "health_status": (2, "int32"), "load_balancing_weight": (4, "UInt32")},
    "LocalityLbEndpoints": {
        "locality": (1, "Locality"),
        "lb_endpoints": (2, "*LbEndpoint"),
        "load_balancing_weight": (3, "UInt32"),
        "priority": (5, "uint32"),
    },
    "ClusterLoadAssignment": {"cluster_name": (1, "string"), "endpoints": (2, "*LocalityLbEndpoints")},
}


def _entry(message: descriptor_pb2.DescriptorProto, name: str, kind: str) -> str:
    """Adds the entry of a map to a message; its name."""
    entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
    entry.options.map_entry = True
    entry.field.extend((_field("key", 1, "string"), _field("value", 2, kind)))
    return f"{message.name}.{entry.name}"


def _field(name: str, number: int, kind: str) -> descriptor_pb2.FieldDescriptorProto:
    bare = kind.lstrip("*")
    field = _TYPES(name=name, number=number, label=_TYPES.LABEL_REPEATED if kind != bare else _TYPES.LABEL_OPTIONAL)
    if bare in _SCALARS:
        field.type = _SCALARS[bare]
    else:
        field.type = _TYPES.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{bare}"
    return field


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="tests/xds.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            if kind.startswith("%"):
                kind = f"*{_entry(message, field, kind[1:])}"
            message.field.append(_field(field, number, kind))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES = _classes()
Node: Any = _CLASSES["Node"]
Locality: Any = _CLASSES["Locality"]
Status: Any = _CLASSES["Status"]
DiscoveryRequest: Any = _CLASSES["DiscoveryRequest"]
DiscoveryResponse: Any = _CLASSES["DiscoveryResponse"]
DeltaDiscoveryRequest: Any = _CLASSES["DeltaDiscoveryRequest"]
DeltaDiscoveryResponse: Any = _CLASSES["DeltaDiscoveryResponse"]
Listener: Any = _CLASSES["Listener"]
HttpConnectionManager: Any = _CLASSES["HttpConnectionManager"]
RouteConfiguration: Any = _CLASSES["RouteConfiguration"]
Cluster: Any = _CLASSES["Cluster"]
ClusterLoadAssignment: Any = _CLASSES["ClusterLoadAssignment"]

_V3 = "type.googleapis.com/envoy"
LDS = f"{_V3}.config.listener.v3.Listener"
RDS = f"{_V3}.config.route.v3.RouteConfiguration"
CDS = f"{_V3}.config.cluster.v3.Cluster"
EDS = f"{_V3}.config.endpoint.v3.ClusterLoadAssignment"
HCM = f"{_V3}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = f"{_V3}.extensions.filters.http.router.v3.Router"
RESOURCES: dict[str, Any] = {LDS: Listener, RDS: RouteConfiguration, CDS: Cluster, EDS: ClusterLoadAssignment}
SHORT = {LDS: "LDS", RDS: "RDS", CDS: "CDS", EDS: "EDS"}

# What clients say of themselves, as measured.
C_CORE = "gRPC C-core linux Python/C-core"
JAVA = "gRPC Java"
ENVOY = "envoy"


def node(agent: str = C_CORE, name: str = "a-test") -> Any:
    """A node as that kind of client describes itself."""
    features = [] if agent == ENVOY else ["envoy.lb.does_not_support_overprovisioning"]
    if agent == C_CORE:
        features.append("xds.config.resource-in-sotw")
    return Node(id=name, cluster="tests", user_agent_name=agent, client_features=features)


def name_of(kind: str, resource: Any) -> str:
    """The name of a resource: where it stands depends on its type."""
    name: str = resource.cluster_name if kind == EDS else resource.name
    return name


def manager_of(listener: Any) -> Any:
    """The HttpConnectionManager of a listener, whichever way it has one. Raises AssertionError if it has none."""
    packed = listener.api_listener.api_listener
    if not listener.HasField("api_listener"):
        packed = listener.filter_chains[0].filters[-1].typed_config
    assert packed.type_url == HCM, packed.type_url
    return HttpConnectionManager.FromString(packed.value)


def clusters_of(routes: Any) -> list[str]:
    """The clusters that a RouteConfiguration sends calls to, once each, in order."""
    found: dict[str, None] = {}
    for route in (route for host in routes.virtual_hosts for route in host.routes):
        for name in [route.route.cluster, *(it.name for it in route.route.weighted_clusters.clusters)]:
            found.setdefault(name)
    found.pop("", None)
    return list(found)


def endpoints_name(cluster: Any) -> str:
    """What a client asks EDS for, for a cluster."""
    name: str = cluster.eds_cluster_config.service_name or cluster.name
    return name


def places(assignment: Any) -> dict[str, tuple[int, int]]:
    """HOST:PORT -> priority and weight, of every endpoint that gets calls."""
    found = {}
    for group in assignment.endpoints:
        for one in group.lb_endpoints:
            address = one.endpoint.address.socket_address
            host = f"[{address.address}]" if ":" in address.address else address.address
            if one.health_status in (0, 1):
                found[f"{host}:{address.port_value}"] = (group.priority, one.load_balancing_weight.value)
    return found
