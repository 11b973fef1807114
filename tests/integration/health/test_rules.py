"""Checks by service that an operator sets while everything runs: every replica follows, a restart forgets nothing."""

from collections.abc import AsyncIterator, Iterable
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.rpc import error_details_pb2

from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import registry_pb2_grpc
from registry_checks.text import parse
from tests.conftest import ServerFactory
from tests.support.probed import SICK, WebServer
from tests.support.raw import CALL_S, RawClient, Watching, detail
from tests.support.stores import Backends, backends
from tests.support.waiting import eventually_async, passed

__all__ = ["backends"]

FAST = "interval=0.1 timeout=0.1"
HERE: dict[str, Any] = {"host": "127.0.0.1"}
WITHIN_S = 1.0 + 4.0  # what is promised, and what a busy machine may take


class Rules:
    """registry.v1.Checks in few words. An empty namespace is `default`, "*" every one; an empty service every one."""

    def __init__(self, client: RawClient) -> None:
        self.stub: Any = registry_pb2_grpc.ChecksStub(client.channel)

    async def put(self, *checks: str, service: str = "player", namespace: str = "") -> pb.CheckRule:
        rule = pb.CheckRule(scope=scope(service, namespace), checks=map(parse, checks))
        put: pb.ChecksPutResponse = await self.stub.Put(pb.ChecksPutRequest(rule=rule), timeout=CALL_S)
        return put.rule

    async def get(self, service: str = "player", namespace: str = "") -> pb.CheckRule:
        request = pb.ChecksGetRequest(scope=scope(service, namespace))
        got: pb.ChecksGetResponse = await self.stub.Get(request, timeout=CALL_S)
        return got.rule

    async def list(self, **fields: Any) -> pb.ChecksListResponse:
        listed: pb.ChecksListResponse = await self.stub.List(pb.ChecksListRequest(**fields), timeout=CALL_S)
        return listed

    async def delete(self, service: str = "player", namespace: str = "") -> None:
        await self.stub.Delete(pb.ChecksDeleteRequest(scope=scope(service, namespace)), timeout=CALL_S)


def scope(service: str, namespace: str) -> pb.CheckScope:
    every = namespace == "*"
    return pb.CheckScope(service=service, namespace="" if every else namespace, all_namespaces=every)


def names_of(checks: Iterable[pb.HealthCheck]) -> list[str]:
    return [check.name for check in checks]


async def wait_for(
    watch: Watching,
    name: str,
    *checks: str,
    health: pb.Health.ValueType | None = None,
    timeout_s: float = WITHIN_S,
) -> pb.Instance:
    """The instance, once it has these checks, and that health."""

    def is_so() -> bool:
        it = watch.view.get(("player", name))
        return it is not None and names_of(it.checks) == list(checks) and health in (None, it.health)

    await watch.wait(is_so, f"{name} has {checks}", timeout_s=timeout_s)
    return watch.view["player", name]


@pytest.fixture
async def client(server_factory: ServerFactory) -> AsyncIterator[RawClient]:
    async with await server_factory(name="registry").start_async() as server, RawClient(server.address) as connected:
        yield connected


async def test_who_is_there_follows_and_who_has_its_own_does_not(client: RawClient) -> None:
    rules = Rules(client)
    async with WebServer().running() as web, client.watching() as watch:
        before = (await client.register("a", web.port, **HERE)).instance
        await client.register("own", web.port + 1, checks=[parse("ttl")], **HERE)
        rule = await rules.put(f"http:/healthz {FAST}")
        assert (rule.checks[0].failures, rule.revision > before.revision) == (3, True)
        it = await wait_for(watch, "a", "http", health=pb.HEALTHY)
        assert (it.checks_by_rule, it.generation) == (True, before.generation)
        web.says = SICK
        assert (await wait_for(watch, "a", "http", health=pb.UNHEALTHY)).check_results[0].failures >= 3
        await rules.put(f"tcp {FAST}", f"http:/healthz {FAST}")
        await wait_for(watch, "a", "tcp", "http", health=pb.UNHEALTHY)
        again = (await client.register("a", web.port, lease_id="", **HERE)).instance
        assert names_of(again.checks) == ["tcp", "http"]
        await rules.delete()
        it = await wait_for(watch, "a", health=pb.UNKNOWN)
        assert (it.checks_by_rule, list(it.check_results)) == (False, [])
        asked = len(web.asked)
        await passed(0.3)
        assert len(web.asked) <= asked + 1, "nobody looks any more"
        assert names_of(watch.view["player", "own"].checks) == ["ttl"]


async def test_the_nearest_rule_holds_and_one_without_checks_is_one(server_factory: ServerFactory) -> None:
    server = server_factory(args=["--service-checks", "*=ttl"])
    async with await server.start_async(), RawClient(server.address) as client, client.watching() as watch:
        rules = Rules(client)
        await client.register("a")
        await wait_for(watch, "a", "ttl")
        for number, (service, namespace) in enumerate((("", "*"), ("player", "*"), ("", ""), ("player", ""))):
            await rules.put(f"ttl name=n{number}", service=service, namespace=namespace)
            await wait_for(watch, "a", f"n{number}")
        assert [it.scope for it in (await rules.list()).rules] == [
            scope("", "*"), scope("player", "*"), scope("", "default"), scope("player", "default"),
        ]  # fmt: skip
        await rules.put()
        await wait_for(watch, "a")
        await rules.delete()
        await wait_for(watch, "a", "n2")
        for service, namespace, now in (("", "", "n1"), ("", "*", "n1"), ("player", "*", "ttl")):
            await rules.delete(service, namespace)
            await wait_for(watch, "a", now)


