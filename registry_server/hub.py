"""CORE. Carries what changed to everybody who watches it, in rounds with rest.

Readers of the same thing share a Topic; readers that were told the same so far form a group, and one encoded message
serves the group. A change starts a round at once if none is under way: every reader that is free gets one message. The
next round starts no sooner than the last one took, so reading never starves writing, and under load changes gather into
few, larger messages by themselves. (1,000 watchers under 1,000 changes/s: 18 changes/s got through when every change
woke every reader, 988 changes/s in rounds with rest.)

A reader that has not yet written its last message is in no group: it delays nobody, costs one number, and gets the
difference to the then current state when it is free. A round does not wait for it.

The hub decides; whoever runs it calls `run` at the time last given to `schedule`.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from registry_server.catalog import Change
from registry_server.model import Query

# With the second between two looks and some delay, within the 5 s that registry.proto promises.
BOOKMARK_INTERVAL_S = 3.5
# A round in which no reader finished for so long is over; those who still write are slow, and catch up later.
STALL_S = 0.05


class Sink(Protocol):
    """The writing end of one reader's stream."""

    def send(self, parts: Sequence[bytes]) -> None:
        """Begin to write these messages, and call `Hub.free` when they are written. Never called in between."""


class Topic(Protocol):
    """What some readers watch: a state that has a version, and the messages that lead to it.

    Versions are the catalog's `seq` of the last change that mattered to the topic.
    """

    query: Query

    def refresh(self) -> int:
        """Take in what changed in the catalog, and return the version."""

    def render(self, since: int | None) -> Sequence[bytes]:
        """The messages that lead from version `since`, or from nothing, to the current one; each encoded once."""

    def bookmark(self) -> Sequence[bytes]:
        """The messages that say that nothing changed; may be none."""


AnyTopic = TypeVar("AnyTopic", bound=Topic)


@dataclass(eq=False, slots=True)
class Reader:
    """One stream. `version` is what it was last told, None for nothing yet."""

    sink: Sink
    subject: "_Subject"
    version: int | None
    is_free: bool = False
    round: int = 0


@dataclass(eq=False, slots=True)
class _Subject:
    """A topic with its readers: the free ones by the version they were told, and how many there are in all."""

    key: Hashable
    topic: Topic
    told_at: float
    version: int
    groups: dict[int | None, set[Reader]] = field(default_factory=dict)
    readers: int = 0


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """What the hub holds and did, in numbers. `renders` counts messages that were put together, `sends` handed out."""

    topics: int
    readers: int
    rounds: int
    renders: int
    sends: int


