"""CORE: every method that the server has, as data. A transport binds a table of them, and knows nothing else of rpc/.

A method is its kind, the type of its requests and a plain function. Answers are encoded messages, errors those of
errors.py. Whoever has something to say about every call (access, metrics, limits) makes a table of another one.
"""

import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from registry_server.errors import InvalidField, PermissionDenied, RequestError, Unauthenticated
from registry_server.hub import Sink
from registry_server.rights import EVERY, UNRESTRICTED, Right, Rights

Request = TypeVar("Request", bound=Message)
Asked = TypeVar("Asked", bound=Message, contravariant=True)


_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
# Stands for an `authorization` that is no bearer's: said, and nobody's.
_OTHER = " "


class Credentials(NamedTuple):
    """What a caller shows of who it is. `names` are those of a certificate that was verified; the token nobody has
    looked at yet."""

    token: str = ""
    names: tuple[str, ...] = ()  # SANs: DNS names and URIs

    def with_authorization(self, value: str) -> "Credentials":
        """These, and the token of a header `authorization: Bearer TOKEN`."""
        bearer = _BEARER.fullmatch(value.strip())
        return self._replace(token=bearer[1] if bearer else _OTHER)

    def __repr__(self) -> str:
        """For logs and tracebacks, which show no token."""
        return f"Credentials(token={'…' if self.token else ''!r}, names={self.names!r})"


NO_CREDENTIALS = Credentials()


class Caller(NamedTuple):
    """Who calls. Calls of one connection that have no deadline may share one."""

    peer: str  # as gRPC writes addresses: ipv4:127.0.0.1:50123
    deadline_s: float | None = None  # how long the caller waits, from when the call came; None for as long as it takes
    identity: str = ""  # empty for somebody who did not say, or need not
    credentials: Credentials = NO_CREDENTIALS
    rights: Rights = UNRESTRICTED
    # The caller's span, as the headers `traceparent` and `tracestate` have it, which anybody may write.
    traceparent: str = ""
    tracestate: str = ""


class Refusable(Protocol):
    """A stream, as whoever may have to end it sees it."""

    def refuse(self, error: RequestError, /) -> None:
        """End the stream with that error, as soon as it can be. Nothing if it is over."""


class Outlet(Sink, Refusable, Protocol):
    """The writing end of a stream."""


class Subscription(Protocol):
    """What the transport tells about a stream."""

    def free(self) -> None:
        """The message that the sink was sent is written: there may be another one."""

    def leave(self) -> None:
        """The stream is over: the sink is sent nothing more. Once or several times, at any time."""


class Dialogue(Subscription, Protocol[Asked]):
    """A stream whose client goes on asking."""

    async def received(self, request: Asked) -> None:
        """Take in one request; the next one is read afterwards. Raises an error that ends the stream."""


Name = tuple[str, str]
"""A namespace and a service, each of which may be EVERY."""


def everything(request: object) -> Iterable[Name]:
    """All that there is, whatever the request."""
    return ((EVERY, EVERY),)


class Needs(NamedTuple):
    """The right that a call needs: to all that `of` gives by the request. With `is_some`, where that gives EVERY, to
    any that could stand there: the answer shows only what its caller may see.

    Without a right nobody is asked, not even who calls. `of` raises InvalidField where the request has no names.
    """

    right: Right | None
    of: Callable[[Any], Iterable[Name]] = everything
    is_some: bool = False

    def check(self, caller: Caller, request: object) -> None:
        """Raises PermissionDenied, Unauthenticated, or InvalidField."""
        if self.right is not None:
            self.check_names(caller, self.of(request))

    def check_names(self, caller: Caller, names: Iterable[Name]) -> None:
        """The same for what `of` gave. Raises PermissionDenied, or Unauthenticated."""
        if self.right is not None:
            may = caller.rights.may_some if self.is_some else caller.rights.may
            for name in names:
                if not may(self.right, *name):
                    raise denial(caller, self.right, *name)


