"""Every error a caller can be told has a code and details, and what nobody expected tells nothing of the inside."""

import asyncio
import inspect
import random
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import errors
from registry_server.rpc.table import Caller, Service, Table, Unary
from registry_server.transport import status
from registry_server.transport.grpc_aio import GrpcServer
from registry_server.transport.status import Code
from registry_server.transport.streams import Streams

EXAMPLES: dict[type[errors.RequestError], tuple[errors.RequestError, Code, Any, str]] = {
    errors.InvalidField: (
        errors.InvalidField("instance.port", "must be 1 to 65535"),
        Code.INVALID_ARGUMENT,
        error_details_pb2.BadRequest,
        "instance.port",
    ),
    errors.NotFound: (
        errors.NotFound("lease", "abc"),
        Code.NOT_FOUND,
        error_details_pb2.ResourceInfo,
        "abc",
    ),
    errors.OwnershipLost: (
        errors.OwnershipLost("default/player/one", "generation 3 was taken over by generation 4"),
        Code.FAILED_PRECONDITION,
        error_details_pb2.PreconditionFailure,
        "default/player/one",
    ),
    errors.LimitExceeded: (
        errors.LimitExceeded("services", "too many"),
        Code.RESOURCE_EXHAUSTED,
        error_details_pb2.QuotaFailure,
        "services",
    ),
    errors.PermissionDenied: (
        errors.PermissionDenied("game", "operate", "default/player"),
        Code.PERMISSION_DENIED,
        error_details_pb2.ErrorInfo,
        "default/player",
    ),
    errors.Unavailable: (
        errors.Unavailable("the store cannot be reached", 2.5),
        Code.UNAVAILABLE,
        error_details_pb2.RetryInfo,
        "2",
    ),
}
# Says all there is to say in its text.
PLAIN: dict[type[errors.RequestError], tuple[errors.RequestError, Code]] = {
    errors.Contended: (errors.Contended("default/player/one"), Code.ABORTED),
    errors.Unauthenticated: (errors.Unauthenticated("the token is not known here"), Code.UNAUTHENTICATED),
}


def kinds(root: type[errors.RequestError] = errors.RequestError) -> Iterator[type[errors.RequestError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from kinds(kind)


def details(told: status.RpcStatus) -> tuple[Status, list[Packed]]:
    parsed = Status.FromString(told.details)
    return parsed, list(parsed.details)


def test_codes_are_those_of_grpc() -> None:
    assert {it.name: it.value for it in Code} == {it.name: it.value[0] for it in grpc.StatusCode}


def test_table_is_complete() -> None:
    ours = {kind for kind in kinds() if kind.__module__.startswith("registry_server.")}
    assert ours == set(status.CODES) == {*EXAMPLES, *PLAIN}
    declared = {it for _, it in inspect.getmembers(errors, inspect.isclass) if it is not errors.RequestError}
    assert declared == set(status.CODES)


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_every_error_has_its_code_its_text_and_its_details(kind: type[errors.RequestError]) -> None:
    error, code, detail, part = EXAMPLES[kind]
    told = status.status_of(error)
    parsed, (packed,) = details(told)
    assert (told.code, told.message) == (code, str(error))
    assert (parsed.code, parsed.message) == (code, str(error))
    unpacked = detail()
    assert packed.Unpack(unpacked)
    assert part in str(unpacked)


def test_bad_request_names_the_field_also_in_the_message() -> None:
    told = status.status_of(errors.InvalidField("instance.port", "must be 1 to 65535"))
    assert told.message == "instance.port: must be 1 to 65535"
    bad = error_details_pb2.BadRequest()
    details(told)[1][0].Unpack(bad)
    assert [(it.field, it.description) for it in bad.field_violations] == [("instance.port", "must be 1 to 65535")]


def test_retry_info_says_when() -> None:
    info = error_details_pb2.RetryInfo()
    details(status.status_of(errors.Unavailable("x", 2.5)))[1][0].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == 2500
    details(status.shutting_down())[1][0].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == 0


def test_what_others_changed_at_the_same_time_is_aborted() -> None:
    error, code = PLAIN[errors.Contended]
    told = status.status_of(error)
    assert (told.code, told.message) == (code, str(error))
    assert details(told)[0].code == code


@pytest.mark.parametrize("error", [ValueError("the secret"), KeyError("the secret"), OSError(2, "the secret")])
def test_what_nobody_expected_is_internal_and_tells_nothing(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    told = status.status_of(error)
    assert told.code is Code.INTERNAL
    assert "secret" not in told.message
    assert b"secret" not in told.details
    assert "the secret" in caplog.text


async def test_over_the_wire_too() -> None:
    """A method that fails as nobody expects, behind a real port."""

    async def fails(request: pb.GetRequest, caller: Caller) -> bytes:
        raise RuntimeError("the secret")

    table = Table(Service("x.Y", {"Get": Unary(pb.GetRequest, fails)}))
    server = GrpcServer(table, Streams(random.Random(1)))
    (address,) = await server.start("127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = channel.unary_unary("/x.Y/Get")
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await call(b"", timeout=10)
    finally:
        await asyncio.wait_for(server.stop(), 10)
    assert told.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(told.value)
    assert "RuntimeError" not in str(told.value)