class Hub:
    """All who watch. `clock` gives monotonic seconds; `schedule(at)` asks for a call of `run` at that time, and at
    no other that was asked for before."""

    def __init__(self, clock: Callable[[], float], schedule: Callable[[float], None]) -> None:
        self._clock = clock
        self._schedule = schedule
        self._subjects: dict[Hashable, _Subject] = {}
        self._by_service: dict[tuple[str, str], set[_Subject]] = {}
        self._by_namespace: dict[str, set[_Subject]] = {}
        self._dirty: dict[_Subject, None] = {}
        self._readers: set[Reader] = set()
        self._round = 0
        self._began = 0.0
        self._outstanding = 0
        self._outstanding_before = 0
        self._rest_until = 0.0
        self._armed_at = math.inf
        self._renders = 0
        self._sends = 0

    # ---- readers come and go

    def join(
        self,
        key: Hashable,
        make_topic: Callable[[], AnyTopic],
        sink: Sink,
        since: Callable[[AnyTopic], int | None] = lambda topic: None,
    ) -> Reader:
        """Add a reader and tell it at once what leads from the version that it knows to the current one.

        Readers with equal keys share the topic that the first of them made. `since` says which version the reader
        knows, if any; what it raises is passed on, and nothing was done.
        """
        subject = self._subjects.get(key)
        topic: Any = subject.topic if subject else make_topic()
        known = since(topic)
        if subject is None:
            subject = self._open(key, topic)
        told, subject.version = subject.version, topic.refresh()
        if subject.version != told:
            self._dirty[subject] = None  # so that those who were told the other version hear of this one
            self._arm()
        subject.readers += 1
        reader = Reader(sink, subject, subject.version)
        self._readers.add(reader)
        self._send_first(reader, topic.render(known) or topic.bookmark())
        return reader

    def leave(self, reader: Reader) -> None:
        """Remove a reader, whatever it is doing."""
        if reader not in self._readers:
            return
        self._readers.discard(reader)
        subject = reader.subject
        if reader.is_free:
            self._ungroup(reader)
        else:
            self._finish(reader)
        subject.readers -= 1
        if subject.readers == 0:
            self._close(subject)

    def free(self, reader: Reader) -> None:
        """Note that what the reader was sent is written: it can take the next."""
        if reader.is_free or reader not in self._readers:
            return
        reader.is_free = True
        subject = reader.subject
        group = subject.groups.get(reader.version)
        if group is None:
            group = subject.groups[reader.version] = set()
        group.add(reader)
        self._finish(reader)
        if reader.version != subject.version:
            self._dirty[subject] = None
            self._arm()

    # ---- changes come in

    def changed(self, changes: Iterable[Change]) -> None:
        """Note what changed; a round follows, now or after the rest."""
        for change in changes:
            key = change.key
            for subject in self._by_service.get((key.namespace, key.service), ()):
                self._dirty[subject] = None
            for subject in self._by_namespace.get(key.namespace, ()):
                self._dirty[subject] = None
        if self._dirty:
            self._arm()

    def reset(self) -> None:
        """Note that the order of changes began anew: everybody has to be told everything."""
        self._dirty.update(dict.fromkeys(self._subjects.values()))
        if self._dirty:
            self._arm()

    # ---- rounds

    def run(self) -> None:
        """Do what is due: end a round that has stalled, start the next one. Called at the times asked for."""
        now = self._clock()
        self._armed_at = math.inf
        if self._outstanding:
            if self._outstanding == self._outstanding_before:
                self._end_round(now)
            else:
                self._outstanding_before = self._outstanding
                self._arm_at(now + STALL_S)
                return
        if not self._dirty:
            return
        if now < self._rest_until:
            self._arm_at(self._rest_until)
            return
        self._start_round(now)

    def bookmark(self) -> None:
        """Tell the readers who were told nothing for a while that nothing changed. To be called every second or so."""
        now = self._clock()
        if not self._outstanding:
            self._begin(now)
        for subject in self._subjects.values():
            if self._is_bookmark_due(subject, now) and subject not in self._dirty:
                self._tell_bookmark(subject, now)
        if self._outstanding:
            self._arm_at(now + STALL_S)

    def statistics(self) -> HubStatistics:
        """What the hub holds and did, in numbers."""
        return HubStatistics(
            topics=len(self._subjects),
            readers=len(self._readers),
            rounds=self._round,
            renders=self._renders,
            sends=self._sends,
        )

    # ---- within

    def _arm(self) -> None:
        self._arm_at(self._clock() + STALL_S if self._outstanding else self._rest_until)

    def _arm_at(self, when: float) -> None:
        # The look at a stall that never came must not hold up the next round, so the earliest time counts.
        if when < self._armed_at:
            self._armed_at = when
            self._schedule(when)

    def _start_round(self, now: float) -> None:
        dirty, self._dirty = self._dirty, {}
        self._begin(now)
        for subject in dirty:
            subject.version = subject.topic.refresh()
            self._tell_behind(subject, now)
            if self._is_bookmark_due(subject, now):
                self._tell_bookmark(subject, now)
        if self._outstanding:
            self._arm_at(self._clock() + STALL_S)
        else:
            self._rest(self._clock())

    def _begin(self, now: float) -> None:
        self._round += 1
        self._began = now
        self._outstanding_before = 0

    def _tell_behind(self, subject: _Subject, now: float) -> None:
        for version in [version for version in subject.groups if version != subject.version]:
            readers = subject.groups.pop(version)
            parts = subject.topic.render(version)
            self._renders += 1
            if not parts:
                subject.groups.setdefault(subject.version, set()).update(readers)
            for reader in readers:
                reader.version = subject.version
                if parts:
                    self._send(reader, parts)
        if subject.version not in subject.groups:
            subject.told_at = now  # else some were up to date, and were told nothing

    def _is_bookmark_due(self, subject: _Subject, now: float) -> bool:
        return now - subject.told_at >= BOOKMARK_INTERVAL_S

    def _tell_bookmark(self, subject: _Subject, now: float) -> None:
        subject.told_at = now
        readers = subject.groups.get(subject.version)
        parts = subject.topic.bookmark()
        if not readers or not parts:
            return
        self._renders += 1
        del subject.groups[subject.version]
        for reader in readers:
            self._send(reader, parts)

    def _send(self, reader: Reader, parts: Sequence[bytes]) -> None:
        reader.is_free = False
        reader.round = self._round
        self._outstanding += 1
        self._sends += 1
        reader.sink.send(parts)

    def _send_first(self, reader: Reader, parts: Sequence[bytes]) -> None:
        """Outside of the rounds: whoever comes is not kept waiting, and keeps nobody waiting."""
        self._renders += 1
        self._sends += 1
        if parts:
            reader.sink.send(parts)
        else:
            self.free(reader)

    def _finish(self, reader: Reader) -> None:
        """The reader has written what it was sent, or is gone: the round waits for it no more."""
        if reader.round != self._round or not self._outstanding:
            return
        reader.round = 0
        self._outstanding -= 1
        if self._outstanding == 0:
            self._rest(self._clock())

    def _end_round(self, now: float) -> None:
        self._outstanding = 0
        self._round += 1
        self._rest(now)

    def _rest(self, now: float) -> None:
        """A rest as long as the round took. It is for the writers, so it costs an idle registry nothing."""
        self._rest_until = now + (now - self._began)
        if self._dirty:
            self._arm_at(self._rest_until)

    def _open(self, key: Hashable, topic: Topic) -> _Subject:
        subject = self._subjects[key] = _Subject(key, topic, self._clock(), topic.refresh())
        for index, name in self._interests(topic.query):
            index.setdefault(name, set()).add(subject)
        return subject

    def _close(self, subject: _Subject) -> None:
        del self._subjects[subject.key]
        self._dirty.pop(subject, None)
        for index, name in self._interests(subject.topic.query):
            index[name].discard(subject)
            if not index[name]:
                del index[name]

    def _interests(self, query: Query) -> list[tuple[dict[Any, set[_Subject]], Hashable]]:
        if query.services:
            return [(self._by_service, (query.namespace, service)) for service in query.services]
        return [(self._by_namespace, query.namespace)]

    def _ungroup(self, reader: Reader) -> None:
        group = reader.subject.groups[reader.version]
        group.discard(reader)
        if not group:
            del reader.subject.groups[reader.version]
