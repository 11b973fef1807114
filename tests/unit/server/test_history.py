"""Events: why an instance is another one than before, and what is remembered of that."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.v1 import history_pb2
from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog
from registry_server.changes import Change
from registry_server.errors import InvalidField
from registry_server.feed import Feed
from registry_server.history.events import Event, Moment, Particulars, Why, _told
from registry_server.history.history import History
from registry_server.history.places import Place, Search
from registry_server.history.recorder import Recorder
from registry_server.hub import ALL, Interest
from registry_server.model import Entry
from registry_server.records import UNSAID, Author, Away, Cause, Key, Snapshot, StoreEvent
from registry_server.rights import UNRESTRICTED
from registry_server.rpc.history import NEWS, Backlog, EventStep, EventTopic, First, Wanted
from registry_server.stores.memory import MemoryStore
from tests.support.core import gone, key, put, record
from tests.support.waiting import eventually_async

OPS = Author("ops", "10.0.0.7")
SAID = "http: 503 Service Unavailable"
TWO = Author(detail="two")
NO_LEASE = Author(detail="it had no lease")
CHECK = pb.HealthCheck(name="http", http=pb.HealthCheck.Http(path="/"))
ILL = {"checks": [CHECK], "health": pb.UNHEALTHY}
BAD = pb.CheckResult(name="http", health=pb.UNHEALTHY, output="503\nService Unavailable")


def entry(revision: int = 11, lease: str = "lease", by: Author = UNSAID, **fields: Any) -> Entry:
    fields = {"host": "10.0.0.1", "port": 80, **fields}
    return Entry.of(record(key(), revision, lease=lease, changed_by=by.identity, changed_from=by.peer, **fields), 100)


def told(before: Entry | None, after: Entry | None, cause: Cause | None = None, by: Author = UNSAID) -> Event:
    return Event(5, Moment(1000.5, False, "e1"), Change(1, 12, key(), before, after, cause, by))


@pytest.mark.parametrize(
    ("before", "after", "why", "author", "detail"),
    [
        (None, entry(by=OPS), Why.REGISTERED, OPS, ""),
        (entry(), entry(12, by=OPS, weight=7), Why.UPDATED, OPS, "weight 100 -> 7"),
        (
            entry(tags=["a"]),
            entry(12, metadata={"k": "v"}),
            Why.UPDATED,
            UNSAID,
            "tags a -> none, metadata",
        ),
        (entry(generation=1), entry(12, by=OPS, generation=2), Why.TAKEN_OVER, OPS, ""),
        (
            entry(),
            entry(12, by=OPS, leaves_at={"seconds": 9}, status=pb.DRAINING),
            Why.DRAINING,
            OPS,
            "status ACTIVE",
        ),
        (
            entry(checks=[CHECK]),
            entry(12, **ILL, check_results=[BAD]),
            Why.HEALTH,
            UNSAID,
            "UNKNOWN -> UNHEALTHY: http: 503",
        ),
        (entry(), entry(12, checks=[CHECK], checks_by_rule=True), Why.RULED, UNSAID, "checks none -> http"),
        (entry(checks=[CHECK]), entry(12, by=OPS, checks=[CHECK], weight=1), Why.UPDATED, OPS, "weight 100 -> 1"),
        (entry(), entry(12, lease=""), Why.FOREIGN, UNSAID, ""),
        (entry(lease=""), entry(12), Why.FOREIGN, UNSAID, ""),
    ],
)
def test_why_it_changed(before: Entry | None, after: Entry, why: Why, author: Author, detail: str) -> None:
    event = told(before, after)
    assert (event.told.why, event.told.author) == (why, author)
    assert event.detail.startswith(detail)
    assert bool(detail) == bool(event.detail)
    assert (event.told.before, event.told.after) == (before and before.encoded, after.encoded)


@pytest.mark.parametrize(
    ("before", "cause", "by", "why", "author", "detail"),
    [
        (entry(), Cause.EXPIRED, UNSAID, Why.EXPIRED, UNSAID, "its lease ran out: nobody renewed it for 15 s"),
        (entry(lease=""), Cause.EXPIRED, UNSAID, Why.EXPIRED, NO_LEASE, "it had no lease"),
        (entry(by=Author("owner")), Cause.DEREGISTERED, OPS, Why.DEREGISTERED, OPS, ""),
        (entry(by=OPS), Cause.DRAINED, UNSAID, Why.DRAINED, OPS, ""),
        (entry(), Cause.REPLACED, TWO, Why.REPLACED, TWO, "10.0.0.1:80 is the address of two"),
        (entry(**ILL, check_results=[BAD]), Cause.UNHEALTHY, UNSAID, Why.UNHEALTHY, UNSAID, SAID),
        (entry(), None, UNSAID, Why.UNKNOWN, UNSAID, ""),
    ],
)  # fmt: skip
def test_why_it_left(before: Entry, cause: Cause | None, by: Author, why: Why, author: Author, detail: str) -> None:
    event = told(before, None, cause, by)
    assert (event.told.why, event.told.author, event.detail) == (why, author, detail)
    assert event.has_left


@pytest.mark.parametrize("event", [told(None, entry(by=OPS)), told(entry(), None, Cause.EXPIRED), told(entry(), None)])
def test_an_event_is_kept_as_it_was(event: Event) -> None:
    again = Event.from_proto(event.to_proto())
    assert again.to_proto() == event.to_proto()


def test_what_is_told_of_a_change_is_made_once_and_by_whoever_asks() -> None:
    asked = list[Change]()

    def made(change: Change) -> Particulars:
        asked.append(change)
        return _told(change)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("registry_server.history.events._told", made)
        scene = Scene()
        scene.feed.emit(Snapshot("e1", 10, (), through=10))
        for number in range(20):
            scene.feed.emit(put(11 + number, key("one")))
        history = scene.recorder.fresh()
        (latest, *_) = found = history.of("default", "player", "one")
        assert (len(found), latest.has_left, latest.revision, asked) == (10, False, 30, [])
        assert latest.told is latest.told
        assert [it.revision for it in asked] == [30]


@pytest.mark.parametrize(
    ("filter_", "interest"),
    [
        ({"all_namespaces": True}, ALL),
        ({"all_namespaces": True, "service": "player"}, ALL),
        ({}, ("default",)),
        ({"service": "player"}, ("default", "player")),
    ],
)
def test_who_watches_events_is_woken_as_who_watches_instances(filter_: dict[str, Any], interest: Interest) -> None:
    wanted = Wanted.of(history_pb2.EventFilter(**filter_), UNRESTRICTED)
    assert EventTopic(Remembering(limit=10), wanted).interests == [interest]


@pytest.mark.parametrize(
    "foreign",
    [
        {"number": 0},
        {"number": 2**63 - 1},
        {"service": ""},
        {"namespace": "\x1b[31m"},
        {"id": "<script>"},
        {"at": {"seconds": 2**60}},
        {"at": {"nanos": -1}},
        {"before": {"registered_at": {"seconds": 2**60}}},
        {"after": {"ttl": {"seconds": -5}}},
        {"cause": 99},
    ],
)
def test_what_is_no_event_of_ours_is_none(foreign: dict[str, Any]) -> None:
    said = told(None, entry()).to_proto()
    said.MergeFrom(history_pb2.Event(**foreign))
    for name in set(foreign) - {"at", "before", "after"}:
        setattr(said, name, foreign[name])
    with pytest.raises((ValueError, InvalidField)):
        Event.from_proto(said)


def test_what_somebody_wrote_of_himself_is_bounded() -> None:
    author = entry(by=Author("x" * 10_000, "y" * 10_000)).author
    assert max(map(len, author)) <= 128


# ---- what is told of by the feed


class Scene:
    """A feed and who remembers what it tells, on a clock of the test's own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.feed = Feed(MemoryStore(), Catalog(), (), lambda: self.now)
        self.recorder = Recorder(History(10, 1e9), self.feed, lambda: self.now)
        self.feed.tell_too(self.recorder)

    def told(self, *events: StoreEvent) -> list[tuple[str, Why, bool]]:
        """What is remembered of these alone."""
        last = self.recorder.history.latest
        for it in events:
            self.feed.emit(it)
        return [(it.key.id, it.told.why, it.moment.late) for it in self.recorder.history.since(None, last)]