async def test_who_sends_back_what_it_was_answered_brings_no_checks(client: RawClient) -> None:
    rules = Rules(client)
    await rules.put("ttl")
    first = await client.register("a")
    await client.update("a", health=pb.UNHEALTHY)
    echoed = (await client.stub.Get(pb.GetRequest(key=pb.InstanceKey(service="player", id="a")))).instance
    async with client.watching() as watch:
        await rules.put("ttl name=other")
        await wait_for(watch, "a", "other")
        request = pb.RegisterRequest(instance=echoed, lease_id=first.lease_id)
        assert names_of((await client.stub.Register(request)).instance.checks) == ["other"]
        await rules.delete()
        await wait_for(watch, "a")
    it = (await client.stub.Register(request)).instance
    assert (names_of(it.checks), it.checks_by_rule, it.health) == ([], False, pb.UNKNOWN)


async def test_pages_and_names(client: RawClient) -> None:
    rules = Rules(client)
    for number in range(5):
        await rules.put("tcp", service=f"s{number}", namespace="*" if number % 2 else "games")
    found, token = [], ""
    while True:
        page = await rules.list(page_size=2, page_token=token)
        found += page.rules
        if not (token := page.next_page_token):
            break
    assert [(it.scope.namespace, it.scope.service) for it in found] == [
        ("", "s1"), ("", "s3"), ("games", "s0"), ("games", "s2"), ("games", "s4"),
    ]  # fmt: skip
    assert await rules.get("s1", "*") == found[0]


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (pb.CheckRule(checks=[pb.HealthCheck()]), "rule.checks[0].kind"),
        (pb.CheckRule(checks=[pb.HealthCheck(custom=pb.HealthCheck.Custom(type="x"))]), "rule.checks[0].custom.type"),
        (pb.CheckRule(scope=pb.CheckScope(service="a b")), "rule.scope.service"),
        (pb.CheckRule(scope=pb.CheckScope(namespace="/")), "rule.scope.namespace"),
        (pb.CheckRule(scope=pb.CheckScope(namespace="x", all_namespaces=True)), "rule.scope.namespace"),
        (pb.CheckRule(checks=[parse("tcp")] * 2), "rule.checks[1].name"),
        (None, "rule"),
    ],
)
async def test_what_is_no_rule_is_refused(client: RawClient, rule: pb.CheckRule | None, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await Rules(client).stub.Put(pb.ChecksPutRequest(rule=rule), timeout=CALL_S)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error.value, error_details_pb2.BadRequest).field_violations[0].field == field
    for method in (Rules(client).get, Rules(client).delete):
        with pytest.raises(grpc.aio.AioRpcError, match="no such rule: default/player"):
            await method()


async def test_who_runs_no_checks_takes_no_rules(server_factory: ServerFactory) -> None:
    server = server_factory(args=["--checks", "off"])
    async with await server.start_async(), RawClient(server.address) as client:
        with pytest.raises(grpc.aio.AioRpcError, match="runs no checks"):
            await Rules(client).put("tcp")


# ---- several replicas, and what somebody else writes into their store


async def test_every_replica_follows_and_a_restart_forgets_nothing(
    server_factory: ServerFactory, backends: Backends
) -> None:
    url = backends.etcd_url()
    servers = [await server_factory(store=url, name=f"replica-{number}").start_async() for number in (1, 2)]
    names = [f"{number}" for number in range(6)]
    async with RawClient(servers[0].address) as first, RawClient(servers[1].address) as second:
        async with second.watching() as watch:
            for number, name in enumerate(names):
                await first.register(name, 8001 + number, ttl_s=60)
            for client, check in ((first, "one"), (second, "other")):
                await Rules(client).put(f"ttl name={check} interval=600")
                for name in names:
                    await wait_for(watch, name, check)
            servers[0].kill()
            await Rules(second).put("ttl name=third interval=600")
            for name in names:  # also those that the other looked at, once it is known to be gone
                await wait_for(watch, name, "third", timeout_s=5.0 + WITHIN_S)
        await servers[1].terminate_async()
    again = await server_factory(store=url, name="again").start_async()
    async with RawClient(again.address) as client:
        assert names_of((await Rules(client).get()).checks) == ["third"]
        assert names_of((await client.register("late", 9001)).instance.checks) == ["third"]


async def test_what_is_no_rule_in_the_store_is_skipped(server_factory: ServerFactory, backends: Backends) -> None:
    etcd, prefix = backends.etcd(), f"/by-hand-{uuid4().hex}"
    settings = f"{prefix}/v1/settings/checks"
    server = await server_factory(store=etcd.url(prefix)).start_async()
    async with RawClient(server.address) as client, client.watching() as watch:
        rules = Rules(client)
        await client.register("a", ttl_s=60)
        await rules.put("ttl interval=600", service="", namespace="*")
        await wait_for(watch, "a", "ttl")
        for place in ("default/player/rule", "default/player/other", "def ault/player/rule", "-/-/x"):
            await etcd.etcdctl_async("put", f"{settings}/{place}", "hello")
        await eventually_async(lambda: server.log_text.count("is no rule, and skipped") == 4)
        wrong = await rules.get()
        assert (wrong.flaw, len(wrong.checks)) == ("its value is not an encoded registry.v1.CheckRule", 0)
        assert len((await rules.list()).rules) == 2, "what has the name of no rule is not one"
        assert names_of((await client.register("b", 8002)).instance.checks) == ["ttl"]
        assert names_of(watch.view["player", "a"].checks) == ["ttl"]
        await rules.put("ttl name=good interval=600")
        await wait_for(watch, "a", "good")
        await etcd.etcdctl_async("del", f"{settings}/default/player/rule")
        await wait_for(watch, "a", "ttl")
