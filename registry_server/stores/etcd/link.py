"""SHELL: one connection to one etcd server: its channel, login, and requests with deadlines.

A link is thrown away when it fails; the next one starts afresh, with certificates and password read again.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Coroutine
from importlib import import_module
from typing import Any, TypeVar

import grpc
import grpc.aio

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_server.stores.base import NoSuchLease, Refused, StoreAway, StoreError, StoreFull
from registry_server.stores.epoch import OrderLost
from registry_server.stores.etcd.api import Api, EtcdChannel, RenewalCall, StreamCall, UnaryMethod, WatchCall
from registry_server.stores.etcd.url import Client, EtcdURL
from registry_server.stores.etcd.wire import asks_in_order
from registry_server.stores.together import together as run_together
from registry_server.stores.urls import TLS, Login

Q = TypeVar("Q")
R = TypeVar("R")

REQUEST_S = 2.0
LOGIN_S = 3.0  # etcd hashes the password with bcrypt
LOAD_S = 10.0

# Of grpc.aio: fresh connections, made at once to where the name leads now, and half-dead ones noticed: what the
# watch cannot prove, pings do. etcd refuses pings that come more often than every 5 s.
_CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.dns_min_time_between_resolutions_ms", 100),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
)

_LEASE_GONE = "requested lease not found"
_LEASE_TAKEN = "lease already exists"
_TOO_LARGE = ("too many operations in txn request", "request is too large", "message larger than max")
_BAD_LOGIN = ("authentication failed", "user name is empty", "permission denied")
_STALE_TOKEN = ("invalid auth token", "user name is empty", "revision of auth store is old")
_NO_SPACE = ("database space exceeded",)
_COMPACTED = "required revision has been compacted"


class LinkLost(Exception):
    """The link is of no use any more; the text says why."""


class BadCredentials(StoreError):
    """etcd refuses the user, the password, or what the user wants to do."""


class LeaseTaken(StoreError):
    """There is a lease of that number already."""


class Link:
    """A channel to one endpoint, logged in when the URL names a user."""

    def __init__(self, endpoint: str, url: EtcdURL) -> None:
        self.endpoint = endpoint
        self._login = url.login
        self.token: str | None = None
        self._one_login = asyncio.Lock()
        self._channel = channel_to(endpoint, url)
        self.api = Api(self._channel)

    async def aclose(self) -> None:
        """Close the channel; what is under way on it fails."""
        await self._channel.close()

    # ---- requests

    async def write(self, method: UnaryMethod[Q, R], request: Q) -> R:
        """Call a unary `method` for a writer. Raises StoreError as the Store contract says, or LeaseTaken."""
        try:
            return await self._request(method, request, REQUEST_S)
        except grpc.aio.AioRpcError as error:
            raise _write_error(error, self.endpoint) from error
        except (LinkLost, BadCredentials, OSError) as refused:  # at the new login
            raise StoreAway(str(refused)) from refused

    async def ask(self, method: UnaryMethod[Q, R], request: Q, timeout_s: float = REQUEST_S) -> R:
        """Call a unary `method` that the link cannot do without. Raises LinkLost, BadCredentials or OrderLost."""
        try:
            return await self._request(method, request, timeout_s)
        except grpc.aio.AioRpcError as error:
            if _says(error, _COMPACTED):
                raise OrderLost from error
            raise self.lost(error) from error

    async def _request(self, method: UnaryMethod[Q, R], request: Q, timeout_s: float) -> R:
        """Call a unary `method`, logging in again when the token is refused."""
        token = self.token
        try:
            return await method(request, timeout=timeout_s, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            if not self.is_stale_token(error.details()):
                raise
        await self.login(instead_of=token)
        return await method(request, timeout=timeout_s, metadata=self._metadata())

    def lost(self, error: grpc.aio.AioRpcError) -> LinkLost | BadCredentials:
        """What `error` means for the link as a whole."""
        if _says(error, *_BAD_LOGIN, *_STALE_TOKEN):
            return BadCredentials(f"{self.endpoint}: {error.details()}")
        return LinkLost(f"{self.endpoint}: {_describe(error)}")

    async def answers_in_order(self) -> bool:
        """Whether what the watch says about progress can be relied on. Raises as `ask` does."""
        try:
            answer = await self.ask(self.api.status, etcd.StatusRequest())
        except BadCredentials:
            return True  # only versions newer than the fix refuse this to a user who may read and write
        return asks_in_order(answer.version)

    # ---- streams

    def open_watch(self) -> WatchCall:
        """A new watch stream, which etcd ends when its member loses sight of the leader."""
        return self.api.watch(metadata=self._metadata(("hasleader", "true")))

    def open_renewals(self) -> RenewalCall:
        """A new stream of lease renewals."""
        return self.api.renew(metadata=self._metadata())

    def _metadata(self, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
        return (("token", self.token), *more) if self.token else more

    # ---- login

    async def login(self, instead_of: str | None = None) -> None:
        """Get a token in place of the refused one, once however many ask. Raises LinkLost or BadCredentials."""
        if self._login is None:
            return
        async with self._one_login:
            if self.token == instead_of:
                self.token = await self._authenticate(self._login)

    def is_stale_token(self, details: str | None, *more: str) -> bool:
        """Whether a call failed with these details because it is time to log in (again)."""
        return self._login is not None and any(text in (details or "") for text in (*_STALE_TOKEN, *more))

    async def _authenticate(self, login: Login) -> str | None:
        request = etcd.AuthenticateRequest(name=login.user, password=login.read_password())
        try:
            answer = await self.api.authenticate(request, timeout=LOGIN_S)
        except grpc.aio.AioRpcError as error:
            if _says(error, "authentication is not enabled"):
                return None
            raise self.lost(error) from error
        return answer.token


def channel_to(endpoint: str, url: EtcdURL) -> EtcdChannel:
    """The cheap one, unless the URL wants another or there is no `ngh2`. Raises OSError."""
    if url.client is not Client.GRPC:
        with contextlib.suppress(ImportError):
            from registry_server.stores.etcd import http2

            return http2.Http2Channel(endpoint, _context(url.tls) if url.tls else None)
    if url.tls is None:
        return grpc.aio.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)
    ca, key, cert = (path.read_bytes() if path else None for path in (url.tls.ca, url.tls.key, url.tls.cert))
    return grpc.aio.secure_channel(endpoint, grpc.ssl_channel_credentials(ca, key, cert), options=_CHANNEL_OPTIONS)


def lack_of_http2(url: EtcdURL) -> str:
    """Why it is not the cheap one, though the URL asks for no other; empty if it is."""
    if url.client is Client.GRPC:
        return ""
    try:
        import_module("registry_server.stores.etcd.http2")
    except ImportError as error:
        return str(error)
    return ""


def _context(tls: TLS) -> ssl.SSLContext:
    context = tls.context()
    context.set_alpn_protocols(["h2"])
    return context


# ---- errors


def _describe(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"


def _says(error: grpc.aio.AioRpcError, *texts: str) -> bool:
    details = error.details() or ""
    return any(text in details for text in texts)


def _write_error(error: grpc.aio.AioRpcError, endpoint: str) -> StoreError:
    if _says(error, _LEASE_GONE):
        return NoSuchLease(error.details())
    if _says(error, _LEASE_TAKEN):
        return LeaseTaken(error.details())
    if _says(error, *_TOO_LARGE):
        return Refused(f"{endpoint}: {error.details()}")
    if _says(error, *_NO_SPACE):
        return StoreFull(f"{endpoint}: {_describe(error)}")
    return StoreAway(f"{endpoint}: {_describe(error)}")


# ---- streams and tasks


async def hang_up(call: StreamCall[Any]) -> None:
    """Cancel a stream and wait until it has ended."""
    call.cancel()
    await call.code()


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all of it until one part fails, and raise the error that tells most."""
    await run_together(*work, least=LinkLost)
