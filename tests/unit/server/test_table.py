"""The table of methods: all that the descriptions say is there, each in its kind; a few lines add a service, or a word
about every call."""

import dataclasses
from typing import Any

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.wrappers_pb2 import StringValue
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.errors import InvalidField, LimitExceeded
from registry_server.rpc import reflection
from registry_server.rpc.health import HealthService
from registry_server.rpc.registry import RegistryService
from registry_server.rpc.table import Broadcast, Caller, Conversation, Service, Session, Table, Unary, parse
from registry_server.transport import grpc_aio
from tests.support.core import NOBODY, Core, drive

DESCRIBED: list[ServiceDescriptor] = [
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (pb, "Registry"),
        (health_pb2, "Health"),
        (channelz_pb2, "Channelz"),
        (reflection_pb2, "ServerReflection"),
    )
]
# By whether requests, and whether answers are a stream.
KINDS = {(False, False): Unary, (False, True): Broadcast, (True, True): (Conversation, Session)}


@pytest.fixture
def table() -> Table:
    core = Core()
    services = (core.service.service(), HealthService(core.catalog, core.hub).service(), *grpc_aio.services())
    return Table(*services, *reflection.services(service.name for service in services))


@pytest.mark.parametrize("service", DESCRIBED, ids=lambda service: service.full_name)
def test_every_method_is_there_in_its_kind(table: Table, service: ServiceDescriptor) -> None:
    (entry,) = (it for it in table.services if it.name == service.full_name)
    assert set(entry.methods) == {method.name for method in service.methods}
    for described in service.methods:
        method = table.methods[f"/{service.full_name}/{described.name}"]
        assert isinstance(method, KINDS[described.client_streaming, described.server_streaming])
        assert method.request is GetMessageClass(described.input_type)


def test_nothing_else_is_there(table: Table) -> None:
    assert {it.name for it in table.services} == {it.full_name for it in DESCRIBED} | set(reflection.NAMES)
    assert len(table.methods) == sum(len(it.methods) for it in DESCRIBED) + 1


def test_what_is_no_message_is_said_to_be_none() -> None:
    assert parse(pb.GetRequest, b"") == pb.GetRequest()
    with pytest.raises(InvalidField, match=r"request: is not an encoded registry\.v1\.GetRequest"):
        parse(pb.GetRequest, b"\xff")


def test_a_few_lines_add_a_service(table: Table) -> None:
    async def greet(request: StringValue, caller: Caller) -> bytes:
        return StringValue(value=f"{request.value} from {caller.peer}").SerializeToString()

    larger = Table(*table.services, Service("test.Greeter", {"Greet": Unary(StringValue, greet)}))
    method: Any = larger.methods["/test.Greeter/Greet"]
    answer = drive(method.call(parse(method.request, StringValue(value="hello").SerializeToString()), NOBODY))
    assert StringValue.FromString(answer).value == f"hello from {NOBODY.peer}"
    assert larger.methods.items() > table.methods.items()


def test_a_few_lines_say_something_about_every_call() -> None:
    def guarded(method: Unary[Any]) -> Unary[Any]:
        async def call(request: Any, caller: Caller) -> bytes:
            if not caller.peer.startswith("ipv4:127."):
                raise LimitExceeded(caller.peer, "only the loopback may ask")
            return await method.call(request, caller)

        return dataclasses.replace(method, call=call)

    def guard(service: Service) -> Service:
        methods = {name: guarded(it) if isinstance(it, Unary) else it for name, it in service.methods.items()}
        return service._replace(methods=methods)

    registry: RegistryService = Core().service
    methods = Table(*map(guard, Table(registry.service()).services)).methods
    method: Any = methods["/registry.v1.Registry/ListServices"]
    assert drive(method.call(pb.ListServicesRequest(), Caller("ipv4:127.0.0.1:1")))
    with pytest.raises(LimitExceeded, match=NOBODY.peer):
        drive(method.call(pb.ListServicesRequest(), NOBODY))
    assert isinstance(methods["/registry.v1.Registry/Watch"], Broadcast)