def denial(caller: Caller, right: Right, namespace: str, service: str) -> PermissionDenied | Unauthenticated:
    """What is told to a caller who has not that right."""
    name = f"{namespace}/{service}"
    if caller.identity:
        return PermissionDenied(caller.identity, right, name)
    return Unauthenticated(f"say who you are, by a token or a certificate: not everybody has `{right}` on {name}")


OPEN = Needs(None)
# What is needed where nobody says it.
UNSAID = Needs("admin")


@dataclass(frozen=True, slots=True)
class Unary(Generic[Request]):
    """One request, one answer.

    `call` gives a coroutine, not any awaitable: one that has nothing to wait for is carried out by its first step.
    """

    request: type[Request]
    call: Callable[[Request, Caller], Coroutine[Any, Any, bytes]]
    needs: Needs = UNSAID


@dataclass(frozen=True, slots=True)
class Conversation(Generic[Request]):
    """A stream with one answer to each request, one after the other.

    `opened`, if there is one, is told of each stream that begins, and gives what is to be called when that is over. It
    may raise an error that ends the stream.
    """

    request: type[Request]
    answer: Callable[[Request, Caller], Coroutine[Any, Any, bytes]]
    opened: Callable[[Caller, Refusable], Callable[[], None]] | None = None
    needs: Needs = UNSAID


@dataclass(frozen=True, slots=True)
class Broadcast(Generic[Request]):
    """One request, and a stream of messages that ends when the client or the server goes."""

    request: type[Request]
    join: Callable[[Request, Caller, Outlet], Subscription]
    needs: Needs = UNSAID


@dataclass(frozen=True, slots=True)
class Session(Generic[Request]):
    """A stream on which both sides speak by themselves. It ends well when the client has said all it has to say."""

    request: type[Request]
    open: Callable[[Caller, Outlet], Dialogue[Request]]
    needs: Needs = UNSAID


Method = Unary[Any] | Conversation[Any] | Broadcast[Any] | Session[Any]


class Service(NamedTuple):
    """The methods of one gRPC service, by their names."""

    name: str
    methods: Mapping[str, Method]


class Table:
    """All services of a server; `methods` are theirs by path, such as `/registry.v1.Registry/Get`."""

    def __init__(self, *services: Service) -> None:
        self.services = services
        self.methods: Mapping[str, Method] = MappingProxyType(
            {f"/{service.name}/{name}": method for service in services for name, method in service.methods.items()}
        )

    def changed(self, change: Callable[[str, Method], Method]) -> "Table":
        """A table of the same methods, each of them changed: `change` is given its path, too."""
        return Table(
            *(
                Service(name, {it: change(f"/{name}/{it}", method) for it, method in methods.items()})
                for name, methods in self.services
            )
        )


class Attended:
    """A Subscription of which somebody hears that it is over: once, however often that is said, and before it does
    itself. Telling it that a message is written, as happens for each, costs nothing more."""

    __slots__ = ("_inner", "_over", "free")

    def __init__(self, inner: Subscription, over: Callable[[], None]) -> None:
        self.free = inner.free
        self._inner = inner
        self._over: Callable[[], None] | None = over

    def leave(self) -> None:
        """See Subscription."""
        over, self._over = self._over, None
        if over is not None:
            over()
        self._inner.leave()


class AttendedDialogue(Attended, Generic[Request]):
    """The same for a Dialogue. `received` in place of its own."""

    __slots__ = ("received",)

    def __init__(
        self,
        inner: Dialogue[Request],
        over: Callable[[], None],
        received: Callable[[Request], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        super().__init__(inner, over)
        self.received = inner.received if received is None else received


def parse(kind: type[Request], message: bytes) -> Request:
    """The request in a message. Raises InvalidField if there is none in it."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise InvalidField("request", f"is not an encoded {kind.DESCRIPTOR.full_name}") from None
