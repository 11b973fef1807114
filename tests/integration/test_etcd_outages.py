"""The etcd store when etcd, or the way to it, fails: nothing is lost, nothing is told twice, and waiting has an end."""

import asyncio
import contextlib
import functools
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from registry_server.records import (
    MAX_FENCE,
    Away,
    Back,
    Cause,
    Commit,
    Deleted,
    Delta,
    Outcome,
    Progress,
    Put,
    Snapshot,
)
from registry_server.stores.base import NoSuchLease, Refused, StoreAway, StoreFull
from registry_server.stores.epoch import OrderLost
from registry_server.stores.etcd.leases import LeaseIds
from registry_server.stores.etcd.link import Link
from registry_server.stores.etcd.store import EtcdStore
from registry_server.stores.etcd.telling import Reading, Telling
from registry_server.stores.etcd.url import Client, EtcdURL
from registry_server.stores.etcd.watch import Watch
from registry_server.stores.etcd.wire import Layout
from registry_server.stores.memory import MemoryStore
from registry_server.stores.pace import Pace
from registry_server.stores.teller import Told
from registry_server.testing import Running, running
from tests.support.etcd import EtcdCluster
from tests.support.names import NAME, Names, name_server
from tests.support.proxy import Proxy
from tests.support.stores import Backends, backends, on_every_etcd

__all__ = ["backends"]

TTL_S = 30.0
# What a write may take while nobody knows yet that etcd is gone, with some for a busy machine.
WRITE_S = 2.0 + 3.0
# 2 s of silence, 3 s for an answer, and some for a busy machine.
SILENCE_S = 5.0 + 5.0
MOVED_S = 10.0
# What waits for nobody takes no time; of several tries, since a busy machine may hold one up.
AT_ONCE_S = 0.2


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EtcdCluster]:
    """An etcd of this test alone."""
    cluster = EtcdCluster(tmp_path)
    try:
        yield await cluster.start_async()
    finally:
        cluster.kill()


@contextlib.asynccontextmanager
async def gated(etcd: EtcdCluster, prefix: str) -> AsyncIterator[tuple[Proxy, Running, Running]]:
    """A gate, a store behind it, and one that reaches the same etcd directly."""
    async with (
        Proxy(etcd.nodes[0].endpoint) as gate,
        running(EtcdStore.from_url(etcd.url(prefix))) as direct,
        running(EtcdStore.from_url(etcd.url(prefix, at=[gate.address]))) as behind,
    ):
        yield gate, behind, direct


async def with_records(run: Running, count: int = 5) -> str:
    """Some records under a new lease."""
    lease = await run.store.grant(TTL_S)
    await run.commit(Commit(puts=tuple(Put(run.key(), b"", lease.id, 0) for _ in range(count))))
    return lease.id


def in_use(run: Running) -> str | None:
    """The endpoint that the store talks to."""
    assert isinstance(run.store, EtcdStore)
    return run.store.endpoint


async def outcome(run: Running, lease_id: str) -> Outcome:
    (renewal,) = await run.store.keep_alive([lease_id])
    return renewal.outcome


