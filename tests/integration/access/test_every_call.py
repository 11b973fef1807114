"""Every call that the server answers, by everybody: who may, and what the others are told. What each needs is written
here once more, by hand."""

import asyncio
import dataclasses
import re
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2

from registry_api.registry.v1 import access_pb2, history_pb2, policies_pb2, why_pb2, xds_pb2
from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import server as server_room
from registry_server.access.grants import Grant, Grants
from registry_server.access.identities import NO_ACCESS, Identity, Token
from registry_server.audit.wrapper import is_write
from registry_server.rpc.table import Table
from tests.support.access import IDENTITIES, Asked, asking, granted, token
from tests.support.source import ROOT
from tests.support.transports import TRANSPORTS

EVERYBODY = ("", *IDENTITIES)
# Who has which right to default/player.
READERS = ("reader", "owner", "neighbour", "operator", "admin", "root")
WRITERS = READERS[1:]
OPERATORS = ("operator", "admin", "root")
ADMINS = ("admin", "root")
KNOWN = tuple(IDENTITIES)
# Who has it to anything.
READ_SOME = (*READERS, "elsewhere")
WRITE_SOME = (*WRITERS, "elsewhere")

KEY = pb.InstanceKey(service="player", id="one")
SCOPE = pb.CheckScope(service="player")
ALL = (Grant.parse("admin */*"),)


class Call(NamedTuple):
    """One call: its path, its request, who may, and how it goes: by one answer, or by the first of a stream."""

    path: str
    request: Any
    may: tuple[str, ...]
    kind: str = "unary"

    def __str__(self) -> str:
        return self.path.rpartition(".")[2]


def changed(id_: str = "one") -> pb.UpdateRequest:
    return pb.UpdateRequest(
        instance=pb.Instance(service="player", id=id_, weight=7), update_mask=FieldMask(paths=["weight"])
    )


def new(id_: str, port: int) -> pb.RegisterRequest:
    return pb.RegisterRequest(instance=pb.Instance(service="player", id=id_, host="10.0.0.5", port=port))


