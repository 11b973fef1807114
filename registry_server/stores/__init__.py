"""Where the truth lives: one file for each kind of store, and the one place that knows them by their URLs.

A URL may have a password in it, also where it has a mistake: no message quotes one.
"""

from collections.abc import Callable

from registry_server.stores.base import BadStoreURL, Store


def open_store(url: str) -> Store:
    """The store that a URL names, not connected yet. Raises BadStoreURL."""
    scheme, colon, _ = url.partition(":")
    maker = _MAKERS.get(scheme) if colon else None
    if maker is None:
        known = ", ".join(f"{name}:" for name in _MAKERS)
        raise BadStoreURL(f"store URL: there is no such kind of store; the URL must begin with one of {known}")
    return maker(url)


def has_password(url: str) -> bool:
    """Whether a URL has a password in it, for everybody who sees the URL. Raises BadStoreURL."""
    if not url.startswith("etcd:"):
        return False
    from registry_server.stores.etcd.url import EtcdURL

    return EtcdURL.parse(url).has_password


def _memory(url: str) -> Store:
    from registry_server.stores.memory import MemoryStore

    if url != "memory:":
        raise BadStoreURL("store URL: the embedded store takes no settings; write memory:")
    return MemoryStore()


def _etcd(url: str) -> Store:
    from registry_server.stores.etcd.store import EtcdStore

    return EtcdStore.from_url(url)


# Imported when it is used: nobody pays for a store that he has not.
_MAKERS: dict[str, Callable[[str], Store]] = {"memory": _memory, "etcd": _etcd}
