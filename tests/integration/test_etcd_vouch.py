"""A server that starts is told what ran out as it happened, from the last view that any server vouched for."""

import asyncio
from pathlib import Path

import pytest

from registry_server.records import Cause, Deleted, Delta, Snapshot
from registry_server.stores.base import StoreAway
from registry_server.stores.etcd import session, store
from registry_server.stores.etcd.store import EtcdStore
from registry_server.stores.etcd.wire import Vouched
from registry_server.testing import Running, running
from tests.support.etcd import EtcdCluster
from tests.support.stores import Backends, backends, on_every_etcd

__all__ = ["backends"]

pytestmark = on_every_etcd

TTL_S = 60.0


@pytest.fixture(autouse=True)
def every_call_vouches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "VOUCH_S", 0.0)


async def vouched_at(cluster: EtcdCluster, prefix: str) -> Vouched:
    value = await cluster.etcdctl_async("get", f"{prefix}/v1/vouched", "--print-value-only")
    found = Vouched.read(value.strip().encode())
    assert found is not None, value
    return found


async def some_records(run: Running, count: int = 3) -> str:
    lease = await run.store.grant(TTL_S)
    for _ in range(count):
        await run.put(run.key(), lease.id)
    return lease.id


async def started(store: EtcdStore) -> Running:
    """A store that has told all that it knew when it began."""
    run = Running(store)
    await run.start()
    first = run.seen.of(Snapshot)[0]
    await run.seen.wait_revision(first.through)
    return run


async def test_a_start_tells_what_ran_out_since_the_view_was_whole(backends: Backends) -> None:
    cluster, prefix = backends.etcd(), "/vouched"
    async with running(EtcdStore.from_url(cluster.url(prefix))) as run:
        lease = await some_records(run)
        view, revision = dict(run.seen.view), run.seen.revision
        await run.store.vouch()
        assert (await vouched_at(cluster, prefix)).revision == revision
    # Nobody looks while all of it runs out.
    await cluster.etcdctl_async("lease", "revoke", lease[:16])
    run = await started(EtcdStore.from_url(cluster.url(prefix)))
    try:
        first = run.seen.of(Snapshot)[0]
        assert ({record.key: record for record in first.records}, first.revision) == (view, revision)
        assert set(run.deleted) == {Deleted(key, Cause.EXPIRED) for key in view}
        assert run.seen.view == {}
        assert first.through > run.seen.of(Delta)[-1].revision
    finally:
        await run.stop()


async def test_what_was_asked_for_meanwhile_is_told_with_its_cause(backends: Backends) -> None:
    cluster = backends.etcd()
    async with running(EtcdStore.from_url(cluster.url("/asked"))) as one:
        await some_records(one)
        await one.store.vouch()
        first, second, third = one.seen.view
        await one.delete(first)
        async with running(EtcdStore.from_url(cluster.url("/asked"))) as two:
            await two.seen.wait(lambda: two.deleted == [Deleted(first, Cause.DEREGISTERED)], "it is told")
            assert set(two.seen.view) == {second, third}


async def test_one_server_vouches_for_all(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "VOUCH_S", 60.0)
    cluster, prefix = backends.etcd(), "/once"
    async with (
        running(EtcdStore.from_url(cluster.url(prefix))) as one,
        running(EtcdStore.from_url(cluster.url(prefix))) as two,
    ):
        await some_records(one)
        await one.store.vouch()
        first = await vouched_at(cluster, prefix)
        await two.seen.wait(lambda: two.seen.revision > first.revision, "the other has heard")
        await some_records(one)
        for run in (two, one, two):
            await run.store.vouch()
        assert await vouched_at(cluster, prefix) == first
        monkeypatch.setattr(store, "VOUCH_S", 0.0)
        await two.seen.wait_revision(one.seen.revision)
        await two.store.vouch()
        assert (await vouched_at(cluster, prefix)).revision > first.revision


