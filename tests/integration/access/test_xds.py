"""xDS clients are shown what they may read, and no more: by name, and by the wildcard."""

from typing import Any

import grpc
import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.xds.v1 import ads_pb2
from tests.support.access import Asked, asking, granted
from tests.support.transports import TRANSPORTS

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
CLUSTERS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
LISTENERS = "type.googleapis.com/envoy.config.listener.v3.Listener"


async def answer(server: Asked, who: str, type_url: str, *names: str, agent: str = "gRPC C-core") -> Any:
    """The first answer to a subscription."""
    node = ads_pb2.Node(id="test", user_agent_name=agent)
    asked = ads_pb2.DiscoveryRequest(type_url=type_url, resource_names=names, node=node)
    stream = server.talk(ADS, who, [asked.SerializeToString()])
    told = await stream.read()
    stream.cancel()
    return ads_pb2.DiscoveryResponse.FromString(told)


def told_of(response: Any) -> list[str]:
    """Which of both services it tells."""
    return [name for name in ("player", "secret") if any(name.encode() in it.value for it in response.resources)]


async def register(server: Asked, service: str, port: int) -> None:
    instance = pb.Instance(service=service, id="one", host="10.0.0.5", port=port)
    await server.ask("/registry.v1.Registry/Register", pb.RegisterRequest(instance=instance), "root")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_xds_client_is_shown_what_it_may_read(transport: str) -> None:
    async with asking(transport, granted()) as server:
        await register(server, "player", 8001)
        await register(server, "secret", 8002)
        for type_url in (LISTENERS, CLUSTERS):
            assert told_of(await answer(server, "root", type_url, "player", "secret")) == ["player", "secret"]
            some = await answer(server, "reader", type_url, "player", "secret")
            assert told_of(some) == ["player"]
            assert [it.resource_name.name for it in some.resource_errors] == ["secret"]
        assert told_of(await answer(server, "root", CLUSTERS, agent="envoy")) == ["player", "secret"]
        assert told_of(await answer(server, "reader", CLUSTERS, agent="envoy")) == ["player"]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("who", ["", "nothing", "stranger"])
async def test_who_may_read_nothing_has_no_stream(transport: str, who: str) -> None:
    async with asking(transport, granted()) as server:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await answer(server, who, CLUSTERS, "player")
        refused = grpc.StatusCode.PERMISSION_DENIED if who == "nothing" else grpc.StatusCode.UNAUTHENTICATED
        assert error.value.code() is refused