def test_what_is_there_when_the_server_comes_is_no_event() -> None:
    scene = Scene()
    assert scene.told(Snapshot("e1", 10, (record(key("one"), 5),), through=10)) == []
    assert scene.recorder.from_revision == 10
    assert scene.told(put(11, key("two"))) == [("two", Why.REGISTERED, False)]
    assert scene.told(gone(12, key("one"))) == [("one", Why.DEREGISTERED, False)]


def test_what_happened_before_the_server_came_was_earlier() -> None:
    """It is told from where the view was last vouched for."""
    scene = Scene()
    scene.told(Snapshot("e1", 10, (), through=12))
    assert scene.told(put(11, key("one")), put(12, key("two"))) == [
        ("one", Why.REGISTERED, True),
        ("two", Why.REGISTERED, True),
    ]
    assert scene.told(put(13, key("three"))) == [("three", Why.REGISTERED, False)]


async def test_after_an_outage_it_is_told_what_is_another() -> None:
    scene = Scene()
    drained = record(key("two"), 6, leaves_at={"seconds": 9})
    scene.told(Snapshot("e1", 10, (record(key("one"), 5), drained, record(key("three"), 7)), through=10))
    scene.told(Away("it is away"))
    after = Snapshot("e1", 20, (record(key("one"), 15, weight=7), record(key("three"), 7)), through=20)
    assert scene.told(after) == [("two", Why.UNKNOWN, True), ("one", Why.UPDATED, True)]
    assert scene.told(put(21, key("four"))) == [("four", Why.REGISTERED, False)]


