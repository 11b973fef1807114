"""Which client a link to etcd speaks by."""

import sys

import grpc.aio
import pytest

from registry_server.stores import etcd
from registry_server.stores.etcd.http2 import Http2Channel
from registry_server.stores.etcd.link import channel_to
from registry_server.stores.etcd.url import EtcdURL


async def kind(url: str) -> type:
    channel = channel_to("127.0.0.1:1", EtcdURL.parse(url))
    await channel.close()
    return grpc.aio.Channel if isinstance(channel, grpc.aio.Channel) else type(channel)


async def test_the_cheap_one_unless_another_is_asked_for() -> None:
    assert await kind("etcd://127.0.0.1:1") is Http2Channel
    assert await kind("etcd://127.0.0.1:1?client=http2") is Http2Channel
    assert await kind("etcd://127.0.0.1:1?client=grpc") is grpc.aio.Channel


async def test_grpcio_where_ngh2_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(etcd, "http2")
    monkeypatch.setitem(sys.modules, "registry_server.stores.etcd.http2", None)
    assert await kind("etcd://127.0.0.1:1") is grpc.aio.Channel
