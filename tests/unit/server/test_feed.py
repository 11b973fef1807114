"""From the store's events to the readers: what is held is held as long as it should be, and no longer."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import feed as feeds
from registry_server.catalog import Catalog
from registry_server.changes import Change
from registry_server.feed import BEAT_S, DOUBT_S, Feed
from registry_server.illness import Pulse
from registry_server.records import (
    Away,
    Back,
    Cause,
    Commit,
    Delete,
    Deleted,
    Delta,
    Ill,
    Lease,
    Progress,
    Renewal,
    Snapshot,
)
from registry_server.rules import seconds
from registry_server.settings import SettingChange
from registry_server.stores.base import Emit, Store, StoreAway
from tests.support.core import Core, Watcher, gone, key, put, record, setting, setting_record, settle
from tests.support.waiting import always_async, eventually_async, passed

ONE, TWO = key("one"), key("two")
HOST: dict[str, Any] = {"host": "10.9.9.9", "port": 7}


class Mute(Store):
    """A store that the test speaks for. It notes what is committed."""

    def __init__(self) -> None:
        self.commits: list[Commit] = []
        self.away = False
        self.revision = 0
        self.vouched = 0

    async def run(self, emit: Emit) -> None:
        await asyncio.get_running_loop().create_future()

    async def grant(self, ttl_s: float) -> Lease:
        return Lease("lease", ttl_s)

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        return []

    async def release(self, lease_id: str) -> None:
        pass

    async def commit(self, commit: Commit) -> int:
        await asyncio.sleep(0)
        if self.away:
            raise StoreAway("away")
        if commit != Commit():
            self.commits.append(commit)
        return self.revision

    async def vouch(self) -> None:
        self.vouched += 1

    async def aclose(self) -> None:
        pass


def feed_of(store: Store, ttl_ms: dict[str, int]) -> Feed:
    """A feed on the real clock whose instances have these times to live."""
    feed = Feed(store, Catalog(), (), time.monotonic)
    records = (record(key(id_), 5, ttl=seconds(ms / 1000)) for id_, ms in ttl_ms.items())
    feed.emit(Snapshot("e1", 10, tuple(records)))
    return feed


@contextlib.asynccontextmanager
async def following(feed: Feed) -> AsyncIterator[None]:
    """While the block lasts, all tasks of the feed run."""
    task = asyncio.create_task(feed.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_removals_that_wait_each_end_at_their_own_time() -> None:
    feed = feed_of(Mute(), {"long": 30_000, "short": 200})
    async with following(feed):
        feed.emit(Away("gone"))
        feed.emit(Back())
        feed.emit(gone(11, key("long"), cause=Cause.EXPIRED))
        feed.emit(gone(12, key("short"), cause=Cause.EXPIRED))
        assert len(list(feed.catalog.keys())) == 2
        await eventually_async(lambda: feed.catalog.get(key("short")) is None, timeout_s=10)
        assert feed.catalog.get(key("long")) is not None


async def test_no_removal_takes_place_while_the_store_is_away_again() -> None:
    """Frozen for longer than a ttl, back for a moment, and frozen again: no clock runs on."""
    feed = feed_of(Mute(), {"one": 1000})
    async with following(feed):
        feed.emit(Away("frozen"))
        feed.emit(Back())
        feed.emit(gone(11, ONE, cause=Cause.EXPIRED))
        feed.emit(Away("frozen again"))
        await always_async(lambda: feed.catalog.get(ONE) is not None, for_s=1.3)
        began = time.monotonic()
        feed.emit(Back())
        await eventually_async(lambda: feed.catalog.get(ONE) is None, timeout_s=10)
        assert time.monotonic() - began >= 1.0


async def test_what_waits_leaves_at_once_when_it_is_asked_for() -> None:
    feed = feed_of(Mute(), {"one": 30_000})
    feed.emit(Away("gone"))
    feed.emit(Back())
    feed.emit(gone(11, ONE, cause=Cause.EXPIRED))
    assert ONE in feed.guard
    feed.let_go([ONE], Cause.DEREGISTERED)
    assert feed.catalog.get(ONE) is None
    assert ONE not in feed.guard


async def test_ghosts_are_deleted_from_the_store() -> None:
    store = Mute()
    feed = feed_of(store, {})
    async with following(feed):
        feed.emit(put(11, ONE, **HOST))
        feed.emit(put(12, TWO, **HOST))
        commit = await eventually_async(lambda: store.commits[0] if store.commits else None)
        assert commit == Commit(deletes=(Delete(ONE, 11),), cause=Cause.REPLACED)


async def test_what_clients_bring_about_is_mended_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """They bring about as many ghosts as they like; a record without its lease is the work of somebody's hand."""
    caplog.set_level(logging.DEBUG)
    feed = feed_of(Mute(), {"one": 30_000})
    async with following(feed):
        feed.emit(put(11, TWO, **HOST))
        feed.emit(put(12, key("three"), **HOST))
        feed.emit(put(13, ONE, lease=""))
        await eventually_async(lambda: caplog.text.count("mended:") == 2)
    said = {it.getMessage(): it.levelno for it in caplog.records if "mended:" in it.getMessage()}
    assert said == {
        f"mended: {TWO} is deleted: lost its address": logging.DEBUG,
        f"mended: {ONE} is back under its lease": logging.WARNING,
    }


