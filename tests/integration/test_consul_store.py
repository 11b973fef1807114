"""The store in Consul's KV: outages, tokens, TLS, several replicas, and what others do to its keys."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest

from registry_server.records import Away, Back, Commit, Outcome, Put, Snapshot
from registry_server.stores import open_store
from registry_server.stores.base import Conflict, Refused, StoreAway
from registry_server.stores.consul import backend, ledger
from registry_server.stores.consul.http import TokenRefused
from registry_server.testing import Running, running
from tests.support.consul import ConsulAgent
from tests.support.etcd import Certificates
from tests.support.pages import blocks
from tests.support.proxy import Proxy
from tests.support.stores import MAY_BUILD, Backends, backends
from tests.support.waiting import eventually_async

__all__ = ["backends"]

pytestmark = MAY_BUILD
TTL_S = 30.0
ROOT = "00000000-1111-2222-3333-444444444444"
VALUES = [b"", b"what is this", b"9" * 30, b"5\n1 -7\nabc"]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[ConsulAgent]:
    """A Consul of this test alone, to be killed."""
    made = ConsulAgent(tmp_path).start()
    yield made
    made.kill()


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


# ---- outages


async def test_an_agent_that_is_killed_and_comes_back(agent: ConsulAgent) -> None:
    """What was answered is there, in the same epoch, and nobody is told anything twice."""
    async with running(open_store(agent.url())) as run:
        lease = await run.store.grant(TTL_S)
        revisions = [await run.put(run.key(f"i-{number}"), lease.id) for number in range(5)]
        epoch = run.seen.epoch
        agent.kill()
        await run.seen.wait_next(Away, after=0)
        with pytest.raises(StoreAway):
            await run.store.grant(TTL_S)
        await asyncio.to_thread(agent.start)
        await run.seen.wait_next(Back, after=0, timeout_s=30)
        assert (run.seen.epoch, len(run.seen.of(Snapshot))) == (epoch, 1)
        assert await run.put(run.key("i-0"), lease.id) > revisions[-1]
        await works(run)


async def test_an_agent_that_is_stopped_and_goes_on(agent: ConsulAgent) -> None:
    async with running(open_store(agent.url())) as run:
        agent.stop()
        try:
            await run.seen.wait_next(Away, after=0)
        finally:
            agent.cont()
        await run.seen.wait_next(Back, after=0, timeout_s=30)
        await works(run)


async def test_a_wiped_consul_begins_a_new_epoch(agent: ConsulAgent) -> None:
    async with running(open_store(agent.url())) as run:
        await run.put(run.key(), (await run.store.grant(TTL_S)).id)
        epoch = run.seen.epoch
        agent.kill()
        agent.wipe()
        await asyncio.to_thread(agent.start)
        await run.seen.wait(lambda: run.seen.epoch != epoch, "a new epoch", timeout_s=30)
        assert run.seen.view == {}
        await works(run)


async def test_the_next_agent_is_asked_when_one_is_gone(agent: ConsulAgent) -> None:
    async with Proxy(agent.address) as one, running(open_store(f"consul://{one.address},{agent.address}")) as run:
        await works(run)
        await one.cut()
        await run.seen.wait_next(Back, after=0, timeout_s=30)
        await works(run)


# ---- who may


@pytest.fixture
async def secured(tmp_path: Path) -> AsyncIterator[ConsulAgent]:
    """A Consul where nobody may do anything without a token; `token` may do all."""
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"initial_management": ROOT}}
    made = ConsulAgent(tmp_path, more={"acl": acl, "primary_datacenter": "dc1"})
    try:
        await asyncio.to_thread(made.start)
        made.token = ROOT
        await eventually_async(lambda: may(made), timeout_s=30)
        yield made
    finally:
        made.kill()


def may(agent: ConsulAgent) -> bool:
    try:
        agent.ask("GET", "/v1/acl/token/self")
    except (OSError, AssertionError):
        return False
    return True


async def test_tokens(secured: ConsulAgent, tmp_path: Path) -> None:
    """One that may do what docs/consul.md says is enough; one that may not is refused at the start, for good."""
    token = may_use(secured, "write")
    (file := tmp_path / "token").write_text(token + "\n")
    async with running(open_store(secured.url(token_file=str(file)))) as run:
        await works(run)
    for wrong in ("", token.replace(token[:4], "0000"), may_use(secured, "read")):
        run = Running(open_store(secured.url(**({"token": wrong} if wrong else {}))))
        with pytest.raises(TokenRefused, match="Consul refuses the token") as refused:
            await run.start()
        assert not wrong or wrong not in str(refused.value)
        await run.store.aclose()


def may_use(agent: ConsulAgent, how: str) -> str:
    """A token that may do what docs/consul.md says, or with `read` looks at all of that, and no more."""
    [documented] = [block for block in blocks("hcl") if block.page == "docs/consul.md"]
    rules = documented.text.replace('"write"', f'"{how}"')
    agent.ask("PUT", "/v1/acl/policy", {"Name": how, "Rules": rules})
    made = agent.ask("PUT", "/v1/acl/token", {"Policies": [{"Name": how}]})
    return cast("dict[str, str]", made)["SecretID"]


async def test_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (home := tmp_path / "pem").mkdir()
    certificates = Certificates.make(home)
    agent = ConsulAgent(tmp_path, certificates=certificates)
    files = {"ca": certificates.ca, "cert": certificates.client_cert, "key": certificates.client_key}
    try:
        await asyncio.to_thread(agent.start)
        async with running(open_store(agent.url(**{name: str(file) for name, file in files.items()}))) as run:
            await works(run)
        for mistake, line in (
            ({"tls": "true"}, "certificate verify failed"),
            ({"ca": str(certificates.ca)}, "alert certificate required"),
            ({}, "an HTTP request to an HTTPS server"),
        ):
            stranger = Running(open_store(agent.url(**mistake)))
            with pytest.raises(AssertionError, match="a first event"):
                await stranger.start(first_s=1.5)
            await stranger.cancel()
            assert line in caplog.text
    finally:
        agent.kill()


# ---- the log


@pytest.fixture
def short_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is folded and written over all the time."""
    for module in (ledger, backend):
        monkeypatch.setattr(module, "FOLD", 4)
    monkeypatch.setattr(ledger, "RING", 16)


