"""A server on a file: what was answered is there after kill -9, and a file that cannot be used is one clear line."""

import asyncio
import contextlib
import os
import random
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from registry_server.__main__ import EXIT_USAGE
from registry_server.records import Back, Commit, Put
from registry_server.stores.base import StoreAway
from registry_server.stores.leased import Leased
from registry_server.stores.sqlite import hand as hands
from registry_server.stores.sqlite.backend import SqliteBackend
from registry_server.stores.sqlite.database import BadFile, Database
from registry_server.testing import Running, running
from tests.conftest import ServerFactory
from tests.support.raw import Owner, RawClient
from tests.support.servers import NO_PAGE
from tests.support.waiting import eventually_async, passed

ROUNDS = 4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


# ---- what was answered is there


class Writers:
    """Register, change and remove as fast as they can, and note what was answered."""

    def __init__(self, client: RawClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self.weights: dict[str, int] = {}
        self.doubtful: set[str] = set()
        self.answered = 0

    async def run(self, number: int) -> None:
        for count in range(1_000_000):
            name = f"{self._prefix}-{number}-{count}"
            port = 1 + number * 3000 + count
            await self._do(name, 100, self._client.register(name, port, ttl_s=600))
            await self._do(name, count, self._client.update(name, weight=count))
            if count % 3 == 0:
                await self._do(name, None, self._client.deregister(name))

    async def _do(self, name: str, weight: int | None, call: Awaitable[object]) -> None:
        self.doubtful.add(name)
        await call
        self.doubtful.discard(name)
        self.answered += 1
        if weight is None:
            del self.weights[name]
        else:
            self.weights[name] = weight


async def test_kill_9_loses_nothing_that_was_answered(server_factory: ServerFactory, path: Path) -> None:
    """At random moments under load. Epoch and revisions go on, and who watches goes on with his token."""
    rng = random.Random(20261125)
    server = await server_factory(store=f"sqlite:{path}").start_async()
    known: dict[str, int] = {}
    doubtful: set[str] = set()
    epoch, revision = "", 0
    for number in range(ROUNDS):
        async with RawClient(server.address) as client:
            writers = Writers(client, f"round-{number}")
            tasks = [asyncio.create_task(writers.run(number * 4 + nth)) for nth in range(4)]
            await eventually_async(lambda: writers.answered > 30, what="some answers")  # noqa: B023
            await passed(rng.uniform(0, 0.2))
            server.kill()
            await asyncio.wait(tasks)
            assert all(isinstance(task.exception(), grpc.aio.AioRpcError) for task in tasks)
        known |= writers.weights
        doubtful |= writers.doubtful
        await server.start_async()
        async with RawClient(server.address) as client:
            answer = await client.list()
            found = {it.id: it.weight for it in answer.instances}
            assert {name: it for name, it in found.items() if name not in doubtful} == {
                name: it for name, it in known.items() if name not in doubtful
            }
            assert epoch in ("", answer.header.epoch)
            assert answer.header.revision > revision
            epoch, revision = answer.header.epoch, answer.header.revision


async def test_who_watches_goes_on_after_kill_9(server_factory: ServerFactory, path: Path) -> None:
    server = await server_factory(store=f"sqlite:{path}").start_async()
    async with RawClient(server.address) as client, client.watching() as watch:
        one = await client.register("one", 7001, ttl_s=600)
        await watch.wait_ids("one")
    await server.restart_async()
    async with RawClient(server.address) as again, again.watching(token=watch.token, view=watch.view) as resumed:
        await resumed.wait_started()
        two = await again.register("two", 7002, ttl_s=600)
        await resumed.wait_ids("one", "two")
        told = [(step.reset, set(step.upserts)) for step in resumed.steps if step.reset or step.upserts]
        assert told == [(False, {("player", "two")})]
        assert resumed.epoch == watch.epoch
        assert two.instance.revision > one.instance.revision


async def test_leases_get_their_time_again(server_factory: ServerFactory, path: Path) -> None:
    """Whoever is still there has a whole time to live to say so, and who is not leaves after it."""
    ttl_s = 2.0
    server = await server_factory(store=f"sqlite:{path}").start_async()
    async with RawClient(server.address) as client, Owner(client, "alive", 7001, ttl_s=ttl_s) as owner:
        await client.register("dead", 7002, ttl_s=ttl_s)
        server.kill()
        await passed(1.5 * ttl_s)
        await server.start_async()
        async with RawClient(server.address) as again, again.watching() as watch:
            await watch.wait_started()
            assert watch.ids == {"alive", "dead"}
            await watch.wait_ids("alive")
            assert owner.registrations == 1


# ---- files that cannot be used


def said_by(url: str, **options: object) -> str:
    """What a server says that cannot start."""
    command = [sys.executable, "-m", "registry_server", "--listen", "127.0.0.1:0", "--store", url]
    given: dict[str, Any] = {"env": {**os.environ, **NO_PAGE}, **options}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **given)
    assert (ended.returncode, ended.stdout) == (EXIT_USAGE, "")
    [line] = ended.stderr.splitlines()
    return str(line)


def text_file(path: Path) -> None:
    path.write_text("no database at all, and longer than the header of one " * 10)


