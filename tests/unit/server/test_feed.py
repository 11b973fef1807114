"""From the store's events to the readers: what is held is held as long as it should be, and no longer."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from registry_server.catalog import Catalog
from registry_server.feed import BEAT_S, STALL_S, Feed
from registry_server.hub import Hub
from registry_server.rules import seconds
from registry_server.stores.base import (
    Away,
    Back,
    Cause,
    Commit,
    Delete,
    Emit,
    Ill,
    Lease,
    Progress,
    Renewal,
    Snapshot,
    Store,
)
from tests.support.core import Core, Watcher, gone, key, put, record, settle
from tests.support.waiting import eventually_async

ONE, TWO = key("one"), key("two")
HOST: dict[str, Any] = {"host": "10.9.9.9", "port": 7}


class Mute(Store):
    """A store that the test speaks for. It notes what is committed."""

    def __init__(self) -> None:
        self.commits: list[Commit] = []

    async def run(self, emit: Emit) -> None:
        await asyncio.get_running_loop().create_future()

    async def grant(self, ttl_s: float) -> Lease:
        return Lease("lease", ttl_s)

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        return []

    async def release(self, lease_id: str) -> None:
        pass

    async def commit(self, commit: Commit) -> int:
        self.commits.append(commit)
        return 0

    async def aclose(self) -> None:
        pass


def feed_of(store: Store, ttl_ms: dict[str, int]) -> Feed:
    """A feed on the real clock whose instances have these times to live."""
    feed = Feed(store, Catalog(), Hub(time.monotonic, lambda at: None), time.monotonic)
    records = (record(key(id_), 5, ttl=seconds(ms / 1000)) for id_, ms in ttl_ms.items())
    feed.emit(Snapshot("e1", 10, tuple(records)))
    return feed


async def test_removals_that_wait_each_end_at_their_own_time() -> None:
    feed = feed_of(Mute(), {"long": 30_000, "short": 200})
    feed.emit(Away("gone"))
    feed.emit(Back())
    feed.emit(gone(11, key("long"), cause=Cause.EXPIRED))
    feed.emit(gone(12, key("short"), cause=Cause.EXPIRED))
    assert len(list(feed.catalog.keys())) == 2
    await eventually_async(lambda: feed.catalog.get(key("short")) is None, timeout_s=5)
    assert feed.catalog.get(key("long")) is not None


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
    running = asyncio.create_task(feed.run())
    feed.emit(put(11, ONE, **HOST))
    feed.emit(put(12, TWO, **HOST))
    commit = await eventually_async(lambda: store.commits[0] if store.commits else None)
    assert commit == Commit(deletes=(Delete(ONE, 11),), cause=Cause.REPLACED)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


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


async def test_what_expires_after_the_server_was_stopped_waits() -> None:
    core = Core(Mute())
    core.feed.emit(Snapshot("e1", 10, (record(ONE, 5, ttl={"seconds": 15}),)))
    core.timeline.advance(BEAT_S + STALL_S + 0.01)
    core.feed.emit(gone(11, ONE, cause=Cause.EXPIRED))
    assert core.catalog.get(ONE) is not None
    assert core.feed.guard.next_due == core.timeline.now + 15


def test_what_expires_in_the_ordinary_course_does_not_wait() -> None:
    core = Core(Mute())
    core.feed.emit(Snapshot("e1", 10, (record(ONE, 5, ttl={"seconds": 15}),)))
    for _ in range(100):
        core.timeline.advance(BEAT_S + STALL_S - 0.01)
        core.feed._beat()
    core.feed.emit(gone(11, ONE, cause=Cause.EXPIRED))
    assert core.catalog.get(ONE) is None


def test_view_says_how_old_it_is_while_the_store_is_away() -> None:
    core = Core(Mute())
    core.feed.emit(Snapshot("e1", 10, (record(ONE, 5),)))
    assert not core.list().header.HasField("stale_for")
    core.feed.emit(Away("gone"))
    core.timeline.advance(3.5)
    core.feed.emit(Away("still gone"))
    core.timeline.advance(1.0)
    answer = core.list()
    assert answer.header.stale_for.ToMilliseconds() == 4500
    assert [it.id for it in answer.instances] == ["one"]
    core.feed.emit(Back())
    assert not core.list().header.HasField("stale_for")


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


def test_loaded_is_told_once_the_store_has_told_what_it_knew() -> None:
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
