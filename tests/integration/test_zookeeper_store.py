"""The ZooKeeper store when ZooKeeper, or the way to it, fails; with users, TLS, several hosts, and strangers."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from kazoo.security import OPEN_ACL_UNSAFE

from registry_server.records import Away, Back, Commit, Outcome, Put, Snapshot
from registry_server.stores import open_store
from registry_server.stores.base import Refused, StoreAway, StoreError
from registry_server.stores.leased import Leased
from registry_server.stores.zookeeper import chronicle
from registry_server.stores.zookeeper.backend import ZooKeeperBackend
from registry_server.stores.zookeeper.url import ZooKeeperURL
from registry_server.testing import Running, running
from tests.support.etcd import HOST, Certificates, free_port
from tests.support.proxy import Proxy
from tests.support.stores import MAY_BUILD, Backends, backends
from tests.support.waiting import eventually_async
from tests.support.zookeeper import Ensemble

__all__ = ["backends"]

pytestmark = MAY_BUILD

TTL_S = 30.0
# What a write may take while nobody knows yet that ZooKeeper is gone, with much for a busy machine.
WRITE_S = 1.5 + 3.0
BACK_S = 30.0


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Ensemble]:
    """A ZooKeeper of this test alone."""
    ensemble = Ensemble(tmp_path)
    try:
        yield await ensemble.start_async()
    finally:
        ensemble.kill()


@pytest.fixture
def url(backends: Backends) -> str:
    return backends.zookeeper_url()


@pytest.fixture
def client(backends: Backends) -> Iterator[KazooClient]:
    """Somebody else's way there."""
    made = KazooClient(backends.zookeeper().hosts)
    made.start()
    yield made
    made.stop()
    made.close()


def home_of(url: str) -> str:
    return ZooKeeperURL.parse(url).home


async def with_records(run: Running, count: int = 5) -> str:
    """Some records under a new lease."""
    lease = await run.store.grant(TTL_S)
    await run.commit(Commit(puts=tuple(Put(run.key(), b"value", lease.id, 0) for _ in range(count))))
    return lease.id


async def renewed(run: Running, lease_id: str) -> Outcome:
    (renewal,) = await run.store.keep_alive([lease_id])
    return renewal.outcome


async def writes_again(run: Running, lease_id: str) -> None:
    """A write goes through, sooner or later."""

    async def put() -> bool:
        with contextlib.suppress(StoreAway):
            await run.put(run.key(uuid4().hex), lease_id)  # one that was not answered may be there all the same
            return True
        return False

    await eventually_async(put, timeout_s=BACK_S, what="a write goes through")


# ---- outages


async def test_killed_and_restarted(alone: Ensemble) -> None:
    async with running(open_store(alone.url())) as run:
        lease = await with_records(run)
        view, told = dict(run.seen.view), len(run.seen.events)
        alone.kill()
        await run.seen.wait_next(Away, after=told)
        started = time.monotonic()
        with pytest.raises(StoreAway):
            await run.put(run.key(), lease)
        assert await renewed(run, lease) is Outcome.HELD
        assert time.monotonic() - started < WRITE_S
        await alone.start_async()
        await run.seen.wait_next(Back, after=told, timeout_s=BACK_S)
        assert run.seen.view == view
        await writes_again(run, lease)
        assert await renewed(run, lease) is Outcome.RENEWED
        assert run.seen.of(Snapshot) == [run.seen.events[0]]
        run.seen.check()


async def test_wiped(alone: Ensemble) -> None:
    async with running(open_store(alone.url("/a/b"))) as run:
        await with_records(run)
        epoch, told = run.seen.epoch, len(run.seen.events)
        alone.kill()
        alone.wipe()
        await alone.start_async()
        again = await run.seen.wait_next(Snapshot, after=told, timeout_s=BACK_S)
        assert again.epoch != epoch
        assert again.fence > run.seen.of(Snapshot)[0].fence
        assert run.seen.view == {}
        await with_records(run)


async def test_silent_and_heard_again(alone: Ensemble) -> None:
    async with running(open_store(alone.url())) as run:
        lease = await with_records(run)
        view, told = dict(run.seen.view), len(run.seen.events)
        alone.nodes[0].stop()
        started = time.monotonic()
        with pytest.raises(StoreAway):
            await run.put(run.key(), lease)
        assert time.monotonic() - started < WRITE_S
        await run.seen.wait_next(Away, after=told)
        alone.nodes[0].cont()
        await run.seen.wait_next(Back, after=told, timeout_s=BACK_S)
        await writes_again(run, lease)
        assert view.items() <= run.seen.view.items()
        run.seen.check()


async def test_session_expires(url: str, backends: Backends) -> None:
    """ZooKeeper ends the session, as it does with that of a server that stood still for too long."""
    backend = ZooKeeperBackend(ZooKeeperURL.parse(url))
    async with running(Leased(backend)) as run:
        lease = await with_records(run)
        view, told = dict(run.seen.view), len(run.seen.events)
        assert backend._clerk
        twin = KazooClient(backends.zookeeper().hosts, client_id=backend._clerk._znodes._client.client_id)
        await asyncio.to_thread(twin.start)
        await asyncio.to_thread(twin.stop)
        await run.seen.wait_next(Back, after=told, timeout_s=BACK_S)
        assert run.seen.view == view
        await writes_again(run, lease)
        run.seen.check()


