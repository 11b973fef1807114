"""SHELL: which neighbours a server has: other catalogs that show its instances, and whose instances it shows.

A URL names one, as for stores, and no message quotes it. A store that is kept in a system with a catalog of its own has
that as a neighbour, unless its URL says otherwise.
"""

from collections.abc import Callable, Iterable, Mapping

from registry_server.neighbours.base import Neighbour
from registry_server.stores import BadStoreURL

Maker = Callable[[str], Neighbour | None]
"""From a URL to the neighbour, not connected yet; None if the URL wants none. Raises BadStoreURL."""


def open_neighbours(urls: str, store_url: str, kinds: Mapping[str, Maker] | None = None) -> list[Neighbour]:
    """Those of `urls`, which are separated by blanks, and of the store, if it has one. Raises BadStoreURL."""
    kinds = KINDS if kinds is None else kinds
    named = [_maker(url, kinds)(url) for url in urls.split()]
    if (of_store := kinds.get(_kind(store_url))) is not None:
        named.insert(0, of_store(store_url))
    found = [neighbour for neighbour in named if neighbour is not None]
    _check_names(neighbour.name for neighbour in found)
    return found


def _maker(url: str, kinds: Mapping[str, Maker]) -> Maker:
    if (maker := kinds.get(_kind(url))) is None:
        raise BadStoreURL(f"a neighbour's URL must begin with one of {', '.join(f'{kind}:' for kind in kinds)}")
    return maker


def _kind(url: str) -> str:
    return url.partition(":")[0]


def _check_names(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadStoreURL(f"there are two neighbours of the name {name}: give one of them another by ?name=…")
        seen.add(name)


# ---- the kinds; each is imported when it is used


def _consul(url: str) -> Neighbour | None:
    from registry_server.neighbours.consul.neighbour import ConsulNeighbour
    from registry_server.stores.consul.http import Consul
    from registry_server.stores.consul.url import ConsulURL

    there = ConsulURL.parse(url)
    return ConsulNeighbour(Consul(there), there.name, there.prefix, there.namespace) if there.shows_catalog else None


def _zookeeper(url: str) -> Neighbour | None:
    from registry_server.neighbours.curator.neighbour import CuratorNeighbour
    from registry_server.stores.zookeeper.url import ZooKeeperURL

    there = ZooKeeperURL.parse(url)
    return CuratorNeighbour(there) if there.shows_catalog else None


KINDS: Mapping[str, Maker] = {"consul": _consul, "zookeeper": _zookeeper}