async def test_ghosts_of_an_outage_are_deleted_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "RETRY_S", 0.01)
    store = Mute()
    feed = feed_of(store, {})
    store.away = True
    async with following(feed):
        feed.emit(put(11, ONE, **HOST))
        feed.emit(put(12, TWO, **HOST))
        await always_async(lambda: not store.commits, for_s=0.1)
        store.away = False
        commit = await eventually_async(lambda: store.commits[0] if store.commits else None)
        assert commit == Commit(deletes=(Delete(ONE, 11),), cause=Cause.REPLACED)


async def test_what_only_waits_to_be_removed_leaves_no_ghost() -> None:
    feed = feed_of(Mute(), {})
    feed.emit(put(11, ONE, **HOST))
    feed.emit(gone(12, ONE, cause=Cause.EXPIRED))
    assert ONE in feed.guard
    feed.emit(put(13, TWO, **HOST))
    assert (feed.catalog.get(ONE), len(feed.guard)) == (None, 0)
    assert feed._mending.next(time.monotonic()) is None


async def test_record_without_a_lease_is_put_back_by_who_knew_it() -> None:
    store = Mute()
    feed = feed_of(store, {"one": 30_000})
    async with following(feed):
        feed.emit(put(11, ONE, lease=""))
        commit = await eventually_async(lambda: store.commits[0] if store.commits else None)
        assert [(it.key, it.lease_id, it.expect) for it in commit.puts] == [(ONE, "lease", 11)]


async def test_record_without_a_lease_that_nobody_knew_is_gone_after_one_ttl() -> None:
    store = Mute()
    feed = feed_of(store, {})
    began = time.monotonic()
    async with following(feed):
        feed.emit(put(11, ONE, lease="", ttl={"seconds": 1}))
        commit = await eventually_async(lambda: store.commits[0] if store.commits else None)
        assert commit == Commit(deletes=(Delete(ONE, 11),), cause=Cause.EXPIRED)
        assert time.monotonic() - began >= 1.0


# ---- vouching


async def test_view_is_vouched_for_while_it_is_whole_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "VOUCH_S", 0.01)
    store = Mute()
    feed = feed_of(store, {"one": 30_000})

    async def vouches() -> bool:
        before = store.vouched
        await passed(0.1)
        return store.vouched > before

    async with following(feed):
        assert await vouches()
        feed.emit(Away("gone"))
        assert not await vouches()
        feed.emit(Back())
        assert await vouches()
        feed.emit(gone(11, ONE, cause=Cause.EXPIRED))
        assert not await vouches(), "a removal waits"
        feed.emit(put(12, ONE))
        assert await vouches()
        store.revision = 20
        feed.emit(Away("gone"))
        feed.emit(Back())
        assert await vouches(), "whole as far as it goes, which the store tells by it"


