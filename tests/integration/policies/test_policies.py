"""registry.v1.Policies: set, read, listed, watched, removed; on all replicas, after a restart, with flaws of others."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.rpc import error_details_pb2

from registry_api.registry.v1 import policies_pb2 as pb
from registry_api.registry.v1 import policies_pb2_grpc
from tests.conftest import ServerFactory
from tests.support.raw import CALL_S, RawClient, detail
from tests.support.registryctl import ctl
from tests.support.stores import Backends, backends
from tests.support.waiting import eventually_async

__all__ = ["backends"]

WAIT_S = 15.0
RETRY = pb.Retries(attempts=2)


class Policies:
    """registry.v1.Policies in few words."""

    def __init__(self, client: RawClient) -> None:
        self.stub: Any = policies_pb2_grpc.PoliciesStub(client.channel)

    async def put(self, service: str = "player", **fields: Any) -> pb.Policy:
        request = pb.PoliciesPutRequest(policy=pb.Policy(service=service, **fields))
        put: pb.PoliciesPutResponse = await self.stub.Put(request, timeout=CALL_S)
        return put.policy

    async def get(self, service: str = "player", namespace: str = "") -> pb.Policy:
        request = pb.PoliciesGetRequest(service=service, namespace=namespace)
        got: pb.PoliciesGetResponse = await self.stub.Get(request, timeout=CALL_S)
        return got.policy

    async def list(self, **fields: Any) -> pb.PoliciesListResponse:
        listed: pb.PoliciesListResponse = await self.stub.List(pb.PoliciesListRequest(**fields), timeout=CALL_S)
        return listed

    async def delete(self, service: str = "player", namespace: str = "") -> None:
        await self.stub.Delete(pb.PoliciesDeleteRequest(service=service, namespace=namespace), timeout=CALL_S)

    def watch(self, *services: str, namespace: str = "") -> "Told":
        return Told(self.stub.Watch(pb.PoliciesWatchRequest(services=services, namespace=namespace), timeout=60))


class Told:
    """What a Watch says, message by message."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def next(self) -> list[pb.Policy]:
        """The next whole set."""
        found: list[pb.Policy] = []
        while True:
            message = await self._call.read()
            found += message.policies
            if not message.more:
                return found

    async def names(self) -> list[str]:
        return [it.service for it in await self.next()]

    def cancel(self) -> None:
        self._call.cancel()


@pytest.fixture
async def client(server_factory: ServerFactory) -> AsyncIterator[RawClient]:
    async with await server_factory(name="registry").start_async() as server, RawClient(server.address) as connected:
        yield connected


