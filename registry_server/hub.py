"""CORE: carries what changed to everybody who watches it, in rounds with rest, and no more at a time than is good.

Readers of the same thing share a Topic; readers that were told the same so far form a group, and one Step serves the
group. A change starts a round at once if none is under way: every reader that is free gets what it lacks. The next
round starts no sooner than the last one took, so reading never starves writing, and under load changes gather into few,
larger messages by themselves. (1,000 watchers under 1,000 changes/s: 18 changes/s got through when every change woke
every reader, 988 changes/s in rounds with rest.)

A reader that has not yet written its last message is in no group: it delays nobody, costs a place in a step that it
shares with others, and gets the difference to the then current state when it is free. A round does not wait for it.

The hub decides; whoever runs it calls `run` at the time last given to `schedule`. One run does no more than a slice of
what there is to do and asks for the next: readers that come, that go on with a long step, that are due in this round.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Protocol

from registry_server.changes import Change
from registry_server.settings import SettingChange

# With the time between two looks and some delay, within the 5 s that registry.proto promises.
BOOKMARK_INTERVAL_S = 3.5
BOOKMARK_TICK_S = 1.0
# A round in which no reader finished for so long is over; those who still write are slow, and catch up later.
STALL_S = 0.05
# What one run does, give or take a row: so long, so many messages, so many bytes. To write a message takes longer than
# to hand it out, and that work follows before anything else.
SLICE_S = 0.004
SLICE_SENDS = 64
SLICE_BYTES = 1024 * 1024
# So many readers, or so many bytes, are handed the same message in a row, before anybody looks at the clock.
ROW_SENDS = 16
ROW_BYTES = 128 * 1024


Interest = tuple[str, ...]
"""What a topic has to look at when it changes: `(namespace, service)`, `(namespace,)` for all of its services, ALL for
everything; or a name of its own, which nothing wakes but `Hub.wake`."""

ALL: Interest = ()

Chunks = Sequence[bytes]
"""One message, in pieces. Messages share pieces, and readers share messages, so nobody changes one."""


class Sink(Protocol):
    """The writing end of one reader's stream."""

    def send(self, chunks: Chunks) -> None:
        """Begin to write one message, which is these chunks in their order: others are sent the same object.

        Then call `Reader.free`, when it is written and never within. No second message comes before that.
        """


class Step(Protocol):
    """What leads to one version of a topic, in one or more messages. Readers share it, each with a place of its own."""

    version: int

    def part(self, place: int) -> tuple[Chunks | None, int | None]:
        """The message at a place (0 for the first) and the place after it, which is None after the last message.

        There may be no message at a place: then the work of a moment was done, and it goes on at the place returned.
        """


class Topic(Protocol):
    """What some readers watch: a state that has a version, and the steps that lead to it.

    Versions are the catalog's `seq` of the last change that mattered to the topic. All but `advance` is asked for only
    when `advance` has just said that everything is taken in.
    """

    version: int

    @property
    def interests(self) -> Collection[Interest]:
        """When it has to look whether it changed. They stay the same."""

    def advance(self) -> bool:
        """Take in what changed, as much as can be done in a moment; return whether that is all there is."""

    def expect(self, claim: Any) -> None:
        """Note that `known` will be asked for this; `advance` prepares it."""

    def known(self, claim: Any) -> int | None:
        """The version that a reader knows by what it claims; None if it must be told everything."""

    def step(self, since: int | None) -> Step | None:
        """What leads from version `since`, or from nothing, to the current one; None if that changes nothing."""

    def bookmark(self) -> bytes | None:
        """The message that says that nothing changed; there may be none."""


@dataclass(eq=False, slots=True)
class Ready:
    """A step that is one message."""

    version: int
    message: bytes

    def part(self, place: int) -> tuple[Chunks, None]:
        """The message."""
        return (self.message,), None