async def test_view_is_not_vouched_for_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "VOUCH_S", 0.01)
    store = Mute()
    feed = Feed(store, Catalog(), (), time.monotonic)
    async with following(feed):
        feed.emit(Snapshot("e1", 10, (), through=12))
        await always_async(lambda: not store.vouched, for_s=0.1)
        feed.emit(Progress(12))
        await eventually_async(lambda: store.vouched)


async def test_reach_waits_for_the_revision() -> None:
    feed = feed_of(Mute(), {})
    waiting = asyncio.create_task(feed.reach(12, 5.0))
    await asyncio.sleep(0)
    feed.emit(put(11, ONE))
    await asyncio.sleep(0)
    assert not waiting.done()
    feed.emit(Progress(12))
    assert await waiting is True
    assert feed._waiting == {}


async def test_reach_gives_up_in_time_and_leaves_nothing_behind() -> None:
    feed = feed_of(Mute(), {})
    assert await feed.reach(12, 0.01) is False
    assert feed._waiting == {}


# ---- this process stands still


def alert(core: Core) -> Core:
    """Its timeline is the clock of a process that stood still whenever the clock jumped."""
    core.feed._pulse = Pulse(core.timeline.now, BEAT_S)
    core.feed.emit(Snapshot("e1", 10, (record(ONE, 5, ttl={"seconds": 15}),)))
    return core


def run_for(core: Core, seconds: float) -> None:
    """Time passes and the process runs."""
    for _ in range(round(seconds / BEAT_S)):
        core.timeline.advance(BEAT_S)
        core.feed._beat()


async def test_a_standstill_is_told_once_somebody_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    core = alert(Core(Mute()))
    core.timeline.advance(5)
    core.feed.emit(gone(11, ONE))
    core.timeline.advance(7)
    core.feed.open()
    core.timeline.advance(9)
    core.feed.emit(gone(12, TWO))
    assert [it.getMessage() for it in caplog.records] == ["this process stood still for 8.9 s"]


async def test_what_expires_after_the_server_was_stopped_waits() -> None:
    core = alert(Core(Mute()))
    run_for(core, 20)
    core.timeline.advance(5)
    core.feed.emit(gone(11, ONE, cause=Cause.EXPIRED))
    assert core.catalog.get(ONE) is not None
    assert core.feed.guard.next_due == core.timeline.now + 15


@pytest.mark.parametrize(("ttl_s", "waits"), [(2, True), (15, False)])
async def test_short_standstill_matters_to_short_leases(ttl_s: int, waits: bool) -> None:
    core = alert(Core(Mute()))
    core.feed.emit(put(11, TWO, ttl={"seconds": ttl_s}))
    run_for(core, 20)
    core.timeline.advance(0.5)
    core.feed.emit(gone(12, TWO, cause=Cause.EXPIRED))
    assert (core.catalog.get(TWO) is not None) == waits


async def test_what_expires_in_the_ordinary_course_does_not_wait() -> None:
    core = alert(Core(Mute()))
    run_for(core, 20)
    core.feed.emit(gone(11, ONE, cause=Cause.EXPIRED))
    assert core.catalog.get(ONE) is None


async def test_wait_that_ends_during_a_standstill_begins_anew() -> None:
    """The timer fires before what waits in the sockets is read."""
    core = alert(Core(Mute()))
    core.feed.emit(gone(11, ONE, cause=Cause.EXPIRED))
    core.timeline.advance(60)
    core.feed._end_hold()
    assert core.catalog.get(ONE) is not None
    assert core.feed.guard.next_due == core.timeline.now + 15


