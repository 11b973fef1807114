"""CORE: how a pool behaves whatever the policy."""

from __future__ import annotations

from dataclasses import dataclass, field

from balancer.load import LoadOptions
from balancer.pool.outlier import OutlierOptions  # noqa: TC001 - a field's type, which tools resolve at run time


@dataclass(frozen=True, slots=True)
class SlowStart:
    """A node that became ready gets its full weight only after a while (Envoy's slow start)."""

    window_s: float = 30.0
    aggression: float = 1.0
    """Above 1: faster at first."""
    min_part: float = 0.1
    """The part of its weight it starts with."""

    def __post_init__(self) -> None:
        if not self.window_s > 0:
            raise ValueError(f"window_s: must be above 0, is {self.window_s}")
        if not self.aggression > 0:
            raise ValueError(f"aggression: must be above 0, is {self.aggression}")
        if not 0 < self.min_part <= 1:
            raise ValueError(f"min_part: must be above 0 and at most 1, is {self.min_part}")

    @property
    def step_s(self) -> float:
        """Weights grow in steps, of a tenth of the window."""
        return self.window_s / 10

    def ramp(self, age_s: float) -> float:
        """The part of its weight for a node that has been ready so long."""
        steps = max(int(age_s / self.step_s + 1e-9), 0)
        return 1.0 if steps >= 10 else max((steps / 10) ** (1 / self.aggression), self.min_part)


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """Raises ValueError, naming the field, for a value that makes no sense."""

    subset_size: int | None = None
    """At most so many members per priority, hence connections; None = all."""
    subset_of_connected: bool = False
    """The subset is for policies alone that keep every member connected."""
    subset_salt: str = ""
    """Names this client: clients with different salts get different subsets, the same one always the same."""
    slow_start: SlowStart | None = None
    panic_threshold: float = 0.5
    """When a smaller part of the members is well, ejections and health reports are ignored; 0 = never."""
    idle_timeout_s: float | None = 1800.0
    """Connections unused for so long are closed (gRPC's default); None = never."""
    lazy: bool = False
    """Connect a node only when a pick falls on it, whatever the policy prefers."""
    shuffle: bool = True
    """New endpoints are taken up in an order of the pool's own: clients that start together do not all begin with the
    same one. pick_first has an option of its own for this."""
    outlier: OutlierOptions | None = None
    """Outlier detection; None = off."""
    connections: bool = True
    """False: endpoints are picked without the pool knowing about connections; every member counts as ready."""
    load: LoadOptions = field(default_factory=LoadOptions)

    def __post_init__(self) -> None:
        if not 0 <= self.panic_threshold <= 1:
            raise ValueError(f"panic_threshold: must be 0 to 1, is {self.panic_threshold}")
        if self.idle_timeout_s is not None and not self.idle_timeout_s > 0:
            raise ValueError(f"idle_timeout_s: must be above 0, is {self.idle_timeout_s}")
        if self.subset_size is not None and self.subset_size < 1:
            raise ValueError(f"subset_size: must be at least 1, is {self.subset_size}")
