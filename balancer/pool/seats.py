"""CORE: which members may be picked, which are unwell and how; and what changed since the last chooser was made."""

from __future__ import annotations

import enum
from collections import Counter
from typing import TYPE_CHECKING

from balancer.policies.base import Change, ConnectivityState, NodeSet

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from balancer.policies.base import Node


class Standing(enum.Enum):
    """What can be said of a member."""

    USABLE = "usable"
    WAITING = "waiting"
    """Has no connection yet, and none has failed."""
    SICK = "sick"
    """Ejected, or says that it is not serving; could be reached."""
    DOWN = "down"
    """Its last connection attempt failed."""


class Seats:
    """Every member by standing. `panic`: the sick are used like the well (Envoy's panic mode)."""

    def __init__(self, panic_threshold: float) -> None:
        self._panic_threshold = panic_threshold
        self._standings: dict[Node, tuple[Standing, ConnectivityState]] = {}
        self._counts: Counter[Standing] = Counter()
        self._states: Counter[ConnectivityState] = Counter()
        self._sick: dict[Node, None] = {}
        self._down: dict[Node, None] = {}
        # Ordered sets: one insertion or deletion each, and a copy at C speed when a chooser is made.
        self.usable: dict[Node, None] = {}
        self.panic = False
        self._joined: dict[Node, None] = {}
        self._left: dict[Node, None] = {}
        self._reweighed: dict[Node, None] = {}
        self._unwell_changed = False

    def put(self, node: Node, standing: Standing) -> None:
        """A member and what is now said of it."""
        before = self._standings.get(node)
        after = (standing, node.state)
        if before == after:
            return
        if before is not None:
            self._count(before, -1)
        self._standings[node] = after
        self._count(after, 1)
        if before is None or before[0] is not standing:
            self._move(node, standing)

    def remove(self, node: Node) -> None:
        """No member any more; one that was none is ignored."""
        before = self._standings.pop(node, None)
        if before is not None:
            self._count(before, -1)
            self._move(node, None)

    def reweigh(self, node: Node) -> None:
        if node in self.usable and node not in self._joined:
            self._reweighed[node] = None

    def settle(self) -> None:
        """Begins or ends panic, as the part of unwell members says."""
        unwell = self._counts[Standing.SICK] + self._counts[Standing.DOWN]
        # Nothing is known yet of those that wait: a fleet that is being connected to is not an ill one.
        panic = len(self) - unwell < self._panic_threshold * len(self)
        if panic == self.panic:
            return
        self.panic = panic
        for node in self._sick:
            if panic:
                self._join(node)
            else:
                self._leave(node)

    def standing(self, node: Node) -> Standing | None:
        """None: no member."""
        seat = self._standings.get(node)
        return seat[0] if seat else None

    def __len__(self) -> int:
        return len(self._standings)

    def states(self) -> Mapping[ConnectivityState, int]:
        """How many are in which state, as `state` sees them."""
        return dict(self._states)

    def state(self) -> ConnectivityState:
        """All members together: the best state any of them is in, TRANSIENT_FAILURE being the worst."""
        if self.panic and any(node.state is ConnectivityState.READY for node in self._sick):
            return ConnectivityState.READY
        for state in (ConnectivityState.READY, ConnectivityState.CONNECTING, ConnectivityState.IDLE):
            if self._states[state]:
                return state
        return ConnectivityState.TRANSIENT_FAILURE

    @property
    def down(self) -> Collection[Node]:
        """Those whose last connection attempt failed."""
        return self._down.keys()

    @property
    def dirty(self) -> bool:
        """The last chooser is out of date."""
        return bool(self._joined or self._left or self._reweighed or self._unwell_changed)

    def node_set(self) -> NodeSet:
        sick = () if self.panic else self._sick
        return NodeSet(tuple(self.usable), (*sick, *self._down))

    def take_change(self) -> Change:
        """What changed since it was last taken."""
        change = Change(tuple(self._joined), tuple(self._left), tuple(self._reweighed))
        self._joined, self._left, self._reweighed = {}, {}, {}
        self._unwell_changed = False
        return change

    def _count(self, seat: tuple[Standing, ConnectivityState], step: int) -> None:
        standing, state = seat
        # gRPC's sticky failure: a member that failed counts as failed until it is ready, connecting or not.
        unwell = standing in (Standing.SICK, Standing.DOWN)
        self._counts[standing] += step
        self._states[ConnectivityState.TRANSIENT_FAILURE if unwell else state] += step

    def _move(self, node: Node, standing: Standing | None) -> None:
        for group in (self._sick, self._down):
            if group.pop(node, self) is None:
                self._unwell_changed = True
        if standing in (Standing.SICK, Standing.DOWN):
            (self._sick if standing is Standing.SICK else self._down)[node] = None
            self._unwell_changed = True
        usable = standing is Standing.USABLE or (standing is Standing.SICK and self.panic)
        if usable and node not in self.usable:
            self._join(node)
        elif not usable and node in self.usable:
            self._leave(node)

    def _join(self, node: Node) -> None:
        self.usable[node] = None
        if self._left.pop(node, self) is None:
            self._reweighed[node] = None
        else:
            self._joined[node] = None

    def _leave(self, node: Node) -> None:
        del self.usable[node]
        self._reweighed.pop(node, None)
        if self._joined.pop(node, self) is not None:
            self._left[node] = None
