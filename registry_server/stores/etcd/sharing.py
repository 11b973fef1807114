"""CORE: which commits that wait go to etcd in one request."""

from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from registry_server.records import Commit, Delete, Put
from registry_server.stores.names import path_of

# So many commits go together at the most. etcd takes 128 operations in one transaction, and that of the cause is one.
MAX_TOGETHER = 100
# So many bytes of records go together at the most; etcd takes 1.5 MiB in one request.
MAX_BYTES = 256 * 1024


class Waits(Protocol):
    """Somebody who waits for a commit."""

    @property
    def commit(self) -> Commit:
        """What is to be written."""


W = TypeVar("W", bound=Waits)


class Lots(Generic[W]):
    """Commits that wait, taken in the order in which they came.

    Together go those that name different records, and delete for one cause, because that is written once for each
    revision. What writes several records goes alone. Within a request they are sorted by path: every server then sees
    the records of one revision in the same order, in the full set and among the changes.
    """

    def __init__(self) -> None:
        self._waiting: deque[W] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: W) -> None:
        """It waits from now on."""
        self._waiting.append(item)

    def take(self) -> list[W]:
        """What goes next, and waits no more; empty if nothing waits."""
        lot = _Lot()
        taken: list[W] = []
        while self._waiting and lot.takes(self._waiting[0].commit):
            taken.append(self._waiting.popleft())
        taken.sort(key=lambda item: path_of(item.commit.items[0].key))
        return taken

    def take_all(self) -> Iterable[W]:
        """All that wait, and wait no more."""
        taken, self._waiting = self._waiting, deque()
        return taken


class _Lot:
    """What goes in one request."""

    def __init__(self) -> None:
        self._commits = 0
        self._bytes = 0
        self._keys: set[tuple[str, ...]] = set()
        self._cause: object = None
        self._is_full = False

    def takes(self, commit: Commit) -> bool:
        """Whether this one may go as well, which it then does."""
        items = commit.items
        size = sum(len(put.value) for put in commit.puts)
        if self._commits and not self._has_room_for(commit, items, size):
            return False
        self._commits += 1
        self._bytes += size
        self._keys.update(item.key for item in items)
        self._cause = commit.cause if commit.deletes else self._cause
        self._is_full = len(items) > 1 or self._commits == MAX_TOGETHER
        return True

    def _has_room_for(self, commit: Commit, items: list[Put | Delete], size: int) -> bool:
        if self._is_full or len(items) > 1 or self._bytes + size > MAX_BYTES:
            return False
        if commit.deletes and self._cause not in (None, commit.cause):
            return False
        return self._keys.isdisjoint(item.key for item in items)
