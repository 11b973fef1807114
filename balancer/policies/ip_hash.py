"""CORE: ip_hash: calls for the same IP address go to the same node.

nginx's ip_hash (src/http/modules/ngx_http_upstream_ip_hash_module.c) in purpose, and with `prefix=24` in what it
hashes, but over a ring in place of a remainder: when a node leaves, the others keep their clients.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from balancer.policies.base import Connect
from balancer.policies.checks import at_least
from balancer.policies.hashing import KeyChooser
from balancer.policies.ring import VIRTUAL_NODES, Ring

if TYPE_CHECKING:
    from random import Random

    from balancer.policies.base import Chooser, Node, NodeSet

REMEMBERED = 4096
"""Keys whose canonical form is kept."""

_DOTTED = re.compile(r"\d+\.\d+\.\d+\.\d+", re.ASCII)


def _address(node: Node) -> str:
    return node.endpoint.address


def host_of(peer: str) -> str:
    """The host of `1.2.3.4`, `1.2.3.4:5`, `[::1]:5`, `::1`, or of what gRPC's `peer()` says (`ipv4:…`, `ipv6:…`)."""
    for scheme in ("ipv4:", "ipv6:"):
        peer = peer.removeprefix(scheme)
    peer = peer.replace("%5B", "[").replace("%5D", "]")
    if peer.startswith("["):
        return peer[1:].partition("]")[0]
    return peer.partition(":")[0] if peer.count(":") == 1 else peer


def canonical(key: str | bytes, prefix: int | None) -> bytes:
    """The same bytes for every way to write an address, cut to `prefix` bits if it is IPv4; other text as it is."""
    text = key.decode(errors="surrogateescape") if isinstance(key, bytes) else key
    host = host_of(text)
    if prefix is None and _DOTTED.fullmatch(host):
        return host.encode()  # there is one way to write it, and parsing takes longer than all the rest of a pick
    try:
        address = ip_address(host)
    except ValueError:
        return host.encode(errors="surrogateescape")
    if address.version == 4 and prefix is not None:
        address = ip_network((address, prefix), strict=False).network_address
    return address.packed


class IpHash:
    """The key of a call is the IP address it is made for. `prefix`: IPv4 addresses that share so many bits are one.

    Raises ValueError, naming the option, for a value that makes no sense.
    """

    name = "ip_hash"
    connect = Connect.LAZY

    def __init__(self, *, prefix: int | str | None = None, virtual_nodes: int | str = VIRTUAL_NODES) -> None:
        self._prefix = None if prefix is None else at_least(1, int, "prefix", prefix, most=32)
        self._virtual_nodes = at_least(1, int, "virtual_nodes", virtual_nodes)

    def chooser(self, nodes: NodeSet, rng: Random) -> Chooser:
        read = lru_cache(REMEMBERED)(lambda key: canonical(key, self._prefix))
        ring = Ring(nodes.usable, self._virtual_nodes, _address)
        return KeyChooser(ring, read, rng, len(nodes.usable), None)
