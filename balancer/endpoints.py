"""CORE: values that a resolver yields: endpoints, and the closed union of what is known about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Locality:
    """Where an endpoint runs, from the widest part to the narrowest; an empty part is unknown."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""

    def distance(self, other: Locality) -> int:
        """0 in the same zone, 1 in the same region, 2 elsewhere; an unknown region or zone is elsewhere."""
        if not self.region and not self.zone:
            return 2
        if self.region != other.region:
            return 2
        return 0 if self.zone and self.zone == other.zone else 1


ANYWHERE = Locality()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address that serves the target.

    Endpoints hash by `(address, id)` and compare by all fields, so they may be keys although `metadata` is a mapping.

    Raises ValueError, naming the field, when `address` is empty, `weight` is not a whole number, or `weight` or
    `priority` is negative.
    """

    address: str
    """`host:port`, or any target that gRPC's default resolvers take (`unix:…`)."""
    weight: int = 1
    """Share of the traffic relative to the other endpoints; 0 = gets none."""
    id: str = ""
    """Names the process: the same address under another id is another process with a clean record."""
    version: str = ""
    locality: Locality = ANYWHERE
    priority: int = 0
    """0 is used first; a higher number is where traffic fails over to. For `LocalityAware`; subsets keep some of
    each."""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Read-only by contract: the balancer keeps the mapping it was given."""
    routable: bool = True
    """False: known to be draining or ill. Used only when the target has no routable endpoint at all."""

    def __post_init__(self) -> None:
        if not self.address:
            raise ValueError("address: must not be empty")
        if not isinstance(self.weight, int) or self.weight < 0:
            raise ValueError(f"weight: must be a whole number and not negative, is {self.weight!r}")
        if self.priority < 0:
            raise ValueError(f"priority: must not be negative, is {self.priority}")

    def __hash__(self) -> int:
        return hash((self.address, self.id))


@dataclass(frozen=True, slots=True)
class Pending:
    """Nothing is known yet: calls wait."""


class Configured:
    """A service config that was read: `balancer.service_config.ServiceConfig`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Resolved:
    """The whole set of endpoints, possibly empty.

    A resolver that keeps the unchanged `Endpoint` objects from one set to the next makes updates cheap: the pool
    recognises them by identity.
    """

    endpoints: tuple[Endpoint, ...]
    stale_for_s: float | None = None
    """Age in seconds of a set that could not be refreshed; None when it is current."""
    service_config: Mapping[str, object] | Configured | None = None
    """gRPC service config, read or in its JSON form; None = the resolver has none to give."""
    lack: str = ""
    """Of an empty set: why there is nothing to call, for the errors of calls."""


@dataclass(frozen=True, slots=True)
class Absent:
    """The target is known not to exist: calls fail, even when there were endpoints before."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Resolution failed: calls fail only if no earlier set is known (stale beats empty)."""

    error: str


Resolution: TypeAlias = Pending | Resolved | Absent | Failed
