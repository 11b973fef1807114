"""Where the truth lives: one file for each kind of store, and the one place that knows them by their URLs.

A URL may have a password in it, also where it has a mistake: no message quotes one.
"""

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic

from registry_server.stores.backend import Backend
from registry_server.stores.base import BadStoreURL, Shelf, Store, StoreAway, StoreError
from registry_server.stores.measured import MeasuredStore
from registry_server.stores.schemes import Scheme, Schemes, installed
from registry_server.stores.tables import BadTable, kind_of, nearest, written_as_url

__all__ = [
    "BadStoreURL",
    "BadTable",
    "MeasuredStore",
    "Scheme",
    "Shelf",
    "Store",
    "StoreAway",
    "StoreError",
    "check_url",
    "has_password",
    "hidden",
    "is_url",
    "keys_of",
    "kinds",
    "memory_by",
    "mirror_of",
    "nearest",
    "open_store",
    "register",
    "template",
    "url_of",
]


def open_store(url: str) -> Store:
    """The store that a URL names, not connected yet. Raises BadStoreURL."""
    with _by_its_kind(url):
        made: object = _SCHEMES.of(url).open(url)
    if inspect.iscoroutine(made):
        made.close()
    if not isinstance(made, Store):
        raise BadStoreURL(f"store URL: its kind of store makes a {type(made).__name__}, which is no Store")
    return made


def check_url(url: str) -> None:
    """Opens nothing, and makes no store. Raises BadStoreURL."""
    with _by_its_kind(url):
        _SCHEMES.of(url).check(url)


def keys_of(url: str) -> list[str]:
    """What a table in place of a URL of that kind may have; empty when that is not known. Raises BadStoreURL."""
    with _by_its_kind(url):
        return _SCHEMES.of(url).keys()


def url_of(table: Mapping[str, object]) -> str:
    """The URL of the store that a table of TOML describes. Raises BadTable, or BadStoreURL for it as a whole."""
    url = written_as_url(table, keys_of(f"{kind_of(table)}:"))
    check_url(url)
    return url


def template(kind: str) -> str:
    """A table of TOML for that kind, as its lines; empty when it has none. Raises BadStoreURL."""
    with _by_its_kind(f"{kind}:"):
        return _SCHEMES.of(f"{kind}:").template()


def is_url(text: str) -> bool:
    """Whether it names a kind of store that there is, whatever follows the name."""
    return _SCHEMES.has(text)


def mirror_of(urls: Sequence[str], write: str = "quorum") -> str:
    """The URL of a mirror of these stores. `write`: `quorum` or `any`."""
    from registry_server.stores.mirror.url import mirror_url

    return mirror_url(urls, write)


def memory_by(clock: Callable[[], float]) -> Store:
    """An embedded store whose leases go by `clock`, in seconds, which may be moved on by hand."""
    from registry_server.stores.memory import MemoryStore

    return MemoryStore(clock, pulse_clock=monotonic)


def has_password(url: str) -> bool:
    """Whether a URL has a password in it, for everybody who sees the URL. Raises BadStoreURL."""
    with _by_its_kind(url):
        return _SCHEMES.of(url).has_password(url)


def hidden(url: str) -> str:
    """A URL of a store, or of something else, as it may be shown."""
    if not is_url(url):
        return Scheme(open_store).hidden(url)
    try:
        with _by_its_kind(url):
            return _SCHEMES.of(url).hidden(url)
    except BadStoreURL:
        return f"{url.partition(':')[0]}:…"


