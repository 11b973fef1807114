"""The client to etcd that goes by libnghttp2 finds out when nobody answers any more, though nothing has a deadline."""

import asyncio

import grpc
import pytest

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_server.stores.etcd import http2
from registry_server.stores.etcd.link import Link
from registry_server.stores.etcd.url import EtcdURL
from tests.support.proxy import Proxy
from tests.support.stores import Backends, backends

__all__ = ["backends"]
WATCH = etcd.WatchRequest(create=etcd.WatchCreateRequest(key=b"pings"))


async def test_a_silent_connection_is_given_up_and_the_next_call_makes_another(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2, "TICK_S", 0.2)
    async with Proxy(backends.etcd().nodes[0].endpoint) as proxy:
        link = Link(proxy.address, EtcdURL((proxy.address,)))
        try:
            watch = link.open_watch()
            await watch.write(WATCH)
            assert await watch.read()
            reading = asyncio.ensure_future(watch.read())
            for _ in range(
                3
            ):  # what is answered counts as a sign of life, and a watch that has nothing to say lives on
                await link.api.range(etcd.RangeRequest(key=b"pings"), timeout=10)
            assert not reading.done()
            proxy.freeze()
            with pytest.raises(grpc.aio.AioRpcError, match="it is silent") as caught:
                await asyncio.wait_for(reading, 30)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            await proxy.restore()
            await link.api.range(etcd.RangeRequest(key=b"pings"), timeout=10)
        finally:
            await link.aclose()
