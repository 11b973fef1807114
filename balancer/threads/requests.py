"""The requests of a call with a stream of them, which may be sent again."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from balancer.calls.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from balancer.calls.replay import Kept


class Source:
    """What the application iterates over, read by one attempt after the other. `limit` as in `Replay`."""

    def __init__(self, requests: Iterator[object], limit: int | None) -> None:
        self._requests = requests
        self._replay = Replay(limit)
        self._lock = threading.Lock()
        self._reader: Reader | None = None
        self._end: BaseException | None = None

    def reader(self) -> Reader:
        """An iterator over all requests for the next attempt; the one before it gets no more."""
        self._reader = Reader(self)
        return self._reader

    @property
    def again(self) -> bool:
        """Another attempt could still be given everything."""
        return not self._replay.committed

    @property
    def size(self) -> int:
        """How many requests are kept."""
        return self._replay.size

    def commit(self) -> None:
        """The attempt under way is the last: it gets what was kept, and nothing more is."""
        self._replay.commit()

    def take(self, reader: Reader) -> Kept:
        """The next request for a reader. One that was replaced while it waited leaves the request to its successor."""
        with self._lock:
            if reader is not self._reader:
                raise StopIteration
            kept = self._replay.at(reader.position) or self._from_source()
            if reader is not self._reader:
                raise StopIteration
            reader.position += 1
            return kept

    def _from_source(self) -> Kept:
        if self._end is not None:
            raise self._end
        try:
            return self._replay.take(next(self._requests))
        except BaseException as error:
            self._end = error
            raise


class Reader:
    """The requests of a call for one attempt."""

    __slots__ = ("_source", "position")

    def __init__(self, source: Source) -> None:
        self._source = source
        self.position = 0

    def __iter__(self) -> Reader:
        return self

    def __next__(self) -> Kept:
        return self._source.take(self)
