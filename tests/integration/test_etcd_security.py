"""The etcd store with TLS, with users, and with tokens that end."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from registry_server.records import Away, Back, Delta, Outcome
from registry_server.stores.base import StoreAway
from registry_server.stores.etcd.link import BadCredentials
from registry_server.stores.etcd.store import EtcdStore
from registry_server.testing import Running, running
from tests.support.etcd import Certificates, EtcdCluster
from tests.support.proxy import Proxy
from tests.support.servers import NO_PAGE, ROOT
from tests.support.stores import EVERY_ETCD

USER, PASSWORD = "registry", "größer & s3cret/@:"
TTL_S = 30.0


async def works(run: Running) -> None:
    """Everything a store does goes through."""
    lease, key = await run.store.grant(TTL_S), run.key()
    await run.put(key, lease.id)
    (renewal,) = await run.store.keep_alive([lease.id])
    assert renewal.outcome is Outcome.RENEWED
    await run.delete(key)
    await run.store.release(lease.id)
    (renewal,) = await run.store.keep_alive([lease.id])
    assert renewal.outcome is Outcome.UNKNOWN


# ---- TLS


@pytest.fixture
async def tls(tmp_path: Path) -> AsyncIterator[EtcdCluster]:
    """An etcd that talks TLS and asks for a certificate."""
    cluster = EtcdCluster(tmp_path, tls=True)
    try:
        yield await cluster.start_async()
    finally:
        cluster.kill()


async def test_tls(tls: EtcdCluster) -> None:
    async with running(EtcdStore.from_url(tls.url())) as run:
        await works(run)
        await tls.restart_async()
        await run.seen.wait_next(Back, after=1)
        await works(run)


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        ("plain", "does it speak TLS (ca, or tls=true)?"),
        ("other authority", "certificate verify failed: unable to get local issuer certificate"),
        ("no certificate", "alert bad certificate"),
    ],
)
async def test_tls_with_a_mistake_connects_to_nothing(
    tls: EtcdCluster, tmp_path: Path, mistake: str, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert tls.certificates is not None
    (elsewhere := tmp_path / "elsewhere").mkdir()
    ca = {
        "plain": "",
        "other authority": f"?ca={Certificates.make(elsewhere).ca}",
        "no certificate": f"?ca={tls.certificates.ca}",
    }
    run = Running(EtcdStore.from_url(f"etcd://{tls.nodes[0].endpoint}{ca[mistake]}"))
    with pytest.raises(AssertionError, match="a first event"):
        await run.start(first_s=2.5)
    assert run.seen.events == []
    assert tls.nodes[0].endpoint in caplog.text
    assert line in caplog.text
    with pytest.raises(StoreAway):
        await run.store.grant(TTL_S)
    await run.stop()


# ---- users


@pytest.fixture
async def users(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[EtcdCluster]:
    """An etcd with users, whose tokens end after a second of disuse."""
    newest = getattr(request, "param", False)
    cluster = EtcdCluster(tmp_path, users={USER: PASSWORD}, flags=["--auth-token-ttl=1"], newest=newest)
    try:
        yield await cluster.start_async()
    finally:
        cluster.kill()


@pytest.mark.parametrize("users", EVERY_ETCD, indirect=True)
async def test_user(users: EtcdCluster, tmp_path: Path) -> None:
    (file := tmp_path / "password").write_text(PASSWORD + "\n", encoding="utf-8")
    for url in (
        users.url(user=USER, password=PASSWORD),
        users.url(user=USER, password_file=str(file)),
        users.url().replace("etcd://", f"etcd://{USER}:gr%C3%B6%C3%9Fer%20%26%20s3cret%2F%40%3A@"),
    ):
        async with running(EtcdStore.from_url(url)) as run:
            await works(run)


async def refusal(url: str) -> str:
    """What the store says when it is refused."""
    run = Running(EtcdStore.from_url(url))
    with pytest.raises(BadCredentials) as refused:
        await run.start()
    await run.store.aclose()
    assert run.seen.events == []
    return str(refused.value)


async def test_refused_at_the_start(users: EtcdCluster) -> None:
    assert "invalid user ID or password" in await refusal(users.url(user=USER, password="wrong"))
    assert "invalid user ID or password" in await refusal(users.url(user="nobody", password=PASSWORD))
    assert "user name is empty" in await refusal(users.url())


async def test_user_with_no_right_to_the_prefix_is_refused(users: EtcdCluster) -> None:
    await users.etcdctl_async("user", "add", "guest:guest")
    assert "permission denied" in await refusal(users.url(user="guest", password="guest"))


async def test_user_needs_its_own_prefix_only(users: EtcdCluster) -> None:
    for command in (
        "role add keeper",
        "role grant-permission keeper readwrite --prefix=true /mine/v1/",
        "user add keeper:keeper",
        "user grant-role keeper keeper",
    ):
        await users.etcdctl_async(*command.split())
    async with running(EtcdStore.from_url(users.url("/mine", user="keeper", password="keeper"))) as run:
        await works(run)
    assert "permission denied" in await refusal(users.url("/yours", user="keeper", password="keeper"))


@pytest.mark.parametrize("users", EVERY_ETCD, indirect=True)
async def test_token_that_has_ended_is_replaced(users: EtcdCluster) -> None:
    async with Proxy(users.nodes[0].endpoint) as gate:
        url = users.url(at=[gate.address], user=USER, password=PASSWORD)
        async with running(EtcdStore.from_url(url)) as run:
            await works(run)
            for _ in range(2):
                await run.seen.stays(lambda: not run.seen.is_away, 3.5)  # etcd looks for old tokens once a second
                await asyncio.gather(*(works(run) for _ in range(10)))
            assert run.seen.of(Away) == []
            await gate.cut()
            await run.seen.wait_next(Away, after=1)
            await gate.restore()
            await run.seen.wait_next(Back, after=1)
            await works(run)
            assert run.seen.of(Delta)


async def test_tokens_lost_by_a_restart_are_replaced(users: EtcdCluster) -> None:
    async with running(EtcdStore.from_url(users.url(user=USER, password=PASSWORD))) as run:
        await users.restart_async()
        await run.seen.wait_next(Back, after=1)
        await works(run)


async def test_password_changed_is_an_outage_until_the_file_has_the_new_one(users: EtcdCluster, tmp_path: Path) -> None:
    (file := tmp_path / "password").write_text(PASSWORD, encoding="utf-8")
    async with running(EtcdStore.from_url(users.url(user=USER, password_file=str(file)))) as run:
        await users.etcdctl_async("user", "delete", USER)
        await users.etcdctl_async("user", "add", f"{USER}:changed")
        await users.etcdctl_async("user", "grant-role", USER, "root")
        with pytest.raises(StoreAway, match="invalid user ID or password"):
            await run.store.grant(TTL_S)
        file.write_text("changed")
        await users.restart_async()
        await run.seen.wait_next(Back, after=1)
        await works(run)


async def test_refused_later_is_an_outage(users: EtcdCluster) -> None:
    async with running(EtcdStore.from_url(users.url(user=USER, password=PASSWORD))) as run:
        await users.etcdctl_async("user", "revoke-role", USER, "root")
        await users.restart_async()
        await run.seen.wait(lambda: run.seen.is_away, "away", timeout_s=5)
        await run.seen.stays(lambda: run.seen.is_away, 1)
        await users.etcdctl_async("user", "grant-role", USER, "root")
        await run.seen.wait_next(Back, after=1)
        await works(run)


async def test_user_on_an_etcd_without_users(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path) as etcd:
        async with running(EtcdStore.from_url(etcd.url(user=USER, password=PASSWORD))) as run:
            await works(run)


# ---- what the command says


def command(*args: str, store: str = "", seconds: float = 20.0) -> str:
    """What `registry-server` says before it ends, or within so many seconds."""
    environment = {**os.environ, **NO_PAGE, **({"REGISTRY_STORE": store} if store else {})}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "registry_server", "--listen", "127.0.0.1:0", *args],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            cwd=ROOT,
            env=environment,
        )
    except subprocess.TimeoutExpired as running:
        return (running.stderr or b"").decode()
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["etcd://me:hunter2@h"],
        ["--store", "etcd://me:hunter2@h:x"],
        ["--store", "etcd://h?user=me&password=hun&ter2"],
        ["--store", "etcd://me:hunter2"],
        ["--store", "hunter2"],
        ["--config", "etcd://me:hunter2@h"],
        ["--log-level", "etcd://me:hunter2@h"],
        ["--stor", "etcd://me:hunter2@h"],
    ],
)
def test_no_mistake_at_the_command_line_tells_the_password(args: list[str]) -> None:
    said = command(*args)
    assert all(piece not in said for piece in ("hun", "ter2"))


def test_a_password_in_the_environment_is_not_warned_of(users: EtcdCluster) -> None:
    url = users.url(user=USER, password="wrong")
    said = command(store=url)
    assert "process list" not in said
    assert "invalid user ID or password" in said
    assert "wrong" not in said


def test_a_password_in_store_is_warned_of_and_not_told(users: EtcdCluster) -> None:
    node = users.nodes[0]
    node.stop()
    try:
        said = command("--store", users.url(user=USER, password="hunter2"), seconds=5.0)
    finally:
        node.cont()
    assert said.count("process list") == 1
    assert "password_file" in said
    assert "hunter2" not in said
