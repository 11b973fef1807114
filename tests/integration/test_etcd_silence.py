"""etcd that falls silent and comes back: whoever looks is told of it before anything that may be the fault of it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from registry_server.records import Away, Back, Delta, Ill, Outcome, StoreEvent
from registry_server.stores.etcd.store import EtcdStore
from registry_server.stores.pace import hold_s
from registry_server.testing import Running, running
from tests.support.etcd import EtcdCluster
from tests.support.proxy import Proxy
from tests.support.waiting import eventually_async

# What a busy machine may add.
SLACK_S = 3.0


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EtcdCluster]:
    """An etcd of this test alone."""
    cluster = EtcdCluster(tmp_path)
    try:
        yield await cluster.start_async()
    finally:
        cluster.kill()


@contextlib.asynccontextmanager
async def renewed(run: Running, lease_id: str, every_s: float, gives_up_s: float) -> AsyncIterator[list[Outcome]]:
    """Renews a lease as an owner does, that waits no longer than so for the answer."""
    outcomes: list[Outcome] = []

    async def renew() -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(gives_up_s):
                    outcomes.extend(renewal.outcome for renewal in await run.store.keep_alive([lease_id]))
            await run.seen.stays(lambda: True, every_s)

    task = asyncio.create_task(renew())
    try:
        yield outcomes
    finally:
        task.cancel()
        await asyncio.wait([task])


def ends(event: StoreEvent) -> bool:
    return isinstance(event, Delta) and bool(event.deletes)


async def told_since(run: Running, before: int) -> list[StoreEvent]:
    """What was told after the first `before` events, until something ended, or could have if it ever does."""
    with contextlib.suppress(AssertionError):  # the lease may have been renewed in time
        await run.seen.wait(lambda: any(map(ends, run.seen.events[before:])), "the end of a lease", 3.0)
    return run.seen.events[before:]


async def freeze(etcd: EtcdCluster, for_s: float) -> None:
    """SIGSTOP, and SIGCONT after so long."""
    etcd.nodes[0].stop()
    try:
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, for_s)
    finally:
        etcd.nodes[0].cont()


@pytest.mark.parametrize(
    ("ttl_s", "frozen_s", "gives_up_s"), [(2, 2.2, 60.0), (2, 3.0, 60.0), (2, 3.0, 0.1), (3, 3.6, 60.0), (3, 3.6, 0.1)]
)
async def test_what_runs_out_over_a_silence_comes_after_word_of_it(
    etcd: EtcdCluster, ttl_s: int, frozen_s: float, gives_up_s: float
) -> None:
    async with running(EtcdStore.from_url(etcd.url())) as owner, running(EtcdStore.from_url(etcd.url())) as looker:
        lease = await owner.store.grant(ttl_s)
        await looker.seen.wait_revision(await owner.put(owner.key(), lease.id))
        async with renewed(owner, lease.id, ttl_s / 3, gives_up_s) as outcomes:
            await eventually_async(lambda: Outcome.RENEWED in outcomes)
            frozen = [len(run.seen.events) for run in (owner, looker)]
            await freeze(etcd, frozen_s)
            for run, before in zip((owner, looker), frozen, strict=True):
                since = await told_since(run, before)
                word = [index for index, event in enumerate(since) if isinstance(event, Ill | Back)]
                gone = [index for index, event in enumerate(since) if ends(event)]
                assert word, "the silence was noticed"
                assert not gone or word[0] < gone[0]
                told = since[word[0]]
                assert not isinstance(told, Ill) or frozen_s / 3 < told.silence_s < frozen_s + SLACK_S


async def test_renewals_are_held_sooner_for_short_lives(etcd: EtcdCluster) -> None:
    async with running(EtcdStore.from_url(etcd.url())) as run:
        leases = {ttl_s: (await run.store.grant(ttl_s)).id for ttl_s in (60, 3)}
        assert [it.outcome for it in await run.store.keep_alive(list(leases.values()))] == [Outcome.RENEWED] * 2
        etcd.nodes[0].stop()
        try:
            held: list[int] = []

            async def renew(ttl_s: int) -> None:
                started = time.monotonic()
                (renewal,) = await run.store.keep_alive([leases[ttl_s]])
                held.append(ttl_s)
                assert (renewal.outcome, renewal.ttl_s) == (Outcome.HELD, ttl_s)
                assert time.monotonic() - started < hold_s(ttl_s) + SLACK_S

            await asyncio.gather(*map(renew, leases))
            assert held == [3, 60]
        finally:
            etcd.nodes[0].cont()


async def test_the_outage_begins_sooner_for_short_lives(etcd: EtcdCluster) -> None:
    async with running(EtcdStore.from_url(etcd.url())) as run:
        lease = await run.store.grant(2)
        await run.put(run.key(), lease.id)
        told = len(run.seen.events)
        etcd.nodes[0].stop()
        try:
            started = time.monotonic()
            await run.seen.wait_next(Away, after=told)
            assert time.monotonic() - started < 1.0 + SLACK_S
        finally:
            etcd.nodes[0].cont()
        await run.seen.wait_next(Back, after=told)


async def test_a_silent_way_counts_like_a_silent_etcd(etcd: EtcdCluster) -> None:
    async with (
        Proxy(etcd.nodes[0].endpoint) as proxy,
        running(EtcdStore.from_url(etcd.url(at=[proxy.address]))) as run,
    ):
        lease = await run.store.grant(15)
        await run.put(run.key(), lease.id)
        told = len(run.seen.events)
        proxy.freeze()
        (renewal,) = await run.store.keep_alive([lease.id])
        assert renewal.outcome is Outcome.HELD
        await run.seen.stays(lambda: True, 2.5)
        await proxy.restore()
        await run.seen.wait(
            lambda: any(isinstance(event, Ill | Back) for event in run.seen.events[told:]), "word of it"
        )


async def test_an_etcd_that_answers_is_never_ill(etcd: EtcdCluster) -> None:
    async with running(EtcdStore.from_url(etcd.url())) as run:
        lease = await run.store.grant(3)
        await run.put(run.key(), lease.id)
        async with renewed(run, lease.id, 0.5, 60.0) as outcomes:
            await run.seen.stays(lambda: not run.seen.of(Ill) and not run.seen.of(Away), 5.0)
        assert set(outcomes) == {Outcome.RENEWED}
        assert run.deleted == []