@dataclass(eq=False, slots=True)
class Reader:
    """One stream. `version` is what it was last told, None for nothing yet; `step` is what it is in the middle of.

    Readers of one `lane` are handed a message in a row: they are on one connection, which writes it for all at once.
    `sent_at` is when it was last sent anything, and `told_at` when that was a change, by the clock of the hub; minus
    infinity for never.
    """

    hub: "Hub"
    sink: Sink
    subject: "_Subject"
    lane: str = ""
    claim: Any = None
    version: int | None = None
    step: Step | None = None
    place: int = 0
    is_writing: bool = False
    is_free: bool = False
    round: int = 0
    sent_at: float = -math.inf
    told_at: float = -math.inf

    @property
    def is_current(self) -> bool:
        """Whether it was told all that there is to tell it now, and has taken that."""
        subject = self.subject
        is_told = self.version == subject.topic.version and self.step is None and not self.is_writing
        return is_told and not self.hub.is_to_look(self)

    def hears_of(self, namespace: str, service: str) -> bool:
        """Whether it is told when something about that service changes."""
        interests = self.subject.interests
        return (namespace, service) in interests or (namespace,) in interests or ALL in interests

    def knows(self, version: int, at: float) -> None:
        """It is told of that version now."""
        if self.version != version:
            self.version, self.told_at = version, at

    def free(self) -> None:
        """What the sink was sent is written: it can take the next. Nothing if it has left."""
        self.hub.free(self)

    def leave(self) -> None:
        """The stream is over. Once or several times, whatever it is doing."""
        self.hub.leave(self)


@dataclass(eq=False, slots=True)
class _Subject:
    """A topic with its readers: the free ones by the version they were told, and how many there are in all."""

    key: Hashable
    topic: Topic
    interests: frozenset[Interest]
    told_at: float
    groups: dict[int | None, dict[Reader, None]] = field(default_factory=dict)
    readers: int = 0


@dataclass(eq=False, slots=True)
class _Batch:
    """Readers who are to be handed the same step; those to come next are last."""

    step: Step
    readers: list[Reader]
    place: int = 0


_LANE = attrgetter("lane")


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """What the hub holds and did, in numbers. `renders` counts steps that were put together, `sends` messages, `behind`
    the readers that have not taken what they were sent, `busy_s` how long rounds took, all together."""

    topics: int
    readers: int
    rounds: int
    renders: int
    sends: int
    sent_bytes: int
    behind: int
    busy_s: float


