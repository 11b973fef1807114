"""Every call that the server answers, by everybody: who may, and what the others are told. What each needs is written
here once more, by hand."""

from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from registry_api.registry.v1 import access_pb2, policies_pb2
from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import xds_pb2
from registry_api.registry.xds.v1 import ads_pb2
from registry_server.config import Config
from registry_server.rpc.table import Session, Table, Unary
from tests.support.access import IDENTITIES, Asked, asking, granted
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


class Call(NamedTuple):
    """One call: its path, its request, who may, and how it goes: by one answer, or by the first of a stream."""

    path: str
    request: Any
    may: tuple[str, ...]
    kind: str = "unary"
    # What is there before, registered by "owner".
    prepare: bool = True

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
    Call(REGISTRY + "List", pb.ListRequest(), READERS),
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
    Call(POLICIES + "Delete", policies_pb2.PoliciesDeleteRequest(service="player"), ADMINS),
    Call("/registry.v1.Access/WhoAmI", access_pb2.WhoAmIRequest(), EVERYBODY),
    Call(HEALTH + "Check", health_pb2.HealthCheckRequest(), EVERYBODY),
    Call(HEALTH + "Check", health_pb2.HealthCheckRequest(service="player"), READERS),
    Call(HEALTH + "Watch", health_pb2.HealthCheckRequest(), EVERYBODY, "stream"),
    Call(HEALTH + "Watch", health_pb2.HealthCheckRequest(service="player"), READERS, "stream"),
    Call(HEALTH + "List", health_pb2.HealthListRequest(), EVERYBODY),
]


def refused(code: grpc.StatusCode) -> bool:
    return code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


async def outcome(server: Asked, call: Call, who: str) -> grpc.StatusCode:
    try:
        if call.kind == "unary":
            await server.ask(call.path, call.request, who)
            return grpc.StatusCode.OK
        if call.kind == "stream":
            stream = server.stream(call.path, call.request, who)
        else:
            stream = server.talk(call.path, who)
            await stream.write(call.request.SerializeToString())
        await stream.read()
        stream.cancel()
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
