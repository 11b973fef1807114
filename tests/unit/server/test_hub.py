"""The hub: rounds with rest, readers that are slow or die, groups that cost one message, bookmarks in time, and no more
work at a time than is good."""

from itertools import groupby

import pytest

from registry_server.changes import Change
from registry_server.hub import (
    ALL,
    BOOKMARK_INTERVAL_S,
    BOOKMARK_TICK_S,
    SLICE_S,
    SLICE_SENDS,
    STALL_S,
    Chunks,
    Interest,
    Reader,
    Ready,
)
from registry_server.records import Key
from tests.support.core import Sink, Timeline

PROMISED_BOOKMARK_S = 5.0
PLAYER: Interest = ("default", "player")


class Counter:
    """A topic whose state is a number. It counts what it is asked for, and may be told to be slow in taking in."""

    def __init__(self, interest: Interest = PLAYER) -> None:
        self.interests = (interest,)
        self.version = 0
        self.rendered: list[int | None] = []
        self.refreshed = 0
        self.work = 0
        self.expected: list[object] = []

    def advance(self) -> bool:
        self.refreshed += 1
        self.work = max(0, self.work - 1)
        return not self.work

    def expect(self, claim: object) -> None:
        self.expected.append(claim)

    def known(self, claim: object) -> int | None:
        assert claim in self.expected
        assert isinstance(claim, int)
        return claim if claim <= self.version else None

    def step(self, since: int | None) -> Ready | None:
        self.rendered.append(since)
        return None if since == self.version else Ready(self.version, f"{since}->{self.version}".encode())

    def bookmark(self) -> bytes:
        return b"bookmark"


class Long:
    """A step in so many messages, each after a moment's work."""

    def __init__(self, version: int, messages: int) -> None:
        self.version = version
        self.messages = messages
        self.is_ready: set[int] = set()

    def part(self, place: int) -> tuple[Chunks | None, int | None]:
        if place not in self.is_ready:
            self.is_ready.add(place)
            return None, place
        return (f"{place}".encode(),), place + 1 if place + 1 < self.messages else None


class World(Timeline):
    """A hub with one topic, and its readers."""

    def __init__(self) -> None:
        super().__init__()
        self.topic = Counter()

    def join(self, sink: Sink | None = None, *, is_read: bool = True) -> tuple[Reader, Sink]:
        sink = sink or Sink()
        reader = self.hub.join("player", lambda: self.topic, sink)
        self.advance(0)
        if is_read:
            self.written(reader)
            sink.take()
        return reader, sink

    def written(self, *readers: Reader) -> None:
        """The streams of these have written what they had."""
        for reader in readers:
            sink = reader.sink
            assert isinstance(sink, Sink)
            sink.is_writing = False
            reader.free()

    def change(self, service: str = "player", namespace: str = "default") -> None:
        self.topic.version += 1
        version = self.topic.version
        self.hub.changed([Change(version, version, Key(namespace, service, "one"), None, None)])


@pytest.fixture
def world() -> World:
    return World()


# ---- readers in step


@pytest.mark.parametrize("readers", [1, 10, 1000])
def test_readers_in_step_cost_one_render_a_round(world: World, readers: int) -> None:
    joined = [world.join() for _ in range(readers)]
    world.topic.rendered.clear()
    for _ in range(3):
        world.change()
        world.advance(0)
        world.written(*(reader for reader, _ in joined))
    assert world.topic.rendered == [0, 1, 2]
    assert all(sink.take() == [b"0->1", b"1->2", b"2->3"] for _, sink in joined)


def test_all_in_step_are_handed_the_same_bytes(world: World) -> None:
    (_, first), (_, second) = world.join(), world.join()
    world.change()
    world.advance(0)
    assert first.sent[0] is second.sent[0]


def test_readers_of_one_connection_are_told_in_a_row(world: World) -> None:
    """However they came: a connection writes what it has at once, and that is to be the messages of all its streams."""
    told: list[str] = []

    class Noted(Sink):
        def __init__(self, lane: str) -> None:
            super().__init__()
            self.lane = lane

        def send(self, chunks: Chunks) -> None:
            super().send(chunks)
            told.append(self.lane)

    lanes = [f"ipv4:10.0.0.1:{port}" for port in range(5)]
    readers = [world.hub.join("player", lambda: world.topic, Noted(lane), lane=lane) for lane in lanes * 30]
    for _ in range(3):
        world.settle()
        world.written(*readers)
        world.settle()
        told.clear()
        world.change()
        world.settle()
        assert len(told) == len(readers)
        assert [lane for lane, _ in groupby(told)] == lanes


