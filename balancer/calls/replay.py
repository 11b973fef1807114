"""CORE: the requests of a call, kept while another attempt may need them again.

With a policy that may try the call again they are kept up to a number of bytes. Without one, only the first is, and
only until the attempt asks for the second: it cannot have sent the first before it had a connection, and a call that
never had one goes elsewhere.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Kept:
    """One request, and its bytes once an attempt has made them: no request that is kept is serialized twice."""

    __slots__ = ("_data", "_replay", "request")

    def __init__(self, request: object, replay: Replay) -> None:
        self.request: object = request
        self._replay = replay
        self._data: bytes | None = None

    def encoded(self, serializer: Callable[[object], bytes] | None) -> object:
        """Its bytes; or what else there is, when there is no serializer and it is none."""
        if self._data is not None:
            return self._data
        data = self.request if serializer is None else serializer(self.request)
        if isinstance(data, bytes) and self._replay.made(len(data)):
            self._data, self.request = data, None
        return data


class Replay:
    """What was taken from the caller so far, for one attempt after the other. One owner at a time."""

    __slots__ = ("_bytes", "_gone", "_kept", "_limit", "committed", "taken")

    def __init__(self, limit: int | None) -> None:
        """`limit`: bytes to keep; None = no policy tries again, so the first request alone, for as long as it waits."""
        self._limit = limit
        self._kept: deque[Kept] = deque()
        self._gone = 0
        """How many requests, from the first on, are not kept any more."""
        self._bytes = 0
        self.committed = False
        """The attempt under way is the last: there is none that could be given everything."""
        self.taken = 0
        """How many requests were taken from the caller."""

    @property
    def size(self) -> int:
        """How many requests are kept."""
        return len(self._kept)

    def at(self, position: int) -> Kept | None:
        """The request at this position; None when it is yet to be taken from the caller.

        An attempt asks for one position after the other, beginning at 0 unless `committed`: then what went before is
        dropped.
        """
        if self.committed:
            while self._kept and self._gone < position:
                self._kept.popleft()
                self._gone += 1
        return self._kept[position - self._gone] if self._gone <= position < self.taken else None

    def take(self, request: object) -> Kept:
        """One more request came from the caller; an attempt that has had all others asks for it by `at`."""
        kept = Kept(request, self)
        if self._limit is None and self.taken:
            self.commit()
        self._kept.append(kept)
        self.taken += 1
        return kept

    def made(self, size: int) -> bool:
        """The bytes of a request are known; True when they are to take the place of the request."""
        if self.committed or self._limit is None:
            return False
        self._bytes += size
        if self._bytes > self._limit:
            self.commit()
        return True

    def commit(self) -> None:
        """The attempt under way is the last; what it has not had yet stays until it has."""
        self.committed = True
