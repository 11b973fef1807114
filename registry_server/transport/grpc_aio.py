"""SHELL. Binds rpc/ to grpc.aio: bytes in, bytes out, errors to statuses, one writer for each stream."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_channelz.v1 import channelz
from grpc_channelz.v1 import channelz_pb2 as channelz_pb
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.errors import InvalidField, RequestError
from registry_server.hub import Reader, Sink
from registry_server.rpc.health import HAS_LIST, HealthService
from registry_server.rpc.registry import RegistryService
from registry_server.transport.descriptors import Descriptors
from registry_server.transport.status import RpcStatus, internal, shutting_down, status_of

log = logging.getLogger(__name__)

REGISTRY = pb.DESCRIPTOR.services_by_name["Registry"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
CHANNELZ = channelz_pb.DESCRIPTOR.services_by_name["Channelz"].full_name

# What one connection may cost before anybody looks at what it sends. A stream that is over counts among these until the
# server is done with it, so resetting streams brings no more of them.
MAX_STREAMS = 256
MAX_MESSAGE_BYTES = 1024 * 1024
LOOKAHEAD_BYTES = 64 * 1024
# Calls that no handler has taken up, of all connections: as many as come back at once when a server was away. Beyond
# the first number more and more are refused, beyond the second all.
MAX_PENDING = (20_000, 40_000)

# A second server on the same port is an error; peers that are half dead are noticed within seconds; clients may ping
# often, as they too want to notice.
OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.enable_channelz", 1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
    ("grpc.http2.bdp_probe", 0),  # else the windows grow with what a client sends
    ("grpc.server.max_pending_requests", MAX_PENDING[0]),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING[1]),
)
# When the server stops, those who watch its health hear of it first, so much earlier than any stream ends.
NOTICE_S = 0.1
# Then streams are ended spread over so long, so that their clients do not all come back at once.
MAX_JITTER_S = 0.5
# Unary calls that are under way when the server stops have so long to end.
GRACE_S = 2.0

Request = TypeVar("Request", bound=Message)
if TYPE_CHECKING:  # generic for the type checker alone
    Context = grpc.aio.ServicerContext[bytes, bytes]
    Handler = grpc.RpcMethodHandler[bytes, bytes]
else:
    Context = Handler = Any


class _Outbox(Sink):
    """What the hub hands out, until the one writer of the stream takes it."""

    def __init__(self) -> None:
        self._parts: Sequence[bytes] | None = None
        self._waiter: asyncio.Future[None] | None = None

    def send(self, parts: Sequence[bytes]) -> None:
        self._parts = parts
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> Sequence[bytes]:
        if self._parts is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        parts, self._parts = self._parts, None
        return parts or ()


class GrpcServer:
    """The server's port: registry.v1, grpc.health.v1, reflection and channelz."""

    def __init__(self, registry: RegistryService, health: HealthService, rng: random.Random) -> None:
        self._rng = rng
        self._streams: set[asyncio.Task[Any]] = set()
        self._stopping = asyncio.Event()
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(REGISTRY, self._registry_handlers(registry)),
                grpc.method_handlers_generic_handler(HEALTH, self._health_handlers(health)),
            )
        )
        channelz.add_channelz_servicer(self._server)
        names = (REGISTRY, HEALTH, CHANNELZ, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, cast("Any", Descriptors()))

    async def start(self, address: str) -> int:
        """Open the port; return its number. Raises OSError if the address cannot be had."""
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(str(error)) from None
        await self._server.start()
        return port

    async def stop(self) -> None:
        """End the streams, spread over a moment, and then the port."""
        self._stopping.set()
        loop = asyncio.get_running_loop()
        for task in self._streams:
            loop.call_later(NOTICE_S + self._rng.uniform(0, MAX_JITTER_S), task.cancel)
        if self._streams:
            await asyncio.wait(self._streams, timeout=NOTICE_S + MAX_JITTER_S + GRACE_S)
        await self._server.stop(GRACE_S)

    def _registry_handlers(self, service: RegistryService) -> dict[str, Handler]:
        return {
            "Register": _unary(pb.RegisterRequest, service.register),
            "Deregister": _unary(pb.DeregisterRequest, service.deregister),
            "KeepAlive": self._conversation(pb.KeepAliveRequest, service.keep_alive),
            "Update": _unary(pb.UpdateRequest, service.update),
            "Get": _unary(pb.GetRequest, service.get),
            "List": _unary(pb.ListRequest, service.list),
            "ListServices": _unary(pb.ListServicesRequest, service.list_services),
            "Watch": self._feed(pb.WatchRequest, service.watch),
        }

    def _health_handlers(self, service: HealthService) -> dict[str, Handler]:
        handlers = {
            "Check": _unary(health_pb2.HealthCheckRequest, service.check),
            "Watch": self._feed(health_pb2.HealthCheckRequest, service.watch),
        }
        if HAS_LIST:
            handlers["List"] = _unary(health_pb2.HealthListRequest, service.list)
        return handlers

    def _feed(self, kind: type[Request], subscribe: Callable[[Request, Sink], Reader]) -> Handler:
        """A stream that the hub writes to."""

        async def handle(message: bytes, context: Context) -> None:
            async with self._stream(context):
                outbox = _Outbox()
                reader = subscribe(_parse(kind, message), outbox)
                try:
                    while True:
                        for part in await outbox.take():
                            await context.write(part)
                        reader.free()
                finally:
                    reader.leave()

        return grpc.unary_stream_rpc_method_handler(handle)

    def _conversation(self, kind: type[Request], answer: Callable[[Request], Awaitable[bytes]]) -> Handler:
        """A stream with one answer to every request."""

        async def handle(_: Any, context: Context) -> None:
            async with self._stream(context):
                while isinstance(message := await context.read(), bytes):
                    await context.write(await answer(_parse(kind, message)))

        return grpc.stream_stream_rpc_method_handler(handle)

    @asynccontextmanager
    async def _stream(self, context: Context) -> AsyncIterator[None]:
        """A stream's life: known to the server while it runs, and ended with a status whatever happens."""
        if self._stopping.is_set():  # a client whose stream was ended comes back at once
            await _abort(context, shutting_down())
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a handler runs in a task
        self._streams.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
            task.uncancel()
            await _abort(context, shutting_down())
        except grpc.aio.BaseError as error:  # its client reset it, or is gone
            log.debug("a stream broke off: %s", error)
            await _abort(context, internal())
        except Exception as error:
            await _abort(context, _status_of(error))
        finally:
            self._streams.discard(task)


def _unary(kind: type[Request], method: Callable[[Request], Awaitable[bytes]]) -> Handler:
    async def handle(message: bytes, context: Context) -> bytes:
        try:
            return await method(_parse(kind, message))
        except Exception as error:
            await _abort(context, _status_of(error))

    return grpc.unary_unary_rpc_method_handler(handle)


def _parse(kind: type[Request], message: bytes) -> Request:
    try:
        return kind.FromString(message)
    except DecodeError:
        raise InvalidField("request", f"is not an encoded {kind.DESCRIPTOR.full_name}") from None


def _status_of(error: Exception) -> RpcStatus:
    if isinstance(error, RequestError):
        return status_of(error)
    log.error("a call failed", exc_info=error)
    return internal()


async def _abort(context: Context, status: RpcStatus) -> NoReturn:
    """End the call with that status; without a word if nobody is there to be told."""
    try:
        await context.abort(status.code, status.message, status.trailing_metadata)
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError:
        raise asyncio.CancelledError from None
