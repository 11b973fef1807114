"""CORE: why each endpoint of a pool gets calls or none, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from balancer.policies.base import ConnectivityState
from balancer.pool.seats import Standing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from balancer.policies.base import Node
    from balancer.pool.seats import Seats

READY = "it is connected"


@dataclass(frozen=True, slots=True)
class EndpointWhy:
    """One endpoint as of the moment of asking. `str` of it is a line."""

    address: str
    id: str
    usable: bool
    """The policy may pick it."""
    why: str
    """What makes it so, for people: `it is connected`, `connecting failed: …`, `its weight is 0`."""
    state: ConnectivityState | None = None
    """Of its connection; None where there are no connections, or it was not told of as one to call."""
    error: str = ""
    """What the last connection attempt failed with; empty once there is one."""
    ejected_for_s: float | None = None
    """For how many seconds more it is ejected; None when it is not."""

    def __str__(self) -> str:
        name = f"{self.id} at {self.address}" if self.id else self.address
        return f"{name} {'gets calls' if self.usable else 'gets none'}: {self.why}"


@dataclass(frozen=True, slots=True)
class Why:
    """Why a channel, or a balancer, calls whom it calls. `str` of it is the verdict and a line for each endpoint."""

    usable: bool
    """There is an endpoint for a call."""
    verdict: str
    endpoints: tuple[EndpointWhy, ...] = ()

    def __str__(self) -> str:
        return "\n".join([self.verdict, *map(str, self.endpoints)])

    def of(self, id_or_address: str) -> EndpointWhy | None:
        """The endpoint of that id, or at that address; None for one that is not known."""
        return next((it for it in self.endpoints if id_or_address in (it.id, it.address)), None)


@dataclass(frozen=True, slots=True)
class Circle:
    """What is to be known of a pool to tell of its nodes. `subset_size`: how many of them are used; None for all.
    `is_asleep`: nothing is called; `picks_idle`: what is not connected is when a call falls on it; `connections`: that
    there are any is known here."""

    seats: Seats
    members: Iterable[Node]
    subset_size: int | None
    is_asleep: bool
    picks_idle: bool
    connections: bool


def endpoint_why(node: Node, circle: Circle, ejected_until: float | None, now: float) -> EndpointWhy:
    """Of one node."""
    left_s = None if node.ejected_since is None else max(0.0, (ejected_until or now) - now)
    usable = node in circle.seats.usable
    return EndpointWhy(
        node.endpoint.address,
        node.endpoint.id,
        usable,
        _why(node, circle, left_s),
        node.state if circle.connections else None,
        node.error if node.failing else "",
        left_s,
    )


def _why(node: Node, circle: Circle, left_s: float | None) -> str:
    standing = circle.seats.standing(node)
    match standing:
        case None:
            return _why_none(node, circle.subset_size)
        case Standing.DOWN:
            return f"connecting failed: {node.error or 'nothing is known of why'}"
        case Standing.SICK:
            return _why_sick(node, left_s) + (", and is used all the same: too many are" if circle.seats.panic else "")
        case Standing.WAITING:
            return _why_waiting(node, circle)
        case Standing.USABLE if not circle.connections:
            return "nothing speaks against it"
        case Standing.USABLE:
            return READY if node.state is ConnectivityState.READY else "it is connected when a call falls on it"


def _why_none(node: Node, subset_size: int | None) -> str:
    """Of one that is no member."""
    if node.endpoint.weight == 0:
        return "its weight is 0"
    if not node.endpoint.routable:
        return "it drains or is ill, and others are well"
    return f"it is not in the subset of {subset_size}" if subset_size is not None else "it is not used"


def _why_sick(node: Node, left_s: float | None) -> str:
    if left_s is not None:
        return f"it failed more than others and is ejected for {left_s:.1f} s more"
    return "its own health service says that it is not serving"


def _why_waiting(node: Node, circle: Circle) -> str:
    if node.state is ConnectivityState.CONNECTING:
        return "it is being connected to"
    if circle.is_asleep:
        return "nothing was called for long: the next call connects it"
    return "another one takes all calls" if circle.seats.usable else "its turn to be connected to has not come"


def verdict(endpoints: Iterable[EndpointWhy], lack: str) -> str:
    """In a line; `lack` says why there is none for a call, supposing that."""
    told = list(endpoints)
    usable = sum(it.usable for it in told)
    if not usable:
        return f"no endpoint gets calls: {lack}"
    return f"{usable} of {len(told)} endpoint{'s' * (len(told) != 1)} {'gets' if usable == 1 else 'get'} calls"