def test_readers_whose_first_message_takes_work_are_told_when_it_is_done(world: World) -> None:
    readers = [reader for reader, _ in (world.join() for _ in range(3))]
    step = Long(1, 2)
    world.topic.step = lambda since: step  # type: ignore[method-assign,assignment,return-value]
    world.change()
    world.settle()
    assert [reader.sink.take() for reader in readers] == [[b"0"]] * 3  # type: ignore[attr-defined]
    world.written(*readers)
    world.settle()
    assert [reader.sink.take() for reader in readers] == [[b"1"]] * 3  # type: ignore[attr-defined]


def test_readers_share_the_topic_of_the_first_and_it_ends_with_the_last(world: World) -> None:
    made = 0

    def make() -> Counter:
        nonlocal made
        made += 1
        return Counter()

    readers = [world.hub.join("same", make, Sink()) for _ in range(3)]
    world.settle()
    assert (made, world.hub.statistics().topics) == (1, 1)
    for reader in readers:
        reader.leave()
    statistics = world.hub.statistics()
    assert (statistics.topics, statistics.readers) == (0, 0)
    assert world.hub._interested == {}
    world.hub.join("same", make, Sink())
    assert made == 2


def test_who_knows_something_is_told_the_difference(world: World) -> None:
    world.topic.version = 7
    for claim, told in ((5, b"5->7"), (7, b"bookmark"), (9, b"None->7")):
        sink = Sink()
        world.hub.join("player", lambda: world.topic, sink, claim)
        world.advance(0)
        assert sink.take() == [told]
    assert world.topic.expected == [5, 7, 9]


def test_who_joins_is_told_at_once_also_in_the_middle_of_a_round(world: World) -> None:
    world.join()
    world.change()
    world.advance(0)  # the round is under way: the first reader still writes
    _, late = world.join(is_read=False)
    assert late.take() == [b"None->1"]


def test_who_joins_while_a_change_waits_gets_it_once(world: World) -> None:
    first, _ = world.join()
    world.change()
    world.advance(0)
    world.change()  # waits until the first round is over
    second, late = world.join()
    world.written(first)
    world.settle()
    world.written(first, second)
    world.settle()
    assert late.take() == []


def test_who_joins_makes_those_hear_who_knew_less(world: World) -> None:
    reader, sink = world.join()
    world.topic.version = 5  # the topic begins anew by itself, as when its log is forgotten
    world.join()
    world.settle()
    assert sink.take() == [b"0->5"]
    world.written(reader)


# ---- rounds


def test_idle_hub_tells_a_change_at_once(world: World) -> None:
    _, sink = world.join()
    world.change()
    assert world.alarm is not None
    assert world.alarm <= world.now
    world.advance(0)
    assert sink.take() == [b"0->1"]


def test_next_round_starts_no_sooner_than_the_last_one_took(world: World) -> None:
    reader, sink = world.join()
    world.change()
    world.advance(0)
    world.advance(0.030)
    world.written(reader)  # the round took 30 ms
    sink.take()
    for _ in range(5):
        world.change()
    world.advance(0.0299)
    assert sink.take() == []
    world.advance(0.0002)
    assert sink.take() == [b"1->6"]


def test_changes_of_a_round_that_is_under_way_gather_into_one_message(world: World) -> None:
    reader, sink = world.join()
    for _ in range(100):
        world.change()
        world.advance(0)
    world.written(reader)
    world.settle()
    assert sink.take() == [b"0->1", b"1->100"]


def test_a_change_of_another_service_wakes_nobody(world: World) -> None:
    world.join()
    world.topic.refreshed = 0
    world.change("other")
    world.change(namespace="other")
    assert world.alarm is None
    world.settle()
    assert world.topic.refreshed == 0


@pytest.mark.parametrize("others", [0, 10, 500])
def test_work_per_change_is_independent_of_other_services(world: World, others: int) -> None:
    topics = [Counter(("default", f"s{number}")) for number in range(others)]
    for number, topic in enumerate(topics):
        sink = Sink()
        reader = world.hub.join(number, lambda topic=topic: topic, sink)  # type: ignore[misc]
        world.settle()
        world.written(reader)
        topic.refreshed = 0
        topic.rendered.clear()
    reader, _ = world.join()
    before = world.hub.statistics()
    for _ in range(10):
        world.change()
        world.settle()
        world.written(reader)
    after = world.hub.statistics()
    assert sum(topic.refreshed + len(topic.rendered) for topic in topics) == 0
    assert (after.renders - before.renders, after.sends - before.sends) == (10, 10)


