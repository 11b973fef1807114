"""Transports under test, and a service of all kinds of method that shows what a transport makes of them."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from google.protobuf.wrappers_pb2 import StringValue

from registry_server import errors
from registry_server.rpc.table import Broadcast, Caller, Conversation, Outlet, Refusable, Service, Session, Table, Unary
from registry_server.transport.grpc_aio import GrpcServer
from registry_server.transport.http2.server import Http2Server
from registry_server.transport.streams import Streams
from registry_server.transport.tls import Certificates
from tests.support.waiting import eventually_async

NAME = "test.Transport"
MAX_REQUEST_BYTES = 1024 * 1024
SECRET = "the secret of the house"
# What `Fail` raises, by the request; the names of what nobody expected begin with "x".
FAILURES: dict[str, Callable[[], Exception]] = {
    "invalid": lambda: errors.InvalidField("value", "must be \u00e4nother, 100% so"),
    "unknown": lambda: errors.NotFound("lease", "abc"),
    "lost": lambda: errors.OwnershipLost("default/player/one", "taken over"),
    "limit": lambda: errors.LimitExceeded("watches", "too many"),
    "contended": lambda: errors.Contended("default/player/one"),
    "away": lambda: errors.Unavailable("the store is away", 2.5),
    "stranger": lambda: errors.Unauthenticated("the token is not known here"),
    "denied": lambda: errors.PermissionDenied("game", "operate", "default/player"),
    "xvalue": lambda: ValueError(SECRET),
    "xkey": lambda: KeyError(SECRET),
}


class Transport(Protocol):
    """What a transport's server looks like to server.py."""

    async def start(self, *addresses: str) -> tuple[str, ...]: ...

    async def stop(self) -> None: ...


# A new transport is one line here.
TRANSPORTS: dict[str, Callable[..., Transport]] = {"grpc": GrpcServer, "http2": Http2Server}
# ... and one here: what a real server is started with to have it.
FLAGS: dict[str, tuple[str, ...]] = {"grpc": ("--transport", "grpc"), "http2": ("--transport", "http2")}


def value(text: str) -> bytes:
    """An encoded message with a text in it."""
    return StringValue(value=text).SerializeToString()


def text(message: bytes) -> str:
    """The text in such a message."""
    return StringValue.FromString(message).value


@dataclass(eq=False)
class Listener:
    """One who listens to a Broadcast, or talks on a Session: the service's end of a stream."""

    sink: Outlet
    caller: Caller
    asked: str = ""
    owner: "list[Listener]" = field(default_factory=list)
    due: list[Sequence[bytes]] = field(default_factory=list)
    received_: list[str] = field(default_factory=list)
    freed: int = 0
    left: int = 0
    is_writing: bool = False
    is_endless: bool = False

    def tell(self, *chunks: bytes) -> None:
        """One message, now or when the stream is free."""
        self.due.append(chunks)
        self._go_on()

    def free(self) -> None:
        assert self.is_writing or self.left, "nothing was being written"
        self.is_writing = False
        self.freed += 1
        if self.is_endless:
            self.due.append([value("x" * 50_000)])
        self._go_on()

    def leave(self) -> None:
        self.left += 1
        if self in self.owner:
            self.owner.remove(self)

    async def received(self, request: StringValue) -> None:
        """Everything is answered twice, but for what is a failure; a request waits until the answers before are out."""
        self.received_.append(request.value)
        if request.value in FAILURES:
            raise FAILURES[request.value]()
        self.tell(value(f"{request.value} once"))
        self.tell(value(f"{request.value} twice"))
        await eventually_async(lambda: not self.due or self.left)

    def _go_on(self) -> None:
        if self.due and not self.is_writing and not self.left:
            self.is_writing = True
            self.sink.send(self.due.pop(0))


class Everything:
    """A service with methods of all kinds. `entered` and `cancelled` count calls of Wait."""

    def __init__(self) -> None:
        self.entered = self.cancelled = 0
        self.may_end = asyncio.Event()
        self.callers: list[Caller] = []
        self.listeners: list[Listener] = []
        self.all: list[Listener] = []
        self.chats: dict[Refusable, Caller] = {}
        self.left_chats = 0

    def service(self) -> Service:
        return Service(
            NAME,
            {
                "Echo": Unary(StringValue, self.echo),
                "Fail": Unary(StringValue, self.fail),
                "Wait": Unary(StringValue, self.wait),
                "Chat": Conversation(StringValue, self.chat, self.chatting),
                "Listen": Broadcast(StringValue, self.listen),
                "Talk": Session(StringValue, self.talk),
            },
        )

    async def echo(self, request: StringValue, caller: Caller) -> bytes:
        self.callers.append(caller)
        return request.SerializeToString()

    async def fail(self, request: StringValue, caller: Caller) -> bytes:
        raise FAILURES[request.value]()

    async def wait(self, request: StringValue, caller: Caller) -> bytes:
        self.entered += 1
        self.callers.append(caller)
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request.SerializeToString()

    async def chat(self, request: StringValue, caller: Caller) -> bytes:
        if request.value == "wait":
            return await self.wait(request, caller)
        if request.value in FAILURES:
            raise FAILURES[request.value]()
        return value(f"{request.value}?")

    def chatting(self, caller: Caller, ending: Refusable) -> Callable[[], None]:
        if caller.credentials.token in FAILURES:
            raise FAILURES[caller.credentials.token]()
        self.chats[ending] = caller
        return lambda: self.chat_over(ending)

    def chat_over(self, ending: Refusable) -> None:
        del self.chats[ending]
        self.left_chats += 1

    def listen(self, request: StringValue, caller: Caller, sink: Outlet) -> Listener:
        if request.value in FAILURES:
            raise FAILURES[request.value]()
        listener = self._add(Listener(sink, caller, request.value, self.listeners))
        if request.value == "on and on":
            listener.is_endless = True
            listener.tell(value("x" * 50_000))
        return listener

    def talk(self, caller: Caller, sink: Outlet) -> Listener:
        listener = self._add(Listener(sink, caller, owner=self.listeners))
        listener.tell(value("hello"))
        return listener

    def tell(self, *chunks: bytes) -> None:
        """One message to all who listen, of the same objects."""
        for listener in self.listeners:
            listener.tell(*chunks)

    async def heard_by(self, count: int) -> None:
        """Wait until so many listen."""
        await eventually_async(lambda: len(self.listeners) == count, what=f"{count} listeners")

    def _add(self, listener: Listener) -> Listener:
        self.listeners.append(listener)
        self.all.append(listener)
        return listener


@contextlib.asynccontextmanager
async def serving(
    transport: str, *services: Service, host: str = "127.0.0.1", port: int = 0, tls: Certificates | None = None
) -> AsyncIterator[tuple[str, Transport]]:
    """A server of these services, on a transport; its address and itself."""
    server = TRANSPORTS[transport](Table(*services), Streams(random.Random(1)), tls=tls)
    (address,) = await server.start(f"{host}:{port}")
    try:
        yield address, server
    finally:
        await asyncio.wait_for(server.stop(), 20)
