"""The two clients to etcd, by libnghttp2 and by grpcio: the same calls end in the same way."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_server.stores.etcd.link import Link, hang_up
from registry_server.stores.etcd.url import Client, EtcdURL
from tests.support.etcd import free_port
from tests.support.proxy import Proxy
from tests.support.stores import Backends, backends
from tests.support.waiting import until

pytestmark = pytest.mark.parametrize("client", Client)
BIG = b"x" * 1_000_000
WAIT_S = 20.0

__all__ = ["backends"]


@contextlib.asynccontextmanager
async def linked(address: str, client: Client) -> AsyncIterator[Link]:
    link = Link(address, EtcdURL((address,), client=client))
    try:
        yield link
    finally:
        await link.aclose()


@pytest.fixture
def address(backends: Backends) -> str:
    return backends.etcd().nodes[0].endpoint


async def put(link: Link, key: bytes, value: bytes = b"") -> None:
    operation = etcd.RequestOp(put=etcd.PutRequest(key=key, value=value))
    await link.api.txn(etcd.TxnRequest(success=[operation]), timeout=WAIT_S)


def below(prefix: bytes) -> etcd.RangeRequest:
    return etcd.RangeRequest(key=prefix, range_end=prefix + b"\xff")


async def test_large_messages_both_ways(address: str, client: Client) -> None:
    async with linked(address, client) as link:
        for number in range(8):
            await put(link, b"large/%d" % number, BIG)
        found = await link.api.range(below(b"large/"), timeout=WAIT_S)
        assert [kv.value for kv in found.kvs] == [BIG] * 8


async def test_what_nobody_reads_for_a_while_holds_up_nothing_and_comes_in_order(address: str, client: Client) -> None:
    prefix = f"unread/{client}/".encode()
    async with linked(address, client) as link:
        call = link.open_watch()
        create = etcd.WatchCreateRequest(key=prefix, range_end=prefix + b"\xff")
        await call.write(etcd.WatchRequest(create=create))
        await call.read()
        for number in range(200):  # far more than the windows of one stream, and of all
            await put(link, prefix + b"%d" % number, BIG[: 100 * 1024])
        names = []
        while len(names) < 200:
            response = await call.read()
            assert isinstance(response, etcd.WatchResponse)
            names += [event.kv.key.removeprefix(prefix) for event in response.events]
        assert names == [b"%d" % number for number in range(200)]
        await hang_up(call)
        assert await call.code() is grpc.StatusCode.CANCELLED


async def test_no_answer_in_time(address: str, client: Client) -> None:
    async with Proxy(address) as proxy, linked(proxy.address, client) as link:
        await put(link, b"there")
        proxy.freeze()
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await link.api.range(below(b""), timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0.3 <= time.monotonic() - began < WAIT_S
        await proxy.restore()
        await put(link, b"there")


async def test_nobody_there_and_then_somebody(address: str, client: Client) -> None:
    async with Proxy(address) as proxy, linked(proxy.address, client) as link:
        await proxy.cut()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await put(link, b"there")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await proxy.restore()

        async def is_put() -> bool:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await put(link, b"there")
                return True
            return False

        await until(is_put, timeout_s=WAIT_S, what="etcd is reached")


async def test_what_is_under_way_fails_when_the_connection_ends(address: str, client: Client) -> None:
    async with Proxy(address) as proxy, linked(proxy.address, client) as link:
        call = link.open_renewals()
        await call.write(etcd.LeaseKeepAliveRequest(id=1))
        await call.read()
        proxy.freeze()
        asked = asyncio.create_task(put(link, b"lost"))
        reading = asyncio.ensure_future(call.read())
        await asyncio.sleep(0)
        await proxy.cut()
        for what in (asked, reading):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await what
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
            await call.write(etcd.LeaseKeepAliveRequest(id=1))
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_who_gives_up_leaves_the_others_be(address: str, client: Client) -> None:
    async with linked(address, client) as link:
        asked = [asyncio.create_task(put(link, b"many/%d" % number)) for number in range(50)]
        await asyncio.sleep(0)
        for one in asked[::2]:
            one.cancel()
        await asyncio.gather(*asked[1::2])
        await put(link, b"last")


async def test_etcd_says_why_not(address: str, client: Client) -> None:
    async with linked(address, client) as link:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await link.api.revoke(etcd.LeaseRevokeRequest(id=7), timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.details() == "etcdserver: requested lease not found"


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100, b""])
async def test_somebody_else_listens_there(client: Client, said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await reader.read(1)
        writer.close()

    port = free_port()
    async with await asyncio.start_server(answer, "127.0.0.1", port), linked(f"127.0.0.1:{port}", client) as link:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await link.api.range(below(b""), timeout=3.0)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