def test_watcher_of_the_namespace_hears_of_every_service_in_it(world: World) -> None:
    world.topic.interests = (("default",),)
    reader, sink = world.join()
    for number, service in enumerate(("a", "b")):
        world.change(service)
        world.settle()
        assert sink.take() == [f"{number}->{number + 1}".encode()]
        world.written(reader)
    world.change("a", "other")
    assert world.alarm is None


def test_watcher_of_everything_hears_of_every_namespace(world: World) -> None:
    world.topic.interests = (ALL,)
    reader, sink = world.join()
    for number, namespace in enumerate(("default", "other")):
        world.change("a", namespace)
        world.settle()
        assert sink.take() == [f"{number}->{number + 1}".encode()]
        world.written(reader)


def test_a_name_of_its_own_is_woken_alone(world: World) -> None:
    own, all_ = Counter(("this", "very", "one")), Counter(ALL)
    sink, other = Sink(), Sink()
    for topic, end in ((own, sink), (all_, other)):
        world.written(world.hub.join(id(topic), lambda topic=topic: topic, end))  # type: ignore[misc]
    world.settle()
    own.refreshed = all_.refreshed = 0
    world.change()
    world.settle()
    assert (own.refreshed, all_.refreshed) == (0, 1)
    world.hub.wake(("this", "very", "one"))
    world.settle()
    assert (own.refreshed, all_.refreshed) == (1, 1)


# ---- slow readers


def test_slow_reader_delays_nobody_and_costs_no_queue(world: World) -> None:
    (slow, stuck), (quick, sink) = world.join(), world.join()
    waits = []
    for number in range(1, 101):
        world.change()
        changed = world.now
        while sink.sends < number + 1:
            world.advance(STALL_S / 10)
        waits.append(world.now - changed)
        world.written(quick)
    assert stuck.take() == [b"0->1"]
    assert max(waits) <= 4.2 * STALL_S  # once: the look, the look again, and the rest for the round it spoiled
    assert max(waits[5:]) <= STALL_S / 5
    world.written(slow)
    world.settle()
    assert stuck.take() == [b"1->100"]


def test_slow_reader_is_sent_nothing_while_it_writes(world: World) -> None:
    _, stuck = world.join(is_read=False)
    for _ in range(50):
        world.change()
        world.advance(10.0)
        world.hub.bookmark()
    world.settle()
    assert stuck.sends == 1


def test_reader_that_is_slow_at_the_start_is_in_no_round(world: World) -> None:
    world.join(is_read=False)
    quick, sink = world.join()
    for number in range(1, 10):
        world.change()
        world.advance(STALL_S / 50)
        assert sink.take() == [f"{number - 1}->{number}".encode()]
        world.written(quick)


@pytest.mark.parametrize("idle_s", [1.0, 100.0, 3600.0])
def test_reader_stuck_in_a_bookmark_delays_nobody_however_long_ago(world: World, idle_s: float) -> None:
    world.join()
    quick, sink = world.join()
    world.advance(PROMISED_BOOKMARK_S)
    world.hub.bookmark()
    world.advance(0)
    world.written(quick)
    world.advance(idle_s)
    sink.take()
    world.change()
    world.advance(4 * STALL_S)
    assert sink.take() == [b"0->1"]


# ---- readers that die


def test_reader_that_dies_in_a_round_ends_it(world: World) -> None:
    (dying, _), (living, sink) = world.join(), world.join()
    world.change()
    world.advance(0)
    world.advance(STALL_S / 10)
    world.written(living)
    world.change()
    dying.leave()
    world.advance(STALL_S / 10)
    assert sink.take() == [b"0->1", b"1->2"]


def test_all_who_die_in_a_round_leave_nothing(world: World) -> None:
    readers = [world.join()[0] for _ in range(10)]
    world.change()
    world.advance(0)
    for reader in readers:
        reader.leave()
    world.settle()
    assert world.hub.statistics().readers == 0
    _, sink = world.join()
    world.change()
    world.advance(STALL_S)
    assert sink.take() == [b"1->2"]