async def test_server_that_stood_still_proves_no_old_set() -> None:
    """What it is told next may have waited in its socket all the time: only what it asks for now proves anything."""
    store = Mute()
    core = alert(Core(store))
    watcher = Watcher(core, services=["player"])
    settle(core, [watcher])
    core.timeline.advance(60)
    core.hub.bookmark()
    core.timeline.settle()
    (bookmark,) = [pb.WatchResponse.FromString(part) for part in watcher.sink.take()]
    assert bookmark.bookmark
    assert bookmark.header.stale_for.seconds == 60
    core.feed.emit(Progress(12))
    assert core.list().header.stale_for.seconds == 60
    store.revision = 13
    await core.feed._ask()
    assert core.list().header.HasField("stale_for")
    core.feed.emit(Progress(13))
    assert not core.list().header.HasField("stale_for")


async def test_answer_from_before_a_standstill_proves_nothing() -> None:
    core = alert(Core(Mute()))
    core.timeline.advance(60)
    core.feed._beat()
    asking = asyncio.create_task(core.feed._ask())
    await asyncio.sleep(0)
    core.timeline.advance(60)
    core.feed._beat()
    await asking
    assert core.list().header.stale_for.seconds == 120


async def test_short_standstill_is_no_doubt() -> None:
    core = alert(Core(Mute()))
    core.timeline.advance(DOUBT_S - 0.1)
    assert not core.list().header.HasField("stale_for")


# ---- how old the view is


async def test_view_says_how_old_it_is_while_the_store_is_away() -> None:
    """Counted from the last that the store said, and not from when its silence was noticed."""
    store = Mute()
    core = Core(store)
    core.feed.emit(Snapshot("e1", 10, (record(ONE, 5),)))
    core.timeline.advance(100)
    core.feed.emit(Progress(10))
    assert not core.list().header.HasField("stale_for")
    core.timeline.advance(2.0)
    core.feed.emit(Away("silent for 2 s"))
    core.timeline.advance(1.5)
    core.feed.emit(Away("still gone"))
    core.timeline.advance(1.0)
    answer = core.list()
    assert answer.header.stale_for.ToMilliseconds() == 4500
    assert [it.id for it in answer.instances] == ["one"]
    core.feed.emit(Back())
    assert core.list().header.stale_for.ToMilliseconds() == 4500, "what was missed is yet to be told"
    await core.feed._ask()
    assert not core.list().header.HasField("stale_for")


async def test_doubts_are_resolved_as_soon_as_the_store_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "RETRY_S", 0.01)
    store = Mute()
    feed = feed_of(store, {})
    async with following(feed):
        assert feed.stale_for_s is None
        feed.emit(Away("gone"))
        store.away = True
        feed.emit(Back())
        await always_async(lambda: feed.stale_for_s is not None, for_s=0.1)
        store.away, store.revision = False, 12
        await always_async(lambda: feed.stale_for_s is not None, for_s=0.1)
        feed.emit(Progress(12))
        assert feed.stale_for_s is None


def test_loaded_is_told_with_the_first_full_set() -> None:
    core = Core(Mute())
    assert not core.feed.loaded.is_set()
    core.feed.emit(Away("not there yet"))
    assert not core.feed.loaded.is_set()
    core.feed.emit(Snapshot("e1", 1, ()))
    assert core.feed.loaded.is_set()


@pytest.mark.parametrize(("epoch", "revision"), [("e2", 20), ("e1", 5)])
def test_another_order_of_changes_is_told_to_everybody(epoch: str, revision: int) -> None:
    core = Core(Mute())
    core.feed.emit(Snapshot("e1", 10, ()))
    watcher = Watcher(core, services=["nobody"])
    settle(core, [watcher])
    core.feed.emit(Snapshot(epoch, revision, (record(ONE, 2),)))
    settle(core, [watcher])
    assert (watcher.fold.epoch, watcher.fold.revision, watcher.fold.resets) == (epoch, revision, 2)


