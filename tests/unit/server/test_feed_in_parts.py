"""What is large is taken in a slice at a time: others have their turn meanwhile, and nobody is shown a part of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from itertools import pairwise
from typing import Any

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import feed as feeds
from registry_server.changes import Change
from registry_server.intake import AT_ONCE, SLICE, Intake
from registry_server.limits.peers import peer_of
from registry_server.records import Away, Back, Cause, Commit, Delta, Key, Progress, Snapshot, StoreEvent, size
from registry_server.settings import SettingChange
from tests.support.core import (
    NOBODY,
    SEAL,
    Core,
    Watcher,
    drive,
    gone,
    key,
    put,
    record,
    setting,
    setting_record,
    settle,
)
from tests.support.waiting import always_async, eventually_async

MANY = 600
NAMES = [key(f"i{number:04}") for number in range(MANY)]


class Listening:
    """A listener that notes how much it was told at a time, and in which order."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.sizes: list[int] = []
        self.settings: list[Key] = []
        self.refreshed = 0

    def changed(self, changes: Sequence[Change]) -> None:
        self.seqs += [change.seq for change in changes]
        self.sizes.append(len(changes))

    def settings_changed(self, changes: Sequence[SettingChange]) -> None:
        self.settings += [change.key for change in changes]

    def refresh_all(self) -> None:
        self.refreshed += 1


class Turning(Core):
    """A core whose feed has turns, which the test gives."""

    def __init__(self) -> None:
        super().__init__()
        self.feed._has_turns = True
        self.listening = Listening()
        self.feed.tell_too(self.listening)
        self.feed.emit(Snapshot("e1", 10, (record(key("first", "other"), 5),)))

    def turn(self) -> bool:
        """One turn; whether there is more to do."""
        self.feed._intake.turn()
        return bool(self.feed._intake.events)

    def finish(self) -> None:
        while self.turn():
            pass

    @property
    def count(self) -> int:
        return self.catalog.count("default", "player")[0]


@pytest.fixture
def core() -> Turning:
    return Turning()


def get(core: Core, name: Key) -> Coroutine[Any, Any, bytes]:
    return core.service.get(pb.GetRequest(key={"namespace": name[0], "service": name[1], "id": name[2]}), NOBODY)  # type: ignore[arg-type]


# ---- the order of what waits


