"""Leases of the etcd store: the registry's own and no others, and a renewal for everybody however much one asks."""

import asyncio
from itertools import pairwise

import pytest

from registry_server.records import Cause, Deleted, Lease, Outcome, Record, Snapshot
from registry_server.stores.base import NoSuchLease
from registry_server.stores.etcd.leases import LeaseIds
from registry_server.stores.etcd.renewals import MAX_ASKED
from registry_server.stores.etcd.store import EtcdStore
from registry_server.testing import Running, running
from tests.support.etcd import EtcdCluster
from tests.support.stores import Backends, backends, on_every_etcd
from tests.support.waiting import eventually_async

__all__ = ["backends"]

pytestmark = on_every_etcd

TTL_S = 60.0
CROWD = 10_000


async def outcomes(run: Running, *lease_ids: str) -> list[Outcome]:
    return [renewal.outcome for renewal in await run.store.keep_alive(lease_ids)]


async def granted(run: Running, count: int) -> list[str]:
    """The ids of so many leases, asked for a hundred at a time."""
    ids: list[str] = []
    while len(ids) < count:
        ids += [lease.id for lease in await asyncio.gather(*(run.store.grant(TTL_S) for _ in range(100)))]
    return ids


async def foreign_lease(etcd: EtcdCluster, ttl_s: int = 600) -> str:
    """A lease that another program was granted, as etcdctl prints it."""
    return (await etcd.etcdctl_async("lease", "grant", str(ttl_s))).split()[1]


async def remaining_s(etcd: EtcdCluster, lease: str) -> int:
    """How long a lease has left; -1 if it is gone."""
    told = await etcd.etcdctl_async("lease", "timetolive", lease[:16])
    return int(told.partition("remaining(")[2].partition("s)")[0] or -1)


async def leases_in(etcd: EtcdCluster) -> int:
    """How many there are, whoseever."""
    return int((await etcd.etcdctl_async("lease", "list")).split()[1])


async def test_a_grant_that_nobody_waits_for_leaves_no_lease(backends: Backends) -> None:
    """Or who asks and hangs up at once, again and again, would fill etcd with leases that live for an hour."""
    etcd = backends.etcd()
    async with running(EtcdStore.from_url(etcd.url("/hung-up"))) as run:
        await run.store.grant(TTL_S)
        before = await leases_in(etcd)
        tasks = [asyncio.create_task(run.store.grant(3600.0)) for _ in range(100)]
        for _ in range(5):
            await asyncio.sleep(0)  # they are on their way then
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        kept = sum(isinstance(it, Lease) for it in ends)
        assert kept < len(tasks)

        async def are_gone() -> bool:
            return await leases_in(etcd) == before + kept

        await eventually_async(are_gone, what="none is left of a grant that was given up")


# ---- leases of others


async def test_leases_of_other_programs_are_neither_renewed_nor_attached_to_nor_revoked(backends: Backends) -> None:
    etcd = backends.etcd()
    async with running(EtcdStore.from_url(etcd.url("/strangers"))) as run:
        lease = await foreign_lease(etcd)
        guesses = [lease, lease + "0" * 32, LeaseIds(b"").id(LeaseIds(b"").number(600, 1)), lease * 3]
        before_s = await remaining_s(etcd, lease)
        await run.seen.stays(lambda: True, 1.5)  # etcd counts in whole seconds
        assert await outcomes(run, *guesses) == [Outcome.UNKNOWN] * 4
        for guess in guesses:
            with pytest.raises(NoSuchLease):
                await run.put(run.key(), guess)
            await run.store.release(guess)
        assert 0 < await remaining_s(etcd, lease) < before_s
        assert run.seen.view == {}


async def test_a_record_under_a_lease_of_another_program_has_none_for_the_registry(backends: Backends) -> None:
    etcd = backends.etcd()
    async with running(EtcdStore.from_url(etcd.url("/attached"))) as run:
        lease, key = await foreign_lease(etcd), run.key("foreign")
        await etcd.etcdctl_async("put", f"--lease={lease}", f"/attached/v1/instances/{key}", "value")
        await run.seen.wait(lambda: key in run.seen.view, "it is told")
        assert run.seen.view[key].lease_id == ""
        await run.delete(key)
        for name in ("", lease):
            await run.store.release(name)
        assert await remaining_s(etcd, lease) > 0