async def test_loaded_is_told_once_the_store_has_told_what_it_knew() -> None:
    core = Core(Mute())
    core.feed.emit(Snapshot("e1", 10, (record(ONE, 5),), through=20))
    core.feed.emit(gone(15, ONE, cause=Cause.EXPIRED))
    assert not core.feed.loaded.is_set()
    core.feed.emit(Progress(20))
    assert core.feed.loaded.is_set()


async def test_what_expires_after_the_store_was_ill_waits() -> None:
    core = Core(Mute())
    core.feed.emit(Snapshot("e1", 10, (record(ONE, 5, ttl={"seconds": 15}),)))
    core.feed.emit(Ill("silent for 3 s"))
    core.feed.emit(gone(11, ONE, cause=Cause.EXPIRED))
    assert core.catalog.get(ONE) is not None


# ---- who is told


class Recorder:
    """A listener that keeps what it is told, and may fail at it."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.told: list[Sequence[Change] | None] = []
        self.settings: list[SettingChange] = []

    def changed(self, changes: Sequence[Change]) -> None:
        self.told.append(changes)
        if self.fails:
            raise ValueError("of its own")

    def settings_changed(self, changes: Sequence[SettingChange]) -> None:
        self.settings += changes
        if self.fails:
            raise ValueError("of its own")

    def refresh_all(self) -> None:
        self.told.append(None)
        if self.fails:
            raise ValueError("of its own")


def test_all_listeners_are_told_whatever_one_of_them_raises(caplog: pytest.LogCaptureFixture) -> None:
    failing, other = Recorder(fails=True), Recorder()
    feed = Feed(Mute(), Catalog(), (failing, other), time.monotonic)
    feed.emit(Snapshot("e1", 10, (record(ONE, 5),)))
    feed.emit(Progress(11))
    feed.emit(gone(12, ONE))
    assert failing.told == other.told
    [came, anew, left] = other.told
    assert anew is None
    assert [change.key for change in (*(came or ()), *(left or ()))] == [ONE, ONE]
    assert feed.catalog.revision == 12
    assert [entry.message for entry in caplog.records] == ["Recorder failed at what changed"] * 3


# ---- settings


def test_settings_are_told_beside_the_instances() -> None:
    failing, other = Recorder(fails=True), Recorder()
    feed = Feed(Mute(), Catalog(), (failing, other), time.monotonic)
    name = setting()
    first, second = setting_record(name, 5), setting_record(name, 11, b"other")
    feed.emit(Snapshot("e1", 10, (first,)))
    feed.emit(Delta(11, (second, record(ONE, 11))))
    feed.emit(Progress(12))
    feed.emit(gone(13, name))
    assert other.settings == [(10, name, None, first), (11, name, first, second), (13, name, second, None)]
    assert other.settings == failing.settings
    assert [[change.key for change in told or ()] for told in other.told] == [[], [ONE]]


async def test_no_setting_is_held_back_or_mended() -> None:
    """Neither during an outage, nor for want of a lease."""
    feed = Feed(Mute(), Catalog(), (), time.monotonic)
    names = [setting("one"), setting("two")]
    feed.emit(Snapshot("e1", 10, (record(ONE, 5), *(setting_record(name, 5) for name in names))))
    feed.emit(Away("gone"))
    feed.emit(Back())
    feed.emit(Delta(11, deletes=(Deleted(ONE, Cause.EXPIRED), Deleted(names[0], Cause.EXPIRED))))
    assert ([*map(str, feed.catalog.keys())], len(feed.guard)) == (["default/player/one"], 1)
    assert feed.catalog.settings.get(names[0]) is None
    feed.emit(Snapshot("e2", 1, ()))
    assert (len(feed.guard), len(feed.catalog.settings), len(feed._mending)) == (1, 0, 0)