REGISTRY, CHECKS, POLICIES = "/registry.v1.Registry/", "/registry.v1.Checks/", "/registry.v1.Policies/"
HEALTH, CHANNELZ = "/grpc.health.v1.Health/", "/grpc.channelz.v1.Channelz/"
HISTORY, EVENTS = "/registry.v1.History/", history_pb2.EventFilter(service="player")
POLICY = policies_pb2.Policy(service="player", balancing=policies_pb2.Policy.LEAST_REQUEST)
CALLS = [
    Call(REGISTRY + "Register", new("fresh", 9000), WRITERS),
    # An id, and an address, that "owner" has.
    Call(REGISTRY + "Register", new("one", 9001), ("owner", *OPERATORS)),
    Call(REGISTRY + "Register", new("other", 8001), ("owner", *OPERATORS)),
    Call(REGISTRY + "Update", changed(), ("owner", *OPERATORS)),
    Call(REGISTRY + "Deregister", pb.DeregisterRequest(key=KEY), ("owner", *OPERATORS)),
    Call(REGISTRY + "Deregister", pb.DeregisterRequest(key=KEY, drain={"seconds": 5}), ("owner", *OPERATORS)),
    Call(REGISTRY + "KeepAlive", pb.KeepAliveRequest(lease_ids=["x"]), WRITE_SOME, "talk"),
    Call(REGISTRY + "Get", pb.GetRequest(key=KEY), READERS),
    Call(REGISTRY + "List", pb.ListRequest(service="player"), READERS),
    Call(REGISTRY + "List", pb.ListRequest(), READ_SOME),
    Call(REGISTRY + "List", pb.ListRequest(all_namespaces=True), READ_SOME),
    Call(REGISTRY + "ListServices", pb.ListServicesRequest(), READ_SOME),
    Call(REGISTRY + "ListNamespaces", pb.ListNamespacesRequest(), READ_SOME),
    Call(REGISTRY + "Watch", pb.WatchRequest(services=["player"]), READERS, "stream"),
    Call(REGISTRY + "Watch", pb.WatchRequest(services=["player", "chat"]), ("root",), "stream"),
    Call(REGISTRY + "Watch", pb.WatchRequest(), READ_SOME, "stream"),
    Call(REGISTRY + "Watch", pb.WatchRequest(all_namespaces=True), READ_SOME, "stream"),
    Call(CHECKS + "Put", pb.ChecksPutRequest(rule=pb.CheckRule(scope=SCOPE)), ADMINS),
    Call(CHECKS + "Put", pb.ChecksPutRequest(rule=pb.CheckRule(scope=pb.CheckScope())), ("root",)),
    Call(CHECKS + "Get", pb.ChecksGetRequest(scope=SCOPE), READERS),
    Call(CHECKS + "List", pb.ChecksListRequest(), READ_SOME),
    Call(CHECKS + "Delete", pb.ChecksDeleteRequest(scope=SCOPE), ADMINS),
    Call(POLICIES + "Put", policies_pb2.PoliciesPutRequest(policy=POLICY), ADMINS),
    Call(POLICIES + "Get", policies_pb2.PoliciesGetRequest(service="player"), READERS),
    Call(POLICIES + "List", policies_pb2.PoliciesListRequest(all_namespaces=True), READ_SOME),
    Call(POLICIES + "Watch", policies_pb2.PoliciesWatchRequest(services=["player"]), READERS, "stream"),
    Call(POLICIES + "Watch", policies_pb2.PoliciesWatchRequest(), READ_SOME, "stream"),
    Call(POLICIES + "Explain", policies_pb2.PoliciesExplainRequest(service="player"), READERS),
    Call(HISTORY + "List", history_pb2.HistoryListRequest(filter=EVENTS), READERS),
    Call(HISTORY + "List", history_pb2.HistoryListRequest(), READ_SOME),
    Call(HISTORY + "Watch", history_pb2.HistoryWatchRequest(filter=EVENTS), READERS, "stream"),
    Call(HISTORY + "Watch", history_pb2.HistoryWatchRequest(), READ_SOME, "stream"),
    Call(POLICIES + "Delete", policies_pb2.PoliciesDeleteRequest(service="player"), ADMINS),
    Call("/registry.v1.Xds/ListClients", xds_pb2.ListClientsRequest(), ("root",)),
    Call("/registry.v1.Xds/ListLoads", xds_pb2.ListLoadsRequest(), READ_SOME),
    Call("/registry.v1.Diagnosis/Why", why_pb2.WhyRequest(service="player"), READERS),
    Call("/registry.v1.Diagnosis/Why", why_pb2.WhyRequest(service="player", id="one"), READERS),
    Call("/registry.v1.Access/WhoAmI", access_pb2.WhoAmIRequest(), EVERYBODY),
    Call(HEALTH + "Check", health_pb2.HealthCheckRequest(), EVERYBODY),
    Call(HEALTH + "Check", health_pb2.HealthCheckRequest(service="player"), READERS),
    Call(HEALTH + "Watch", health_pb2.HealthCheckRequest(), EVERYBODY, "stream"),
    Call(HEALTH + "Watch", health_pb2.HealthCheckRequest(service="player"), READERS, "stream"),
    Call(HEALTH + "List", health_pb2.HealthListRequest(), EVERYBODY),
]


async def outcome(server: Asked, call: Call, who: str) -> grpc.StatusCode:
    try:
        if call.kind == "unary":
            await server.ask(call.path, call.request, who)
            return grpc.StatusCode.OK
        if call.kind == "stream":
            stream = server.stream(call.path, call.request, who)
        else:
            stream = server.talk(call.path, who, [call.request.SerializeToString()])
        await stream.read()
        stream.cancel()
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def prepared(server: Asked) -> None:
    """What the calls are about: an instance of "owner" and no other, a rule, a policy."""
    listed = pb.ListResponse.FromString(await server.ask(REGISTRY + "List", pb.ListRequest(service="player"), "root"))
    for it in listed.instances:
        key = pb.InstanceKey(service="player", id=it.id)
        await server.ask(REGISTRY + "Deregister", pb.DeregisterRequest(key=key), "root")
    await server.ask(REGISTRY + "Register", new("one", 8001), "owner")
    for path, request in (
        (CHECKS + "Put", pb.ChecksPutRequest(rule=pb.CheckRule(scope=SCOPE))),
        (POLICIES + "Put", policies_pb2.PoliciesPutRequest(policy=POLICY)),
    ):
        await server.ask(path, request, "root")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_may_may_and_nobody_else(transport: str) -> None:
    wrong = []
    async with asking(transport, granted()) as server:
        for call in CALLS:
            for who in EVERYBODY:
                await prepared(server)
                code = await outcome(server, call, who)
                expected = grpc.StatusCode.PERMISSION_DENIED if who else grpc.StatusCode.UNAUTHENTICATED
                if code is not (grpc.StatusCode.OK if who in call.may else expected):
                    wrong.append(f"{call} by {who or 'nobody'}: {code.name}")
    assert wrong == []


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_token_that_is_not_good_is_refused_whatever_is_asked(transport: str) -> None:
    """Also of what anybody may ask who shows nothing."""
    expired = Identity("expired", (Token.of(token("expired"))._replace(expires_s=1.0),), (), Grants(ALL))
    access = granted()
    async with asking(transport, dataclasses.replace(access, identities=(*access.identities, expired))) as server:
        codes = {(who, await outcome(server, call, who)) for who in ("stranger", "expired") for call in CALLS}
    assert codes == {(who, grpc.StatusCode.UNAUTHENTICATED) for who in ("stranger", "expired")}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_nobody_is_asked_without_a_table_of_access(transport: str) -> None:
    async with asking(transport, NO_ACCESS) as server:
        for call in CALLS:
            await prepared(server)
            assert await outcome(server, call, "stranger") is grpc.StatusCode.OK, str(call)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_shows_nothing_may_do_what_anybody_may(transport: str) -> None:
    async with asking(transport, granted(anonymous=["read */play*"])) as server:
        for call in CALLS:
            await prepared(server)
            may = "reader" in call.may
            assert await outcome(server, call, "") is getattr(grpc.StatusCode, "OK" if may else "UNAUTHENTICATED")
            assert await outcome(server, call, "stranger") is grpc.StatusCode.UNAUTHENTICATED


