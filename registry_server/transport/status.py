"""The one table from domain errors to gRPC statuses with google.rpc details."""

from typing import Any as Any_
from typing import NamedTuple

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from registry_server import errors
from registry_server.rules import seconds

DETAILS_KEY = "grpc-status-details-bin"


class RpcStatus(NamedTuple):
    """What a call ends with."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


CODES: dict[type[errors.RequestError], grpc.StatusCode] = {
    errors.InvalidField: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.OwnershipLost: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Contended: grpc.StatusCode.ABORTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
}


def status_of(error: errors.RequestError) -> RpcStatus:
    """The status that tells the caller of the error."""
    return _status(CODES[type(error)], str(error), _detail(error))


def internal() -> RpcStatus:
    """The status for what nobody expected. It tells nothing of the inside; the server's log does."""
    return _status(grpc.StatusCode.INTERNAL, "internal error; the server's log has the details", None)


def shutting_down() -> RpcStatus:
    """The status that ends the streams of a server that stops: try again, on another replica at once."""
    return _status(grpc.StatusCode.UNAVAILABLE, "the server is shutting down", _retry(0.0))


def _status(code: grpc.StatusCode, message: str, detail: Message | None) -> RpcStatus:
    status = Status(code=code.value[0], message=message)
    if detail is not None:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return RpcStatus(code, message, ((DETAILS_KEY, status.SerializeToString()),))


def _detail(error: errors.RequestError) -> Any_:  # a message of google.rpc, which has no types
    match error:
        case errors.InvalidField(field=field, reason=reason):
            violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=reason)
            return error_details_pb2.BadRequest(field_violations=[violation])
        case errors.NotFound(kind=kind, name=name):
            return error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name, description=str(error))
        case errors.OwnershipLost(name=name):
            lost = error_details_pb2.PreconditionFailure.Violation(
                type="GENERATION", subject=name, description=str(error)
            )
            return error_details_pb2.PreconditionFailure(violations=[lost])
        case errors.LimitExceeded(subject=subject, reason=reason):
            quota = error_details_pb2.QuotaFailure.Violation(subject=subject, description=reason)
            return error_details_pb2.QuotaFailure(violations=[quota])
        case errors.Unavailable(retry_after_s=retry_after_s):
            return _retry(retry_after_s)
        case _:
            return None


def _retry(after_s: float) -> Any_:
    return error_details_pb2.RetryInfo(retry_delay=seconds(after_s))