async def test_what_waits_is_taken_in_in_order_and_in_pieces() -> None:
    done: list[int] = []

    def begin(event: StoreEvent) -> Any:
        for _ in range(max(1, size(event) // SLICE) - 1):
            done.append(event.revision)  # type: ignore[union-attr]
            yield
        done.append(event.revision)  # type: ignore[union-attr]

    intake = Intake(begin)
    for event in (put(1, *NAMES[: 3 * SLICE]), put(2, NAMES[0]), Progress(3), put(4, *NAMES[: 2 * SLICE])):
        intake.add(event)
    turns = []
    while intake.events:
        before = len(done)
        intake.turn()
        turns.append(done[before:])
    assert turns == [[1], [1], [1], [2, 3, 4], [4]]


# ---- a delta


async def test_no_turn_takes_in_more_than_a_slice(core: Turning) -> None:
    core.feed.emit(put(11, *NAMES))
    counts = [core.count]
    while core.turn():
        counts.append(core.count)
    assert counts == list(range(0, MANY + 1, SLICE))
    assert max(core.listening.sizes) == SLICE
    assert core.listening.seqs == sorted(core.listening.seqs)


async def test_what_is_not_large_is_taken_in_at_once(core: Turning) -> None:
    core.feed.emit(put(11, *NAMES[:AT_ONCE]))
    assert core.count == AT_ONCE
    assert not core.feed.is_in_parts


async def test_a_watch_is_told_a_large_revision_whole(core: Turning) -> None:
    watchers = [Watcher(core, services=["player"]), Watcher(core), Watcher(core, filter=pb.Filter(version="1.0.0"))]
    settle(core, watchers)
    steps = [watcher.fold.steps for watcher in watchers]
    core.feed.emit(put(11, *NAMES))
    while core.turn():
        settle(core, watchers)
        assert [watcher.fold.steps for watcher in watchers] == steps
    settle(core, watchers)
    assert [watcher.fold.steps for watcher in watchers] == [it + 1 for it in steps]
    assert [set(NAMES) <= set(watcher.fold.instances) for watcher in watchers] == [True] * 3
    assert {watcher.fold.revision for watcher in watchers} == {11}


async def test_who_comes_and_goes_meanwhile_is_seen_to_afterwards(core: Turning) -> None:
    core.feed.emit(put(11, *NAMES))
    core.turn()
    comes, goes = Watcher(core, services=["player"]), Watcher(core, services=["player"])
    core.turn()
    goes.leave()
    settle(core, [comes])
    assert (comes.fold.steps, goes.fold.steps) == (0, 0)
    core.finish()
    settle(core, [comes])
    assert (comes.fold.steps, len(comes.fold.instances)) == (1, MANY)


async def test_a_watch_resumes_over_a_large_revision(core: Turning) -> None:
    watcher = Watcher(core, services=["player"])
    settle(core, [watcher])
    watcher.leave()
    core.feed.emit(put(11, *NAMES))
    core.turn()
    watcher.join()
    core.finish()
    settle(core, [watcher])
    assert (len(watcher.fold.instances), watcher.fold.resets) == (MANY, 1)  # the one of the beginning


async def test_reads_wait_for_a_large_revision(core: Turning) -> None:
    core.feed.emit(put(11, *NAMES))
    core.turn()
    calls = [
        core.service.list(pb.ListRequest(service="player", page_size=10_000), NOBODY),
        core.service.list_services(pb.ListServicesRequest(), NOBODY),
        core.service.list_namespaces(pb.ListNamespacesRequest(), NOBODY),
        get(core, NAMES[-1]),
        get(core, NAMES[0]),
    ]
    tasks = [asyncio.create_task(call) for call in calls]
    while core.turn():
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
    answers = await asyncio.gather(*tasks)
    listed = pb.ListResponse.FromString(answers[0])
    assert (listed.header.revision, len(listed.instances)) == (11, MANY)
    summary = pb.ListServicesResponse.FromString(answers[1]).services[1]
    assert (summary.service, summary.instances) == ("player", MANY)
    assert pb.ListNamespacesResponse.FromString(answers[2]).namespaces[0].instances == MANY + 1


async def test_a_read_that_has_to_look_waits_for_what_came_before_its_turn(core: Turning) -> None:
    query = pb.ListRequest(service="player", page_size=10_000, filter={"routable_only": True})
    async with core.service._looking.of([(peer_of(NOBODY.peer),)]):
        task = asyncio.create_task(core.service.list(query, NOBODY))
        await asyncio.sleep(0)
        core.feed.emit(put(11, *NAMES))
        core.turn()
    while core.turn():
        await asyncio.sleep(0)
        assert not task.done()
    listed = pb.ListResponse.FromString(await task)
    assert (listed.header.revision, len(listed.instances)) == (11, MANY)


async def test_a_read_that_is_given_up_leaves_nothing_behind(core: Turning) -> None:
    core.feed.emit(put(11, *NAMES))
    core.turn()
    task = asyncio.create_task(core.service.list(pb.ListRequest(service="player"), NOBODY))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    core.finish()
    assert task.cancelled()
    assert not core.feed._waiting
    assert len(core.list(service="player").instances) == MANY


async def test_renewals_are_answered_meanwhile(core: Turning) -> None:
    lease = await core.store.grant(15.0)
    core.feed.emit(put(11, *NAMES))
    core.turn()
    request = pb.KeepAliveRequest(lease_ids=[SEAL.close(lease.id, "")])
    answer = pb.KeepAliveResponse.FromString(drive(core.service.keep_alive(request, NOBODY)))
    assert [it.state for it in answer.renewals] == [pb.Renewal.RENEWED]
    assert core.feed.is_in_parts


async def test_a_revision_is_reached_when_all_of_it_is_there(core: Turning) -> None:
    core.feed.emit(put(11, *NAMES))
    core.turn()
    reached = [asyncio.create_task(core.feed.reach(revision, 60.0)) for revision in (5, 11)]
    while core.turn():
        await asyncio.sleep(0)
        assert not any(task.done() for task in reached)
    assert await asyncio.gather(*reached) == [True, True]


async def test_later_events_wait_their_turn(core: Turning) -> None:
    core.feed.emit(put(11, *NAMES))
    core.turn()
    core.feed.emit(gone(12, NAMES[-1]))
    core.feed.emit(put(13, *NAMES[:300], weight=7))
    core.feed.emit(Progress(20))
    while core.catalog.revision == 11:
        assert core.count <= MANY
        core.turn()
    assert core.count == MANY - 1  # what is small is taken in whole
    core.finish()
    entry = core.catalog.get(NAMES[0])
    assert entry is not None
    assert (entry.parse().weight, core.catalog.revision) == (7, 20)
    assert core.listening.seqs == sorted(core.listening.seqs)


async def test_when_too_much_waits_all_is_taken_in_at_once(core: Turning, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MOST_WAITING", 5)
    core.feed.emit(put(11, *NAMES))
    for number in range(4):
        core.feed.emit(gone(12 + number, NAMES[number]))
    assert core.count == 0
    core.feed.emit(gone(16, NAMES[4]))
    assert core.count == MANY - 5
    assert not core.feed.is_in_parts


async def test_without_turns_all_is_taken_in_at_once(core: Turning) -> None:
    core.feed._has_turns = False
    core.feed.emit(put(11, *NAMES))
    assert core.count == MANY


async def test_what_expires_in_great_numbers_leaves_whole(core: Turning) -> None:
    core.feed.emit(put(11, *NAMES))
    core.finish()
    core.timeline.advance(100)  # long after the last full set, which excuses those who are late
    watcher = Watcher(core, services=["player"])
    settle(core, [watcher])
    core.feed.emit(gone(12, *NAMES, cause=Cause.EXPIRED))
    counts = []
    while core.turn():
        counts.append(core.count)
        settle(core, [watcher])
        assert len(watcher.fold.instances) == MANY
    settle(core, [watcher])
    assert counts == list(range(MANY - SLICE, -1, -SLICE))
    assert not watcher.fold.instances


async def test_what_expires_after_an_outage_waits_all_the_same(core: Turning) -> None:
    core.feed.emit(put(11, *NAMES))
    core.finish()
    core.feed.emit(Away("gone"))
    core.feed.emit(Back())
    core.feed.emit(gone(12, *NAMES, cause=Cause.EXPIRED))
    core.finish()
    assert (core.count, len(core.feed.guard)) == (MANY, MANY)


async def test_who_is_let_go_meanwhile_leaves_at_once(core: Turning) -> None:
    core.feed.emit(put(11, *NAMES))
    core.finish()
    core.feed.emit(Away("gone"))
    core.feed.emit(Back())
    core.feed.emit(gone(12, NAMES[3], cause=Cause.EXPIRED))
    core.feed.emit(put(13, *NAMES[300:], weight=7))
    core.turn()
    core.feed.let_go([NAMES[3]], Cause.DEREGISTERED)
    assert core.catalog.get(NAMES[3]) is None
    core.finish()
    assert core.count == MANY - 1
    assert core.listening.seqs == sorted(core.listening.seqs)


async def test_who_took_an_address_is_known_though_it_stands_in_another_part(core: Turning) -> None:
    at: dict[str, Any] = {"host": "10.9.9.9", "port": 7}
    core.feed.emit(put(11, key("old"), **at))
    puts = [*(record(name, 12) for name in NAMES), record(key("new"), 12, generation=9, **at)]
    core.feed.emit(Delta(12, tuple(puts), gone(12, key("old"), cause=Cause.REPLACED).deletes))
    core.finish()
    assert core.catalog.took_its_address(key("new"), 9)


async def test_settings_are_told_once_all_is_there(core: Turning) -> None:
    name = setting("policy")
    core.feed.emit(Delta(11, (setting_record(name, 11), *(record(it, 11) for it in NAMES))))
    while core.turn():
        assert core.listening.settings == []
    assert core.listening.settings == [name]


# ---- a full set


def full(epoch: str, revision: int, names: Sequence[Key], at: int | None = None) -> Snapshot:
    return Snapshot(epoch, revision, tuple(record(name, at or revision) for name in names), revision, revision)


@pytest.mark.parametrize("epoch", ["e1", "e2"])
async def test_a_full_set_is_taken_in_by_slices_and_told_whole(epoch: str, core: Turning) -> None:
    watcher = Watcher(core, services=["player"])
    core.feed.emit(put(11, *NAMES))
    core.finish()
    settle(core, [watcher])
    before, sizes = dict(watcher.fold.instances), len(core.listening.sizes)
    core.feed.emit(full(epoch, 20, NAMES[100:]))
    while core.turn():
        settle(core, [watcher])
        assert watcher.fold.instances == before
    settle(core, [watcher])
    assert {it.revision for name, it in watcher.fold.instances.items() if name in NAMES[100:]} == {20}
    assert max(core.listening.sizes[sizes:]) == SLICE
    assert core.listening.refreshed == 1 + (epoch == "e2")
    assert (core.catalog.epoch, core.catalog.revision) == (epoch, 20)


async def test_a_small_full_set_over_a_large_view_is_large(core: Turning) -> None:
    core.feed.emit(put(11, *NAMES))
    core.finish()
    core.feed.emit(Snapshot("e2", 20, ()))
    assert core.feed.is_in_parts or core.feed._intake.events
    core.finish()
    assert len(core.feed.guard) == MANY + 1  # they wait for their owners


async def test_a_full_set_in_parts_is_what_it_is_at_once(core: Turning) -> None:
    """Over all that a view can have before: what it knows, what changed, what left, a flaw, another order."""
    views = []
    for has_turns in (True, False):
        core = Turning()
        core.feed._has_turns = has_turns
        core.feed.emit(put(11, *NAMES[:400]))
        core.feed.emit(Delta(12, (record(NAMES[0], 12)._replace(value=b"\xff"),)))
        for event in (full("e1", 20, NAMES[300:], at=11), full("e2", 15, NAMES[200:500]), full("e2", 16, NAMES)):
            core.feed.emit(event)
            core.finish()
        entries = [entry[:2] for entry in core.catalog.of_service("default", "player")]
        views.append((entries, core.catalog.seq, core.catalog.flaws, len(core.feed.guard), core.catalog.size))
    assert views[0] == views[1]


async def test_the_first_full_set_is_loaded_when_all_of_it_is_there() -> None:
    core = Core()
    core.feed._has_turns = True
    core.feed.emit(full("e1", 20, NAMES))
    while core.feed._intake.events:
        assert not core.feed.loaded.is_set()
        core.feed._advance(core.timeline.now)
        core.feed._intake.turn()
    assert core.feed.loaded.is_set()


async def test_who_registers_waits_for_another_order_of_changes(core: Turning) -> None:
    core.feed.emit(full("e2", 20, NAMES))
    core.turn()
    request = pb.RegisterRequest(instance={"service": "other", "host": "10.0.0.1", "port": 1})  # type: ignore[arg-type]
    task = asyncio.create_task(core.service.register(request, NOBODY))
    while core.turn():
        await asyncio.sleep(0)
        assert await core.store.commit(Commit()) == 1  # nothing is written yet
    await asyncio.sleep(0)
    assert await core.store.commit(Commit()) == 2
    task.cancel()
    await asyncio.wait([task])


# ---- the task that gives the turns


@contextlib.asynccontextmanager
async def running(core: Core) -> AsyncIterator[None]:
    task = asyncio.create_task(core.feed.run())
    try:
        await core.feed.loaded.wait()
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_others_have_a_turn_after_each_slice() -> None:
    core, counts = Core(), list[int]()
    async with running(core):
        core.feed.emit(put(11, *NAMES))
        while core.feed._intake.events:
            counts.append(core.catalog.count("default", "player")[0])
            await asyncio.sleep(0)
    assert max(after - before for before, after in pairwise(counts)) == SLICE


async def test_it_may_end_in_the_middle() -> None:
    core = Core()
    async with running(core):
        core.feed.emit(put(11, *NAMES))
        for _ in range(3):
            await asyncio.sleep(0)
        assert core.feed.is_in_parts
    assert core.catalog.count("default", "player")[0] < MANY


async def test_the_view_is_not_vouched_for_while_something_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    core, vouched = Core(), list[int]()

    async def vouch() -> None:
        vouched.append(1)

    monkeypatch.setattr(feeds, "VOUCH_S", 0.001)
    monkeypatch.setattr(core.store, "vouch", vouch)
    async with running(core):
        await eventually_async(lambda: bool(vouched))
        hold: Callable[[StoreEvent], None] = core.feed._intake.add
        hold(put(11, *NAMES))  # nobody says that there are turns to take
        vouched.clear()
        await always_async(lambda: not vouched, for_s=0.05)
        core.feed._has_more.set()
        await eventually_async(lambda: bool(vouched))