class Hub:
    """All who watch. `clock` gives monotonic seconds; `schedule(at)` asks for a call of `run` at that time, and at
    no other that was asked for before."""

    def __init__(self, clock: Callable[[], float], schedule: Callable[[float], None]) -> None:
        self._clock = clock
        self._schedule = schedule
        self._armed_at = math.inf
        self._subjects: dict[Hashable, _Subject] = {}
        self._interested: dict[Interest, set[_Subject]] = {}
        self._readers: set[Reader] = set()
        # What waits for the next round.
        self._dirty: dict[_Subject, None] = {}
        # What there is to do: readers that come; readers in the middle of a step; and of this round, the subjects to
        # look at, those that are due a bookmark, and the readers to be told.
        self._coming: deque[Reader] = deque()
        self._going_on: deque[Reader] = deque()
        self._turn: OrderedDict[_Subject, None] = OrderedDict()
        self._due: OrderedDict[_Subject, None] = OrderedDict()
        self._batches: deque[_Batch] = deque()
        self._queues: Sequence[tuple[Collection[object], Callable[[], None]]] = (
            (self._coming, self._serve_coming),
            (self._going_on, self._serve_going_on),
            (self._batches, self._serve_batch),
            (self._due, self._serve_due),
            (self._turn, self._serve_turn),
        )
        self._round = 0
        self._is_held, self._held_at = False, 0.0
        self._is_under_way = False
        self._began = self._now = 0.0
        self._outstanding = 0
        self._outstanding_before = 0
        self._look_at = math.inf
        self._rest_until = 0.0
        self._renders = 0
        self._sends = 0
        self._sent_bytes = 0
        self._busy_s = 0.0

    # ---- readers come and go

    def join(
        self, key: Hashable, make_topic: Callable[[], Topic], sink: Sink, claim: Any = None, lane: str = ""
    ) -> Reader:
        """Add a reader and tell it, in the next run, what leads from the version that it knows to the current one.

        Readers with equal keys share the topic that the first of them made. `claim` is what the reader says it knows,
        for the topic to judge; `lane` names the connection that it is on.
        """
        subject = self._subjects.get(key) or self._open(key, make_topic())
        if claim is not None:
            subject.topic.expect(claim)
        reader = Reader(self, sink, subject, lane, claim)
        subject.readers += 1
        self._readers.add(reader)
        self._coming.append(reader)
        self._arm()
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
        self._arm()

    def free(self, reader: Reader) -> None:
        """Note that what the reader was sent is written: it can take the next."""
        if not reader.is_writing or reader not in self._readers:
            return
        reader.is_writing = False
        if reader.step is not None:
            self._going_on.append(reader)
            self._arm()
        else:
            self._rejoin(reader)

    # ---- changes come in

    def changed(self, changes: Sequence[Change]) -> None:
        """Note what changed; a round follows, now or after the rest."""
        if self._subjects:
            for namespace, service in {change.key[:2] for change in changes}:
                self.touch(namespace, service)

    def settings_changed(self, changes: Sequence[SettingChange]) -> None:
        """No reader is told of settings."""

    def touch(self, namespace: str, service: str) -> None:
        """Note that something about a service changed."""
        for interest in ((namespace, service), (namespace,), ALL):
            self._mark_dirty(interest)
        self._arm()

    def wake(self, interest: Interest) -> None:
        """Let the topics look that have just this interest."""
        if interest in self._interested:
            self._mark_dirty(interest)
            self._arm()

    def refresh_all(self) -> None:
        """Let every topic look: the order of changes began anew, so everybody may have to be told everything."""
        self._dirty.update(dict.fromkeys(self._subjects.values()))
        self._arm()

    def bookmark(self) -> None:
        """Tell readers who were told nothing for a while that nothing changed. To be called every BOOKMARK_TICK_S."""
        now = self._clock()
        due = [subject for subject in self._subjects.values() if self._is_bookmark_due(subject, now)]
        if due and not self._is_under_way:
            self._begin(now)
        self._due.update(dict.fromkeys(due))
        self._arm()

    def hold(self, is_held: bool) -> None:
        """Hand out nothing while that is so: what topics look at is in the middle of a change. All who come, leave, or
        are free meanwhile are seen to afterwards."""
        now = self._clock()
        if self._is_held and not is_held:
            self._began = min(now, self._began + now - self._held_at)  # time in which a round could not go on
        self._is_held, self._held_at = is_held, now
        self._arm()

    def is_to_look(self, reader: Reader) -> bool:
        """Whether the topic of a reader has to look whether it changed."""
        return reader.subject in self._dirty or reader.subject in self._turn

    # ---- work

    def run(self) -> None:
        """Do a slice of what is due. Called at the times asked for."""
        now = self._now = self._clock()
        self._armed_at = math.inf
        if self._is_held:
            return
        if self._is_under_way and now >= self._look_at:
            self._look(now)
        if self._dirty and not self._is_under_way and now >= self._rest_until:
            self._begin(now)
            self._turn.update(self._dirty)
            self._dirty.clear()
        self._work(now)
        self._end_round_if_over()
        self._arm()

    def statistics(self) -> HubStatistics:
        """What the hub holds and did, in numbers."""
        return HubStatistics(
            topics=len(self._subjects),
            readers=len(self._readers),
            rounds=self._round,
            renders=self._renders,
            sends=self._sends,
            sent_bytes=self._sent_bytes,
            behind=sum(reader.is_writing for reader in self._readers),
            busy_s=self._busy_s,
        )

    # ---- within: one slice after the other

    def _work(self, began: float) -> None:
        last, last_byte = self._sends + SLICE_SENDS, self._sent_bytes + SLICE_BYTES
        while self._has_work():
            for queue, work in self._queues:
                if queue:
                    work()
                    self._now = self._clock()
                    is_enough = self._sends >= last or self._sent_bytes >= last_byte
                    if is_enough or self._now - began >= SLICE_S:
                        return

    def _has_work(self) -> bool:
        return bool(self._coming or self._going_on or self._is_round_to_do())

    def _is_round_to_do(self) -> bool:
        return bool(self._batches or self._due or self._turn)

    def _serve_coming(self) -> None:
        """Tell one reader that has come; its topic is seen to first."""
        reader = self._coming.popleft()
        if reader not in self._readers:
            return
        if reader.subject.topic.advance():
            self._welcome(reader)
        else:
            self._coming.append(reader)

    def _welcome(self, reader: Reader) -> None:
        subject, claim = reader.subject, reader.claim
        topic, reader.claim = subject.topic, None
        step = self._step(topic, topic.known(claim) if claim is not None else None) or self._mark(topic)
        if any(version != topic.version for version in subject.groups):
            self._dirty[subject] = None  # those who were told another version hear of this one
        if step is not None:
            self._hand(reader, step)
        else:
            reader.knows(topic.version, self._now)
            self._rejoin(reader)

    def _serve_going_on(self) -> None:
        reader = self._going_on.popleft()
        if reader in self._readers:
            self._write(reader)

    def _serve_batch(self) -> None:
        """Hand the first message of a step to some of those who are to have it: it is the same for them all."""
        batch = self._batches[0]
        chunks, place = batch.step.part(batch.place)
        if chunks is None:
            batch.place = place or 0
            return
        size, readers = sum(map(len, chunks)), batch.readers
        for reader in _taken(readers, min(ROW_SENDS, 1 + ROW_BYTES // (size + 1))):
            if reader in self._readers:
                reader.round = self._round
                self._outstanding += 1
                reader.knows(batch.step.version, self._now)
                self._send(reader, batch.step, chunks, size, place)
        if not readers:
            self._batches.popleft()

    def _serve_turn(self) -> None:
        subject, _ = self._turn.popitem(last=False)
        if not subject.topic.advance():
            self._turn[subject] = None
            return
        self._tell_behind(subject)
        if self._is_bookmark_due(subject, self._clock()):
            self._tell_bookmark(subject)

    def _serve_due(self) -> None:
        subject, _ = self._due.popitem(last=False)
        if not subject.topic.advance():
            self._due[subject] = None
        elif any(version != subject.topic.version for version in subject.groups):
            self._turn[subject] = None
        elif self._is_bookmark_due(subject, self._clock()):
            self._tell_bookmark(subject)

    # ---- within: what is told

    def _tell_behind(self, subject: _Subject) -> None:
        topic, groups = subject.topic, subject.groups
        for version in [version for version in groups if version != topic.version]:
            readers = groups.pop(version)
            step = self._step(topic, version)
            if step is None:
                groups.setdefault(topic.version, {}).update(readers)
                for reader in readers:
                    reader.version = topic.version
            else:
                self._queue(step, readers)
        if topic.version not in groups:
            subject.told_at = self._clock()  # else some were up to date, and were told nothing

    def _tell_bookmark(self, subject: _Subject) -> None:
        subject.told_at = self._clock()
        readers = subject.groups.get(subject.topic.version)
        step = self._mark(subject.topic) if readers else None
        if step is not None:
            self._queue(step, subject.groups.pop(step.version))

    def _is_bookmark_due(self, subject: _Subject, now: float) -> bool:
        return now - subject.told_at >= BOOKMARK_INTERVAL_S and subject not in self._dirty

    def _step(self, topic: Topic, since: int | None) -> Step | None:
        self._renders += 1
        return topic.step(since)

    def _mark(self, topic: Topic) -> Step | None:
        message = topic.bookmark()
        if message is None:
            return None
        self._renders += 1
        return Ready(topic.version, message)

    def _queue(self, step: Step, readers: Collection[Reader]) -> None:
        for reader in readers:
            reader.is_free = False
        self._batches.append(_Batch(step, sorted(readers, key=_LANE, reverse=True)))

    def _hand(self, reader: Reader, step: Step) -> None:
        reader.knows(step.version, self._now)
        reader.step, reader.place = step, 0
        self._write(reader)

    def _write(self, reader: Reader) -> None:
        """Let the reader write the next message of its step, if there is one already."""
        step = reader.step
        assert step is not None  # noqa: S101 - it is in the middle of one
        chunks, place = step.part(reader.place)
        if chunks is None:
            reader.place = place or 0
            self._going_on.append(reader)
        else:
            self._send(reader, step, chunks, sum(map(len, chunks)), place)

    def _send(self, reader: Reader, step: Step, chunks: Chunks, size: int, following: int | None) -> None:
        """Send one message of a step, which goes on at the place that follows, unless there is none."""
        if following is None:
            reader.step, reader.place = None, 0
        else:
            reader.step, reader.place = step, following
        reader.is_writing = True
        reader.sent_at = self._now
        self._sends += 1
        self._sent_bytes += size
        reader.sink.send(chunks)

    def _rejoin(self, reader: Reader) -> None:
        """The reader is free: it is grouped with those who know the same."""
        subject = reader.subject
        reader.is_free = True
        group = subject.groups.get(reader.version)
        if group is None:
            group = subject.groups[reader.version] = {}
        group[reader] = None
        self._finish(reader)
        if reader.version != subject.topic.version:
            self._dirty[subject] = None
            self._arm()

    # ---- within: rounds

    def _begin(self, now: float) -> None:
        self._round += 1
        self._is_under_way = True
        self._began = now
        self._outstanding = self._outstanding_before = 0
        self._look_at = now + STALL_S

    def _finish(self, reader: Reader) -> None:
        """The reader has written what it was sent, or is gone: the round waits for it no more."""
        if reader.round == self._round and self._is_under_way:
            reader.round = 0
            self._outstanding -= 1
            self._end_round_if_over()

    def _end_round_if_over(self) -> None:
        if not self._outstanding and self._is_under_way and not self._is_round_to_do():
            self._rest(self._clock())
            self._arm()

    def _look(self, now: float) -> None:
        """End a round that has stalled."""
        self._look_at = now + STALL_S
        if self._is_round_to_do():
            return
        if self._outstanding == self._outstanding_before:
            self._rest(now)
        else:
            self._outstanding_before = self._outstanding

    def _rest(self, now: float) -> None:
        """A rest as long as the round took. It is for the writers, so it costs an idle registry nothing."""
        self._is_under_way = False
        self._outstanding = 0
        self._busy_s += now - self._began
        self._rest_until = now + (now - self._began)

    def _arm(self) -> None:
        """Ask for a run when there is something to do."""
        if self._is_held:
            return
        if self._has_work():
            self._arm_at(self._clock())
        elif self._is_under_way:
            self._arm_at(self._look_at)
        elif self._dirty:
            self._arm_at(self._rest_until)

    def _arm_at(self, when: float) -> None:
        # The look at a stall that never came must not hold up the next round, so the earliest time counts.
        if when < self._armed_at:
            self._armed_at = when
            self._schedule(when)

    # ---- within: subjects

    def _open(self, key: Hashable, topic: Topic) -> _Subject:
        subject = self._subjects[key] = _Subject(key, topic, frozenset(topic.interests), self._clock())
        for interest in subject.interests:
            self._interested.setdefault(interest, set()).add(subject)
        return subject

    def _close(self, subject: _Subject) -> None:
        del self._subjects[subject.key]
        for waiting in (self._dirty, self._turn, self._due):
            waiting.pop(subject, None)
        for interest in subject.interests:
            interested = self._interested[interest]
            interested.discard(subject)
            if not interested:
                del self._interested[interest]
        self._end_round_if_over()

    def _mark_dirty(self, interest: Interest) -> None:
        for subject in self._interested.get(interest, ()):
            self._dirty[subject] = None

    def _ungroup(self, reader: Reader) -> None:
        groups = reader.subject.groups
        group = groups[reader.version]
        del group[reader]
        if not group:
            del groups[reader.version]


def _taken(readers: list[Reader], count: int) -> list[Reader]:
    """So many of the last, which are taken away."""
    taken = readers[: -count - 1 : -1]
    del readers[-count:]
    return taken