@contextmanager
def _by_its_kind(url: str) -> Iterator[None]:
    """What raises anything else than it should, a BadStoreURL which says where. What it says may have a password."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        raise BadStoreURL(
            f"store URL: its kind of store, {url.partition(':')[0]}, fails with {type(error).__name__} "
            f"in {last.filename}, line {last.lineno}"
        ) from error


def kinds() -> list[str]:
    """The names of all kinds of store."""
    return list(_SCHEMES.names())


def register(name: str, maker: Callable[[str], Store] | Scheme) -> None:
    """A kind of store for all of this process: URLs that begin with `name:` are given to `maker`.

    Raises ValueError when the name is no scheme, or taken. A package that others install brings its kinds by the entry
    points `grpc_registry.stores` instead.
    """
    _SCHEMES.register(name, maker)


# ---- the built-in kinds; each is imported when it is used


def _check_memory(url: str) -> None:
    if url != "memory:":
        raise BadStoreURL("store URL: the embedded store takes no settings; write memory:")


def _memory(url: str) -> Store:
    from registry_server.stores.memory import MemoryStore

    _check_memory(url)
    return MemoryStore()


def _check_etcd(url: str) -> None:
    from registry_server.stores.etcd.url import EtcdURL

    EtcdURL.parse(url)


def _etcd_has_password(url: str) -> bool:
    from registry_server.stores.etcd.url import EtcdURL

    return EtcdURL.parse(url).has_password


def _etcd_template() -> str:
    from registry_server.stores.etcd.url import TEMPLATE

    return TEMPLATE


def _etcd(url: str) -> Store:
    from registry_server.stores.etcd.store import EtcdStore

    return EtcdStore.from_url(url)


def _etcd_backend(url: str) -> Backend:
    from registry_server.stores.etcd.backend import EtcdBackend
    from registry_server.stores.etcd.url import EtcdURL

    return EtcdBackend(EtcdURL.parse(url))


def _check_sqlite(url: str) -> None:
    from registry_server.stores.sqlite.url import path_of

    path_of(url)


def _sqlite_template() -> str:
    from registry_server.stores.sqlite.url import TEMPLATE

    return TEMPLATE


def _sqlite_backend(url: str) -> Backend:
    from registry_server.stores.sqlite.backend import SqliteBackend
    from registry_server.stores.sqlite.url import path_of

    return SqliteBackend(path_of(url))


def _sqlite(url: str) -> Store:
    from registry_server.stores.leased import Leased

    return Leased(_sqlite_backend(url))


def _check_zookeeper(url: str) -> None:
    from registry_server.stores.zookeeper.url import ZooKeeperURL

    ZooKeeperURL.parse(url)


def _zookeeper_has_password(url: str) -> bool:
    from registry_server.stores.zookeeper.url import ZooKeeperURL

    return ZooKeeperURL.parse(url).has_password


def _zookeeper_template() -> str:
    from registry_server.stores.zookeeper.url import TEMPLATE

    return TEMPLATE


def _zookeeper(url: str) -> Store:
    from registry_server.stores.zookeeper.backend import open_zookeeper

    return open_zookeeper(url)


def _zookeeper_backend(url: str) -> Backend:
    from registry_server.stores.zookeeper.backend import ZooKeeperBackend
    from registry_server.stores.zookeeper.url import ZooKeeperURL

    return ZooKeeperBackend(ZooKeeperURL.parse(url))


def _check_consul(url: str) -> None:
    from registry_server.stores.consul.url import ConsulURL

    ConsulURL.parse(url)


def _consul_has_password(url: str) -> bool:
    from registry_server.stores.consul.url import ConsulURL

    return ConsulURL.parse(url).has_password


def _consul_template() -> str:
    from registry_server.stores.consul.url import TEMPLATE

    return TEMPLATE


def _consul_backend(url: str) -> Backend:
    from registry_server.stores.consul.backend import ConsulBackend
    from registry_server.stores.consul.url import ConsulURL

    return ConsulBackend.of(ConsulURL.parse(url))


def _consul(url: str) -> Store:
    from registry_server.stores.leased import Leased

    return Leased(_consul_backend(url))


def _check_mirror(url: str) -> None:
    from registry_server.stores.mirror.url import MirrorURL

    for part in MirrorURL.parse(url).urls:
        _maker_of(part)
        check_url(part)


def _mirror_has_password(url: str) -> bool:
    from registry_server.stores.mirror.url import MirrorURL

    return any(map(has_password, MirrorURL.parse(url).urls))


def _mirror_template() -> str:
    from registry_server.stores.mirror.url import TEMPLATE

    return TEMPLATE


def _mirror(url: str) -> Store:
    from registry_server.stores.leased import Leased
    from registry_server.stores.mirror.url import open_mirror

    _check_mirror(url)
    return Leased(open_mirror(url, lambda part: _maker_of(part)(part), hidden))


def _maker_of(url: str) -> Callable[[str], Backend]:
    """What makes the backend of a URL. Raises BadStoreURL."""
    maker = _SCHEMES.of(url).backend
    if maker is None:
        raise BadStoreURL(f"store URL: mirror: {url.partition(':')[0]}: can be no part of a mirror")
    return maker


# They do not come by entry points: `memory:` works wherever the code does, installed or not, and finding what is
# installed takes longer than all else that a start does.
_BUILT_IN = {
    "memory": Scheme(_memory, _check_memory),
    "sqlite": Scheme(_sqlite, _check_sqlite, lambda url: False, _sqlite_template, _sqlite_backend),
    "etcd": Scheme(_etcd, _check_etcd, _etcd_has_password, _etcd_template, _etcd_backend),
    "zookeeper": Scheme(_zookeeper, _check_zookeeper, _zookeeper_has_password, _zookeeper_template, _zookeeper_backend),
    "consul": Scheme(_consul, _check_consul, _consul_has_password, _consul_template, _consul_backend),
    "mirror": Scheme(_mirror, _check_mirror, _mirror_has_password, _mirror_template),
}
# What `register` adds is of the process, as modules are.
_SCHEMES = Schemes(_BUILT_IN, installed)