async def test_an_id_is_good_on_every_server_and_after_a_restart(backends: Backends) -> None:
    etcd = backends.etcd()
    async with running(EtcdStore.from_url(etcd.url("/shared"))) as one:
        lease = await one.store.grant(TTL_S)
        async with running(EtcdStore.from_url(etcd.url("/shared"))) as two:
            assert await outcomes(two, lease.id) == [Outcome.RENEWED]
            record = await two.put(two.key("theirs"), lease.id)
            await one.seen.wait_revision(record)
            assert one.seen.view == two.seen.view
            assert {it.lease_id for it in one.seen.view.values()} == {lease.id}
    async with running(EtcdStore.from_url(etcd.url("/shared"))) as again:
        assert {it.lease_id for it in again.seen.view.values()} == {lease.id}
        assert await outcomes(again, lease.id) == [Outcome.RENEWED]


async def test_another_registry_on_the_same_etcd_does_not_know_the_id(backends: Backends) -> None:
    etcd = backends.etcd()
    async with running(EtcdStore.from_url(etcd.url("/here"))) as here:
        lease = await here.store.grant(TTL_S)
        async with running(EtcdStore.from_url(etcd.url("/there"))) as there:
            assert await outcomes(there, lease.id) == [Outcome.UNKNOWN]
            await there.store.release(lease.id)
        assert await outcomes(here, lease.id) == [Outcome.RENEWED]


async def test_ids_are_not_consecutive(backends: Backends) -> None:
    async with running(EtcdStore.from_url(backends.etcd_url())) as run:
        numbers = sorted([int((await run.store.grant(TTL_S)).id[:16], 16) for _ in range(20)])
        assert min(two - one for one, two in pairwise(numbers)) > 2**20


