"""CORE. The latest changes of each service, bounded for each and for all together.

Whoever knows an earlier state gets the difference by them. When there are too many in all, those of the service that
has the most are forgotten: a busy service never costs a quiet one its history.
"""

from bisect import bisect_right
from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

from registry_server.model import Entry
from registry_server.stores.base import Cause, Key

# What is forgotten is let go of when it is this part of what a log holds.
SLACK_PART = 32


class Change(NamedTuple):
    """One instance before and after: it appeared (`before` is None), changed, or left (`after` is None)."""

    seq: int
    revision: int
    key: Key
    before: Entry | None
    after: Entry | None
    cause: Cause | None = None


class Point(NamedTuple):
    """A place in the order of changes, by both of its numbers."""

    seq: int
    revision: int


class Log:
    """The latest changes of one service, oldest first: all after `floor`; `latest` is the last there was."""

    __slots__ = ("_changes", "_start", "floor", "latest")

    def __init__(self, floor: Point) -> None:
        self.floor = floor
        self.latest = floor
        self._changes: list[Change] = []
        self._start = 0

    def __len__(self) -> int:
        return len(self._changes) - self._start

    def append(self, change: Change) -> None:
        """Add the latest change."""
        self.latest = Point(change.seq, change.revision)
        self._changes.append(change)

    def since(self, seq: int) -> list[Change] | None:
        """The changes after `seq`, oldest first, or None if some are forgotten."""
        if seq < self.floor.seq:
            return None
        if seq >= self.latest.seq:
            return []
        return self._changes[bisect_right(self._changes, seq, self._start, key=attrgetter("seq")) :]

    def first_after(self, revision: int) -> int | None:
        """The `seq` of the first change that is newer than `revision`; None if one may be forgotten. There is one."""
        if revision < self.floor.revision:
            return None
        return self._changes[bisect_right(self._changes, revision, self._start, key=attrgetter("revision"))].seq

    def forget_oldest(self) -> None:
        """Forget one change."""
        oldest = self._changes[self._start]
        self.floor = Point(oldest.seq, oldest.revision)
        self._start += 1
        if self._start * SLACK_PART > len(self._changes):
            del self._changes[: self._start]
            self._start = 0

    def begin_anew(self, floor: Point) -> None:
        """Forget everything up to `floor`."""
        self.floor = self.latest = floor
        self._changes.clear()
        self._start = 0


class History:
    """All logs, and how much they may hold: each, and together."""

    def __init__(self, limit: int, limit_in_all: int) -> None:
        self._limit = limit
        self._limit_in_all = limit_in_all
        self._total = 0
        self._longest = 0
        self._by_length: dict[int, dict[Log, None]] = {}

    def __len__(self) -> int:
        """How many changes are known in all."""
        return self._total

    def add(self, log: Log, change: Change) -> Log | None:
        """Add a change. If the last change of some service was forgotten for it, that log is returned."""
        log.append(change)
        self._total += 1
        self._moved(log, len(log) - 1)
        if len(log) > self._limit:
            self._forget_oldest(log)
        if self._total <= self._limit_in_all:
            return None
        longest = next(iter(self._by_length[self._longest]))
        self._forget_oldest(longest)
        return None if len(longest) else longest

    def drop(self, log: Log, floor: Point) -> None:
        """Forget all that a log holds, up to `floor`."""
        length = len(log)
        self._total -= length
        log.begin_anew(floor)
        self._moved(log, length)

    # ---- within

    def _forget_oldest(self, log: Log) -> None:
        log.forget_oldest()
        self._total -= 1
        self._moved(log, len(log) + 1)

    def _moved(self, log: Log, length: int) -> None:
        """Note that a log had another length before."""
        if length:
            logs = self._by_length[length]
            del logs[log]
            if not logs:
                del self._by_length[length]
        if len(log):
            self._by_length.setdefault(len(log), {})[log] = None
        self._longest = max(len(log), self._longest)
        while self._longest and self._longest not in self._by_length:
            self._longest -= 1


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
