"""Load balancing for gRPC in Python: policies, a pool of connections, and a balancer to use alone."""

from balancer.endpoints import Absent, Endpoint, Failed, Locality, Pending, Resolution, Resolved
from balancer.lb import LoadBalancer, NoEndpointError, Request
from balancer.load import LoadOptions
from balancer.outlier import FailurePercentage, OutlierOptions, SuccessRate
from balancer.policies import names as policy_names
from balancer.policies import policy
from balancer.policies.base import Chooser, ConnectivityState, Node, NodeSet, PickInfo, Policy
from balancer.policies.locality import LocalityAware
from balancer.pool import NodeStatistics, PoolOptions, PoolStatistics, SlowStart

__all__ = [
    "Absent",
    "Chooser",
    "ConnectivityState",
    "Endpoint",
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
    "SlowStart",
    "SuccessRate",
    "policy",
    "policy_names",
]