class BrokenShelf:
    """Fails in a way that nobody thought of, until it is mended."""

    def __init__(self) -> None:
        self.is_broken = True
        self.kept: list[int] = []

    async def read(self) -> Sequence[tuple[int, bytes]]:
        raise RuntimeError("a fault of its own")

    async def write(self, puts: Sequence[tuple[int, bytes]], deletes: Sequence[int]) -> None:
        if self.is_broken:
            raise RuntimeError("a fault of its own")
        self.kept += [number for number, _ in puts]


async def test_a_shelf_that_fails_in_any_way_costs_what_is_kept_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("registry_server.history.recorder.SAVE_EVERY_S", 0.0)
    scene, shelf = Scene(), BrokenShelf()
    scene.recorder = Recorder(scene.recorder.history, scene.feed, lambda: scene.now, shelf)
    scene.feed.tell_too(scene.recorder)
    scene.told(Snapshot("e1", 10, (), through=10), put(11, key("one")))
    saving = asyncio.create_task(scene.recorder.run())
    try:
        await eventually_async(lambda: caplog.messages)
        shelf.is_broken = False
        await eventually_async(lambda: shelf.kept)
    finally:
        saving.cancel()
    assert caplog.messages == ["what becomes of instances is not kept over a restart: RuntimeError a fault of its own"]


async def test_a_past_that_cannot_be_read_ends_no_start(caplog: pytest.LogCaptureFixture) -> None:
    feed = Feed(MemoryStore(), Catalog(), (), lambda: 1000.0)
    await Recorder(History(10, 1e9), feed, lambda: 1000.0, BrokenShelf()).load()
    assert "RuntimeError a fault of its own" in caplog.text


# ---- what is remembered


def event(number: int, name: str = "a", at_s: float = 1000.0, *, size: int = 10, left: bool = False) -> Event:
    body = b"x" * size
    ends = (body, None) if left else (None, body)
    what = Particulars(number, Key("default", name, f"{name}1"), Why.UPDATED, UNSAID, *ends)
    return Event(number, Moment(at_s, False, "e1"), what)


def at_revision(number: int, name: str, epoch: str, revision: int) -> Event:
    it = event(number, name)
    return Event(number, it.moment._replace(epoch=epoch), it.told._replace(revision=revision))


def numbers(history: History) -> list[int]:
    return [it.number for it in history.backwards(None)][::-1]


def test_of_a_service_and_of_one_instance() -> None:
    history = History(10, 100)
    for it in (event(1), event(2, "b"), event(3, left=True), event(4)):
        history.add(it)
    assert [it.number for it in history.of("default", "a")] == [4, 3, 1]
    assert [it.number for it in history.of("default", "a", "a1")] == [4, 3, 1]
    assert history.of("default", "a", "a2") == history.of("prod", "a") == []
    left = history.last_left("default", "a")
    assert left is not None
    assert left.number == 3
    assert history.last_left("default", "b") is None
    assert [it.number for it in history.backwards(None, 3)] == [2, 1]
    assert [it.number for it in history.since(("default", "a"), 1)] == [3, 4]


