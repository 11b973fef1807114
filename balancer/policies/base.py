"""CORE: what a policy is: one small protocol, and the values that pass through it.

A policy of your own needs one method::

    class Cheapest:
        def chooser(self, nodes: NodeSet, rng: Random) -> Chooser:
            usable = sorted(nodes.usable, key=lambda node: float(node.endpoint.metadata["price"]))
            return lambda info, now: usable[0]

    LoadBalancer(Cheapest())

The pool asks for a new chooser when the set of usable nodes changes and swaps it in whole; what must outlive the
swap (in flight, latencies) is in each node's `load`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection
    from random import Random

    from balancer.endpoints import Endpoint
    from balancer.load import Load


class ConnectivityState(enum.Enum):
    """gRPC's channel states, same names and meanings (grpc/doc/connectivity-semantics-and-api.md)."""

    IDLE = "idle"
    CONNECTING = "connecting"
    READY = "ready"
    TRANSIENT_FAILURE = "transient failure"
    SHUTDOWN = "shutdown"


class Connect(enum.Enum):
    """Which nodes of its subset the pool keeps connected for a policy."""

    ALL = "all"
    """Every one, at once: a pick never waits for a connection (round_robin and its like)."""
    LAZY = "lazy"
    """One when the first pick falls on it; the chooser sees idle nodes (consistent hashing)."""
    FIRST = "first"
    """One at a time in the order of the list, until one is ready (pick_first)."""


class Node:
    """One endpoint in a pool. It survives updates and picker swaps; the pool alone changes it.

    A shell may read everything and writes `connection` alone.
    """

    __slots__ = (
        "connection",
        "ejected_since",
        "endpoint",
        "error",
        "failing",
        "load",
        "ramp",
        "ready_since",
        "reported_weight",
        "serving",
        "state",
        "weight",
    )

    def __init__(self, endpoint: Endpoint, load: Load) -> None:
        self.endpoint = endpoint
        self.load = load
        """What is going on there; see `balancer.load`."""
        self.state = ConnectivityState.IDLE
        self.failing = False
        """True from TRANSIENT_FAILURE until READY: connecting again does not make it well (gRPC's sticky failure)."""
        self.serving = True
        """False while the back end's own health service says that it is not serving (gRFC A17)."""
        self.error = ""
        """Why the last connection attempt failed."""
        self.ready_since: float | None = None
        """`now` of the last change to READY or of the end of an ejection: where slow start begins."""
        self.ejected_since: float | None = None
        """`now` of the ejection by outlier detection; None when not ejected."""
        self.ramp = 1.0
        """Slow start: the part of its weight the node has now, above 0 up to 1."""
        self.reported_weight: float | None = None
        """Weight learned from the back end (ORCA, gRFC A58); replaces the endpoint's when set."""
        self.weight = float(endpoint.weight)
        """Effective weight: reported or configured, times `ramp`. Always above 0 for a usable node."""
        self.connection: Any = None
        """The shell's slot, for its own kind of connection to this endpoint. The core never looks at it."""

    def __repr__(self) -> str:
        return (
            f"<Node {self.endpoint.address} {self.state.value} weight={self.weight:g} in_flight={self.load.in_flight}>"
        )


@dataclass(frozen=True, slots=True)
class PickInfo:
    """What a policy may know about a call. Make one only for a call that has something to say."""

    key: str | bytes | None = None
    """What consistent_hash hashes (a player id) and ip_hash reads as an IP address."""
    exclude: Collection[Node] = ()
    """Nodes this call was already tried on: avoided as long as there is another one."""
    method: str = ""
    """`/package.Service/Method`"""
    metadata: Collection[tuple[str, str | bytes]] = ()


ANY = PickInfo()
"""For a call with nothing to say."""


@dataclass(frozen=True, slots=True)
class NodeSet:
    """The nodes a chooser is made for. Order is stable: survivors keep their places, new nodes come last."""

    usable: tuple[Node, ...]
    """May be chosen; never empty when a chooser is asked for."""
    unwell: tuple[Node, ...] = ()
    """Would be usable if they were well: they failed to connect, are ejected, or say that they are not serving.
    A node that is still connecting for the first time is in neither."""


@dataclass(frozen=True, slots=True)
class Change:
    """How the usable nodes differ from those of the chooser before."""

    joined: tuple[Node, ...] = ()
    left: tuple[Node, ...] = ()
    reweighed: tuple[Node, ...] = ()
    """In both sets, with another weight."""


class Chooser(Protocol):
    """Chooses a node for a call; called from many threads, so it must not block and guards what it changes.

    Two more methods are looked for: `revised(nodes, change) -> Chooser`, which makes the next chooser with work in
    proportion to the change, and `explain() -> str`, which tells why the last choice fell as it did.
    """

    def __call__(self, info: PickInfo, now: float, /) -> Node:
        """A member of `NodeSet.usable`. `now` in seconds of the pool's clock."""
        ...


@runtime_checkable
class Revisable(Protocol):
    """A chooser that can be carried over to a slightly different set."""

    def revised(self, nodes: NodeSet, change: Change) -> Chooser:
        """The chooser for `nodes`, which differ from this one's by `change`. This one stays as it is."""
        ...


@runtime_checkable
class Explains(Protocol):
    """A chooser that can tell why its last choice fell as it did."""

    def explain(self) -> str: ...


class Policy(Protocol):
    """A way to spread calls.

    Optional attributes: `name: str` (for statistics; the class name otherwise) and `connect: Connect` (ALL otherwise).
    """

    def chooser(self, nodes: NodeSet, rng: Random, /) -> Chooser:
        """A chooser over `nodes.usable`, which is not empty."""
        ...


def policy_name(policy: Policy) -> str:
    """What statistics call it."""
    return str(getattr(policy, "name", type(policy).__name__))


def connect_of(policy: Policy) -> Connect:
    """Which nodes it wants connected."""
    connect = getattr(policy, "connect", Connect.ALL)
    return connect if isinstance(connect, Connect) else Connect(connect)
