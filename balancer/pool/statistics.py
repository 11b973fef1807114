"""CORE: what a pool tells about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

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


@dataclass(frozen=True, slots=True)
class PoolNumbers:
    """How many of what, and how often, whatever the endpoints: for metrics."""

    states: Mapping[ConnectivityState, int] = field(default_factory=dict)
    """How many of those in use are in which state; who is ejected or unwell counts as failed."""
    connections: int = 0
    connection_failures: int = 0
    attempts: int = 0
    """How often an endpoint was found for a call."""
    finished: int = 0
    failed: int = 0
    """Of those that are finished, such as spoke against their endpoint."""
    in_flight: int = 0
    ejected: int = 0
    ejections: int = 0


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