async def test_what_another_one_wrote_during_an_outage_is_told_as_a_difference(backends: Backends, url: str) -> None:
    async with Proxy(backends.zookeeper().nodes[0].endpoint) as gate:
        behind_url = url.replace(backends.zookeeper().hosts, gate.address)
        async with running(open_store(url)) as direct, running(open_store(behind_url)) as behind:
            lease = await with_records(direct)
            await behind.seen.wait_revision(direct.seen.revision)
            told = len(behind.seen.events)
            await gate.cut()
            await behind.seen.wait_next(Away, after=told)
            gone = next(iter(direct.seen.view))
            await direct.delete(gone)
            await with_records(direct)
            await gate.restore()
            await behind.seen.wait_next(Back, after=told, timeout_s=BACK_S)
            await behind.seen.wait(lambda: behind.seen.view == direct.seen.view, "both show the same", BACK_S)
            assert len(behind.seen.of(Snapshot)) == 1
            assert await renewed(behind, lease) is Outcome.RENEWED
            behind.seen.check()


# ---- hosts


async def test_a_host_that_is_not_there_is_passed_over(backends: Backends, url: str) -> None:
    hosts = backends.zookeeper().hosts
    async with running(open_store(url.replace(hosts, f"{HOST}:{free_port()},{hosts}"))) as run:
        await with_records(run)


async def test_nobody_is_there_yet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server that starts before its ZooKeeper waits for it, and says so once."""
    ensemble = Ensemble(tmp_path)
    try:
        await ensemble.start_async()
        ensemble.kill()
        run = Running(open_store(ensemble.url()))
        starting = asyncio.create_task(run.start())
        await eventually_async(lambda: "is not there yet" in caplog.text, timeout_s=BACK_S)
        await ensemble.start_async()
        await starting
        await with_records(run)
        await run.stop()
        assert caplog.text.count("is not there yet") == 1
    finally:
        ensemble.kill()


async def test_the_leader_of_three_is_killed(tmp_path: Path) -> None:
    """Whoever was on it goes to another one; nothing is lost, and nothing is told twice."""
    ensemble = Ensemble(tmp_path, size=3)
    try:
        await ensemble.start_async()
        async with running(open_store(ensemble.url())) as one, running(open_store(ensemble.url())) as two:
            lease = await with_records(one, 20)
            await two.seen.wait_revision(one.seen.revision)
            leader = await asyncio.to_thread(ensemble.leader)
            leader.kill()
            for run in (one, two):
                await writes_again(run, lease)
            await one.seen.wait(lambda: len(one.seen.view) >= 22, "both writes are told", BACK_S)
            await two.seen.wait(lambda: two.seen.view == one.seen.view, "both show the same", BACK_S)
            assert await renewed(one, lease) is Outcome.RENEWED
            for run in (one, two):
                assert len(run.seen.of(Snapshot)) == 1
                run.seen.check()
    finally:
        ensemble.kill()


# ---- who may


async def test_a_user_has_it_alone(url: str, backends: Backends, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with_user = f"{url}?user=game&password=geheim"
    async with running(open_store(with_user)) as run:
        await with_records(run)
        view = dict(run.seen.view)
    for other in (url, f"{url}?user=game&password=falsch", f"{url}?user=other&password=geheim"):
        with pytest.raises(StoreError, match="does not allow it") as refused:
            await open_store(other).run(lambda event: None)
        assert "geheim" not in str(refused.value)
    async with running(open_store(with_user)) as run:
        assert run.seen.view == view
    assert "geheim" not in caplog.text
    assert "falsch" not in caplog.text


async def test_a_password_in_a_file_is_read_at_each_session(url: str, tmp_path: Path) -> None:
    (secret := tmp_path / "secret").write_text("geheim\n")
    async with running(open_store(f"{url}?user=game&password_file={secret}")) as run:
        await with_records(run)
    async with running(open_store(f"{url}?user=game&password=geheim")) as run:
        assert len(run.seen.view) == 5


async def test_tls_with_certificates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ensemble = Ensemble(tmp_path, tls=True)
    try:
        await ensemble.start_async()
        async with running(open_store(ensemble.url("/secure"))) as run:
            await with_records(run)
        told: list[object] = []
        (tmp_path / "elsewhere").mkdir()
        stranger = Certificates.make(tmp_path / "elsewhere")
        for mistake, line in (("", "no ZooKeeper answers"), (f"?ca={stranger.ca}", "certificate verify failed")):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(4.0):
                    await open_store(f"zookeeper://{ensemble.hosts}{mistake}").run(told.append)
            assert line in caplog.text
        assert told == []
    finally:
        ensemble.kill()


# ---- what is kept


@pytest.fixture
def few_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is worth it after a dozen pages."""
    monkeypatch.setattr(chronicle, "_SMALL", 12 * 1024)
    monkeypatch.setattr("registry_server.stores.zookeeper.clerk.AGAIN", 4)