def test_age_is_bounded() -> None:
    history = History(10, 100)
    for number in range(1, 5):
        history.add(event(number, at_s=1000.0 + 50 * number))
    assert numbers(history) == [2, 3, 4]
    history.expire(1251.0)
    assert numbers(history) == [4]
    assert not history.is_whole_since(None, 2)
    assert history.is_whole_since(None, 3)
    assert history.known_since(1251.0) == 1151.0


def test_a_clock_that_is_set_ages_nothing() -> None:
    times = {"wall": 1000.0, "steady": 5.0}
    feed = Feed(MemoryStore(), Catalog(), (), lambda: times["steady"])
    history = History(10, 100)
    recorder = Recorder(history, feed, lambda: times["wall"], steady=lambda: times["steady"])
    feed.tell_too(recorder)
    feed.emit(Snapshot("e1", 10, (), through=10))
    feed.emit(put(11, key("one")))
    times["wall"] += 86_400
    feed.emit(put(12, key("two")))
    times["wall"] -= 2 * 86_400
    feed.emit(put(13, key("three")))
    assert [it.key.id for it in recorder.fresh().backwards(None)] == ["three", "two", "one"]
    times["steady"] += 101
    assert len(recorder.fresh()) == 0


def test_what_was_kept_by_a_clock_that_was_ahead_goes_as_what_is_new() -> None:
    history = History(10, 100)
    history.add(event(9, at_s=1000.0), 50.0)
    history.load([event(1, at_s=930.0), event(2, at_s=1e9)], lambda it: 50.0 - max(0.0, 1000.0 - it.at_s))
    assert numbers(history) == [1, 2, 9]
    history.expire(100.0)
    assert numbers(history) == [2, 9]
    history.expire(151.0)
    assert numbers(history) == []


async def test_of_more_at_once_than_may_be_remembered_it_is_told_that_some_is_lost() -> None:
    scene = Scene()
    scene.told(Snapshot("e1", 10, (), through=10))
    scene.told(put(11, key("first")))
    before, history = scene.recorder.history.latest, scene.recorder.history
    assert history.is_whole_since(None, before)
    scene.told(
        Away("ill"),
        Snapshot("e1", 99, tuple(record(key(f"i{number}"), 12 + number) for number in range(30)), through=99),
    )
    assert len(history) <= 10
    assert not history.is_whole_since(None, before)
    assert not history.is_whole_since(("default", "player"), before)
    assert history.is_whole_since(None, history.latest)


def test_a_busy_service_costs_no_quiet_one_its_history() -> None:
    history = History(100, 1e9)
    history.add(event(1, "quiet", left=True))
    for number in range(2, 5000):
        history.add(event(number, "busy"))
    assert history.last_left("default", "quiet") is not None
    assert len(history.of("default", "busy")) >= 90
    assert history.is_whole_since(("default", "quiet"), 0)


def test_bytes_are_bounded() -> None:
    history = History(1000, 1e9, max_bytes=10_000)
    for number in range(1, 200):
        history.add(event(number, size=1_000))
        assert sum(it.size for it in history.backwards(None)) <= 10_000
    assert numbers(history)[-1] == 199


