"""CORE: which nodes a pool has connected, as the policy would have it: all, those that are picked, or one.

Each way is a `Connecting`. It is asked what is to be opened and closed; the pool remembers what is open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from balancer.policies.base import Connect, connect_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from balancer.policies.base import Node, Policy
    from balancer.pool.options import PoolOptions
    from balancer.pool.roster import Roster

CONNECTION_DELAY_S = 0.25
"""How long pick_first gives one address before it tries the next beside it (gRFC A61)."""


class Connecting:
    """All, at once: a pick never waits for a connection (round_robin and its like)."""

    picks_idle = False
    """Nodes without a connection may be picked; they are connected then. Otherwise all close when nothing is called."""
    lets_go = False
    """A connection that ended is closed, rather than asked for again."""
    next_look: float | None = None
    """When `settle` has something to say though nothing happened."""

    def __init__(self, *, shuffles: bool = True) -> None:
        self.shuffles = shuffles
        """New nodes may be taken up in any order."""

    def listed(self, created: Collection[Node], members: Mapping[Node, None]) -> None:
        """The list or the members are others. `created`: nodes that are new, in the order they are taken up."""

    def wanted(self, nodes: Collection[Node]) -> Collection[Node]:
        """Of nodes that have just become members, or all when the pool wakes up: those to open at once."""
        return nodes

    def first_needed(self, members: Collection[Node]) -> Collection[Node]:
        """Those that a pick asks for while the pool is asleep."""
        return members

    def settle(
        self, usable: Collection[Node], opened: Collection[Node], now: float, *, asleep: bool
    ) -> tuple[list[Node], list[Node]]:
        """What else is to be opened and closed by now."""
        return [], []


class Lazy(Connecting):
    """Each when the first pick falls on it (consistent hashing)."""

    picks_idle = True

    def wanted(self, nodes: Collection[Node]) -> Collection[Node]:
        return ()


class First(Connecting):
    """One attempt after the other in the order of the list, the next when one has failed or taken 250 ms (gRFC A61),
    until one is ready; when all failed, all go on trying (gRFC A62)."""

    lets_go = True

    def __init__(self, roster: Roster, *, shuffles: bool = False) -> None:
        super().__init__(shuffles=shuffles)
        self._roster = roster
        self._order: list[Node] = []

    def listed(self, created: Collection[Node], members: Mapping[Node, None]) -> None:
        listed = (*self._order, *created) if self.shuffles else self._roster.in_order()
        self._order = [node for node in dict.fromkeys(listed) if node in members]

    def wanted(self, nodes: Collection[Node]) -> Collection[Node]:
        return ()

    def first_needed(self, members: Collection[Node]) -> Collection[Node]:
        return self._order[:1]

    def settle(
        self, usable: Collection[Node], opened: Collection[Node], now: float, *, asleep: bool
    ) -> tuple[list[Node], list[Node]]:
        chosen = next(iter(usable), None)
        if chosen is not None:
            self.next_look = None
            return [], [node for node in opened if node is not chosen]
        under_way = any(not node.failing for node in opened)
        if asleep or (under_way and self.next_look is not None and now < self.next_look):
            return [], []
        fresh = next((node for node in self._order if node not in opened and not node.failing), None)
        self.next_look = None if fresh is None else now + CONNECTION_DELAY_S
        return [] if fresh is None else [fresh], []


def connecting(policy: Policy, options: PoolOptions, roster: Roster) -> Connecting:
    """As the policy and the pool's options have it."""
    connect = Connect.LAZY if options.lazy or not options.connections else connect_of(policy)
    shuffles = bool(getattr(policy, "shuffle", connect is not Connect.FIRST))
    if connect is Connect.FIRST:
        return First(roster, shuffles=shuffles)
    return (Lazy if connect is Connect.LAZY else Connecting)(shuffles=shuffles)
