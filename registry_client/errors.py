"""What can go wrong, and the one place where gRPC statuses become exceptions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

if TYPE_CHECKING:
    from google.protobuf.message import Message

_Detail = TypeVar("_Detail", bound="Message")
_Error = TypeVar("_Error", bound=BaseException)
_CONNECTING = (
    re.compile(
        r"failed to connect to all addresses; last error: [A-Z_]+: (?:ipv[46]:)?(?P<where>\S+): "
        r"(?:Failed to connect to remote host: )?(?:connect: )?(?P<why>.+?)(?: \(\d+\))?"
    ),
    re.compile(r"errors resolving (?P<where>\S+): \[field:hostname lookup error:.*? for \S+: (?P<why>[^:\]]+)\]"),
)
# What gRPC's core and OpenSSL say of TLS that does not come about, and what it means.
_TLS_TROUBLES = (
    ("WRONG_VERSION_NUMBER", "speaks no TLS: connect without credentials"),
    ("[Hh]ostname|IP address mismatch|Peer name", "its certificate is for another name than the one that was called"),
    ("CERTIFICATE_VERIFY_FAILED: ([^:]+)", "its certificate is not accepted: {} (CERTIFICATE_VERIFY_FAILED)"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not accepted (CERTIFICATE_VERIFY_FAILED)"),
    ("CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE", "it asks for a certificate of its clients, and was shown none"),
    ("ALERT_UNKNOWN_CA", "it does not know the authority of this client's certificate"),
    ("ALERT_CERTIFICATE_EXPIRED", "this client's certificate has expired"),
    ("ALERT_[A-Z_]*CERTIFICATE", "it does not accept this client's certificate"),
)
# The longest text of an error that is believed to be worth reading.
MAX_TEXT = 1_000


class RegistryError(Exception):
    """Root of all that this package raises on its own account. `code` is the gRPC status, where there was one."""

    code: grpc.StatusCode | None = None


class RegistryUnavailable(RegistryError):
    """No address of the registry answered in time, or it cannot reach its store. Trying again later makes sense."""

    retry_after_s: float | None = None


class InvalidArgument(RegistryError, ValueError):
    """A field is wrong. `field` is its path in the request, such as `instance.port`, or empty.

    What can be told without the registry is told at once; the rest when the registry refuses it.
    """

    def __init__(self, message: str = "", field: str = "") -> None:
        super().__init__(message)
        self.field = field


class WrongType(InvalidArgument, TypeError):
    """A field is of a type that cannot be sent, such as `port="8001"`; the text says how to write it."""


class InvalidTarget(RegistryError, ValueError):
    """An address or a `registry://` URL with a mistake; the text names the part and what is allowed."""


class NotFound(RegistryError, LookupError):
    """There is no such instance or lease. `kind` and `name` say which, where the registry told."""

    kind: str = ""
    name: str = ""


class RegistrationLost(RegistryError):
    """Somebody else has taken the id (or the address) since: this process is no longer what the registry shows."""


class Conflict(RegistryError):
    """Other writers changed the same instance at the same time, several times over. Try again."""


class LimitExceeded(RegistryError):
    """A limit of the registry was reached."""


class PermissionDenied(RegistryError):
    """The caller may not do this."""


class Unauthenticated(RegistryError):
    """The registry does not know the caller: credentials are missing or refused."""


class ClientClosed(RegistryError):
    """The client, watch or registration was closed, or the client was never entered with `with`."""


class Misuse(RegistryError, RuntimeError):
    """Something was used where it cannot work: entered twice, in another event loop or thread, or after a fork."""


class InvalidAnswer(RegistryError):
    """The registry answered what cannot be, such as another instance than was asked for. It was not believed."""


class NeverRegistered(RuntimeWarning, ResourceWarning):
    """`registry.register(…)` was called, and what it returned was dropped without ever being entered or awaited."""


_BY_CODE: dict[grpc.StatusCode, type[RegistryError]] = {
    grpc.StatusCode.UNAVAILABLE: RegistryUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: RegistryUnavailable,
    # Nobody here cancels a call and then looks at its status: it was the server, which is ending or out of time.
    grpc.StatusCode.CANCELLED: RegistryUnavailable,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: RegistrationLost,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitExceeded,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
}


def from_rpc_error(error: grpc.RpcError, doing: str = "") -> RegistryError:
    """The exception for a failed call: its kind by the status code, its data by the google.rpc details.

    `doing` says what was asked for and comes first in the text.
    """
    code: grpc.StatusCode = error.code()
    text = plain(error.details() or code.name.lower().replace("_", " "))
    mapped = _BY_CODE.get(code, RegistryError)(f"{doing}: {text}" if doing else text)
    mapped.code = code
    _add_details(mapped, error)
    return mapped


def alone(error: _Error) -> _Error:
    """The same, without the calls and connections that it came of: who keeps an error keeps none of these alive."""
    if error.__suppress_context__:  # by `from None`
        error.__context__ = None
    return error.with_traceback(None)


def plain(text: str) -> str:
    """What gRPC says of a call that failed, in a line; why it could not connect in fewer words than it takes."""
    line = in_a_line(text)
    for pattern in _CONNECTING:
        if (found := pattern.fullmatch(line)) is not None:
            why = tls_trouble(found["why"]) or found["why"]
            return f"{unquote(found['where'])}: {why[:1].lower()}{why[1:]}"
    return line


def tls_trouble(text: str) -> str:
    """What is wrong with TLS, in clear words, of what gRPC or OpenSSL say; nothing if they say something else."""
    for pattern, meaning in _TLS_TROUBLES:
        if (found := re.search(pattern, text)) is not None:
            return meaning.format(*found.groups())
    return ""


def in_a_line(text: str) -> str:
    """What somebody else said as one line of bounded length that changes no terminal."""
    line = " ".join("".join(it if it.isprintable() else " " for it in text[:MAX_TEXT]).split())
    return line + "…" if len(text) > MAX_TEXT else line


def _add_details(mapped: RegistryError, error: grpc.RpcError) -> None:
    """Fill in the fields that only the details tell."""
    if isinstance(mapped, InvalidArgument):
        bad = _detail(error, error_details_pb2.BadRequest())
        mapped.field = in_a_line(bad.field_violations[0].field) if bad and bad.field_violations else ""
    elif isinstance(mapped, NotFound):
        what = _detail(error, error_details_pb2.ResourceInfo())
        mapped.kind, mapped.name = (in_a_line(what.resource_type), in_a_line(what.resource_name)) if what else ("", "")
    elif isinstance(mapped, RegistryUnavailable):
        retry = _detail(error, error_details_pb2.RetryInfo())
        mapped.retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9 if retry else None


def _detail(error: grpc.RpcError, into: _Detail) -> _Detail | None:
    """The detail of the type of `into` that the status carries, if any."""
    try:
        status = rpc_status.from_call(cast("grpc.Call", error))  # what it needs of a call, both kinds of errors have
        for packed in status.details if status else ():
            if packed.Is(into.DESCRIPTOR) and packed.Unpack(into):
                return into
    except (ValueError, DecodeError):
        return None  # they contradict the status, since a proxy rewrote one of the two, or are no message at all
    return None
