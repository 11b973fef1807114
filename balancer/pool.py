"""CORE: which endpoints are to have a connection, and which of them may be picked.

A pool is told what happened (`apply`, `on_state`, `on_health`, `tick`) by one owner and answers with a `Plan`; the
shell connects and closes. Picks come from an immutable `Picker`, swapped whole, from any thread.

    plan = pool.apply(Resolved((Endpoint("10.0.0.5:8001"),)), now)
    for node in plan.open: ...      # connect; report what becomes of it with pool.on_state(node, state, now)
    for node in plan.close: ...     # let its calls end, then close
    if plan.swapped: picker = pool.picker

    match picker.pick(ANY, now):
        case Node() as node: ...    # node.load.started(now); call; node.load.finished(now, rtt_s, ok)
        case Open(nodes): ...       # connect these, then wait as for Wait
        case Wait(): ...            # until the next picker
        case Fail(reason): ...      # UNAVAILABLE, or wait until the next picker when the call is wait-for-ready
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from balancer.endpoints import ANYWHERE, Locality, Resolution
from balancer.load import LoadOptions
from balancer.policies.base import ANY, Chooser, ConnectivityState, Node, PickInfo, Policy

if TYPE_CHECKING:
    from random import Random

__all__ = [
    "ANY",
    "ConnectivityState",
    "Fail",
    "Node",
    "Open",
    "Pick",
    "PickInfo",
    "Picker",
    "Plan",
    "Pool",
    "PoolOptions",
    "PoolStatistics",
    "NodeStatistics",
    "SlowStart",
    "Wait",
]


@dataclass(frozen=True, slots=True)
class Wait:
    """No node yet, but one may come without any doing: wait for the next picker."""


@dataclass(frozen=True, slots=True)
class Fail:
    """No node, and none in sight: UNAVAILABLE with this reason, unless the call waits for ready."""

    reason: str


@dataclass(frozen=True, slots=True)
class Open:
    """These nodes are idle and one of them is needed: connect (idempotent), then wait for the next picker."""

    nodes: tuple[Node, ...]


Pick: TypeAlias = Node | Open | Wait | Fail


@dataclass(frozen=True, slots=True)
class Plan:
    """What the shell is to do. `open` and `close` never name the same node."""

    open: tuple[Node, ...] = ()
    """Connect. Reconnecting after a failure is the subchannel's own business."""
    close: tuple[Node, ...] = ()
    """Close the connection once its calls have ended (drain). A node may be opened again later unless SHUTDOWN."""
    swapped: bool = False
    """`Pool.picker` is another one than before."""


@dataclass(frozen=True, slots=True)
class SlowStart:
    """A node that became ready gets its full weight only after a while (Envoy's slow start)."""

    window_s: float = 30.0
    aggression: float = 1.0
    """Above 1: faster at first."""
    min_part: float = 0.1
    """The part of its weight it starts with."""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How a pool behaves whatever the policy."""

    subset_size: int | None = None
    """At most so many members per priority, hence connections; None = all."""
    subset_salt: str = ""
    """Names this client: clients with different salts get different subsets, the same one always the same."""
    slow_start: SlowStart | None = None
    panic_threshold: float = 0.5
    """When a smaller part of the members is well, ejections and health reports are ignored; 0 = never."""
    idle_timeout_s: float | None = 1800.0
    """Connections unused for so long are closed (gRPC's default); None = never."""
    lazy: bool = False
    """Connect a node only when a pick falls on it, whatever the policy prefers."""
    load: LoadOptions = field(default_factory=LoadOptions)


class Picker:
    """Answers picks until the pool swaps it for another. Safe from many threads; never blocks."""

    def pick(self, info: PickInfo, now: float) -> Pick:
        """The node for a call, or what to do to get one. A node of `info.exclude` only if there is no other."""
        raise NotImplementedError


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
    policy: str
    state: ConnectivityState
    nodes: tuple[NodeStatistics, ...]
    members: int
    usable: int
    panic: bool
    last_pick: str
    """Why the last pick went where it went; empty before the first."""


class Pool:
    """The nodes of one target. `apply`, `on_state`, `on_health`, `set_weight` and `tick` belong to one owner at a time."""

    def __init__(self, policy: Policy, *, options: PoolOptions | None = None, rng: Random, now: float) -> None: ...

    def apply(self, resolution: Resolution, now: float) -> Plan:
        """Takes over what the resolver says. Survivors keep their nodes; an identical set gives an empty plan."""
        raise NotImplementedError

    def on_state(self, node: Node, state: ConnectivityState, now: float, error: str = "") -> Plan:
        """A node's connection changed. `error` tells why, for TRANSIENT_FAILURE. Unknown nodes are ignored."""
        raise NotImplementedError

    def on_health(self, node: Node, serving: bool, now: float) -> Plan:
        """The back end's own health service spoke (gRFC A17)."""
        raise NotImplementedError

    def set_weight(self, node: Node, weight: float | None, now: float) -> Plan:
        """The back end reported its capacity (ORCA, gRFC A58); None = back to the configured weight."""
        raise NotImplementedError

    def tick(self, now: float) -> Plan:
        """Does what time brings: ejections begin and end, slow start grows, idle connections close."""
        raise NotImplementedError

    def next_tick(self, now: float) -> float | None:
        """When `tick` next has something to do, on the clock of `now`; None = not before something else happens."""
        raise NotImplementedError

    @property
    def picker(self) -> Picker:
        """The current picker."""
        raise NotImplementedError

    @property
    def state(self) -> ConnectivityState:
        """The target's aggregate state by gRPC's rules."""
        raise NotImplementedError

    def statistics(self, now: float) -> PoolStatistics:
        raise NotImplementedError
