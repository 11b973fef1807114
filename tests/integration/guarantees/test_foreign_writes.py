"""What somebody else writes over an instance in etcd lasts for a moment, and what he writes beside one for one ttl."""

import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from tests.conftest import ServerFactory
from tests.support.raw import Owner, RawClient, Watching, clients
from tests.support.servers import RegistryServer
from tests.support.stores import Backends
from tests.support.waiting import passed, until

TTL_S = 3.0
# The ticks of etcd and of the servers, and what a busy machine may add.
SLACK_S = 2.5


class Etcd:
    """The records of a registry, seen and written with etcdctl."""

    def __init__(self, backends: Backends, server: RegistryServer) -> None:
        self._etcd = backends.etcd()
        (prefix,) = parse_qs(urlsplit(server._args[1]).query)["prefix"]
        self._root = f"{prefix}/v1/instances/default/player/"

    async def lease(self, name: str) -> str:
        """The lease of a record in hexadecimal, `0` for none; empty if there is no record."""
        found = await self._get(name)
        return f"{found.get('lease', 0):x}" if found else ""

    async def value(self, name: str) -> bytes:
        """The bytes of a record."""
        return base64.b64decode((await self._get(name)).get("value", ""))

    async def put(self, name: str, value: bytes) -> None:
        """Write a record without a lease."""
        empty = () if value else ("",)
        await self._etcd.etcdctl_async("put", self._root + name, *empty, stdin=value)

    async def _get(self, name: str) -> dict[str, Any]:
        answer = json.loads(await self._etcd.etcdctl_async("get", self._root + name, "-w", "json"))
        (found,) = answer.get("kvs", [{}])
        return dict(found)

    async def revoke(self, lease: str) -> None:
        await self._etcd.etcdctl_async("lease", "revoke", lease)


@pytest.fixture
def records(replicas: list[RegistryServer], backends: Backends) -> Etcd:
    return Etcd(backends, replicas[0])


@pytest.fixture
async def pair(replicas: list[RegistryServer]) -> AsyncIterator[list[RawClient]]:
    async with clients(*(replica.address for replica in replicas)) as connected:
        yield connected


@contextlib.asynccontextmanager
async def watched(pair: list[RawClient], *names: str) -> AsyncIterator[list[Watching]]:
    """Watches of both replicas, none of which ever lacks one of these."""
    async with contextlib.AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(client.watching()) for client in pair]
        for watch in watches:
            await watch.wait_ids(*names)
        yield watches
        for watch in watches:
            assert all(step.ids >= set(names) for step in watch.steps[1:]), watch.steps


@pytest.mark.parametrize("value", [None, b"hello", b""])
async def test_record_of_a_living_owner_is_put_back_under_its_lease(
    pair: list[RawClient], records: Etcd, value: bytes | None
) -> None:
    """The very same bytes, or what is no instance at all."""
    async with Owner(pair[0], "a", 8001, ttl_s=TTL_S) as owner, watched(pair, "a") as watches:
        lease, before = await records.lease("a"), watches[0].view["player", "a"]
        assert lease not in ("0", "")
        for _ in range(2):
            await records.put("a", await records.value("a") if value is None else value)
            await until(lambda: is_under(records, "a", lease), what="it is under its lease again")
        await passed(1.5 * TTL_S)
        assert owner.registrations == 1
        after = watches[1].view["player", "a"]
        assert (after.generation, after.host, after.port) == (before.generation, before.host, before.port)
        await owner.stop()
        await until(lambda: is_gone(pair, records, "a"), timeout_s=2 * TTL_S + SLACK_S, what="it lives by its lease")
        forget_end(watches)


def forget_end(watches: list[Watching]) -> None:
    """The last step of each was the end that was to come."""
    for watch in watches:
        watch.steps.pop()


async def is_under(records: Etcd, name: str, lease: str) -> bool:
    return await records.lease(name) == lease


async def is_gone(pair: list[RawClient], records: Etcd, name: str) -> bool:
    return await records.lease(name) == "" and not any([name in await client.ids() for client in pair])


async def test_record_of_a_dead_owner_is_gone_after_one_ttl(pair: list[RawClient], records: Etcd) -> None:
    """Its lease is gone, and a record without one would be there for ever."""
    await pair[0].register("a", 8001, ttl_s=TTL_S)
    async with Owner(pair[0], "b", 8002, ttl_s=TTL_S), watched(pair, "a", "b") as watches:
        value = await records.value("a")
        await records.revoke(await records.lease("a"))
        await records.put("a", value)
        await until(lambda: is_gone(pair, records, "a"), timeout_s=3 * TTL_S + SLACK_S, what="it is gone")
        assert all(watch.ids == {"b"} for watch in watches)
        forget_end(watches)


