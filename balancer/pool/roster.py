"""CORE: the nodes of a target, carried over from one set of endpoints to the next."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress, repeat
from operator import is_
from typing import TYPE_CHECKING, TypeAlias

from balancer.load import Load, LoadBook
from balancer.policies.base import Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from balancer.endpoints import Endpoint

Key: TypeAlias = tuple[str, str]


def key_of(endpoint: Endpoint) -> Key:
    """What makes two endpoints the same process."""
    return endpoint.address, endpoint.id


@dataclass(frozen=True, slots=True)
class Delta:
    """How a roster changed."""

    created: tuple[Node, ...] = ()
    changed: tuple[Node, ...] = ()
    """Carried over with another `endpoint` value."""
    gone: tuple[Node, ...] = ()


class Roster:
    """The nodes by key. Of two endpoints with the same key the first counts."""

    def __init__(self, book: LoadBook) -> None:
        self._book = book
        self._nodes: dict[Key, Node] = {}
        self._by_identity: dict[int, Node] = {}
        # Keeps the objects alive, so that an identity is not given to another one.
        self._endpoints: tuple[Endpoint, ...] = ()

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(tuple(self._nodes.values()))  # whoever looks in another thread sees all of one moment

    def get(self, endpoint: Endpoint) -> Node | None:
        return self._nodes.get(key_of(endpoint))

    def in_order(self) -> list[Node]:
        """As the resolver listed them."""
        listed = (self._nodes[key_of(endpoint)] for endpoint in self._endpoints)
        return list(dict.fromkeys(listed))

    def update(self, endpoints: tuple[Endpoint, ...]) -> Delta:
        """Takes over a whole set. Endpoints known by identity are found at C speed: only the others cost Python."""
        if endpoints is self._endpoints:
            return Delta()
        found = list(map(self._by_identity.get, map(id, endpoints)))
        unknown = list(compress(endpoints, map(is_, found, repeat(None))))
        kept = set(found)
        kept.discard(None)
        created, changed = [], []
        for endpoint in unknown:
            node = self._nodes.get(key_of(endpoint))
            if node is None:
                node = self._create(endpoint)
                created.append(node)
            elif node not in kept:
                if node.endpoint != endpoint:
                    changed.append(node)
                self._rebind(node, endpoint)
            kept.add(node)
        gone = () if len(kept) == len(self._nodes) else tuple(set(self._nodes.values()) - kept)
        for node in gone:
            self._remove(node)
        self._endpoints = endpoints
        return Delta(tuple(created), tuple(changed), gone)

    def _create(self, endpoint: Endpoint) -> Node:
        node = self._nodes[key_of(endpoint)] = Node(endpoint, Load(self._book))
        self._by_identity[id(endpoint)] = node
        return node

    def _rebind(self, node: Node, endpoint: Endpoint) -> None:
        del self._by_identity[id(node.endpoint)]
        node.endpoint = endpoint
        self._by_identity[id(endpoint)] = node

    def _remove(self, node: Node) -> None:
        del self._by_identity[id(node.endpoint)]
        del self._nodes[key_of(node.endpoint)]
