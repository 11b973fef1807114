"""CORE: what `Leased` needs of something that keeps values under names, to make a store of it.

A backend knows nothing of leases, of instances or of time. It counts its changes (its *revision*), tells of them, and
changes several values together if they are still what the writer thinks. What has that (Consul's KV, ZooKeeper's nodes,
a table of a database) is a store in about 200 lines; docs/stores.md shows one in 50.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import NamedTuple, Protocol

from registry_server.stores.base import StoreError

# What a Check may ask for beside a revision: there is no such name, or there is, at whatever revision.
ABSENT, PRESENT = 0, -1


class Item(NamedTuple):
    """One value, the revision at which it was last written, and the one at which its name came to be."""

    name: str
    value: bytes
    revision: int
    created: int


class Everything(NamedTuple):
    """All that there is, as of a revision."""

    revision: int
    items: tuple[Item, ...]


class Changed(NamedTuple):
    """What changed since the last telling, up to a revision, which is more than the last one.

    Mostly it is one transaction. A backend that looks now and then may put several into one and leave out what did not
    last, but never a part of a transaction without the rest of it.
    """

    revision: int
    puts: tuple[Item, ...] = ()
    deletes: tuple[str, ...] = ()


class Check(NamedTuple):
    """A name must have this revision (or be ABSENT, or PRESENT), else the transaction does nothing."""

    name: str
    revision: int


class ChecksFailed(StoreError):
    """Nothing was changed. `names` are all those whose checks failed; `revision` as in Conflict."""

    def __init__(self, names: Sequence[str], revision: int = 0) -> None:
        super().__init__(f"{len(names)} checks failed")
        self.names = frozenset(names)
        self.revision = revision


class Backend(Protocol):
    """Values under names. Names are of any characters and have up to 2,500 of them; values have up to 1 MiB."""

    @property
    def most(self) -> int:
        """So many names one transaction may check or write, at the most; 256 is enough for all that is written."""
        ...

    def watch(self) -> AsyncGenerator[Everything | Changed]:
        """Everything first, and then each change after it, in order and without a gap, as soon as it happens.

        Opens what has to be opened, and closes it when the generator is closed. Raises StoreAway, or OSError, when the
        connection is lost or so much as doubtful, and is called again then; any other StoreError, if it comes before
        anything was told, is for good (credentials refused).
        """
        ...

    async def transact(self, checks: Sequence[Check], writes: Mapping[str, bytes | None]) -> int:
        """Write all values at one revision, which is returned and told, if all checks hold; None deletes.

        A write counts also if the value is the same as before, and sees every one that was answered before. Raises
        ChecksFailed, Refused (it is too large), or StoreAway or OSError: then nobody knows whether it took place.
        """
        ...

    async def aclose(self) -> None:
        """Let go of everything."""
        ...
