"""TLS towards the registry: with the right authority, with a wrong one, and without any."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import trustme

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import registry_pb2_grpc
from registry_client import Instance, RegistryUnavailable
from registry_client.link import speaks_tls
from tests.integration.client.test_registering import nobody_there
from tests.support.fake_registry import FakeRegistry, serving


class Registry(registry_pb2_grpc.RegistryServicer):
    """Answers one question, behind TLS."""

    async def ListServices(
        self,
        request: pb.ListServicesRequest,
        context: grpc.aio.ServicerContext[pb.ListServicesRequest, pb.ListServicesResponse],
    ) -> pb.ListServicesResponse:
        return pb.ListServicesResponse(services=[pb.ServiceSummary(namespace="default", service="player", instances=1)])


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def address(authority: trustme.CA) -> AsyncIterator[str]:
    cert = authority.issue_cert("127.0.0.1", "localhost")
    pair = (cert.private_key_pem.bytes(), cert.cert_chain_pems[0].bytes())
    server = grpc.aio.server()
    registry_pb2_grpc.add_RegistryServicer_to_server(Registry(), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    yield f"localhost:{port}"
    await server.stop(None)


def trusting(authority: trustme.CA) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(authority.cert_pem.bytes())


async def test_the_right_authority_is_trusted(address: str, authority: trustme.CA) -> None:
    async with registry_client.connect(address, credentials=trusting(authority)) as registry:
        assert [it.service for it in await registry.services()] == ["player"]


async def test_a_tls_port_that_is_called_without_tls_is_named(address: str) -> None:
    for _ in range(2):
        async with registry_client.connect(address, cache_dir=None, timeout=1.0) as registry:
            with pytest.raises(RegistryUnavailable, match=f"list services: {address}: speaks TLS: connect with cred"):
                await registry.services()
            registration = registry.register(Instance("player", "10.0.0.5", 8001), timeout=1.0)
            with pytest.raises(RegistryUnavailable, match="speaks TLS: connect with credentials") as caught:
                await registration
            assert "\n" not in str(caught.value)


async def test_a_port_without_tls_that_is_called_with_it_is_named(authority: trustme.CA) -> None:
    async with (
        serving(FakeRegistry()) as address,
        registry_client.connect(address, credentials=trusting(authority), cache_dir=None, timeout=1.0) as registry,
    ):
        with pytest.raises(RegistryUnavailable, match="speaks no TLS: connect without credentials") as caught:
            await registry.services()
        assert "\n" not in str(caught.value)


async def test_a_certificate_that_is_not_trusted_is_named(address: str) -> None:
    stranger, numeric = trusting(trustme.CA()), address.replace("localhost", "127.0.0.1")
    async with registry_client.connect(numeric, credentials=stranger, cache_dir=None, timeout=1.0) as registry:
        with pytest.raises(RegistryUnavailable, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await registry.services()
        assert "\n" not in str(caught.value)


async def test_whether_a_port_speaks_tls(address: str) -> None:
    assert await speaks_tls(address) is True
    async with serving(FakeRegistry()) as plain:
        assert not await speaks_tls(plain)
    assert await speaks_tls(nobody_there()) is None


async def test_others_are_not(address: str) -> None:
    for credentials in (trusting(trustme.CA()), None):
        async with registry_client.connect(address, credentials=credentials, timeout=0.5) as registry:
            with pytest.raises(RegistryUnavailable):
                await registry.services()
