"""SHELL: binds a table of methods to grpc.aio: bytes in, bytes out, errors to statuses, one writer for each stream."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc

from registry_api.limits import UNIX
from registry_server.errors import RequestError
from registry_server.rpc.table import (
    NO_CREDENTIALS,
    Broadcast,
    Caller,
    Conversation,
    Credentials,
    Method,
    Service,
    Session,
    Table,
    Unary,
    parse,
)
from registry_server.sockets import SOCKET_MODE, path_of, place
from registry_server.transport import channelz, streams
from registry_server.transport.limits import Limits
from registry_server.transport.names import names_in
from registry_server.transport.status import DETAILS_KEY, RpcStatus, internal, shutting_down, status_of
from registry_server.transport.streams import Streams
from registry_server.transport.tls import Certificates, PEMs

log = logging.getLogger(__name__)

# What limits.py has no name for: what one connection may cost before anybody looks at what it sends.
DEFAULT_LIMITS = Limits()
LOOKAHEAD_BYTES = 64 * 1024
# Calls that no handler has taken up, of all connections: as many as come back at once when a server was away. Beyond
# the first number more and more are refused, beyond the second all.
MAX_PENDING = (20_000, 40_000)

# A second server on the same port is an error; peers that are half dead are noticed within seconds; clients may ping
# often, as they too want to notice.
OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.enable_channelz", 1),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
    ("grpc.http2.bdp_probe", 0),  # else the windows grow with what a client sends
    ("grpc.server.max_pending_requests", MAX_PENDING[0]),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING[1]),
)

if TYPE_CHECKING:  # generic for the type checker alone
    Context = grpc.aio.ServicerContext[bytes, bytes]
    Handler = grpc.RpcMethodHandler[bytes, bytes]
else:
    Context = Handler = Any


def _options(limits: Limits) -> Iterator[tuple[str, int]]:
    """Those of the limits that grpcio's core can keep to."""
    yield "grpc.max_concurrent_streams", limits.max_streams
    yield "grpc.max_receive_message_length", limits.max_message_bytes
    yield "grpc.max_metadata_size", limits.max_header_bytes
    yield "grpc.keepalive_time_ms", 1000 * limits.keepalive_s
    yield "grpc.keepalive_timeout_ms", 1000 * limits.keepalive_timeout_s
    yield "grpc.http2.ping_timeout_ms", 1000 * limits.keepalive_timeout_s
    yield "grpc.server_handshake_timeout_ms", 1000 * limits.handshake_s
    if limits.max_idle_s:
        yield "grpc.max_connection_idle_ms", 1000 * limits.max_idle_s
    if limits.max_age_s:
        yield "grpc.max_connection_age_ms", 1000 * limits.max_age_s
        yield "grpc.max_connection_age_grace_ms", 1000 * limits.leaving_s


def services() -> tuple[Service, ...]:
    """What this transport can say of itself."""
    return (channelz.service(),)


class GrpcServer:
    """A port at which the methods of a table are answered: over TLS if there is a certificate, but for unix:PATH."""

    def __init__(
        self,
        table: Table,
        open_streams: Streams,
        limits: Limits = DEFAULT_LIMITS,
        tls: Certificates | None = None,
    ) -> None:
        self._streams = open_streams
        self._tls = tls
        self._server = grpc.aio.server(options=(*OPTIONS, *_options(limits)))
        handlers = {path: self._handler(method) for path, method in table.methods.items()}
        self._server.add_generic_rpc_handlers((_Handlers(handlers),))

    async def start(self, *addresses: str, socket_mode: int = SOCKET_MODE) -> tuple[str, ...]:
        """Listen at each of them, HOST:PORT or unix:PATH; return them with their ports. Raises OSError."""
        listening = tuple(self._open(address, socket_mode) for address in addresses)
        await self._server.start()
        return listening

    def _open(self, address: str, socket_mode: int) -> str:
        is_file = address.startswith(UNIX)
        try:
            with place(path_of(address), socket_mode) if is_file else nullcontext():
                port = self._add_port(address, None if is_file else self._tls)
        except RuntimeError as error:
            raise OSError(str(error)) from None
        return address if is_file else f"{address.rpartition(':')[0]}:{port}"

    def _add_port(self, address: str, tls: Certificates | None) -> int:
        if tls is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, _credentials(tls))

    async def stop(self) -> None:
        """End the streams, spread over a moment, and then the port."""
        await self._streams.stop()
        await self._server.stop(streams.GRACE_S)

    def _handler(self, method: Method) -> Handler:
        match method:
            case Unary():
                return grpc.unary_unary_rpc_method_handler(_answering(method))
            case Broadcast():
                return grpc.unary_stream_rpc_method_handler(self._broadcasting(method))
            case Conversation() | Session():
                return grpc.stream_stream_rpc_method_handler(self._talking(method))

    def _broadcasting(self, method: Broadcast[Any]) -> Any:
        async def handle(message: bytes, context: Context) -> None:
            async with self._stream(context) as stream:
                await streams.broadcast(method, _caller(context), message, stream.write, stream)

        return handle

    def _talking(self, method: Conversation[Any] | Session[Any]) -> Any:
        async def handle(_: object, context: Context) -> None:
            async def read() -> bytes | None:
                message = await context.read()
                return message if isinstance(message, bytes) else None

            async with self._stream(context) as stream:
                await context.send_initial_metadata(())  # some clients wait for that before they say anything
                if isinstance(method, Session):
                    await streams.hold(method, _caller(context), read, context.write, stream)
                else:
                    await streams.converse(method, _caller(context), read, stream.write, stream)

        return handle

    @asynccontextmanager
    async def _stream(self, context: Context) -> AsyncIterator["_Stream"]:
        """A stream's life: known to the server while it runs, and ended with a status whatever happens."""
        if self._streams.is_stopping:
            await _abort(context, shutting_down())
        stream = _Stream(context)
        self._streams.add(stream)
        try:
            yield stream
        except asyncio.CancelledError:
            if stream.status is None:
                raise
            stream.task.uncancel()
            await _abort(context, stream.status)
        except grpc.aio.BaseError as error:  # its client reset it, or is gone
            log.debug("a stream broke off: %s", error)
            await _abort(context, internal())
        except Exception as error:
            await _abort(context, status_of(error))
        finally:
            self._streams.discard(stream)


