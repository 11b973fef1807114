"""What shows many services shows those that its caller may read, in its numbers too."""

import asyncio
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from registry_api.registry.v1 import policies_pb2
from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.access.grants import Grant, Grants
from registry_server.model import Query
from registry_server.rights import UNRESTRICTED
from tests.support.access import Asked, asking, granted
from tests.support.raw import checksum
from tests.support.transports import TRANSPORTS

REGISTRY, POLICIES = "/registry.v1.Registry/", "/registry.v1.Policies/"
GRANTS = {
    "root": ["admin */*"],
    "some": ["read default/player", "read prod/ch*"],
    "same": ["read prod/ch*", "read default/player"],
}
THERE = [("default", "chat"), ("default", "player"), ("prod", "chat"), ("prod", "player"), ("test", "player")]
SHOWN = [("default", "player"), ("prod", "chat")]


async def fill(server: Asked) -> None:
    """Two instances, a rule and a policy of each service."""
    for namespace, service in THERE:
        for number in (1, 2):
            instance = pb.Instance(namespace=namespace, service=service, id=f"{number}", host="10.0.0.5", port=number)
            await server.ask(REGISTRY + "Register", pb.RegisterRequest(instance=instance), "root")
        rule = pb.CheckRule(scope=pb.CheckScope(namespace=namespace, service=service))
        await server.ask("/registry.v1.Checks/Put", pb.ChecksPutRequest(rule=rule), "root")
        policy = policies_pb2.Policy(namespace=namespace, service=service, balancing=policies_pb2.Policy.LEAST_REQUEST)
        await server.ask(POLICIES + "Put", policies_pb2.PoliciesPutRequest(policy=policy), "root")
    wide = pb.CheckRule(scope=pb.CheckScope(namespace="prod"))
    await server.ask("/registry.v1.Checks/Put", pb.ChecksPutRequest(rule=wide), "root")


def names(items: Any) -> list[tuple[str, str]]:
    return sorted({(it.namespace, it.service) for it in items})


async def whole(stream: Any) -> pb.WatchResponse:
    """What a Watch begins with."""
    found = pb.WatchResponse(more=True)
    while found.more:
        found.more = False
        found.MergeFrom(pb.WatchResponse.FromString(await asyncio.wait_for(stream.read(), 20)))
    return found


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_lists_show_what_may_be_read(transport: str) -> None:
    async with asking(transport, granted(GRANTS)) as server:
        await fill(server)
        listed = pb.ListResponse.FromString(
            await server.ask(REGISTRY + "List", pb.ListRequest(all_namespaces=True), "some")
        )
        assert names(listed.instances) == SHOWN
        assert len(listed.instances) == 4
        assert listed.checksum == checksum(listed.instances)
        pages, token = [], ""
        while True:
            request = pb.ListRequest(all_namespaces=True, page_size=1, page_token=token)
            page = pb.ListResponse.FromString(await server.ask(REGISTRY + "List", request, "some"))
            pages += page.instances
            if not (token := page.next_page_token):
                break
        assert [str(it) for it in pages] == [str(it) for it in listed.instances]

        services = pb.ListServicesResponse.FromString(
            await server.ask(REGISTRY + "ListServices", pb.ListServicesRequest(all_namespaces=True), "some")
        )
        assert [(it.namespace, it.service, it.instances) for it in services.services] == [(*it, 2) for it in SHOWN]
        spaces = pb.ListNamespacesResponse.FromString(
            await server.ask(REGISTRY + "ListNamespaces", pb.ListNamespacesRequest(), "some")
        )
        assert [(it.namespace, it.services, it.instances) for it in spaces.namespaces] == [
            ("default", 1, 2),
            ("prod", 1, 2),
        ]

        health = health_pb2.HealthListResponse.FromString(
            await server.ask("/grpc.health.v1.Health/List", health_pb2.HealthListRequest(), "some")
        )
        assert sorted(health.statuses) == ["", "player", "prod/chat", "registry.v1.Registry"]
        nobody = health_pb2.HealthListResponse.FromString(
            await server.ask("/grpc.health.v1.Health/List", health_pb2.HealthListRequest())
        )
        assert sorted(nobody.statuses) == ["", "registry.v1.Registry"]

        rules = pb.ChecksListResponse.FromString(
            await server.ask("/registry.v1.Checks/List", pb.ChecksListRequest(), "some")
        )
        assert names(it.scope for it in rules.rules) == SHOWN
        policies = policies_pb2.PoliciesListResponse.FromString(
            await server.ask(POLICIES + "List", policies_pb2.PoliciesListRequest(all_namespaces=True), "some")
        )
        assert names(policies.policies) == SHOWN
        watch = server.stream(POLICIES + "Watch", policies_pb2.PoliciesWatchRequest(namespace="prod"), "some")
        assert names(policies_pb2.PoliciesWatchResponse.FromString(await watch.read()).policies) == [("prod", "chat")]
        watch.cancel()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_token_of_a_larger_set_resumes_nothing(transport: str) -> None:
    async with asking(transport, granted(GRANTS)) as server:
        await fill(server)
        for request in (pb.WatchRequest(), pb.WatchRequest(all_namespaces=True)):
            all_ = server.stream(REGISTRY + "Watch", request, "root")
            request.resume_token = (await whole(all_)).resume_token
            some = server.stream(REGISTRY + "Watch", request, "some")
            answer = await whole(some)
            assert answer.reset
            assert set(names(answer.upserts)) < set(THERE)
            assert set(names(answer.upserts)) <= set(SHOWN)
            request.resume_token = answer.resume_token
            again = server.stream(REGISTRY + "Watch", request, "same")
            resumed = await whole(again)
            assert not resumed.reset, "the same rights see the same set"
            assert not resumed.upserts
            for stream in (all_, some, again):
                stream.cancel()


def test_who_has_the_same_rights_shares_a_question() -> None:
    one, same, other = (
        Grants(map(Grant.parse, it)) for it in (["read a/b", "read c/*"], ["read c/*", "read a/b"], ["read a/b"])
    )
    query = Query.of("a")
    assert query.within(one) == query.within(same) != query.within(other)
    assert query.within(one).fingerprint == query.fingerprint
    assert not query.within(one).takes_all
    assert query.within(UNRESTRICTED) is query
    assert Query.of("a", ["b"]).within(other).takes_all, "nothing is left out of what it may read"
    assert Query.of("c").within(one).takes_all
