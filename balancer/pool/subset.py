"""CORE: deterministic subsetting, so that ten thousand endpoints do not mean ten thousand connections.

Random subsetting by rendezvous, after gRFC A68: every endpoint is hashed together with the client's salt, and the
lowest hashes are the subset. Clients spread over all endpoints without talking to each other, one client always gets
the same subset, and an endpoint that comes or goes exchanges one member at most. Each priority has a subset of its
own, or failover would have nowhere to go, and so has each group of which the policy asks for some.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeAlias

from balancer.policies.hashing import hash64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from balancer.endpoints import Endpoint
    from balancer.policies.base import Node

Entry: TypeAlias = "tuple[int, str, str, Node]"
"""Hash, then what settles ties the same way for everybody, then the node."""


class Subset:
    """Which `size` nodes of each priority, and of each group within, a client with this `salt` uses. Raises ValueError
    when `size` is below 1."""

    def __init__(self, size: int, salt: str, group_of: Callable[[Endpoint], int] | None = None) -> None:
        if size < 1:
            raise ValueError(f"subset_size: must be at least 1, is {size}")
        self.size = size
        self._salt = salt
        self._group_of = group_of
        self._ranked: dict[tuple[int, int], list[Entry]] = {}
        self._entries: dict[Node, tuple[tuple[int, int], Entry]] = {}

    def put(self, node: Node) -> None:
        """Adds a node, or moves one whose priority changed."""
        self.drop(node)
        endpoint = node.endpoint
        score = hash64(f"{self._salt}\0{endpoint.address}\0{endpoint.id}".encode())
        entry = (score, endpoint.address, endpoint.id, node)
        group = endpoint.priority, self._group_of(endpoint) if self._group_of else 0
        insort(self._ranked.setdefault(group, []), entry)
        self._entries[node] = group, entry

    def drop(self, node: Node) -> None:
        """Removes a node; one that is not there is ignored."""
        if node not in self._entries:
            return
        group, entry = self._entries.pop(node)
        ranked = self._ranked[group]
        del ranked[bisect_left(ranked, entry)]
        if not ranked:
            del self._ranked[group]

    def chosen(self) -> dict[Node, None]:
        """At most `size` of each group, as an ordered set."""
        best = (islice(ranked, self.size) for ranked in self._ranked.values())
        return {node: None for *_, node in chain.from_iterable(best)}


class Membership:
    """Which nodes of the roster are used: the routable ones, or a subset of them.

    Nodes known to be draining or ill are the last resort, for when there is no routable one; a weight of 0 is never
    used.
    """

    def __init__(self, subset: Subset | None, *, last_resort: bool) -> None:
        self._subset = subset
        self.size = None if subset is None else subset.size
        """Of each priority and group so many are members; None: all."""
        self._allowed = last_resort
        self._routable: dict[Node, None] = {}
        self._last_resort: dict[Node, None] = {}
        self._source = self._routable
        self.members: dict[Node, None] = {}

    def update(self, touched: Iterable[Node], gone: Iterable[Node]) -> tuple[list[Node], list[Node]]:
        """The nodes that became members, and those that are none any more. `touched`: new or with a new endpoint
        value."""
        affected = dict.fromkeys((*touched, *gone))
        for node in gone:
            self._routable.pop(node, None)
            self._last_resort.pop(node, None)
        for node in touched:
            self._sort(node)
        source = self._routable or self._last_resort
        if source is not self._source:
            affected.update({**self._source, **source, **self.members})
            self._source = source
        joined, left = self._difference(affected)
        for node in left:
            del self.members[node]
        self.members.update(dict.fromkeys(joined))
        return joined, left

    def _sort(self, node: Node) -> None:
        endpoint = node.endpoint
        _place(node, self._routable, endpoint.routable and endpoint.weight > 0)
        _place(node, self._last_resort, self._allowed and not endpoint.routable and endpoint.weight > 0)

    def _difference(self, affected: Iterable[Node]) -> tuple[list[Node], list[Node]]:
        members = self.members
        if self._subset is None:
            joined = [node for node in affected if node in self._source and node not in members]
            return joined, [node for node in affected if node in members and node not in self._source]
        for node in affected:
            if node in self._source:
                self._subset.put(node)
            else:
                self._subset.drop(node)
        chosen = self._subset.chosen()
        return [node for node in chosen if node not in members], [node for node in members if node not in chosen]


def _place(node: Node, group: dict[Node, None], belongs: bool) -> None:
    if belongs:
        group[node] = None
    else:
        group.pop(node, None)


NOTHING = "the target has no endpoints"


def none_usable(endpoints: Iterable[Endpoint]) -> str:
    """Why none of these may be picked, supposing that none may: how many there are, and what speaks against them."""
    reasons = Counter("of weight 0" if endpoint.weight == 0 else "draining or ill" for endpoint in endpoints)
    if not reasons:
        return NOTHING
    told = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    return f"{NOTHING} that get traffic: of {reasons.total()} known, {told}"