# ---- the manual


def table(transport: str, monkeypatch: pytest.MonkeyPatch) -> Table:
    """That of a whole server, with nothing around it."""
    found: list[Table] = []
    monkeypatch.setattr(server_room._Entrance, "guarded", lambda _, given: found.append(given) or given)

    async def make() -> None:
        async with asking(transport, granted(), introspection="on"):
            pass

    asyncio.run(make())
    return found[0]


PROTOS = [*(ROOT / "protos/registry/v1").glob("*.proto")]
_RPC = re.compile(r"((?:  //.*\n)*)  rpc (\w+)\(")
_SERVICE = re.compile(r"^service (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_NEEDS = re.compile(r"// Needs: (\w+)(, to some|, to the services; without them, to some|)")


def manual() -> dict[str, str]:
    """What the .proto files say that each call needs, by path: the first word."""
    said = {}
    for path in PROTOS:
        for service, body in _SERVICE.findall(path.read_text()):
            for comment, rpc in _RPC.findall(body):
                ((need, _),) = _NEEDS.findall(comment) or [("?", "")]
                said[f"/registry.v1.{service}/{rpc}"] = need
    return said


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_manual_says_what_each_call_needs(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = table(transport, monkeypatch).methods
    ours = {path: method.needs.right or "nothing" for path, method in methods.items() if "/registry.v1" in path}
    said = manual()
    assert len(said) > 20
    assert {path: said.get(path) for path in ours} == ours


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_call_is_tried_here(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for those that have tests of their own: test_streams.py, test_introspection.py."""
    elsewhere = ("/envoy.", "/grpc.reflection.", "/grpc.channelz.")
    paths = {it for it in table(transport, monkeypatch).methods if not it.startswith(elsewhere)}
    assert paths == {call.path for call in CALLS}


# What needs more than `read` and changes nothing that lasts.
NO_WRITES = {"/registry.v1.Registry/KeepAlive", "/registry.v1.Xds/ListClients"}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_write_is_in_the_audit_log(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is new has to be looked at: either it is written down, or it stands above."""
    methods = table(transport, monkeypatch).methods
    strong = {path for path, it in methods.items() if it.needs.right not in (None, "read")}
    assert {it for it in strong if not is_write(it.rpartition("/")[2], methods[it])} == NO_WRITES


async def test_who_shows_two_different_tokens_is_nobody(transport: str) -> None:
    """By whichever of them something on the way has let the call through."""
    async with asking(transport, granted()) as asked:
        who = asked.channel.unary_unary(
            "/registry.v1.Access/WhoAmI",
            request_serializer=access_pb2.WhoAmIRequest.SerializeToString,
            response_deserializer=access_pb2.WhoAmIResponse.FromString,
        )
        (reader,), (root,) = asked.metadata("reader"), asked.metadata("root")
        assert (await who(access_pb2.WhoAmIRequest(), metadata=(reader, reader))).identity == "reader"
        for both in ((reader, root), (root, reader), (root, ("authorization", "Bearer nobody"))):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await who(access_pb2.WhoAmIRequest(), metadata=both)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
