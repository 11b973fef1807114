"""CORE: what a pool tells about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balancer.policies.base import ConnectivityState, Node


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """One endpoint as of the moment of asking."""

    address: str
    state: ConnectivityState
    weight: float
    calls: int
    failures: int
    in_flight: int
    latency_s: float
    error_rate: float
    ejected_since: float | None


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A whole pool as of the moment of asking."""

    policy: str
    state: ConnectivityState
    nodes: tuple[NodeStatistics, ...]
    members: int
    usable: int
    panic: bool
    last_pick: str
    """Why the last pick went where it went; empty before the first."""


def node_statistics(node: Node, now: float) -> NodeStatistics:
    """Latency as of `now`, the counts as they are."""
    load = node.load
    return NodeStatistics(
        address=node.endpoint.address,
        state=node.state,
        weight=node.weight,
        calls=load.calls,
        failures=load.failures,
        in_flight=load.in_flight,
        latency_s=load.latency_s(now),
        error_rate=load.error_rate,
        ejected_since=node.ejected_since,
    )
