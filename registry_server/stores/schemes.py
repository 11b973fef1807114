"""Kinds of store by the scheme of their URLs: the built-in ones, those that are registered, and installed ones."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry_server.stores.backend import Backend
from registry_server.stores.base import BadStoreURL, Store

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "grpc_registry.stores"

_TEMPLATE_KEY = re.compile(r"^(?:# )?(\w+) = ", re.MULTILINE)
_NAME = re.compile(r"[a-z][a-z0-9+.-]*")
# A password before the host, or one among the parameters.
_PASSWORD = re.compile(r"//[^/?#@]*:[^/?#@]+@|[?&](?:password|token)=[^&…]")

_LOGIN = re.compile(r"//[^/?#@]*@")
_SECRET = re.compile(r"(?<=[?&]password=)[^&]*|(?<=[?&]token=)[^&]*")


def _anything(url: str) -> None:
    """No URL has a mistake, as far as can be told without opening it."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """What a kind of store does with a URL.

    `open` gives the store, not connected yet; `check` opens nothing. Both raise BadStoreURL. `has_password` says
    whether everybody who sees the URL sees a password. `template` is the store as a table of TOML, with all keys that
    there are and what each is for, those that may be left out as comments; tables.py says how it becomes a URL.
    `backend`, if there is one, is what a mirror makes of the URL.
    """

    open: Callable[[str], Store]
    check: Callable[[str], None] = _anything
    has_password: Callable[[str], bool] = lambda url: _PASSWORD.search(url) is not None
    template: Callable[[], str] = lambda: ""
    backend: Callable[[str], Backend] | None = None

    def hidden(self, url: str) -> str:
        """The URL without its passwords; only its kind, if it may still have one then."""
        if not self.has_password(url):
            return url
        shown = _SECRET.sub("…", _LOGIN.sub("//…@", url))
        return f"{url.partition(':')[0]}:…" if _PASSWORD.search(shown) else shown

    def keys(self) -> list[str]:
        """The keys of its table; none are known of a kind without a template."""
        return _TEMPLATE_KEY.findall(self.template())


class Schemes:
    """All kinds by their names. What is installed is looked for when a URL is of no other kind, and loaded when it is
    used: nobody pays for a store that he has not."""

    def __init__(self, built_in: Mapping[str, Scheme], installed: Callable[[], Iterable["EntryPoint"]]) -> None:
        self._known = dict(built_in)
        self._installed = installed

    def register(self, name: str, maker: Callable[[str], Store] | Scheme) -> None:
        """A kind of store for this process. Raises ValueError when the name is no scheme, or taken."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"the name of a kind of store is lower-case letters, digits, '+', '.' and '-': {name!r}")
        if name in self._known:
            raise ValueError(f"there is a kind of store of that name: {name}")
        self._known[name] = _scheme(maker)

    def of(self, url: str) -> Scheme:
        """The kind of a URL. Raises BadStoreURL, whose text quotes nothing of the URL but a scheme that is known."""
        name, colon, _ = url.partition(":")
        if colon and (known := self._known.get(name)):
            return known
        points = [point for point in self._installed() if colon and point.name == name]
        if not points:
            known_names = ", ".join(f"{name}:" for name in self.names())
            raise BadStoreURL(
                f"store URL: there is no such kind of store; the URL must begin with one of {known_names}"
            )
        return _loaded(points)

    def has(self, url: str) -> bool:
        """Whether a URL is of a kind that there is; nothing is loaded."""
        name, colon, _ = url.partition(":")
        return bool(colon) and (name in self._known or any(point.name == name for point in self._installed()))

    def names(self) -> Iterator[str]:
        """All that there are."""
        yield from self._known
        yield from sorted({point.name for point in self._installed()} - self._known.keys())


def _loaded(points: Iterable["EntryPoint"]) -> Scheme:
    by_value = {point.value: point for point in points}
    if len(by_value) > 1:
        raise BadStoreURL(
            f"store URL: several packages bring that kind: {' and '.join(map(_named, by_value.values()))}"
        )
    [point] = by_value.values()
    try:
        return _scheme(point.load())
    except Exception as error:  # whatever somebody else's module raises
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise BadStoreURL(f"store URL: {_named(point)} cannot be loaded: {said}") from error


def _named(point: "EntryPoint") -> str:
    of = f" of {point.dist.name}" if point.dist else ""
    return f"the entry point {point.name} = {point.value}{of}"


def _scheme(maker: object) -> Scheme:
    if isinstance(maker, Scheme):
        return maker
    if not callable(maker):
        raise TypeError(
            f"a kind of store is a function from a URL to a Store, or a Scheme, and no {type(maker).__name__}"
        )
    return Scheme(maker)


def installed() -> Iterable["EntryPoint"]:
    """What the packages that are installed bring."""
    from importlib.metadata import entry_points  # takes a while, and most URLs are of a built-in kind

    return entry_points(group=GROUP)
