"""gRPC statuses become exceptions, with what their details tell."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from registry_client import errors
from registry_client.errors import InvalidArgument, NotFound, RegistryError, RegistryUnavailable, from_rpc_error

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RegistryError)]


def failure(code: grpc.StatusCode, text: str, *details: Message) -> grpc.aio.AioRpcError:
    """A failed call, as grpc.aio raises it."""
    status = status_pb2.Status(code=getattr(code_pb2, code.name), message=text)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, text)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("UNAVAILABLE", "RegistryUnavailable"),
        ("DEADLINE_EXCEEDED", "RegistryUnavailable"),
        ("CANCELLED", "RegistryUnavailable"),
        ("INVALID_ARGUMENT", "InvalidArgument"),
        ("NOT_FOUND", "NotFound"),
        ("FAILED_PRECONDITION", "RegistrationLost"),
        ("ABORTED", "Conflict"),
        ("RESOURCE_EXHAUSTED", "LimitExceeded"),
        ("PERMISSION_DENIED", "PermissionDenied"),
        ("UNAUTHENTICATED", "Unauthenticated"),
        ("INTERNAL", "RegistryError"),
        ("UNKNOWN", "RegistryError"),
    ],
)
def test_each_code_is_an_exception_of_its_own(code: str, kind: str) -> None:
    error = from_rpc_error(failure(grpc.StatusCode[code], "what went wrong"), "list player")
    assert type(error).__name__ == kind
    assert str(error) == "list player: what went wrong"
    assert error.code is grpc.StatusCode[code]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_all_have_one_root_and_say_what_they_mean(kind: type[RegistryError]) -> None:
    assert issubclass(kind, RegistryError)
    assert kind.__doc__


def test_the_field_is_told() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="instance.port", description="must be 1 to 65535")
    error = from_rpc_error(
        failure(grpc.StatusCode.INVALID_ARGUMENT, "wrong", error_details_pb2.BadRequest(field_violations=[violation]))
    )
    assert isinstance(error, InvalidArgument)
    assert error.field == "instance.port"


def test_what_is_missing_is_told() -> None:
    what = error_details_pb2.ResourceInfo(resource_type="lease", resource_name="L1")
    # Details of other kinds are passed over.
    error = from_rpc_error(failure(grpc.StatusCode.NOT_FOUND, "no", error_details_pb2.DebugInfo(), what))
    assert isinstance(error, NotFound)
    assert (error.kind, error.name) == ("lease", "L1")


def test_when_to_try_again_is_told() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    error = from_rpc_error(failure(grpc.StatusCode.UNAVAILABLE, "away", retry))
    assert isinstance(error, RegistryUnavailable)
    assert error.retry_after_s == 1.5


def test_details_that_are_missing_or_contradict_the_status_do_no_harm() -> None:
    bare = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(), "no")
    assert isinstance(from_rpc_error(bare), NotFound)
    forged = failure(grpc.StatusCode.NOT_FOUND, "no")
    contradicting = grpc.aio.AioRpcError(
        grpc.StatusCode.INVALID_ARGUMENT, grpc.aio.Metadata(), forged.trailing_metadata(), "another text"
    )
    error = from_rpc_error(contradicting)
    assert isinstance(error, InvalidArgument)
    assert error.field == ""


def test_a_status_without_text_is_named() -> None:
    bare = grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata(), grpc.aio.Metadata(), None)
    assert str(from_rpc_error(bare, "get")) == "get: deadline exceeded"


def test_what_a_server_says_is_one_line_of_bounded_length() -> None:
    error = from_rpc_error(failure(grpc.StatusCode.INTERNAL, "a\n\x1b[31mred\r" + "x" * 100_000), "list player")
    assert str(error).startswith("list player: a [31mred xxx")
    assert str(error).isprintable()
    assert len(str(error)) < 1_100


@pytest.mark.parametrize("code", ["NOT_FOUND", "INVALID_ARGUMENT", "UNAVAILABLE"])
def test_details_that_are_no_message_do_no_harm(code: str) -> None:
    kinds = {"NOT_FOUND": "ResourceInfo", "INVALID_ARGUMENT": "BadRequest", "UNAVAILABLE": "RetryInfo"}
    for value in (b"\xff\xff\xff", b"\x0a\xff"):
        packed = Any(type_url=f"type.googleapis.com/google.rpc.{kinds[code]}", value=value)
        status = status_pb2.Status(code=getattr(code_pb2, code), message="no", details=[packed]).SerializeToString()
        for encoded in (status, b"\xff" + status):
            trailers = grpc.aio.Metadata(("grpc-status-details-bin", encoded))
            raised = grpc.aio.AioRpcError(grpc.StatusCode[code], grpc.aio.Metadata(), trailers, "no")
            assert str(from_rpc_error(raised)) == "no"


@pytest.mark.parametrize(
    "why", ["Connection refused", "Failed to connect to remote host: connect: Connection refused (111)"]
)
def test_why_it_could_not_connect_is_told_in_few_words(why: str) -> None:
    """The one is what gRPC says today, the other what it said of old."""
    said = f"failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:7400: {why}"
    assert errors.plain(said) == "127.0.0.1:7400: connection refused"