async def test_record_that_nobody_registered_is_gone_after_one_ttl(pair: list[RawClient], records: Etcd) -> None:
    answer = await pair[0].register("a", 8001, ttl_s=TTL_S)
    value = await records.value("a")
    await pair[0].deregister("a")
    async with Owner(pair[0], "b", 8002, ttl_s=TTL_S), watched(pair, "b"):
        await records.put("stray", value)
        began = time.monotonic()
        await until(lambda: shows(pair, "stray"), what="it is shown meanwhile")
        await until(lambda: is_gone(pair, records, "stray"), timeout_s=2 * TTL_S + SLACK_S, what="it is gone")
        assert time.monotonic() - began > TTL_S - SLACK_S
    assert answer.lease_id


async def shows(pair: list[RawClient], name: str) -> bool:
    return all([name in await client.ids() for client in pair])


async def test_copy_of_a_living_instance_takes_its_address_from_nobody(pair: list[RawClient], records: Etcd) -> None:
    """`etcdctl get` of one key and `etcdctl put` under another: the address has one owner, and it has a lease."""
    async with Owner(pair[0], "a", 8001, ttl_s=TTL_S) as owner, watched(pair, "a"):
        await records.put("copy", await records.value("a"))
        await until(lambda: is_gone(pair, records, "copy"), timeout_s=2 * TTL_S + SLACK_S, what="the copy is gone")
        await passed(TTL_S)
        assert owner.registrations == 1


async def test_owner_puts_its_record_back_when_no_server_knows_whose_it_was(
    server_factory: ServerFactory, backends: Backends
) -> None:
    """All servers were down while its record was rewritten."""
    server = await server_factory(store=backends.etcd_url(), name="restarted").start_async()
    records, ttl_s = Etcd(backends, server), 4 * TTL_S
    async with RawClient(server.address) as client, Owner(client, "a", 8001, ttl_s=ttl_s) as owner:
        lease = await records.lease("a")
        server.kill()
        await records.put("a", await records.value("a"))
        await server.start_async()
        async with client.watching() as watch:
            await watch.wait_ids("a")
            await until(lambda: is_under(records, "a", lease), timeout_s=ttl_s, what="it is under its lease again")
            await passed(ttl_s + SLACK_S)
            assert all(step.ids == {"a"} for step in watch.steps)
        assert owner.lost is None


def encoded(**fields: Any) -> bytes:
    filled = {"service": "player", "host": "10.0.0.9", "port": 9, **fields}
    return pb.Instance(**filled).SerializeToString()


NO_INSTANCES = [
    *(b"hello", b"", b"\xff" * 100, b"\x4a\x02\xff\xff" + encoded(), b"x" * 300_000),
    *(
        encoded(host="a b\n\x1b[31m"),
        encoded(port=0),
        encoded(port=2**31),
        encoded(weight=2**32 - 1),
        encoded(status=9),
    ),
    *(encoded(tags=["a", "a"]), encoded(metadata={"k": "v" * 20_000}), encoded(registered_at={"seconds": 2**62})),
    *(encoded(registered_at={"nanos": -1}), encoded(ttl={"seconds": -(2**62)}), encoded(leaves_at={"seconds": 2**40})),
]


async def test_what_is_no_instance_harms_nobody(
    pair: list[RawClient], records: Etcd, replicas: list[RegistryServer], server_factory: ServerFactory
) -> None:
    """Said once with its key and skipped: by those who see it come, and by those who start after it."""
    async with Owner(pair[0], "a", 8001, ttl_s=TTL_S) as owner, watched(pair, "a") as watches:
        for number, value in enumerate(NO_INSTANCES):
            await records.put(f"stray-{number}", value)
        last = await pair[0].register("b", 8002)
        for watch in watches:
            await watch.wait(lambda watch=watch: watch.revision >= last.header.revision, "what came after")  # type: ignore[misc]
            assert watch.ids == {"a", "b"}
        late = await server_factory(store=replicas[0]._args[1], name="late").start_async()
        async with RawClient(late.address) as client, registry_client.connect(late.address) as registry:
            assert await client.ids() == {"a", "b"}
            assert {it.id for it in await registry.list("player")} == {"a", "b"}
        for server in (*replicas, late):
            assert "Traceback" not in server.log_text
            assert "\x1b" not in server.log_text
        for server in replicas:
            for number in range(5):  # of more of them in a minute nothing is said
                assert server.log_text.count(f"/stray-{number}'") == 1
        assert "what is no instance" in late.log_text
        assert all(late.log_text.count(f"/stray-{number}'") <= 1 for number in range(len(NO_INSTANCES)))
        assert owner.lost is None