async def no_write_goes_through(run: Running, lease_id: str) -> None:
    """Every write fails with StoreAway at once, and a renewal is held."""
    asks: list[Callable[[], Awaitable[object]]] = [
        lambda: run.store.grant(TTL_S),
        lambda: run.store.release(lease_id),
        lambda: run.put(run.key(), lease_id),
    ]

    async def fails(write: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(StoreAway):
            await write()

    async def is_held() -> None:
        (renewal,) = await run.store.keep_alive([lease_id])
        assert (renewal.outcome, renewal.ttl_s) == (Outcome.HELD, TTL_S)

    for ask in (*(functools.partial(fails, write) for write in asks), is_held):
        assert min([await seconds_of(ask()) for _ in range(3)]) < AT_ONCE_S


async def seconds_of(asked: Awaitable[object]) -> float:
    """How long it takes."""
    started = time.monotonic()
    await asked
    return time.monotonic() - started


# ---- killed


async def test_killed_and_restarted(etcd: EtcdCluster) -> None:
    async with running(EtcdStore.from_url(etcd.url())) as run:
        lease = await with_records(run)
        view, told = dict(run.seen.view), len(run.seen.events)
        etcd.kill()
        away = await run.seen.wait_next(Away, after=told, timeout_s=WRITE_S)
        assert etcd.nodes[0].endpoint in away.reason
        assert in_use(run) is None
        await no_write_goes_through(run, lease)
        await etcd.start_async()
        await run.seen.wait_next(Back, after=told)
        assert await outcome(run, lease) is Outcome.RENEWED
        assert run.seen.view == view
        await run.put(run.key(), lease)
        assert [type(event) for event in run.seen.events[told:] if not isinstance(event, Progress)] == [
            Away,
            Back,
            Delta,
        ]


async def test_killed_over_and_over(etcd: EtcdCluster) -> None:
    async with running(EtcdStore.from_url(etcd.url())) as run:
        lease = await with_records(run)
        for _ in range(4):
            told = len(run.seen.events)
            await etcd.restart_async()
            await run.seen.wait_next(Back, after=told)
            await run.put(run.key(), lease)
        assert len(run.seen.view) == 5 + 4
        assert run.deleted == []


async def test_not_there_at_the_start(etcd: EtcdCluster, caplog: pytest.LogCaptureFixture) -> None:
    etcd.kill()
    run = Running(EtcdStore.from_url(etcd.url()))
    try:
        started = asyncio.create_task(run.start())
        done, _ = await asyncio.wait([started], timeout=1.5)
        assert not done
        assert run.seen.events == []
        with pytest.raises(StoreAway):
            await run.store.grant(TTL_S)
        assert etcd.nodes[0].endpoint in caplog.text
        await etcd.start_async()
        await started
        assert isinstance(run.seen.events[0], Snapshot)
    finally:
        await run.stop()


async def test_cancelled_while_away(etcd: EtcdCluster) -> None:
    async with running(EtcdStore.from_url(etcd.url())) as run:
        etcd.kill()
        await run.seen.wait_next(Away, after=1)
        await asyncio.wait_for(run.stop(), SILENCE_S)
        await etcd.start_async()
        await run.start()


# ---- another etcd than before


async def test_wiped(etcd: EtcdCluster) -> None:
    async with running(EtcdStore.from_url(etcd.url())) as run:
        await with_records(run)
        epoch, told = run.seen.epoch, len(run.seen.events)
        await etcd.restart_async(wiped=True)
        snapshot = await run.seen.wait_next(Snapshot, after=told)
        assert snapshot.records == ()
        assert snapshot.epoch != epoch
        assert snapshot.epoch.split(".")[0] == epoch.split(".")[0], "etcd's own cluster id does not tell them apart"
        await with_records(run)
        assert len(run.seen.view) == 5


async def test_gone_back_to_a_backup(etcd: EtcdCluster) -> None:
    data = etcd.nodes[0].data
    async with running(EtcdStore.from_url(etcd.url())) as run, running(EtcdStore.from_url(etcd.url())) as other:
        lease = await with_records(run)
        view, epoch = dict(run.seen.view), run.seen.epoch
        etcd.kill()
        await run.seen.wait_next(Away, after=1)
        await asyncio.to_thread(shutil.copytree, data, data.with_suffix(".backup"))
        await etcd.start_async()
        await run.seen.wait_next(Back, after=1)
        for _ in range(20):
            await run.put(run.key("later"), lease)
        await other.seen.wait_revision(run.seen.revision)
        revision, told = run.seen.revision, len(run.seen.events)
        etcd.kill()
        await asyncio.to_thread(shutil.rmtree, data)
        await asyncio.to_thread(data.with_suffix(".backup").rename, data)
        await etcd.start_async()
        snapshot = await run.seen.wait_next(Snapshot, after=told)
        assert snapshot.revision < revision
        assert snapshot.epoch != epoch
        assert {key: record._replace(lease_id=lease) for key, record in run.seen.view.items()} == view
        await other.seen.wait(lambda: other.seen.epoch == run.seen.epoch, "both agree about the epoch")
        await run.seen.wait(lambda: in_use(run) is not None, "in use again")
        with pytest.raises(NoSuchLease):
            await run.put(run.key("again"), lease)
        anew = (await run.store.grant(TTL_S)).id
        await other.seen.wait_revision(await run.put(run.key("again"), anew))
        assert other.seen.view == run.seen.view


BROKEN_EPOCHS = {
    "removed": None,
    "empty": "",
    "text": "hello",
    "no-fence": "f9aa8b032f42de28",
    "negative": "f9aa8b032f42de28 -1",
    "far-away": "f9aa8b032f42de28 9999999999999999",
    "set-back": "f9aa8b032f42de28 5",
    "no-text": "\udcff\udcfe",
}


@pytest.mark.parametrize("how", BROKEN_EPOCHS)
async def test_epoch_removed_or_broken_by_hand(backends: Backends, how: str) -> None:
    etcd, prefix, value = backends.etcd(), f"/by-hand-{how}", BROKEN_EPOCHS[how]
    clock = iter((2e9, 1e9))  # the second epoch begins after the wall clock was set back by thirty years
    async with running(EtcdStore(EtcdURL.parse(etcd.url(prefix)), wall_clock=lambda: next(clock))) as run:
        lease = await with_records(run)
        (first,), epoch, view = run.seen.of(Snapshot), run.seen.epoch, dict(run.seen.view)
        key = f"{prefix}/v1/epoch"
        await etcd.etcdctl_async(*(("del", key) if value is None else ("put", "--", key, value)))
        snapshot = await run.seen.wait_next(Snapshot, after=1)
        assert snapshot.epoch != epoch
        assert first.fence + max(record.revision for record in view.values()) < snapshot.fence <= MAX_FENCE
        assert run.seen.view == view
        assert run.seen.of(Away) == []
        await run.seen.wait(lambda: in_use(run) is not None, "in use again", timeout_s=2)
        await run.put(run.key(), lease)


async def test_after_the_greatest_fence_epochs_go_on(backends: Backends) -> None:
    etcd, key = backends.etcd(), "/greatest/v1/epoch"
    async with running(EtcdStore.from_url(etcd.url("/greatest"))) as run:
        lease = await with_records(run)
        for command in (("put", key, f"f9aa8b032f42de28 {MAX_FENCE}"), ("del", key), ("put", key, "hello")):
            told, epoch = len(run.seen.events), run.seen.epoch
            await etcd.etcdctl_async(*command)
            snapshot = await run.seen.wait_next(Snapshot, after=told)
            assert (snapshot.fence, snapshot.epoch == epoch) == (MAX_FENCE, False)
            await run.seen.wait(lambda: in_use(run) is not None, "in use again", timeout_s=2)
            await run.put(run.key(), lease)
        assert run.seen.of(Away) == []


@pytest.mark.parametrize("now", [0.0, -1.0, 1e18], ids=["1970", "before", "far-future"])
async def test_a_wrong_clock_makes_an_epoch_all_the_same(backends: Backends, now: float) -> None:
    prefix = f"/clock-{now:g}".replace("+", "")
    stores = (
        EtcdStore(EtcdURL.parse(backends.etcd().url(prefix)), wall_clock=lambda: now),
        MemoryStore(wall_clock=lambda: now),
    )
    for store in stores:
        async with running(store) as run:
            (first,) = run.seen.of(Snapshot)
            assert 0 < first.fence <= MAX_FENCE


async def test_foreign_keys_are_left_alone(backends: Backends) -> None:
    etcd = backends.etcd()
    async with running(EtcdStore.from_url(etcd.url("/foreign"))) as run:
        lease, told = await with_records(run), len(run.seen.events)
        for key in ("note", "instances/a/b", "instances/a/b/c/d", "instances/a/b/%41"):
            await etcd.etcdctl_async("put", f"/foreign/v1/{key}", "hello")
        await etcd.etcdctl_async("put", "/foreigners", "hello")
        await run.put(run.key(), lease)
        assert len(run.seen.view) == 6
        assert {type(event) for event in run.seen.events[told:-1]} <= {Progress}
        await run.stop()
        await run.start()
        assert len(run.seen.view) == 6


async def test_deleted_by_hand_looks_like_expiry(backends: Backends) -> None:
    etcd = backends.etcd()
    async with running(EtcdStore.from_url(etcd.url("/deleted"))) as run:
        await with_records(run, 1)
        (key,) = run.seen.view
        await etcd.etcdctl_async("del", f"/deleted/v1/instances/{key}")
        await run.seen.wait(lambda: not run.seen.view, "it is told")
        assert run.deleted == [Deleted(key, Cause.EXPIRED)]


# ---- the way to it is broken


@on_every_etcd
async def test_missed_changes_are_told_one_by_one(backends: Backends) -> None:
    async with gated(backends.etcd(), "/missed") as (gate, run, direct):
        lease = await with_records(direct)
        await run.seen.wait_revision(direct.seen.revision)
        told = len(run.seen.events)
        await gate.cut()
        await run.seen.wait_next(Away, after=told)
        first = next(iter(direct.seen.view))
        await direct.delete(first)
        for _ in range(3):
            await direct.put(direct.key("again"), lease)
        assert run.seen.revision < direct.seen.revision
        await gate.restore()
        await run.seen.wait_revision(direct.seen.revision)
        assert run.seen.view == direct.seen.view
        assert [type(event) for event in run.seen.events[told:] if not isinstance(event, Progress)] == [
            Away,
            Back,
            *[Delta] * 4,
        ]
        assert run.deleted == [Deleted(first, Cause.DEREGISTERED)]


@pytest.mark.parametrize("client", Client)
async def test_etcd_moves_to_another_address_of_its_name(
    etcd: EtcdCluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endpoint(names: Names, port: int) -> str:
        names.asked_by_sockets(monkeypatch)
        return names.target(port) if client is Client.GRPC else f"{NAME}:{port}"

    async with (
        name_server("127.0.0.1") as names,
        Proxy(etcd.nodes[0].endpoint) as old,
        Proxy(etcd.nodes[0].endpoint, host="127.0.0.2", port=old.port),
        running(EtcdStore(EtcdURL((endpoint(names, old.port),), prefix=f"/moved-{client}", client=client))) as run,
    ):
        lease = await with_records(run)
        told, started = len(run.seen.events), time.monotonic()
        names.address = "127.0.0.2"
        await old.cut()
        await run.seen.wait_next(Back, after=told, timeout_s=MOVED_S)
        assert await outcome(run, lease) is Outcome.RENEWED
        assert time.monotonic() - started < MOVED_S, "and not half a minute"


@on_every_etcd
async def test_compacted_while_away(backends: Backends) -> None:
    etcd = backends.etcd()
    async with gated(etcd, "/compacted") as (gate, run, direct):
        lease = await with_records(direct)
        await run.seen.wait_revision(direct.seen.revision)
        epoch, told = run.seen.epoch, len(run.seen.events)
        await gate.cut()
        await run.seen.wait_next(Away, after=told)
        await direct.delete(next(iter(direct.seen.view)))
        revision = await direct.put(direct.key("last"), lease)
        await etcd.etcdctl_async("compaction", str(revision))
        await gate.restore()
        snapshot = await run.seen.wait_next(Snapshot, after=told)
        assert snapshot.epoch == epoch
        assert run.seen.view == direct.seen.view
        assert run.seen.of(Back) == []
        await run.seen.wait_revision(await direct.put(direct.key(), lease))


@on_every_etcd
async def test_compacted_up_to_what_was_told(backends: Backends) -> None:
    etcd = backends.etcd()
    async with gated(etcd, "/just-compacted") as (gate, run, direct):
        lease = await with_records(direct)
        await run.seen.wait_revision(direct.seen.revision)
        told = len(run.seen.events)
        await gate.cut()
        await run.seen.wait_next(Away, after=told)
        await etcd.etcdctl_async("compaction", str(direct.seen.revision))
        await gate.restore()
        await run.seen.wait_next(Back, after=told)
        await run.seen.wait_revision(await direct.put(direct.key(), lease))
        assert len(run.seen.of(Snapshot)) == 1


@on_every_etcd
async def test_compacted_between_looking_and_watching(backends: Backends) -> None:
    etcd = backends.etcd()
    async with running(EtcdStore.from_url(etcd.url("/between"))) as run:
        await with_records(run)
        await etcd.etcdctl_async("compaction", str(run.seen.revision))
        with pytest.raises(OrderLost):
            await watch_from(etcd, "/between", Told(run.seen.epoch, run.seen.revision - 1))


async def watch_from(etcd: EtcdCluster, prefix: str, told: Told) -> None:
    """A bare watch, until it ends."""
    link = Link(etcd.nodes[0].endpoint, EtcdURL.parse(etcd.url()))
    reading = Reading(Layout.below(prefix), LeaseIds(b""), Pace(), lambda key, why: None)
    try:
        async with Watch(link, Pace()) as watch:
            await watch.open(Telling(reading, told, b""))
            await watch.follow(lambda: None, lambda events, told: None)
    finally:
        await link.aclose()


@on_every_etcd
@pytest.mark.parametrize(("puts", "size"), [(129, 1), (1, 1_700_000), (1, 3_000_000)])
async def test_what_etcd_will_never_take_is_refused(backends: Backends, puts: int, size: int) -> None:
    async with running(EtcdStore.from_url(backends.etcd_url())) as run:
        lease = await with_records(run)
        told = len(run.seen.of(Delta))
        with pytest.raises(Refused):
            await run.store.commit(Commit(puts=tuple(Put(run.key(), b"x" * size, lease, 0) for _ in range(puts))))
        await run.put(run.key(), lease)
        assert len(run.seen.of(Delta)) == told + 1
        assert run.seen.of(Away) == []


@on_every_etcd
async def test_half_dead_connection_is_noticed(backends: Backends) -> None:
    async with gated(backends.etcd(), "/half-dead") as (gate, run, direct):
        lease = await with_records(run)
        await run.seen.wait_next(Progress, after=0)
        await run.seen.stays(lambda: True, 0.2)  # no ping of HTTP/2 is under way that would notice sooner
        told = len(run.seen.events)
        gate.freeze()
        away = await run.seen.wait_next(Away, after=told, timeout_s=SILENCE_S)
        assert "no answer" in away.reason
        await no_write_goes_through(run, lease)
        await direct.put(direct.key("meanwhile"), lease)
        await gate.restore()
        await run.seen.wait_next(Back, after=told)
        await run.seen.wait_revision(direct.seen.revision)
        assert run.seen.view == direct.seen.view
        assert await outcome(run, lease) is Outcome.RENEWED


async def test_writes_have_an_end_before_it_is_noticed(backends: Backends) -> None:
    async with gated(backends.etcd(), "/writes") as (gate, run, _):
        lease = await with_records(run)
        told = len(run.seen.events)
        gate.freeze()
        started = time.monotonic()
        held, written, granted = await asyncio.gather(
            run.store.keep_alive([lease]),
            run.put(run.key(), lease, expect=0),
            run.store.grant(TTL_S),
            return_exceptions=True,
        )
        assert time.monotonic() - started < WRITE_S
        assert isinstance(held, list)
        assert held[0].outcome is Outcome.HELD
        assert (type(written), type(granted)) == (StoreAway, StoreAway)
        await run.seen.wait_next(Away, after=told, timeout_s=WRITE_S)
        assert time.monotonic() - started < SILENCE_S
        await gate.restore()
        await run.seen.wait_next(Back, after=told)


@on_every_etcd
async def test_store_with_nothing_to_tell_is_not_away(backends: Backends) -> None:
    # New versions of etcd do not answer for a watch whose first revision has not come yet.
    async with running(EtcdStore.from_url(backends.etcd().url("/nothing"))) as run:
        await run.stop()
        await run.start()
        await run.seen.wait(lambda: len(run.seen.of(Progress)) == 3, "progress", timeout_s=3 * SILENCE_S)
        assert run.seen.of(Away) == []


@on_every_etcd
async def test_what_is_under_way_when_the_link_is_dropped_is_away(backends: Backends) -> None:
    etcd = backends.etcd()
    async with gated(etcd, "/dropped") as (gate, run, direct):
        lease = await with_records(run)
        gate.freeze(requests_only=True)
        writes = [run.put(run.key(), lease), run.store.grant(TTL_S), run.store.release(lease)]
        under_way = asyncio.gather(*writes, run.store.keep_alive([lease]), return_exceptions=True)
        await etcd.etcdctl_async("del", "/dropped/v1/epoch")
        put, granted, released, renewals = await under_way
        assert [type(failed) for failed in (put, granted, released)] == [StoreAway] * 3
        assert isinstance(renewals, list)
        assert [renewal.outcome for renewal in renewals] == [Outcome.HELD]
        await gate.restore()
        await run.seen.wait(lambda: run.seen.epoch == direct.seen.epoch != "", "both go on")
        await run.seen.wait(lambda: in_use(run) is not None, "in use again")
        await direct.seen.wait_revision(await run.put(run.key(), lease))
        assert run.seen.view == direct.seen.view


async def fill(run: Running, lease_id: str) -> None:
    """Write until etcd refuses."""
    key = run.key("large")
    for _ in range(500):
        await run.put(key, lease_id, value=b"x" * 100_000)


async def test_full_database(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        etcd = stack.enter_context(EtcdCluster(tmp_path, flags=["--quota-backend-bytes=1000000"]))
        run = await stack.enter_async_context(running(EtcdStore.from_url(etcd.url())))
        lease = await with_records(run)
        with pytest.raises(StoreFull, match="database space exceeded"):
            await fill(run, lease)
        with pytest.raises(StoreFull, match="database space exceeded"):
            await run.store.grant(TTL_S)
        assert await outcome(run, lease) is Outcome.RENEWED
        told = len(run.seen.events)
        await run.seen.wait_next(Progress, after=told)
        assert run.seen.of(Away) == []


@on_every_etcd
async def test_idle_store_shows_that_it_is_alive(backends: Backends) -> None:
    async with gated(backends.etcd(), "/idle") as (_, run, direct):
        await with_records(direct)
        await run.seen.wait_revision(direct.seen.revision)
        told = len(run.seen.events)
        for _ in range(2):
            progress = await run.seen.wait_next(Progress, after=told, timeout_s=SILENCE_S)
            assert progress.revision >= direct.seen.revision
            told = len(run.seen.events)
        assert run.seen.of(Away) == []