def test_leaving_twice_and_being_free_after_leaving_do_nothing(world: World) -> None:
    (reader, _), (_, sink) = world.join(), world.join()
    world.change()
    world.advance(0)
    for _ in range(2):
        reader.leave()
        reader.free()
    assert world.hub.statistics().readers == 1
    assert world.hub._outstanding == 1
    assert sink.take() == [b"0->1"]


def test_being_free_twice_counts_once(world: World) -> None:
    (first, _), (_second, _) = world.join(), world.join()
    world.change()
    world.advance(0)
    world.written(first, first)
    assert world.hub._outstanding == 1


def test_last_reader_of_a_topic_that_waits_for_a_round_may_leave(world: World) -> None:
    reader, _ = world.join()
    world.change()
    reader.leave()
    world.settle()
    assert world.hub._dirty == {}


def test_late_writer_of_an_ended_round_does_not_end_the_next(world: World) -> None:
    (slow, _), (quick, sink) = world.join(), world.join()
    world.change()
    world.advance(0)
    world.written(quick)
    world.advance(10 * STALL_S)  # the round is given up
    world.change()
    world.advance(0)  # the next one is under way, with the quick reader alone
    assert sink.take() == [b"0->1", b"1->2"]
    assert world.hub._outstanding == 1
    world.written(slow)
    assert world.hub._outstanding == 1
    world.written(quick)
    assert world.hub._outstanding == 0


# ---- bookmarks


def ticks(world: World, seconds: float) -> None:
    """Let time pass as the server does: the hub is asked for bookmarks once a tick, each a little late."""
    end = world.now + seconds
    while world.now < end:
        world.advance(BOOKMARK_TICK_S + 0.01)
        world.hub.bookmark()
        world.advance(0)


def test_interval_and_tick_keep_the_promise() -> None:
    assert BOOKMARK_INTERVAL_S + BOOKMARK_TICK_S < PROMISED_BOOKMARK_S


def test_idle_readers_get_a_bookmark_in_time_for_one_render(world: World) -> None:
    joined = [world.join() for _ in range(100)]
    before = world.hub.statistics().renders
    ticks(world, PROMISED_BOOKMARK_S - BOOKMARK_TICK_S - 0.05)
    assert all(sink.take() == [b"bookmark"] for _, sink in joined)
    assert world.hub.statistics().renders == before + 1


def test_bookmarks_go_on(world: World) -> None:
    reader, sink = world.join()
    last = world.now
    for _ in range(60):
        world.advance(BOOKMARK_TICK_S + 0.01)
        world.hub.bookmark()
        world.advance(0)
        if sink.take():
            assert world.now - last < PROMISED_BOOKMARK_S
            last = world.now
            world.written(reader)
    assert world.now - last < PROMISED_BOOKMARK_S


def test_who_is_told_a_change_needs_no_bookmark(world: World) -> None:
    reader, sink = world.join()
    for number in range(1, 10):
        ticks(world, 2.0)
        world.change()
        world.settle()
        assert sink.take() == [f"{number - 1}->{number}".encode()]
        world.written(reader)


def test_bookmarks_come_also_where_changes_never_cease_to_matter_to_others(world: World) -> None:
    """The service changes all the time, and the filter of this reader lets none of it in."""
    reader, sink = world.join()
    bookmarks, last = 0, world.now
    for _ in range(2000):
        world.hub.changed([Change(1, 1, Key("default", "player", "one"), None, None)])
        world.hub.bookmark()
        world.advance(0.01)
        if sink.take():
            bookmarks += 1
            assert world.now - last < PROMISED_BOOKMARK_S
            last = world.now
            world.written(reader)
    assert bookmarks >= 4


def test_bookmarks_come_also_where_every_round_finds_that_nothing_changed(world: World) -> None:
    """What came went again before the round: a version, and no difference."""
    reader, sink = world.join()
    last = world.now
    for number in range(1, 1000):
        world.topic.version += 1
        world.topic.step = lambda since: None  # type: ignore[method-assign]
        world.hub.changed([Change(number, number, Key("default", "player", "one"), None, None)])
        world.advance(0.02)
        if sink.take():
            last = world.now
            world.written(reader)
        assert world.now - last < PROMISED_BOOKMARK_S


def test_bookmark_for_a_reader_that_is_behind_waits_for_the_change(world: World) -> None:
    reader, sink = world.join()
    world.advance(10.0)
    world.change()
    world.hub.bookmark()
    world.settle()
    assert sink.take() == [b"0->1"]
    world.written(reader)


