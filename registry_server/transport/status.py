"""SHELL: the one table from domain errors to gRPC statuses with google.rpc details, for every transport."""

import logging
from enum import IntEnum
from typing import Any as Any_
from typing import NamedTuple

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from registry_server import errors

log = logging.getLogger(__name__)

# Whose reasons those of google.rpc.ErrorInfo are.
DOMAIN = "registry.v1"
# The trailing metadata in which the details travel.
DETAILS_KEY = "grpc-status-details-bin"


class Code(IntEnum):
    """gRPC's codes, by their names and numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcStatus(NamedTuple):
    """What a call ends with. `details` is an encoded google.rpc.Status, which repeats code and message."""

    code: Code
    message: str
    details: bytes


CODES: dict[type[errors.RequestError], Code] = {
    errors.InvalidField: Code.INVALID_ARGUMENT,
    errors.NotFound: Code.NOT_FOUND,
    errors.OwnershipLost: Code.FAILED_PRECONDITION,
    errors.LimitExceeded: Code.RESOURCE_EXHAUSTED,
    errors.Contended: Code.ABORTED,
    errors.Unavailable: Code.UNAVAILABLE,
    errors.Unauthenticated: Code.UNAUTHENTICATED,
    errors.PermissionDenied: Code.PERMISSION_DENIED,
}


def status_of(error: Exception) -> RpcStatus:
    """The status that tells the caller of an error that a method raised. What nobody expected is logged here."""
    if isinstance(error, errors.RequestError):
        return _status(CODES[type(error)], str(error), _detail(error))
    log.error("a call failed", exc_info=error)
    return internal()


def internal() -> RpcStatus:
    """The status for what nobody expected. It tells nothing of the inside; the server's log does."""
    return _status(Code.INTERNAL, "internal error; the server's log has the details", None)


def shutting_down() -> RpcStatus:
    """The status that ends the streams of a server that stops: try again, on another replica at once."""
    return _status(Code.UNAVAILABLE, "the server is shutting down", _retry(0.0))


def _status(code: Code, message: str, detail: Message | None) -> RpcStatus:
    status = Status(code=code, message=message)
    if detail is not None:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return RpcStatus(code, message, status.SerializeToString())


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
        case errors.PermissionDenied(right=right, name=name):
            said = {"right": right, "name": name}
            return error_details_pb2.ErrorInfo(reason="RIGHT_MISSING", domain=DOMAIN, metadata=said)
        case errors.Unavailable(retry_after_s=retry_after_s):
            return _retry(retry_after_s)
        case _:
            return None


def _retry(after_s: float) -> Any_:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromNanoseconds(round(after_s * 1e9))
    return info