async def test_a_policy_is_kept_whole_and_read_as_it_was_set(client: RawClient) -> None:
    policies = Policies(client)
    put = await policies.put(retries=RETRY, split=[pb.Part(version="2.0", weight=1), pb.Part(weight=9)])
    assert (list(put.retries.codes), put.namespace, put.flaw) == ([pb.Retries.UNAVAILABLE], "default", "")
    assert put.revision > 0
    assert await policies.get() == put
    other = await policies.put(balancing=pb.Policy.PICK_FIRST)
    assert other.revision > put.revision
    got = await policies.get()
    assert (got, got.HasField("retries"), len(got.split)) == (other, False, 0), "the one before is gone"
    await policies.delete()
    for method in (policies.get, policies.delete):
        with pytest.raises(grpc.aio.AioRpcError, match="no such policy: default/player") as error:
            await method()
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_what_is_no_policy_is_refused(client: RawClient) -> None:
    policies = Policies(client)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await policies.put(retries=pb.Retries(attempts=9))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error.value, error_details_pb2.BadRequest).field_violations[0].field == "policy.retries.attempts"
    for call, field in (
        (policies.stub.Put(pb.PoliciesPutRequest(), timeout=CALL_S), "policy: is required"),
        (policies.get(""), "service: is required"),
        (policies.delete("x", "/"), "namespace: "),
        (policies.list(namespace="x", all_namespaces=True), "namespace: must be empty"),
        (policies.list(page_token="//"), "page_token: "),
        (policies.stub.Explain(pb.PoliciesExplainRequest(service="a b"), timeout=CALL_S), "service: "),
        (policies.watch("a b").next(), "services: "),
        (policies.watch(*map(str, range(1_001))).next(), "services: must be at most 1000"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=field) as wrong:
            await call
        assert wrong.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_lists_have_pages_and_namespaces(client: RawClient) -> None:
    policies = Policies(client)
    for number in range(5):
        await policies.put(f"s{number}", namespace="games" if number % 2 else "")
    found, token = [], ""
    while True:
        page = await policies.list(page_size=2, page_token=token, all_namespaces=True)
        found += page.policies
        if not (token := page.next_page_token):
            break
    names = [(it.namespace, it.service) for it in found]
    assert names == [("default", "s0"), ("default", "s2"), ("default", "s4"), ("games", "s1"), ("games", "s3")]
    assert [it.service for it in (await policies.list(namespace="games", page_size=1)).policies] == ["s1"]
    assert [it.service for it in (await policies.list(namespace="games", page_token="s1")).policies] == ["s3"]


async def test_who_watches_is_told_of_what_it_asked_for_and_nothing_else(client: RawClient) -> None:
    policies = Policies(client)
    await policies.put("b")
    some, every = policies.watch("a", "b", "a"), policies.watch()
    assert await some.names() == await every.names() == ["b"]
    await policies.put("c")
    assert await every.names() == ["b", "c"]
    await policies.put("b", namespace="games")
    await policies.put("a", timeout={"seconds": 3})
    assert [(it.service, it.timeout.seconds) for it in await some.next()] == [("a", 3), ("b", 0)]
    assert await every.names() == ["a", "b", "c"]
    await policies.delete("b")
    assert await some.names() == ["a"]
    assert await every.names() == ["a", "c"]
    await client.register("one", service="a")  # which changes no policy
    await policies.delete("a")
    assert await some.names() == []
    for told in (some, every):
        told.cancel()


async def test_a_set_that_is_too_large_for_one_message_comes_in_parts(client: RawClient) -> None:
    policies = Policies(client)
    parts = [pb.Part(tag=f"{number:0>120}", weight=1) for number in range(16)]
    for number in range(100):
        await policies.put(f"s{number:02}", split=parts)
    told = policies.watch()
    assert await told.names() == [f"s{number:02}" for number in range(100)]
    told.cancel()


async def test_explain_tells_what_each_kind_of_client_follows(client: RawClient) -> None:
    policies = Policies(client)
    put = await policies.put(balancing=pb.Policy.LEAST_REQUEST)
    answer = await policies.stub.Explain(pb.PoliciesExplainRequest(service="player"), timeout=CALL_S)
    assert answer.policy == put
    told = {it.client: it.verdicts[0].follows for it in answer.explanations}
    assert (told["registry"], told["c-core"], told["envoy"]) == (pb.Verdict.WHOLLY, pb.Verdict.NOT, pb.Verdict.WHOLLY)
    with pytest.raises(grpc.aio.AioRpcError, match="no such policy: default/other"):
        await policies.stub.Explain(pb.PoliciesExplainRequest(service="other"), timeout=CALL_S)


# ---- several replicas, and what somebody else writes into their store


async def test_every_replica_tells_of_it_and_a_restart_forgets_nothing(
    server_factory: ServerFactory, backends: Backends
) -> None:
    url = backends.etcd_url()
    servers = [await server_factory(store=url, name=f"replica-{number}").start_async() for number in (1, 2)]
    async with RawClient(servers[0].address) as first, RawClient(servers[1].address) as second:
        told = Policies(second).watch("player")
        assert await told.names() == []
        put = await Policies(first).put(retries=RETRY)
        assert await told.next() == [put]
        told.cancel()
    for server in servers:
        await server.terminate_async()
    again = await server_factory(store=url, name="again").start_async()
    async with RawClient(again.address) as client:
        assert await Policies(client).get() == put


async def test_what_is_no_policy_in_the_store_is_not_followed(
    server_factory: ServerFactory, backends: Backends
) -> None:
    etcd, prefix = backends.etcd(), f"/by-hand-{uuid4().hex}"
    place = f"{prefix}/v1/settings/policy"
    server = await server_factory(store=etcd.url(prefix)).start_async()
    async with RawClient(server.address) as client:
        policies = Policies(client)
        for name in ("default/player/policy", "default/player/other", "def ault/player/policy"):
            await etcd.etcdctl_async("put", f"{place}/{name}", "hello")
        await eventually_async(lambda: server.log_text.count("is no policy, and not followed") == 3)
        wrong = await policies.get()
        assert wrong.flaw == "its value is not an encoded registry.v1.Policy"
        assert len((await policies.list(all_namespaces=True)).policies) == 1, "what has another name is none"
        answer = await policies.stub.Explain(pb.PoliciesExplainRequest(service="player"), timeout=CALL_S)
        assert (answer.policy.flaw, len(answer.explanations)) == (wrong.flaw, 0)
        explained = await ctl("--server", server.address, "policy", "explain", "player")
        assert f"the policy of default/player is not followed: {wrong.flaw}" in explained.stderr
        told = policies.watch("player")
        assert [it.flaw for it in await told.next()] == [wrong.flaw]
        put = await policies.put(retries=RETRY)
        assert await told.next() == [put]
        await etcd.etcdctl_async("del", f"{place}/default/player/policy")
        assert await told.names() == []
        told.cancel()