def test_none_is_remembered_where_none_is_wanted() -> None:
    history = History(0, 1e9)
    history.add(event(1))
    assert numbers(history) == []
    assert history.latest == 0


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=80),
    st.integers(1, 20),
    st.integers(1, 40),
)
def test_beside_a_naive_one(steps: list[tuple[str, int]], limit: int, age_s: int) -> None:
    """What is remembered is the latest of each service, in order, no more than may be, and what it lacks it says."""
    history, all_events, now = History(limit, age_s), list[Event](), 1000.0
    history.take_forgotten()
    for number, (name, passed_s) in enumerate(steps, 1):
        now += passed_s
        all_events.append(event(number, name, now))
        history.add(all_events[-1])
    kept, young = numbers(history), [it for it in all_events if it.at_s >= now - age_s]
    assert len(kept) <= limit
    assert len(kept) >= min(len(young), limit - limit // 16 - 1)
    assert kept == sorted(kept)
    for name in "abc":
        mine = [it.number for it in all_events if it.key.service == name]
        found = [it.number for it in history.of("default", name)][::-1]
        assert found == mine[len(mine) - len(found) :]
        assert history.is_whole_since(("default", name), found[0] - 1 if found else number_of(all_events))
        if len(found) < len(mine):
            assert not history.is_whole_since(("default", name), 0)
    assert sorted({*history.take_forgotten(), *kept}) == [it.number for it in all_events]
    again = History(limit, age_s)
    again.load([it for it in all_events if it.number in kept])
    assert numbers(again) == kept


def number_of(events: list[Event]) -> int:
    return events[-1].number if events else 0


# ---- what those who watch are told


class Remembering:
    """What a topic asks."""

    def __init__(self, limit: int) -> None:
        self.history = History(limit, 1e9)
        self.from_revision = 0

    def header(self) -> pb.ResponseHeader:
        return pb.ResponseHeader(epoch="e1", revision=7)


def messages(step: EventStep | None) -> list[history_pb2.HistoryWatchResponse]:
    """All of a step."""
    found, place = list[history_pb2.HistoryWatchResponse](), 0 if step is not None else None
    while step is not None and place is not None:
        chunks, place = step.part(place)
        found.append(history_pb2.HistoryWatchResponse.FromString(b"".join(chunks or ())))
    return found


def test_a_slow_reader_is_told_what_is_remembered_and_that_some_is_lost() -> None:
    asked = Remembering(limit=400)
    topic = EventTopic(asked, Wanted.of(history_pb2.EventFilter(service="a"), UNRESTRICTED))
    [first] = messages(topic.step(None))
    assert (list(first.events), first.header.epoch, first.lost) == ([], "e1", False)
    slow = topic.version
    for number in range(1, 301):
        asked.history.add(event(number, "ab"[number % 2]))
    assert topic.advance()
    several = messages(topic.step(slow))
    assert [it.number for message in several for it in message.events] == list(range(2, 301, 2))
    assert (len(several), any(message.lost for message in several)) == (2, False)
    assert topic.step(topic.version) is None
    for number in range(301, 2_000):
        asked.history.add(event(number))
    while not topic.advance():
        pass
    several = messages(topic.step(slow))
    assert [message.lost for message in several] == [True, *[False] * (len(several) - 1)]
    assert several[-1].events[-1].number == topic.version == 1_999


def backlog(asked: Remembering, numbers: Sequence[int]) -> EventStep:
    """All of service `a` that has these numbers, as one who comes is told it."""
    wanted = Wanted.of(history_pb2.EventFilter(service="a"), UNRESTRICTED)
    return EventStep(numbers[-1], asked.header(), Backlog(asked.history, wanted, NEWS, numbers), False)


def test_nothing_is_made_for_a_message_that_it_does_not_fit_into(monkeypatch: pytest.MonkeyPatch) -> None:
    made, to_proto = list[int](), Event.to_proto

    def counted(it: Event) -> history_pb2.Event:
        made.append(it.number)
        return to_proto(it)

    monkeypatch.setattr(Event, "to_proto", counted)
    asked = Remembering(limit=400)
    for number in range(1, 41):
        asked.history.add(event(number, size=60_000))
    several = messages(backlog(asked, range(1, 41)))
    assert [it.number for message in several for it in message.events] == made == list(range(1, 41))
    assert max(message.ByteSize() for message in several) < 256 * 1024


def test_who_reads_slowly_holds_no_events_and_is_told_that_some_are_lost() -> None:
    asked = Remembering(limit=400)
    for number in range(1, 401):
        asked.history.add(event(number))
    step = backlog(asked, asked.history.numbers(None, 0))
    chunks, place = step.part(0)
    assert [it.number for it in history_pb2.HistoryWatchResponse.FromString(b"".join(chunks or ())).events][-1] == 128
    for number in range(401, 701):
        asked.history.add(event(number))
    assert place is not None
    chunks, place = step.part(place)
    late = history_pb2.HistoryWatchResponse.FromString(b"".join(chunks or ()))
    assert late.lost
    assert late.events[0].number > 300


def test_no_step_looks_at_very_many() -> None:
    asked = Remembering(limit=10_000)
    for number in range(1, 5_001):
        asked.history.add(event(number, "b" if number % 2_500 else "a"))
    told = [[it.number for it in message.events] for message in messages(backlog(asked, range(1, 5_001)))]
    assert told == [[], [2_500], [5_000]]


def begun(asked: Remembering, from_revision: int, service: str = "quiet") -> list[history_pb2.HistoryWatchResponse]:
    """What somebody is told first who knows all up to a revision."""
    topic = EventTopic(asked, Wanted.of(history_pb2.EventFilter(service=service), UNRESTRICTED))
    topic.known(First(None, from_revision))
    return messages(topic.step(None))


def test_who_goes_on_has_lost_only_what_is_later_than_he_was_told_of() -> None:
    """A service that is quiet for as long as anything is remembered has lost nothing."""
    asked = Remembering(limit=20)
    asked.history.add(event(1, "quiet"))
    for number in range(2, 200):
        asked.history.add(event(number, "busy"))
    assert [(len(it.events), it.lost) for it in begun(asked, 1)] == [(1, False)]
    asked.history.expire(1e12)
    assert [(len(it.events), it.lost) for it in begun(asked, 150)] == [(0, True)], "busy was forgotten up to 199"
    asked = Remembering(limit=20)
    asked.history.add(event(1, "quiet"))
    asked.history.expire(1e12)
    assert [it.lost for it in begun(asked, 1)] == [True]
    assert [it.lost for it in begun(asked, 2)] == [False]


def test_revisions_of_another_order_are_others() -> None:
    asked = Remembering(limit=20)
    for number, epoch, revision in ((1, "e0", 500), (2, "e0", 501), (3, "e1", 2), (4, "e1", 3)):
        asked.history.add(at_revision(number, "quiet", epoch, revision))
    [first] = begun(asked, 1)
    assert ([it.revision for it in first.events], first.lost) == ([2, 3], False)
    asked.history.expire(1e12)
    assert [it.lost for it in begun(asked, 3)] == [True]
    assert [it.lost for it in begun(asked, 4)] == [False], "the highest that is forgotten was of another order"


def test_a_reader_that_is_told_nothing_is_told_how_far_it_is() -> None:
    topic = EventTopic(Remembering(limit=20), Wanted.of(history_pb2.EventFilter(service="quiet"), UNRESTRICTED))
    said = history_pb2.HistoryWatchResponse.FromString(topic.bookmark())
    assert (list(said.events), said.header.revision, said.lost) == ([], 7, False)


# ---- where a page goes on


def following(place: Place, events: Sequence[Event]) -> list[int]:
    """The revisions of those that come after a place, the latest first."""
    search = Search(place)
    for it in reversed(events):
        if search.look(it):
            break
    return [it.revision for it in reversed(events) if it.number < search.before]


def seen(numbered_from: int, *revisions: int, epoch: str = "e1") -> list[Event]:
    """By another server: of each revision two instances, in their order."""
    them = [(it, name) for it in revisions for name in "ab"]
    return [at_revision(number, name, epoch, it) for number, (it, name) in enumerate(them, numbered_from)]


def test_a_page_goes_on_wherever_it_was_seen() -> None:
    mine = seen(1_000, 5, 6, 7)
    for numbered_from in (1, 1_000, 9_000):
        for place, last in enumerate(mine):
            theirs = seen(numbered_from, 5, 6, 7, 8)
            assert following(Place.of(last), theirs) == [it.revision for it in reversed(mine[:place])]


def test_of_a_place_that_is_not_known_it_goes_on_with_what_is_older() -> None:
    last = seen(1_000, 6)[1]
    for numbered_from in (1, 9_000):
        assert following(Place.of(last), seen(numbered_from, 4, 5, 8)) == [5, 5, 4, 4]
        assert following(Place.of(last), seen(numbered_from, 7, 8)) == []
        assert following(Place.of(last), seen(numbered_from, 4)) == [4, 4]
    older, newer = seen(1, 900, 901, epoch="e0"), seen(91, 1, 2, epoch="e2")
    assert following(Place.of(last), [*older, *seen(11, 4, 7), *newer]) == [4, 4, 901, 901, 900, 900]
    assert following(Place.of(last), [*older, *seen(11, 7), *newer]) == [901, 901, 900, 900]
    assert following(Place.of(last), older) == [901, 901, 900, 900], "by the clock"
    assert following(Place.of(last), []) == []


@pytest.mark.parametrize(
    "token", ["1", "1-2", "-1-2-00000000-0000000000000000", "x" * 1_000, "²-1-00000000-0000000000000000"]
)
def test_what_is_no_place_is_refused(token: str) -> None:
    good = Place.of(event(5))
    assert Place.read(good.token) == good
    with pytest.raises(InvalidField, match="page_token"):
        Place.read(token)