@pytest.mark.usefixtures("few_pages")
async def test_the_log_is_cut_short(url: str, client: KazooClient) -> None:
    """Two replicas write; whoever comes begins with a checkpoint; pages and checkpoints do not pile up."""
    async with running(open_store(url)) as one, running(open_store(url)) as two:
        lease = await with_records(one)
        for number in range(150):
            run = (one, two)[number % 2]
            await run.put(run.key(f"more-{number}"), lease, value=b"x" * 100)
        await one.seen.wait(lambda: one.seen.view == two.seen.view, "both show the same")

        def is_short() -> bool:
            pages, checkpoints = (client.get_children(f"{home_of(url)}/{it}") for it in ("log", "checkpoints"))
            return len(pages) < 100 and len(checkpoints) <= 2

        await eventually_async(lambda: asyncio.to_thread(is_short), what="the log is cut short")
        async with running(open_store(url)) as fresh:
            assert fresh.seen.view == one.seen.view
            assert fresh.seen.epoch == one.seen.epoch
        for run in (one, two):
            assert len(run.seen.of(Snapshot)) == 1
            run.seen.check()


@pytest.mark.usefixtures("few_pages")
async def test_who_was_away_for_long_begins_anew(backends: Backends, url: str) -> None:
    """The pages that it would go on with are gone; what it tells is the difference all the same."""
    async with Proxy(backends.zookeeper().nodes[0].endpoint) as gate:
        behind_url = url.replace(backends.zookeeper().hosts, gate.address)
        async with running(open_store(url)) as direct, running(open_store(behind_url)) as behind:
            lease = await with_records(direct)
            await behind.seen.wait_revision(direct.seen.revision)
            await gate.cut()
            for _ in range(100):
                await direct.put(direct.key(), lease)
            await gate.restore()
            await behind.seen.wait(lambda: behind.seen.view == direct.seen.view, "both show the same", BACK_S)
            assert len(behind.seen.of(Snapshot)) == 1
            behind.seen.check()


async def test_more_than_zookeeper_takes_is_refused(url: str) -> None:
    async with running(open_store(url)) as run:
        lease = await with_records(run)
        with pytest.raises(Refused):
            await run.put(run.key(), lease, value=b"x" * 1_000_001)
        key = run.key()
        await run.put(key, lease, value=b"x" * 900_000)
        assert len(run.seen.view[key].value) == 900_000
        assert not run.seen.of(Away)


async def test_a_page_of_a_stranger_changes_nothing(url: str, client: KazooClient) -> None:
    async with running(open_store(url)) as one, running(open_store(url)) as two:
        lease = await with_records(one)
        for garbage in (b"", b"hello", bytes(100)):
            log = f"{home_of(url)}/log"
            last = max(int(name) for name in await asyncio.to_thread(client.get_children, log))
            with contextlib.suppress(Exception):  # a page of ours was faster
                await asyncio.to_thread(client.create, f"{log}/{last + 1:010}", garbage, OPEN_ACL_UNSAFE)
            await one.put(one.key(f"one-{len(garbage)}"), lease)
            await two.put(two.key(f"two-{len(garbage)}"), lease)
        await one.seen.wait(lambda: one.seen.view == two.seen.view and len(one.seen.view) == 11, "both show the same")
        async with running(open_store(url)) as fresh:
            assert fresh.seen.view == one.seen.view
        assert not one.seen.of(Away)


def removed(client: KazooClient, path: str) -> bool:
    """A node and all below it at once, so that nobody builds on what is left; False if somebody was faster."""

    def all_of(node: str) -> Iterator[str]:
        for child in client.get_children(node):
            yield from all_of(f"{node}/{child}")
        yield node

    transaction = client.transaction()
    with contextlib.suppress(NoNodeError):
        for node in all_of(path):
            transaction.delete(node)
        return not any(isinstance(it, Exception) for it in transaction.commit())
    return False


async def test_the_log_is_removed_by_hand(url: str, client: KazooClient) -> None:
    async with running(open_store(url)) as run:
        await with_records(run)
        epoch, told = run.seen.epoch, len(run.seen.events)
        await eventually_async(lambda: asyncio.to_thread(removed, client, home_of(url)))
        again = await run.seen.wait_next(Snapshot, after=told, timeout_s=BACK_S)
        assert again.epoch != epoch
        await with_records(run)


async def test_what_is_no_checkpoint_is_said(url: str, client: KazooClient) -> None:
    async with running(open_store(url)) as run:
        await with_records(run)
    await asyncio.to_thread(client.set, f"{home_of(url)}/current", b"hello")
    with pytest.raises(StoreError, match="current in ZooKeeper is not what a registry wrote"):
        await open_store(url).run(lambda event: None)