# ---- beginning anew


def test_reset_tells_everybody(world: World) -> None:
    joined = [world.join() for _ in range(3)]
    world.topic.version = 9
    world.hub.refresh_all()
    world.settle()
    assert all(sink.take() == [b"0->9"] for _, sink in joined)


def test_reset_of_an_empty_hub_asks_for_nothing(world: World) -> None:
    world.hub.refresh_all()
    assert world.alarm is None


# ---- no more at a time than is good


def runs(world: World) -> list[int]:
    """How many messages each run handed out until the hub rested."""
    counts = []
    while world.alarm is not None and world.alarm <= world.now:
        before = world.hub.statistics().sends
        world.alarm = None
        world.hub.run()
        counts.append(world.hub.statistics().sends - before)
    return counts


@pytest.mark.parametrize("what", ["join", "change", "bookmark"])
def test_a_run_hands_out_so_many_messages_at_the_most(world: World, what: str) -> None:
    count = 10 * SLICE_SENDS
    sinks = [Sink() for _ in range(count)]
    readers = [world.hub.join("player", lambda: world.topic, sink) for sink in sinks]
    if what != "join":
        runs(world)
        world.written(*readers)
        runs(world)
    if what == "change":
        world.change()
    elif what == "bookmark":
        world.advance(PROMISED_BOOKMARK_S)
        world.hub.bookmark()
    counts = runs(world)
    assert max(counts) == SLICE_SENDS
    assert sum(counts) == count
    assert all(sink.is_writing for sink in sinks)


def test_a_run_ends_when_its_time_is_over(world: World) -> None:
    """Topics that take long to take in what changed: their work is done in slices."""
    topics = [Counter() for _ in range(100)]
    for number, topic in enumerate(topics):
        topic.work = 5
        world.hub.join(number, lambda topic=topic: topic, Sink())  # type: ignore[misc]
    ticks_: list[float] = []

    def clock() -> float:
        world.now += SLICE_S / 10  # every look at the clock is work
        ticks_.append(world.now)
        return world.now

    world.hub._clock = clock
    while world.alarm is not None and world.hub._coming:
        world.alarm, before = None, len(ticks_)
        world.hub.run()
        assert len(ticks_) - before < 20
    assert all(topic.work == 0 for topic in topics)


def test_a_topic_with_much_to_do_keeps_no_other_waiting(world: World) -> None:
    heavy, light = Counter(), Counter()
    heavy.work = 10_000
    slow, quick = Sink(), Sink()
    world.hub.join("heavy", lambda: heavy, slow)
    world.hub.join("light", lambda: light, quick)
    world.hub._work(world.now - SLICE_S)  # one piece of work
    world.hub._work(world.now - SLICE_S)
    assert quick.take() == [b"None->0"]
    assert slow.take() == []


def test_a_long_step_is_handed_out_message_by_message(world: World) -> None:
    step = Long(0, 5)
    world.topic.step = lambda since: step  # type: ignore[method-assign,assignment,return-value]
    (first, quick), (_, stuck) = world.join(is_read=False), world.join(is_read=False)
    for number in range(5):
        assert quick.take() == [f"{number}".encode()]
        world.written(first)
        world.settle()
    assert stuck.take() == [b"0"]
    assert first.is_free
    assert (first.version, first.step) == (0, None)


def test_reader_that_leaves_in_the_middle_leaves_nothing(world: World) -> None:
    step = Long(0, 5)
    world.topic.step = lambda since: step  # type: ignore[method-assign,assignment,return-value]
    reader, _ = world.join(is_read=False)
    world.written(reader)
    reader.leave()
    world.settle()
    assert world.hub.statistics().readers == world.hub.statistics().topics == 0
    assert not world.hub._has_work()


def test_reader_that_leaves_before_its_turn_is_told_nothing(world: World) -> None:
    count = 2 * SLICE_SENDS
    joined = [world.join() for _ in range(count)]
    world.change()
    world.alarm = None
    world.hub.run()  # the first half is told
    for reader, sink in joined:
        if not sink.is_writing:
            reader.leave()
    world.settle()
    assert sum(sink.is_writing for _, sink in joined) == SLICE_SENDS
    world.written(*(reader for reader, _ in joined))
    assert not world.hub._is_under_way