@pytest.mark.usefixtures("short_log")
async def test_three_replicas_write_one_order(backends: Backends) -> None:
    """However the log is folded and written over meanwhile, all are told the same, and so is who comes later."""
    url = backends.consul_url()
    async with running(open_store(url)) as one, running(open_store(url)) as two, running(open_store(url)) as three:
        lease = await one.store.grant(TTL_S)
        results = await asyncio.gather(*(changes(run, name, lease.id) for run in (one, two, three) for name in "abc"))
        assert sum(results) > 0
        last = await one.store.commit(Commit())
        last = max(last, await one.put(one.key("last"), lease.id))
        for run in (one, two, three):
            await run.seen.wait_revision(last)
            assert run.seen.view == one.seen.view
    async with running(open_store(url)) as later:
        assert {key: (it.value, it.revision, it.create_revision) for key, it in later.seen.view.items()} == {
            key: (it.value, it.revision, it.create_revision) for key, it in one.seen.view.items()
        }


async def changes(run: Running, name: str, lease_id: str) -> int:
    """Write one record again and again, as all others do; how often that went through."""
    done = 0
    for number in range(12):
        key = run.key(name)
        expect = run.seen.view[key].revision if key in run.seen.view else 0
        try:
            await run.commit(Commit(puts=(Put(key, b"%d" % number, lease_id, expect),)))
            done += 1
        except Conflict as conflict:
            await run.seen.wait_revision(conflict.revision)
    return done


async def test_who_writes_all_the_time_leaves_room_for_others(backends: Backends) -> None:
    """Whoever has just written is ahead of everybody else, and would win every time."""
    url = backends.consul_url()
    async with running(open_store(url)) as busy, running(open_store(url)) as other:
        lease = await busy.store.grant(TTL_S)
        over = asyncio.Event()

        async def write_on(name: str) -> None:
            while not over.is_set():
                await busy.put(busy.key(name), lease.id)

        writers = [asyncio.create_task(write_on(f"busy-{number}")) for number in range(16)]
        lost = 0
        for _ in range(100):
            try:
                await other.put(other.key("other"), lease.id)
            except StoreAway:
                lost += 1
        over.set()
        await asyncio.gather(*writers)
        assert lost <= 2


async def test_what_is_too_large_is_refused(backends: Backends) -> None:
    async with running(open_store(backends.consul_url())) as run:
        lease = await run.store.grant(TTL_S)
        with pytest.raises(Refused, match="which are more than"):
            await run.put(run.key(), lease.id, value=b"x" * 400_000)
        await run.put(run.key(), lease.id, value=b"x" * 300_000)
        await works(run)


# ---- what others do


def put(agent: ConsulAgent, key: str, value: bytes) -> None:
    operation = {"KV": {"Verb": "set", "Key": key, "Value": b64encode(value).decode()}}
    agent.ask("PUT", "/v1/txn", [operation])


@pytest.mark.parametrize("key", ["head", "base", "log/0001", "log/0500", "data/epoch", "data/x/y", "elsewhere"])
@pytest.mark.parametrize(
    "value", [b"", b"what is this", b"9" * 30, b"5\n1 -7\nabc"], ids=["empty", "text", "digits", "like ours"]
)
async def test_whatever_is_written_there_by_hand(backends: Backends, key: str, value: bytes) -> None:
    """The store lives on, or begins anew; never does it stand still."""
    agent, prefix = backends.consul(), f"by-hand-{key.replace('/', '-')}-{len(value)}"
    async with running(open_store(agent.url(prefix=prefix, catalog="false"))) as run:
        await works(run)
        put(agent, f"{prefix}/{key}", value)
        await eventually_async(lambda: tried(run), timeout_s=20)
    async with running(open_store(agent.url(prefix=prefix, catalog="false"))) as later:
        await works(later)


async def tried(run: Running) -> bool:
    try:
        await works(run)
    except (StoreAway, AssertionError, KeyError):
        return False
    return True


async def test_keys_that_are_removed_by_hand(backends: Backends) -> None:
    agent = backends.consul()
    async with running(open_store(agent.url(prefix="removed", catalog="false"))) as run:
        await works(run)
        agent.ask("DELETE", "/v1/kv/removed/?recurse")
        epoch = run.seen.epoch
        await run.seen.wait(lambda: run.seen.epoch != epoch, "a new epoch", timeout_s=20)
        await works(run)
