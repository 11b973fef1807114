"""A real server and what it tells operators of its xDS clients; hosts that are names; a policy that comes and goes."""

import json
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from registry_api.registry.v1 import policies_pb2 as policies
from registry_api.registry.v1 import policies_pb2_grpc, registry_pb2_grpc, xds_pb2_grpc
from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import xds_pb2 as xds
from registry_server.xds.described import ADS_NAME, LOADS_NAME
from tests.support.ads import DELTA, SOTW, world_of
from tests.support.grpcurl import grpcurl_path
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async
from tests.support.xds_messages import EDS, node

WHO = "/test.Who/Who"


@pytest.fixture
def server(tmp_path: Path) -> Any:
    with RegistryServer(tmp_path) as server:
        yield server
    assert "Traceback" not in server.log_text


@asynccontextmanager
async def back_end(name: str) -> AsyncIterator[int]:
    """A gRPC server that says its name; gives its port."""

    async def who(request: bytes, context: object) -> bytes:
        return name.encode()

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(who)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", {"Who": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def xds_channel(server: RegistryServer, service: str) -> grpc.aio.Channel:
    """gRPC's own way to a service."""
    bootstrap = {
        "xds_servers": [{"server_uri": server.address, "channel_creds": [{"type": "insecure"}]}],
        "node": {"id": f"caller of {service}", "locality": {"region": "eu"}},
    }
    option = ("grpc.TEST_ONLY_DO_NOT_USE_IN_PROD.xds_bootstrap_config", json.dumps(bootstrap))
    return grpc.aio.insecure_channel(f"xds:///{service}", options=[option])


async def test_operators_see_who_is_connected_and_what_is_called(server: RegistryServer) -> None:
    async with back_end("a") as port, grpc.aio.insecure_channel(server.address) as plain:
        registry, operator = registry_pb2_grpc.RegistryStub(plain), xds_pb2_grpc.XdsStub(plain)
        instance = pb.Instance(service="player", host="localhost", port=port)
        await registry.Register(pb.RegisterRequest(instance=instance))
        async with xds_channel(server, "player") as channel:
            call: Any = channel.unary_unary(WHO)
            assert [await call(b"", wait_for_ready=True, timeout=20) for _ in range(10)] == [b"a"] * 10
            (client,) = (await operator.ListClients(xds.ListClientsRequest())).clients
            assert (client.node_id, client.kind, client.locality.region) == ("caller of player", "c-core", "eu")
            (stream,) = client.streams
            told = {it.type: list(it.names) for it in stream.subscriptions}
            assert told == {type_: ["player"] for type_ in range(1, 5)}
            assert all(it.sent_version == it.accepted_version != "" for it in stream.subscriptions)

            async def is_reported() -> bool:
                loads = (await operator.ListLoads(xds.ListLoadsRequest(service="player"))).loads
                return [(it.service, it.calls, it.successes, it.clients) for it in loads] == [("player", 10, 10, 1)]

            await eventually_async(is_reported, timeout_s=30)


async def test_the_first_call_finds_an_instance_whose_host_is_a_name(server: RegistryServer) -> None:
    """It does not wait until it can be made: it fails where a service seems to have no endpoint."""
    async with back_end("a") as port, grpc.aio.insecure_channel(server.address) as plain:
        registry = registry_pb2_grpc.RegistryStub(plain)
        for number in range(5):
            instance = pb.Instance(service=f"player-{number}", host="localhost", port=port)
            await registry.Register(pb.RegisterRequest(instance=instance))
            async with xds_channel(server, f"player-{number}") as channel:
                call: Any = channel.unary_unary(WHO)
                assert await call(b"", timeout=20) == b"a"


async def test_a_rejection_is_shown_in_the_clients_words(server: RegistryServer) -> None:
    async with world_of(server.address, iter(range(10))) as world, world.open(SOTW) as stream:
        await stream.want(EDS, "player")
        await stream.nack(await stream.next(EDS), "too green")
        operator = xds_pb2_grpc.XdsStub(world.channel)

        async def is_shown() -> bool:
            clients = (await operator.ListClients(xds.ListClientsRequest())).clients
            found = [it.rejection for client in clients for open_ in client.streams for it in open_.subscriptions]
            return [(it.reason, bool(it.version), it.HasField("at")) for it in found] == [("too green", True, True)]

        await eventually_async(is_shown)


async def test_clients_come_in_pages(server: RegistryServer) -> None:
    async with world_of(server.address, iter(range(10))) as world, world.open(SOTW) as one, world.open(DELTA) as two:
        for stream, name in ((one, "b"), (two, "a")):
            await stream.send(type_url=EDS, node=node("gRPC Go", name))
        operator = xds_pb2_grpc.XdsStub(world.channel)

        async def are_there() -> bool:
            return len((await operator.ListClients(xds.ListClientsRequest())).clients) == 2

        await eventually_async(are_there)
        first = await operator.ListClients(xds.ListClientsRequest(page_size=1))
        second = await operator.ListClients(xds.ListClientsRequest(page_size=1, page_token=first.next_page_token))
        found = [(it.node_id, it.streams[0].incremental) for page in (first, second) for it in page.clients]
        assert (found, second.next_page_token) == ([("a", True), ("b", False)], "")
        with pytest.raises(grpc.aio.AioRpcError) as wrong:
            await operator.ListClients(xds.ListClientsRequest(page_token="what?"))
        assert wrong.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_split_comes_and_goes_without_a_failed_call(server: RegistryServer) -> None:
    async with back_end("old") as old, back_end("new") as new, grpc.aio.insecure_channel(server.address) as plain:
        registry, policy = registry_pb2_grpc.RegistryStub(plain), policies_pb2_grpc.PoliciesStub(plain)
        for id_, port in (("old", old), ("new", new)):
            instance = pb.Instance(service="player", id=id_, host="127.0.0.1", port=port, version=id_)
            await registry.Register(pb.RegisterRequest(instance=instance))
        async with xds_channel(server, "player") as channel:
            call: Any = channel.unary_unary(WHO)
            await call(b"", wait_for_ready=True, timeout=20)

            async def shares(want_old: float, want_new: float) -> bool:
                found = Counter([await call(b"", timeout=20) for _ in range(200)])
                return abs(found[b"old"] / 200 - want_old) < 0.15 and abs(found[b"new"] / 200 - want_new) < 0.15

            assert await shares(0.5, 0.5)
            parts = [policies.Part(version="old", weight=100), policies.Part(version="new", weight=0)]
            await policy.Put(policies.PoliciesPutRequest(policy=policies.Policy(service="player", split=parts)))
            await eventually_async(lambda: shares(1.0, 0.0), timeout_s=30)
            parts[0].weight, parts[1].weight = 0, 100
            await policy.Put(policies.PoliciesPutRequest(policy=policies.Policy(service="player", split=parts)))
            await eventually_async(lambda: shares(0.0, 1.0), timeout_s=30)
            await policy.Delete(policies.PoliciesDeleteRequest(service="player"))
            await eventually_async(lambda: shares(0.5, 0.5), timeout_s=30)


def test_grpcurl_sees_what_is_spoken(server: RegistryServer) -> None:
    def said(*words: str) -> str:
        command = [grpcurl_path(), "-plaintext", server.address, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

    assert {ADS_NAME, LOADS_NAME} <= set(said("list").split())
    assert "DeltaAggregatedResources ( stream .registry.xds.v1.DeltaDiscoveryRequest )" in said("describe", ADS_NAME)
    assert "message DiscoveryRequest" in said("describe", "registry.xds.v1.DiscoveryRequest")
    assert LOADS_NAME in said("describe")
