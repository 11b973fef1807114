"""The URL of a mirror: `mirror:URL|URL…[|?write=quorum|any]`, and what it opens."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from registry_server.stores.backend import Backend
from registry_server.stores.base import BadStoreURL
from registry_server.stores.mirror.backend import MirrorBackend, Write

SCHEME = "mirror:"
MOST = 9
TEMPLATE = """\
# The URLs of the stores with "|" between them; the first that is there is read. Behind them may stand "|?write=any":
# then a write is answered when one of them has it, and else when more than half have it.
path = "sqlite:registry-1.db|sqlite:registry-2.db"
"""


class MirrorURL(NamedTuple):
    """The stores of a mirror, and in how many of them a write has to be."""

    urls: tuple[str, ...]
    write: Write

    @classmethod
    def parse(cls, url: str) -> "MirrorURL":
        """Read `mirror:…`. Raises BadStoreURL, whose text quotes nothing of it."""
        *urls, last = url.removeprefix(SCHEME).split("|")
        if not last.startswith("?"):
            return cls(_urls([*urls, last]), Write.QUORUM)
        name, _, value = last[1:].partition("=")
        if name != "write" or value not in list(Write):
            raise BadStoreURL("store URL: mirror: after the last '|' may stand ?write=quorum or ?write=any")
        return cls(_urls(urls), Write(value))


def _urls(urls: Sequence[str]) -> tuple[str, ...]:
    if not 2 <= len(urls) <= MOST:
        raise BadStoreURL(f"store URL: mirror: is followed by 2 to {MOST} store URLs with '|' between them")
    if len(set(urls)) < len(urls):
        raise BadStoreURL("store URL: mirror: names one store twice")
    if any(it.startswith(SCHEME) for it in urls):
        raise BadStoreURL("store URL: mirror: a mirror is no part of another")
    return tuple(urls)


def mirror_url(urls: Sequence[str], write: str = Write.QUORUM) -> str:
    """The URL of a mirror of these stores."""
    return SCHEME + "|".join([*urls, *([f"?write={write}"] if write != Write.QUORUM else [])])


def open_mirror(url: str, open_backend: Callable[[str], Backend], shown: Callable[[str], str]) -> MirrorBackend:
    """The backend of a URL, not connected yet. Raises BadStoreURL."""
    found = MirrorURL.parse(url)
    names = list(map(shown, found.urls))  # without their passwords two may be the same
    named = (f"{it} ({nth})" if names.count(it) > 1 else it for nth, it in enumerate(names, 1))
    return MirrorBackend(dict(zip(named, map(open_backend, found.urls), strict=True)), found.write)
