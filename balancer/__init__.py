"""Load balancing for gRPC in Python: policies, a pool of connections, and a balancer to use alone."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from balancer.endpoints import Absent, Endpoint, Failed, Locality, Pending, Resolution, Resolved
from balancer.lb import LoadBalancer, NoEndpointError, Request
from balancer.load import LoadOptions
from balancer.policies import names as policy_names
from balancer.policies import policy
from balancer.policies.base import Chooser, ConnectivityState, Node, NodeSet, PickInfo, Policy
from balancer.policies.locality import LocalityAware
from balancer.pool.options import PoolOptions, SlowStart
from balancer.pool.outlier import FailurePercentage, OutlierOptions, SuccessRate
from balancer.pool.statistics import NodeStatistics, PoolStatistics
from balancer.pool.verdicts import EndpointWhy, Why

if TYPE_CHECKING:
    from balancer import metrics
    from balancer.aio.channel import aio_channel
    from balancer.channels.options import ChannelOptions, hash_key
    from balancer.resolvers import DnsResolver, Resolver, StaticResolver
    from balancer.threads.channel import blocking_channel

    __version__: str

__all__ = [
    "Absent",
    "ChannelOptions",
    "Chooser",
    "ConnectivityState",
    "DnsResolver",
    "Endpoint",
    "EndpointWhy",
    "Failed",
    "FailurePercentage",
    "LoadBalancer",
    "LoadOptions",
    "Locality",
    "LocalityAware",
    "NoEndpointError",
    "Node",
    "NodeSet",
    "NodeStatistics",
    "OutlierOptions",
    "Pending",
    "PickInfo",
    "Policy",
    "PoolOptions",
    "PoolStatistics",
    "Request",
    "Resolution",
    "Resolved",
    "Resolver",
    "SlowStart",
    "StaticResolver",
    "SuccessRate",
    "Why",
    "aio_channel",
    "blocking_channel",
    "hash_key",
    "metrics",
    "policy",
    "policy_names",
]

# What needs grpcio comes when it is asked for: a `LoadBalancer` alone imports in a few milliseconds without it.
_LATER = {
    "ChannelOptions": ("channels.options", "ChannelOptions"),
    "DnsResolver": ("resolvers", "DnsResolver"),
    "Resolver": ("resolvers", "Resolver"),
    "StaticResolver": ("resolvers", "StaticResolver"),
    "aio_channel": ("aio.channel", "aio_channel"),
    "blocking_channel": ("threads.channel", "blocking_channel"),
    "hash_key": ("channels.options", "hash_key"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name == "metrics":
        return import_module("balancer.metrics")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LATER[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("grpc-registry")
    except metadata.PackageNotFoundError:  # a source tree on the path
        return "0+unknown"
