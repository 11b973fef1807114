"""The etcd store on three nodes: any one may die, freeze or lead."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from registry_server.records import Away, Back, Cause, Commit, Deleted, Delta, Outcome, Put
from registry_server.stores.base import Conflict, StoreAway
from registry_server.stores.etcd.store import EtcdStore
from registry_server.testing import Running, running
from tests.support.etcd import EtcdCluster, EtcdNode

TTL_S = 30.0
FAILOVER_S = 15.0


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EtcdCluster]:
    """Three nodes of this test alone."""
    cluster = EtcdCluster(tmp_path, size=3)
    try:
        yield await cluster.start_async()
    finally:
        cluster.kill()


@pytest.fixture
async def run(etcd: EtcdCluster) -> AsyncIterator[Running]:
    """A store that knows all three, with five records."""
    async with running(EtcdStore.from_url(etcd.url())) as started:
        lease = await started.store.grant(TTL_S)
        await started.commit(Commit(puts=tuple(Put(started.key(), b"", lease.id, 0) for _ in range(5))))
        yield started


def in_use(etcd: EtcdCluster, run: Running) -> EtcdNode:
    """The node that the store talks to."""
    assert isinstance(run.store, EtcdStore)
    return etcd.node_at(run.store.endpoint)


def lease_of(run: Running) -> str:
    return next(iter(run.seen.view.values())).lease_id


async def works_again(run: Running, limit_s: float = FAILOVER_S) -> None:
    """Writes and renewals succeed in the end, with no record lost meanwhile."""
    deadline, lease = time.monotonic() + limit_s, lease_of(run)
    before = len(run.seen.view)
    while True:
        key = run.key()
        try:
            await run.put(key, lease, expect=0)
            (renewal,) = await run.store.keep_alive([lease])
            if renewal.outcome is Outcome.RENEWED:
                break
        except StoreAway:
            await run.seen.stays(lambda: True, 0.05)
        assert time.monotonic() < deadline, run.seen.events[-5:]
    assert len(run.seen.view) > before
    assert run.deleted == []


async def test_node_in_use_is_killed(etcd: EtcdCluster, run: Running) -> None:
    dead, told = in_use(etcd, run), len(run.seen.events)
    dead.kill()
    away = await run.seen.wait_next(Away, after=told, timeout_s=FAILOVER_S)
    assert dead.endpoint in away.reason
    await run.seen.wait_next(Back, after=told, timeout_s=FAILOVER_S)
    await works_again(run)
    assert in_use(etcd, run) is not dead


async def test_node_in_use_freezes(etcd: EtcdCluster, run: Running) -> None:
    frozen, told = in_use(etcd, run), len(run.seen.events)
    frozen.stop()
    started = time.monotonic()
    (renewal,) = await run.store.keep_alive([lease_of(run)])
    assert (renewal.outcome, renewal.ttl_s) == (Outcome.HELD, TTL_S)
    await run.seen.wait_next(Away, after=told, timeout_s=FAILOVER_S)
    assert time.monotonic() - started < 7
    await run.seen.wait_next(Back, after=told, timeout_s=FAILOVER_S)
    await works_again(run)
    assert in_use(etcd, run) is not frozen
    frozen.cont()
    await works_again(run)


async def test_leader_is_killed_beside_the_node_in_use(etcd: EtcdCluster) -> None:
    leader = await asyncio.to_thread(etcd.leader)
    others = [node.endpoint for node in etcd.nodes if node is not leader]
    async with running(EtcdStore.from_url(etcd.url(at=others))) as run:
        lease = await run.store.grant(TTL_S)
        await run.put(run.key(), lease.id)
        leader.kill()
        await works_again(run)
        assert len(run.seen.view) >= 2


async def test_quorum_is_lost_and_comes_back(etcd: EtcdCluster, run: Running) -> None:
    survivor, told = in_use(etcd, run), len(run.seen.events)
    for node in etcd.nodes:
        if node is not survivor:
            node.kill()
    await run.seen.wait_next(Away, after=told, timeout_s=FAILOVER_S)
    assert survivor.is_running
    with pytest.raises(StoreAway):
        await run.store.grant(TTL_S)
    (renewal,) = await run.store.keep_alive([lease_of(run)])
    assert renewal.outcome is Outcome.HELD
    await etcd.start_async()
    await run.seen.wait_next(Back, after=told, timeout_s=FAILOVER_S)
    await works_again(run)


async def test_some_are_dead_at_the_start(etcd: EtcdCluster) -> None:
    etcd.nodes[0].kill()
    async with running(EtcdStore.from_url(etcd.url()), first_s=FAILOVER_S) as run:
        assert in_use(etcd, run) is not etcd.nodes[0]


async def test_two_stores_tell_the_same(etcd: EtcdCluster) -> None:
    one_url, two_url = (etcd.url(at=[node.endpoint]) for node in etcd.nodes[:2])
    async with running(EtcdStore.from_url(one_url)) as one, running(EtcdStore.from_url(two_url)) as two:
        assert one.seen.epoch == two.seen.epoch
        lease = (await one.store.grant(TTL_S)).id
        keys = [one.key() for _ in range(10)]
        for writer, key in zip((one, two) * 5, keys, strict=True):
            await writer.put(key, lease)
        await one.seen.wait_revision(two.seen.revision)
        await two.seen.wait_revision(one.seen.revision)
        await two.delete(keys[3])
        await one.seen.wait_revision(two.seen.revision)
        assert one.deleted == two.deleted == [Deleted(keys[3], Cause.DEREGISTERED)]
        assert one.seen.of(Delta)[-9:] == two.seen.of(Delta)[-9:]
        assert one.seen.view == two.seen.view
        assert [renewal.outcome for renewal in await two.store.keep_alive([lease])] == [Outcome.RENEWED]
        with pytest.raises(Conflict):
            await one.put(keys[3], lease, expect=1)


async def test_etcd_may_raise_the_time_to_live(run: Running) -> None:
    assert (await run.store.grant(1.0)).ttl_s == 2.0, "one and a half elections, in whole seconds"