class _Stream:
    """A stream, which runs in the task that makes this.

    What it writes is never cut off: after a first message that was, gRPC's core does not end the stream any more.
    """

    def __init__(self, context: Context) -> None:
        self.status: RpcStatus | None = None  # what it is ended with by us
        self.task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._context = context
        self._is_writing = False

    def end(self) -> None:
        self._end_with(shutting_down())

    def refuse(self, error: RequestError, /) -> None:
        self._end_with(status_of(error))

    def _end_with(self, status: RpcStatus) -> None:
        if self.status is None:
            self.status = status
            if not self._is_writing:
                self.task.cancel()

    async def write(self, message: bytes) -> None:
        self._is_writing = True
        try:
            await self._context.write(message)
        finally:
            self._is_writing = False
        if self.status is not None:
            raise asyncio.CancelledError


class _Handlers(grpc.GenericRpcHandler):
    """What answers a call, by its path."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        return self._handlers.get(handler_call_details.method)


def _credentials(tls: Certificates) -> grpc.ServerCredentials:
    """gRPC's core asks for what has changed whenever somebody connects, in a thread of its own."""
    shown = tls.contents

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        contents = tls.contents
        if contents is shown:
            return None
        shown = contents
        return _configuration(contents)

    ask = cast("Callable[[], grpc.ServerCertificateConfiguration]", changed)  # None is allowed, whatever its stubs say
    return grpc.dynamic_ssl_server_credentials(_configuration(shown), ask, tls.asks_clients)


def _configuration(contents: PEMs) -> grpc.ServerCertificateConfiguration:
    pair = contents.key, contents.cert
    return grpc.ssl_server_certificate_configuration([pair], contents.client_ca or None)


def _answering(method: Unary[Any]) -> Any:
    async def handle(message: bytes, context: Context) -> bytes:
        try:
            return await method.call(parse(method.request, message), _caller(context))
        except Exception as error:
            await _abort(context, status_of(error))

    return handle


def _caller(context: Context) -> Caller:
    """To be asked for when the call comes: the core is not to be asked once it has ended."""
    credentials, parent, state = NO_CREDENTIALS, "", ""
    if shown := context.auth_context():
        credentials = Credentials(names=tuple(name for pem in shown.get("x509_pem_cert", ()) for name in _names(pem)))
    said: set[str] = set()
    for name, value in context.invocation_metadata() or ():
        if name == "authorization":
            said.add(value if isinstance(value, str) else "")  # as bytes, it is no text
        elif name == "traceparent" and isinstance(value, str):
            parent = value
        elif name == "tracestate" and isinstance(value, str):
            state = value
    if said:  # several are nobody's
        credentials = credentials.with_authorization(said.pop() if len(said) == 1 else "")
    caller = Caller(context.peer(), context.time_remaining(), credentials=credentials)
    return caller._replace(traceparent=parent, tracestate=state) if parent else caller


def _names(pem: bytes) -> tuple[str, ...]:
    try:
        return names_in(ssl.PEM_cert_to_DER_cert(pem.decode("ascii").strip()))
    except ValueError:
        return ()


async def _abort(context: Context, status: RpcStatus) -> NoReturn:
    """End the call with that status; without a word if nobody is there to be told."""
    try:
        code = grpc.StatusCode[status.code.name]
        await context.abort(code, status.message, ((DETAILS_KEY, status.details),))
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError:
        raise asyncio.CancelledError from None
