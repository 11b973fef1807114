"""CORE: the latest changes of each service, bounded for each and for all together.

Whoever knows an earlier state gets the difference by them. When there are too many in all, those of the service that
has the most are forgotten: a busy service never costs a quiet one its history.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from registry_server.model import Entry
from registry_server.records import UNSAID, Author, Cause, Key

# So large a part is cut off a log that is too long, and off all when they are too long together.
CUT_PART = 32
CUT_PART_IN_ALL = 16

Name = tuple[str, str]
"""Namespace and service."""


class Change(NamedTuple):
    """One instance before and after: it appeared (`before` is None), changed, or left (`after` is None)."""

    seq: int
    revision: int
    key: Key
    before: Entry | None
    after: Entry | None
    cause: Cause | None = None
    author: Author = UNSAID  # of what left: what came or changed says it itself

    @property
    def size(self) -> int:
        """How many bytes the instance has, as it was and as it is, together."""
        before, after = self.before, self.after
        return (0 if before is None else len(before.encoded)) + (0 if after is None else len(after.encoded))


class Point(NamedTuple):
    """A place in the order of changes, by both of its numbers."""

    seq: int
    revision: int


class Log:
    """The latest changes of one service, oldest first: all after `floor`; `latest` is the last there was."""

    __slots__ = ("changes", "floor", "latest")

    def __init__(self, floor: Point) -> None:
        self.floor = floor
        self.latest: Point | Change = floor
        self.changes: list[Change] = []

    def __len__(self) -> int:
        return len(self.changes)

    def since(self, seq: int) -> list[Change] | None:
        """The changes after `seq`, oldest first, or None if some are forgotten."""
        if seq < self.floor.seq:
            return None
        if seq >= self.latest.seq:
            return []
        return self.changes[bisect_right(self.changes, seq, key=attrgetter("seq")) :]

    def first_after(self, revision: int) -> int | None:
        """The `seq` of the first change that is newer than `revision`; None if one may be forgotten. There is one."""
        if revision < self.floor.revision:
            return None
        return self.changes[bisect_right(self.changes, revision, key=attrgetter("revision"))].seq

    def forget(self, count: int) -> None:
        """Forget so many of the oldest changes."""
        if not count:
            return
        last = self.changes[count - 1]
        self.floor = Point(last.seq, last.revision)
        del self.changes[:count]

    def begin_anew(self, floor: Point) -> None:
        """Forget everything up to `floor`."""
        self.floor = self.latest = floor
        self.changes.clear()


class Logs:
    """All logs, and how much they may hold: each, and together.

    Large logs are cut back some at a time: by a part of what they may hold, CUT_PART and CUT_PART_IN_ALL.
    """

    def __init__(self, limit: int, limit_in_all: int) -> None:
        self._limit = limit
        self._limit_in_all = limit_in_all
        self._total = 0
        self._names: dict[Log, Name] = {}

    def __len__(self) -> int:
        """How many changes are known in all."""
        return self._total

    def open(self, name: Name, floor: Point) -> Log:
        """A log for a service, which knows nothing of what was up to `floor`."""
        log = Log(floor)
        self._names[log] = name
        return log

    def close(self, log: Log) -> None:
        """Forget a service."""
        self._total -= len(log)
        del self._names[log]

    def add(self, log: Log, change: Change) -> Sequence[Name]:
        """Add a change. The services of which nothing is known any more are returned."""
        log.changes.append(change)
        log.latest = change
        self._total += 1
        if len(log.changes) > self._limit + self._limit // CUT_PART:
            self._cut(log, self._limit)
        return self._cut_all() if self._total > self._limit_in_all else ()

    def drop(self, log: Log, floor: Point) -> None:
        """Forget all that a log holds, up to `floor`."""
        self._total -= len(log)
        log.begin_anew(floor)

    # ---- within

    def _cut(self, log: Log, length: int) -> None:
        self._total -= len(log) - length
        log.forget(len(log) - length)

    def _cut_all(self) -> list[Name]:
        """Cut the longest logs back to one length, so that all together hold a little less than they may."""
        length = level(sorted(map(len, self._names)), self._limit_in_all - self._limit_in_all // CUT_PART_IN_ALL)
        cut = [log for log in self._names if len(log) > length]
        for log in cut:
            if self._total > self._limit_in_all - self._limit_in_all // CUT_PART_IN_ALL:
                self._cut(log, length)
        return [self._names[log] for log in cut if not log.changes]


def level(lengths: Sequence[int], total: int) -> int:
    """The length to which the longest of these have to be cut for all of them to be `total` at the most."""
    left = total
    for place, length in enumerate(lengths):
        share = left // (len(lengths) - place)
        if length > share:
            return share
        left -= length
    return lengths[-1] if lengths else 0


def merged(logs: Iterable[Log], since: int) -> list[Change] | None:
    """The changes after `since` of several services, oldest first; None if some are forgotten."""
    parts = 0
    changes: list[Change] = []
    for log in logs:
        part = log.since(since)
        if part is None:
            return None
        if part:
            parts += 1
            changes += part
    if parts > 1:
        changes.sort(key=attrgetter("seq"))
    return changes
