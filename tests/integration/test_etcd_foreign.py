"""Whatever somebody else writes below the prefix: it is skipped, said once, counted, and takes nothing with it."""

import contextlib

import pytest

from registry_server.records import Away, Back, Cause, Commit, Deleted, Delta, Put, Snapshot
from registry_server.stores.base import StoreAway
from registry_server.stores.etcd.store import EtcdStore
from registry_server.testing import Recorder, Running, running
from tests.support.stores import Backends, backends, on_every_etcd

__all__ = ["backends"]

pytestmark = on_every_etcd

STRANGE = (
    "note",
    "instances",
    "instances/",
    "instances/default/player",
    "instances/default/player/",
    "instances///",
    "instances/default/player/a/b",
    "instances/default/player/%41",
    "instances/default/player/\udcff",
    "instances/\x1b[31mred\n/x/y/z",
    "epoch/",
    "epochs",
    "secret/other",
)


async def with_a_record(run: Running) -> str:
    lease = await run.store.grant(60)
    await run.put(run.key(), lease.id)
    return lease.id


async def test_foreign_keys_are_said_once_skipped_and_counted(
    backends: Backends, caplog: pytest.LogCaptureFixture
) -> None:
    etcd, prefix = backends.etcd(), "/strange"
    async with running(EtcdStore.from_url(etcd.url(prefix))) as run:
        assert isinstance(run.store, EtcdStore)
        lease = await with_a_record(run)
        for _ in range(2):
            for key in STRANGE:
                await etcd.etcdctl_async("put", f"{prefix}/v1/{key}", "hello")
        await run.put(run.key(), lease)
        assert len(run.seen.view) == 2
        assert run.store.skipped == 2 * len(STRANGE)
        await run.stop()
        await run.start()
        assert len(run.seen.view) == 2
        assert run.store.skipped == 3 * len(STRANGE)
        said = [record.getMessage() for record in caplog.records if "is no key of the registry" in record.getMessage()]
        assert len(said) == len(set(said)) == len(STRANGE)
        assert all(message.isprintable() and message.isascii() for message in said)
        for key in STRANGE:
            await etcd.etcdctl_async("del", f"{prefix}/v1/{key}")
        await run.put(run.key(), lease)
        assert run.seen.of(Away) == []
        assert run.deleted == []


async def test_a_cause_that_is_none_is_said_once(backends: Backends, caplog: pytest.LogCaptureFixture) -> None:
    etcd = backends.etcd()
    async with running(EtcdStore.from_url(etcd.url("/causes"))) as run:
        await with_a_record(run)
        (key,) = run.seen.view
        # In one transaction, as a commit of the registry does it.
        await etcd.transact_async(f'put /causes/v1/cause "because"\ndel /causes/v1/instances/{key}')
        await run.seen.wait(lambda: not run.seen.view, "it is told")
        assert run.deleted == [Deleted(key, Cause.DEREGISTERED)]
        assert caplog.text.count("/causes/v1/cause") == 1


async def test_many_foreign_keys_are_said_up_to_a_bound(
    backends: Backends, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry_server.stores.etcd.store.MAX_FOREIGN", 3)
    etcd = backends.etcd()
    for number in range(6):
        await etcd.etcdctl_async("put", f"/flood/v1/note-{number}", "hello")
    async with running(EtcdStore.from_url(etcd.url("/flood"))) as run:
        assert isinstance(run.store, EtcdStore)
        assert run.store.skipped == 6
        assert caplog.text.count("is no key of the registry") == 3
        assert "counted only" in caplog.text
        (snapshot,) = run.seen.of(Snapshot)
        assert snapshot.records == ()


async def test_large_values_are_read_in_small_pages(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    etcd = backends.etcd()
    monkeypatch.setattr("registry_server.stores.etcd.session.PAGE", 8)
    monkeypatch.setattr("registry_server.stores.etcd.session.PAGE_BYTES", 20_000)
    async with running(EtcdStore.from_url(etcd.url("/large"))) as run:
        lease = (await run.store.grant(60)).id
        for number in range(40):
            await run.put(run.key(), lease, value=b"x" * (10_000 if number % 5 == 0 else 10))
        view = dict(run.seen.view)
        await run.stop()
        await run.start()
        assert run.seen.view == view


async def test_an_event_that_cannot_be_taken_in_takes_no_other_with_it(
    backends: Backends, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(EtcdStore.from_url(backends.etcd_url())) as run:
        fold = Recorder._fold_delta

        def choke(seen: Recorder, delta: Delta) -> None:
            fold(seen, delta)
            if any(record.value == b"poison" for record in delta.puts):
                raise ValueError("poison")

        monkeypatch.setattr(Recorder, "_fold_delta", choke)
        lease = await with_a_record(run)
        told = len(run.seen.events)
        poison = run.key("poison")
        with contextlib.suppress(StoreAway):  # what was told may close the link before the commit is answered
            await run.store.commit(Commit(puts=(Put(poison, b"poison", lease, 0),)))
        await run.seen.wait_next(Back, after=told)
        later = await run.put(run.key(), lease)
        assert [[record.key for record in delta.puts] for delta in run.seen.of(Delta)[-2:-1]] == [[poison]]
        assert run.seen.of(Delta)[-1].revision == later
        assert caplog.text.count("could not be taken in") == 1
