"""xDS over TLS, with a certificate of the client's own, by the bootstraps that are printed for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import grpc
import grpc.aio
import pytest

import registry_client
from registry_client import TLS, xds
from tests.integration.xds.stage import BACKEND, SERVICE, back_ends
from tests.support.building import NotBuilt
from tests.support.servers import RegistryServer
from tests.support.tls import LOCAL, Authority
from tests.support.xds_clients import client

# Node.js has no TLS towards xDS servers, Java's goes by the JVM's own trust store and shows no certificate, and that of
# tonic-xds is an option that the program here is built without.
KINDS = ("python", "go", "envoy", "envoy-sotw")


class Secure(NamedTuple):
    """A registry that wants certificates, and the files of a client that has one."""

    server: RegistryServer
    ca: str
    cert: str
    key: str

    @property
    def tls(self) -> TLS:
        return TLS(self.ca, self.cert, self.key)


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Secure]:
    authority = Authority()
    ca = str(authority.write(tmp_path))
    own = authority.pair(*LOCAL).write(tmp_path)
    its = authority.pair("spiffe://game.example/client").write(tmp_path, "client")
    flags = ("--tls-cert", str(own.cert), "--tls-key", str(own.key), "--tls-client-ca", ca)
    async with RegistryServer(tmp_path, args=flags) as server:
        secure = Secure(server, ca, str(its.cert), str(its.key))
        async with (
            registry_client.connect(server.address, tls=secure.tls, cache_dir=None) as registry,
            back_ends(registry, a=100),
        ):
            yield secure


@pytest.mark.timeout(1800)  # the first time the clients are built
async def test_printed(secure: Secure, tmp_path: Path) -> None:
    options = ("--tls-ca", secure.ca, "--tls-cert", secure.cert, "--tls-key", secure.key)
    missing: list[NotBuilt] = []

    async def called(kind: str) -> None:
        try:
            async with client(kind, secure.server.address, SERVICE, tmp_path, *options) as it:
                came = await it.wait()
                assert set(came.answers) == {"a"}, (kind, came, it.log_text)
        except NotBuilt as error:
            missing.append(error)

    await asyncio.gather(*map(called, KINDS))
    if missing:
        pytest.skip(f"without {', '.join(map(str, missing))}")


async def test_in_python(secure: Secure) -> None:
    async with xds.aio.channel(SERVICE, registry=secure.server.address, registry_tls=secure.tls) as channel:
        who = channel.unary_unary(f"/{BACKEND}/Who", None, lambda message: message[2:])
        assert await who(b"", timeout=15) == b"a"


@pytest.mark.parametrize("with_tls", [True, False])
async def test_without_a_certificate(with_tls: bool, secure: Secure) -> None:
    """No call gets through, and the error says where it was that nobody let it in."""
    tls = TLS(secure.ca) if with_tls else None
    async with xds.aio.channel(SERVICE, registry=secure.server.address, registry_tls=tls) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary(f"/{BACKEND}/Who")(b"", timeout=15)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert str(secure.server.port) in (failed.value.details() or "")
