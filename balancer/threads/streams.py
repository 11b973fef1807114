"""Streams: the call with a stream of responses, and the requests of one that may be sent again."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from balancer.threads.call import BalancedCall

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT_REQUESTS = 128
"""Requests of a stream that are kept for another attempt; once there are more, the attempt under way is the last."""


class BalancedStream(BalancedCall):
    """A call with a stream of responses."""

    is_unary = False


class Requests:
    """The requests of a stream, readable once more by each attempt that replaces another."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._kept: list[Any] = []
        self._keeping = True
        self._reader: _Reader | None = None

    def reader(self) -> _Reader:
        """An iterator over all requests for the next attempt; the one before it gets no more."""
        self._reader = _Reader(self)
        return self._reader

    @property
    def again(self) -> bool:
        """True while another attempt could still get everything."""
        return self._keeping

    def commit(self) -> None:
        """The attempt under way is the last: it gets what was kept, and nothing more is."""
        self._keeping = False

    def take(self, reader: _Reader) -> Any:
        """The next request for a reader. One that was replaced while it waited leaves the request to its successor."""
        with self._lock:
            if reader is self._reader and reader.position < len(self._kept):
                request = self._kept[reader.position]
            elif reader is not self._reader:
                raise StopIteration
            else:
                request = self._from_source(reader)
            reader.position += 1
            return request

    def _from_source(self, reader: _Reader) -> Any:
        request = next(self._source)
        if not self._keeping:
            self._kept.clear()
            reader.position = -1  # `take` makes it 0: nothing is kept, so that is where the source goes on
            return request
        self._kept.append(request)
        self._keeping = len(self._kept) < KEPT_REQUESTS
        if reader is not self._reader:
            raise StopIteration
        return request


class _Reader:
    __slots__ = ("_requests", "position")

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self.position = 0

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> Any:
        return self._requests.take(self)
