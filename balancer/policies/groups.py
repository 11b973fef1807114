"""CORE: a part of the nodes, within which another policy chooses: what levels and the parts of a split are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from balancer.policies.base import NodeSet, Revisable

if TYPE_CHECKING:
    from random import Random

    from balancer.policies.base import Change, Chooser, Node, Policy


@dataclass(frozen=True, slots=True)
class Group:
    """Usable nodes, and who chooses among them."""

    nodes: dict[Node, None]
    chooser: Chooser


def revised_group(old: Group | None, change: Change, child: Policy, rng: Random) -> Group | None:
    """What a change, of these nodes alone, makes of a group; None where no node is left. `child` makes its chooser if
    the one that was there cannot be carried on."""
    members = old.nodes.copy() if old else {}
    for node in change.left:
        del members[node]
    members.update(dict.fromkeys(change.joined))
    if not members:
        return None
    nodes = NodeSet(tuple(members))
    if old is not None and isinstance(old.chooser, Revisable):
        return Group(members, old.chooser.revised(nodes, change))
    return Group(members, child.chooser(nodes, rng))