async def test_two_that_vouch_at_once_do_no_harm(backends: Backends) -> None:
    cluster, prefix = backends.etcd(), "/both"
    async with (
        running(EtcdStore.from_url(cluster.url(prefix))) as one,
        running(EtcdStore.from_url(cluster.url(prefix))) as two,
    ):
        await some_records(one)
        await two.seen.wait_revision(one.seen.revision)
        for _ in range(5):
            await asyncio.gather(one.store.vouch(), two.store.vouch())
        assert (await vouched_at(cluster, prefix)).revision >= max(record.revision for record in one.seen.view.values())


@pytest.mark.parametrize(
    "value",
    [
        "",
        "hello",
        "0000000000000000 1",
        "{token} 0",
        "{token} 1",
        "{token} 9223372036854775807",
        "{token} 99999999999999999999",
    ],
)
async def test_a_promise_that_is_none_is_not_believed(backends: Backends, value: str) -> None:
    cluster, prefix = backends.etcd(), f"/broken-{value.encode().hex()}"
    async with running(EtcdStore.from_url(cluster.url(prefix))) as run:
        lease = await some_records(run)
        view, token = dict(run.seen.view), run.seen.epoch.partition(".")[2]
        await cluster.etcdctl_async("put", "--", f"{prefix}/v1/vouched", value.replace("{token}", token))
        async with running(EtcdStore.from_url(cluster.url(prefix))) as other:
            first = other.seen.of(Snapshot)[0]
            assert {record.key: record for record in first.records} == view
            await other.store.vouch()
            assert (await vouched_at(cluster, prefix)).token == token
            await run.seen.wait_revision(await other.put(other.key("later"), lease))


async def test_promise_for_a_revision_that_was_compacted_away(backends: Backends) -> None:
    cluster = backends.etcd()
    async with running(EtcdStore.from_url(cluster.url("/too-old"))) as run:
        await some_records(run)
        await run.store.vouch()
        await some_records(run)
        await cluster.etcdctl_async("compaction", str(run.seen.revision))
        async with running(EtcdStore.from_url(cluster.url("/too-old"))) as other:
            assert {record.key: record for record in other.seen.of(Snapshot)[0].records} == run.seen.view


async def test_so_much_since_then_is_not_told_one_by_one(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_REPLAY", 5)
    cluster = backends.etcd()
    async with running(EtcdStore.from_url(cluster.url("/much"))) as run:
        lease = await some_records(run)
        before = dict(run.seen.view)
        await run.store.vouch()
        await some_records(run, 10)
        await cluster.etcdctl_async("lease", "revoke", lease[:16])
        await run.seen.wait(lambda: not before.keys() & run.seen.view.keys(), "it ends")
        async with running(EtcdStore.from_url(cluster.url("/much"))) as other:
            first, second = other.seen.of(Snapshot)
            assert {record.key: record for record in first.records} == before
            assert {record.key: record for record in second.records} == run.seen.view
            assert other.seen.of(Delta) == []
            assert second.through >= second.revision > first.revision


async def fill(run: Running, lease_id: str) -> None:
    """Write until etcd refuses."""
    for _ in range(500):
        await run.put(run.key("large"), lease_id, value=b"x" * 100_000)


async def test_a_full_database_hinders_no_start(backends: Backends, tmp_path: Path) -> None:
    with EtcdCluster(tmp_path, flags=["--quota-backend-bytes=1000000"], newest=backends.newest) as cluster:
        async with running(EtcdStore.from_url(cluster.url())) as run:
            lease = await some_records(run)
            await run.store.vouch()
            with pytest.raises(StoreAway, match="space exceeded"):
                await fill(run, lease)
            with pytest.raises(StoreAway, match="space exceeded"):
                await run.store.vouch()
            async with running(EtcdStore.from_url(cluster.url())) as other:
                await other.seen.wait(lambda: other.seen.view.keys() == run.seen.view.keys(), "all is told")


async def test_vouching_while_etcd_is_away(backends: Backends, tmp_path: Path) -> None:
    with EtcdCluster(tmp_path, newest=backends.newest) as cluster:
        async with running(EtcdStore.from_url(cluster.url())) as run:
            await some_records(run)
            cluster.kill()
            await run.seen.wait(lambda: run.seen.is_away, "away")
            with pytest.raises(StoreAway):
                await run.store.vouch()
