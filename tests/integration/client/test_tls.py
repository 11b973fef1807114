"""TLS towards the registry: with the right authority, with a wrong one, and without any."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import trustme

import registry_client
from protos.registry.v1 import registry_pb2 as pb
from protos.registry.v1 import registry_pb2_grpc
from registry_client import RegistryUnavailable


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


async def test_others_are_not(address: str) -> None:
    for credentials in (trusting(trustme.CA()), None):
        async with registry_client.connect(address, credentials=credentials, timeout=0.5) as registry:
            with pytest.raises(RegistryUnavailable):
                await registry.services()
