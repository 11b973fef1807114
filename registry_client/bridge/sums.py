"""CORE: the numbers of several ways to the same instances, as one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balancer.pool.statistics import NodeStatistics, PoolStatistics


def together(pool: PoolStatistics, other: PoolStatistics | None) -> PoolStatistics:
    """`pool` with what became of calls that went another way: counts are added, latencies and rates weighed by them."""
    if other is None:
        return pool
    more = {node.address: node for node in other.nodes}
    nodes = [_together(node, more.pop(node.address, None)) for node in pool.nodes]
    return replace(pool, nodes=(*nodes, *more.values()), last_pick=pool.last_pick or other.last_pick)


def _together(node: NodeStatistics, other: NodeStatistics | None) -> NodeStatistics:
    if other is None:
        return node
    calls = node.calls + other.calls
    share = other.calls / calls if calls else 0.0
    return replace(
        node,
        calls=calls,
        failures=node.failures + other.failures,
        in_flight=node.in_flight + other.in_flight,
        latency_s=node.latency_s + share * (other.latency_s - node.latency_s),
        error_rate=node.error_rate + share * (other.error_rate - node.error_rate),
        ejected_since=other.ejected_since if node.ejected_since is None else node.ejected_since,
    )