def somebody_elses(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE people (name)")


def of_the_future(path: Path) -> None:
    Database(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 7")


def torn(path: Path) -> None:
    Database(path).close()
    content = bytearray(path.read_bytes())
    content[4096:8192] = bytes(4096)
    path.write_bytes(content)


def ahead_of_itself(path: Path) -> None:
    Database(path).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO items VALUES ('a', x'', 700, 7)")


def without_its_table(path: Path) -> None:
    Database(path).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TABLE items")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (text_file, "is no database"),
        (somebody_elses, "of another program"),
        (of_the_future, "another version"),
        (torn, "broken"),
        (ahead_of_itself, "broken"),
        (without_its_table, "broken"),
        (Path.mkdir, "no regular file"),
    ],
)
def test_a_file_that_is_none_of_the_registry(path: Path, spoil: Callable[[Path], None], says: str) -> None:
    """It is named, and left as it is."""
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    line = said_by(f"sqlite:{path}")
    assert line.startswith(f"registry-server: {path}: ")
    assert says in line
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_no_such_directory(tmp_path: Path) -> None:
    assert "there is no such directory" in said_by(f"sqlite:{tmp_path / 'none' / 'registry.db'}")


async def test_a_second_server_is_refused(server_factory: ServerFactory, path: Path) -> None:
    server = await server_factory(store=f"sqlite:{path}").start_async()
    line = await asyncio.to_thread(said_by, f"sqlite:{path}")
    assert line == f"registry-server: {path}: is in use by another process; a file is for one server alone"
    async with RawClient(server.address) as client:
        await client.register("one", 7001)


@pytest.mark.parametrize("is_linked", [False, True])
def test_the_file_is_for_its_user_alone(path: Path, is_linked: bool) -> None:
    if is_linked:
        (link := path.parent.parent / "link.db").symlink_to(path)
    database = Database(link if is_linked else path)
    database.begin_at()
    assert {it.name: it.stat().st_mode & 0o777 for it in path.parent.iterdir()} == dict.fromkeys(
        ("registry.db", "registry.db-wal"), 0o600
    )
    database.close()


# ---- disks that fail while the server runs


@pytest.fixture
async def run(path: Path) -> AsyncIterator[Running]:
    async with running(Leased(SqliteBackend(path))) as started:
        yield started


async def test_a_full_disk_refuses_what_does_not_fit_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begin = Database.begin_at

    def limited(database: Database) -> int:
        database._connection.execute("PRAGMA max_page_count = 40")
        return begin(database)

    monkeypatch.setattr(Database, "begin_at", limited)
    async with running(Leased(SqliteBackend(path))) as run:
        lease = (await run.store.grant(60)).id
        await run.put(kept := run.key(), lease, value=b"kept")
        with pytest.raises(StoreAway, match="no room"):
            await run.store.commit(Commit(puts=(Put(run.key("large"), b"x" * 400_000, lease, 0),)))
        await run.put(run.key("small"), lease)
        await run.delete(kept)
        assert {key.id for key in run.seen.view} == {"small"}
        assert len(caplog.messages) == 2
        assert "no room" in caplog.messages[0]
        [renewal] = await run.store.keep_alive([lease])
        assert renewal.ttl_s == 60


async def test_a_file_that_may_not_grow_is_an_outage_that_ends(server_factory: ServerFactory, path: Path) -> None:
    """As with a quota: writes are refused, whoever is registered stays, and it goes on by itself."""
    server = await server_factory(store=f"sqlite:{path}").start_async()
    async with (
        RawClient(server.address) as client,
        client.watching() as watch,
        Owner(client, "alive", 7001, ttl_s=3) as owner,
    ):
        await watch.wait_ids("alive")
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.register("new", 7002)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        await passed(4)
        assert watch.ids == {"alive"}
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
        await eventually_async(lambda: registers(client), what="the end of the outage")
        await watch.wait_ids("alive", "new")
        assert owner.registrations == 1
        assert {step.epoch for step in watch.steps} == {watch.epoch}


async def registers(client: RawClient) -> bool:
    with contextlib.suppress(grpc.aio.AioRpcError):
        await client.register("new", 7002)
        return True
    return False


async def test_a_file_that_was_removed_is_an_outage(run: Running, path: Path) -> None:
    """What is written to it would be lost, so nothing is."""
    key = run.setting(service="")
    await run.put(key, "")
    path.unlink()
    with pytest.raises(StoreAway, match="removed or replaced"):
        await run.put(run.setting(), "")
    with pytest.raises(StoreAway):
        await run.put(run.setting(), "")
    await run.seen.wait(lambda: run.seen.is_away, "the outage")
    assert set(run.seen.view) == {key}
    assert run.seen.of(Back) == []


async def test_a_disk_that_stands_still_holds_one_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands, "CLOSE_S", 0.05)
    goes_on, begun = threading.Event(), []
    open_file = Database.__init__

    def stands_still(database: Database, at: Path) -> None:
        begun.append(at)
        goes_on.wait()
        open_file(database, at)

    monkeypatch.setattr(Database, "__init__", stands_still)
    backend = SqliteBackend(path)
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(backend.watch())
        for _ in range(3):
            with pytest.raises(StoreAway, match=r"registry\.db: the disk stands still"):
                await anext(backend.watch())
        assert len(begun) == 1
    finally:
        goes_on.set()
    async with running(Leased(backend)) as run:
        await run.put(run.setting(), "")


async def test_two_stores_of_one_process_do_not_share_a_file(run: Running, path: Path) -> None:
    await run.put(run.setting(), "")
    with pytest.raises(BadFile, match="in use"):
        async with running(Leased(SqliteBackend(path))):
            pass
    await run.put(run.setting(), "")
    with pytest.raises(BadFile, match="in use"):  # nor did this one let go of it
        await asyncio.to_thread(Database, path)


async def test_an_idle_registry_writes_nothing(run: Running, path: Path) -> None:
    lease = (await run.store.grant(60)).id
    await run.put(run.key(), lease)
    before = Path(f"{path}-wal").stat()
    for _ in range(20):
        await run.store.keep_alive([lease])
    revision = await run.store.commit(Commit())
    after = Path(f"{path}-wal").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert revision > run.seen.view[run.key("instance-0")].revision + 20