async def test_a_number_that_is_taken_is_not_given_out(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([7, 7, 7, 8])
    monkeypatch.setattr("registry_server.stores.etcd.store.secrets.randbits", lambda bits: next(drawn))
    async with running(EtcdStore.from_url(backends.etcd_url())) as run:
        one, two = await run.store.grant(TTL_S), await run.store.grant(TTL_S)
        assert one.id != two.id
        assert next(drawn, None) is None


# ---- the secret


@pytest.mark.parametrize("value", [None, "", "hello", "ab" * 31, "\udcff\udcfe"])
async def test_a_secret_that_is_lost_is_put_back(
    backends: Backends, value: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    etcd, prefix = backends.etcd(), f"/lost-{len(value or '') if value is not None else 'x'}"
    async with running(EtcdStore.from_url(etcd.url(prefix))) as run:
        lease = await run.store.grant(TTL_S)
        await run.put(run.key(), lease.id)
        view, told, key = dict(run.seen.view), len(run.seen.events), f"{prefix}/v1/secret"
        await etcd.etcdctl_async(*(("del", key) if value is None else ("put", "--", key, value)))
        await run.seen.wait_next(Snapshot, after=told)
        await run.seen.wait(lambda: in_use(run), "in use again")
        assert run.seen.view == view
        assert await outcomes(run, lease.id) == [Outcome.RENEWED]
        if value:
            assert caplog.text.count(key) == 1
        async with running(EtcdStore.from_url(etcd.url(prefix))) as another:
            assert await outcomes(another, lease.id) == [Outcome.RENEWED]


async def test_a_new_secret_is_everybodys_and_makes_all_owners_register_again(backends: Backends) -> None:
    etcd = backends.etcd()
    async with (
        running(EtcdStore.from_url(etcd.url("/changed"))) as one,
        running(EtcdStore.from_url(etcd.url("/changed"))) as two,
    ):
        old, key = await one.store.grant(TTL_S), one.key("kept")
        await two.seen.wait_revision(await one.put(key, old.id))
        await etcd.etcdctl_async("put", "/changed/v1/secret", "ab" * 32)
        for run in (one, two):
            await run.seen.wait_next(Snapshot, after=1)
            await run.seen.wait(lambda run=run: in_use(run), "in use again")
            assert run.seen.view[key].lease_id == ""
            assert await outcomes(run, old.id) == [Outcome.UNKNOWN]
        new = await one.store.grant(TTL_S)
        await two.seen.wait_revision(await one.put(key, new.id))
        assert await outcomes(two, new.id) == [Outcome.RENEWED]
        assert two.seen.view[key].lease_id == new.id


def in_use(run: Running) -> bool:
    assert isinstance(run.store, EtcdStore)
    return run.store.endpoint is not None


# ---- one asks for much


async def test_ids_that_were_never_given_cost_etcd_nothing(backends: Backends) -> None:
    async with running(EtcdStore.from_url(backends.etcd_url())) as run:
        unknown = [f"{number:016x}" + "0" * 32 for number in range(1, CROWD + 1)]
        lease, before = await run.store.grant(TTL_S), renewals(backends)
        answers = await asyncio.gather(*(outcomes(run, *unknown) for _ in range(3)))
        assert [set(answer) for answer in answers] == [{Outcome.UNKNOWN}] * 3
        assert await outcomes(run, lease.id) == [Outcome.RENEWED]
        assert renewals(backends) - before == 1


async def test_a_lease_is_asked_for_once_however_many_wait(backends: Backends) -> None:
    async with running(EtcdStore.from_url(backends.etcd_url())) as run:
        leases, before = await granted(run, 100), renewals(backends)
        answers = await asyncio.gather(*(outcomes(run, *leases) for _ in range(50)))
        assert answers == [[Outcome.RENEWED] * 100] * 50
        assert renewals(backends) - before <= 2 * 100, "once, and once more for who came when it was on its way"


def renewals(backends: Backends) -> int:
    """How many renewals etcd was asked for so far."""
    return backends.etcd().nodes[0].received("LeaseKeepAlive")


async def test_a_modest_caller_is_renewed_while_greedy_ones_ask_without_end(backends: Backends) -> None:
    async with running(EtcdStore.from_url(backends.etcd_url())) as run:
        modest = (await run.store.grant(TTL_S)).id
        many = await granted(run, 3000)

        async def greedy() -> None:
            while True:
                await run.store.keep_alive(many)

        crowd = [asyncio.create_task(greedy()) for _ in range(3)]
        try:
            for _ in range(30):
                asked = renewals(backends)
                assert await outcomes(run, modest) == [Outcome.RENEWED]
                assert renewals(backends) - asked <= 4 * MAX_ASKED, "a few windows, and not all that others want"
        finally:
            for one in crowd:
                one.cancel()
            await asyncio.wait(crowd)


async def test_callers_that_give_up_leave_no_work_behind(backends: Backends) -> None:
    async with running(EtcdStore.from_url(backends.etcd_url())) as run:
        many = await granted(run, 3000)
        for _ in range(20):
            asked = asyncio.create_task(run.store.keep_alive(many))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait([asked])
        asked = renewals(backends)
        assert await outcomes(run, many[-1]) == [Outcome.RENEWED]
        assert renewals(backends) - asked <= MAX_ASKED + 1, "no more than was on its way"


async def test_what_ran_out_is_unknown_and_its_records_are_gone(backends: Backends) -> None:
    etcd = backends.etcd()
    async with running(EtcdStore.from_url(etcd.url("/ran-out"))) as run:
        lease, key = await run.store.grant(TTL_S), run.key()
        await run.put(key, lease.id)
        assert isinstance(run.seen.view[key], Record)
        await etcd.etcdctl_async("lease", "revoke", lease.id[:16])
        await run.seen.wait(lambda: not run.seen.view, "it is told")
        assert run.deleted == [Deleted(key, Cause.EXPIRED)]
        assert await outcomes(run, lease.id) == [Outcome.UNKNOWN]
