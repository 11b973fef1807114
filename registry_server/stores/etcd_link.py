"""One connection to one etcd server: its channel, login, requests with deadlines, and the stream that renews leases.

A link is thrown away when it fails; the next one starts afresh, with certificates and password read again.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any

import grpc
import grpc.aio
from aetcd.rpc import rpc_pb2, rpc_pb2_grpc

from registry_server.stores.base import NoSuchLease, Refused, StoreAway, StoreError, StoreEvent
from registry_server.stores.etcd_url import TLS, EtcdURL, Login
from registry_server.stores.etcd_wire import EpochChanged, Layout, Telling, Told, asks_in_order

REQUEST_S = 2.0
LOGIN_S = 3.0  # etcd hashes the password with bcrypt
LOAD_S = 10.0
REOPEN_S = 0.2
IDLE_S = 2.0  # silence after which the watch is asked for a sign of life
PATIENCE_S = 3.0  # how long the answer may take
SUSPECT_S = 1.5  # the same when a request has just failed
MAX_PENDING = 100_000

# Fresh connections, made at once, and half-dead ones noticed: what the watch cannot prove, pings do. etcd refuses pings
# that come more often than every 5 s.
_CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
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
_TOO_LARGE = ("too many operations in txn request", "request is too large", "message larger than max")
_BAD_LOGIN = ("authentication failed", "user name is empty", "permission denied")
_STALE_TOKEN = ("invalid auth token", "user name is empty", "revision of auth store is old")
_LOST_DETAILS = "Internal error from Core"  # what grpc.aio says instead when a write meets the end of a stream
_COMPACTED = "required revision has been compacted"


class LinkLost(Exception):
    """The link is of no use any more; the text says why."""


class BadCredentials(StoreError):
    """etcd refuses the user, the password, or what the user wants to do."""


class Link:
    """A channel to one endpoint, logged in when the URL names a user."""

    def __init__(self, endpoint: str, url: EtcdURL) -> None:
        self.endpoint = endpoint
        self._login = url.login
        self.token: str | None = None
        self._one_login = asyncio.Lock()
        self._channel = _channel(endpoint, url.tls)
        self.kv = rpc_pb2_grpc.KVStub(self._channel)
        self.leases = rpc_pb2_grpc.LeaseStub(self._channel)
        self._auth = rpc_pb2_grpc.AuthStub(self._channel)
        self._watch = rpc_pb2_grpc.WatchStub(self._channel)
        self._maintenance = rpc_pb2_grpc.MaintenanceStub(self._channel)

    async def aclose(self) -> None:
        """Close the channel; what is under way on it fails."""
        await self._channel.close()

    # ---- requests

    async def write(self, method: Any, request: Any) -> Any:
        """Call a unary `method` for a writer. Raises StoreError as the Store contract says."""
        try:
            return await self._request(method, request, REQUEST_S)
        except grpc.aio.AioRpcError as error:
            raise _write_error(error, self.endpoint) from error
        except (LinkLost, BadCredentials, OSError) as refused:  # at the new login
            raise StoreAway(str(refused)) from refused

    async def ask(self, method: Any, request: Any, timeout_s: float = REQUEST_S) -> Any:
        """Call a unary `method` that the link cannot do without. Raises LinkLost, BadCredentials or EpochChanged."""
        try:
            return await self._request(method, request, timeout_s)
        except grpc.aio.AioRpcError as error:
            if _says(error, _COMPACTED):
                raise EpochChanged from error
            raise self.lost(error) from error

    async def _request(self, method: Any, request: Any, timeout_s: float) -> Any:
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
            answer = await self.ask(self._maintenance.Status, rpc_pb2.StatusRequest())
        except BadCredentials:
            return True  # only versions newer than the fix refuse this to a user who may read and write
        return asks_in_order(answer.version)

    # ---- streams

    def open_watch(self) -> Any:
        """A new watch stream, which etcd ends when its member loses sight of the leader."""
        return self._watch.Watch(metadata=self._metadata(("hasleader", "true")))

    def open_renewals(self) -> Any:
        """A new stream of lease renewals."""
        return self.leases.LeaseKeepAlive(metadata=self._metadata())

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
        request = rpc_pb2.AuthenticateRequest(name=login.user, password=login.read_password())
        try:
            answer = await self._auth.Authenticate(request, timeout=LOGIN_S)
        except grpc.aio.AioRpcError as error:
            if _says(error, "authentication is not enabled"):
                return None
            raise self.lost(error) from error
        return str(answer.token)


def _channel(endpoint: str, tls: TLS | None) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)
    ca, key, cert = (path.read_bytes() if path else None for path in (tls.ca, tls.key, tls.cert))
    return grpc.aio.secure_channel(endpoint, grpc.ssl_channel_credentials(ca, key, cert), options=_CHANNEL_OPTIONS)


# ---- errors


def _describe(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"


def _says(error: grpc.aio.AioRpcError, *texts: str) -> bool:
    details = error.details() or ""
    return any(text in details for text in texts)


def _write_error(error: grpc.aio.AioRpcError, endpoint: str) -> StoreError:
    if _says(error, _LEASE_GONE):
        return NoSuchLease(error.details())
    if _says(error, *_TOO_LARGE):
        return Refused(f"{endpoint}: {error.details()}")
    return StoreAway(f"{endpoint}: {_describe(error)}")


# ---- tasks


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all of it until one part fails, and raise its error. No part is left when this ends.

    Not a TaskGroup, because one that is cancelled while a part of it fails tells of the failure alone, and because up
    to Python 3.12 it may leave its task looking cancelled. Here cancellation always wins.
    """
    tasks = [asyncio.create_task(part) for part in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    raise _main_cause([error for task in tasks if not task.cancelled() and (error := task.exception())])


def _main_cause(errors: list[BaseException]) -> BaseException:
    """The error that tells most: a lost link is often only what another error left behind."""
    return next((error for error in errors if not isinstance(error, LinkLost)), errors[0])


# ---- renewals


class Renewals:
    """One LeaseKeepAlive stream for all leases. Answers are matched by lease, oldest first: etcd keeps the order."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: dict[int, deque[asyncio.Future[int | None]]] = {}
        self._outbox: deque[int] = deque()
        self._asked = asyncio.Event()
        self._pending = 0

    def ask(self, lease: int) -> "asyncio.Future[int | None]":
        """Renew `lease`. The result is its time to live in seconds, 0 when it is gone, None when nobody can tell.

        Cancel it to give up waiting.
        """
        answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        if self._pending >= MAX_PENDING:
            answer.set_result(None)
            return answer
        self._waiting.setdefault(lease, deque()).append(answer)
        self._outbox.append(lease)
        self._pending += 1
        self._asked.set()
        return answer

    async def run(self) -> None:
        """Keep a stream open until cancelled. What breaks the stream alone (an election) does not break the link."""
        try:
            while True:
                await self._one_stream()
                await asyncio.sleep(REOPEN_S)
                self._ask_again()
        finally:
            self._give_up()

    async def _one_stream(self) -> None:
        token = self._link.token
        call = self._link.open_renewals()
        try:
            await together(self._send(call), self._receive(call))
        except (grpc.aio.AioRpcError, LinkLost):
            pass  # the watch decides about the link
        finally:
            await _hang_up(call)
        if self._link.is_stale_token(await call.details(), _LOST_DETAILS):
            await self._link.login(instead_of=token)

    async def _send(self, call: Any) -> None:
        # When writing fails the call has ended, and reading tells why: cancelling the reader would hide it.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self._asked.wait()
                self._asked.clear()
                while self._outbox:
                    await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=self._outbox.popleft()))

    async def _receive(self, call: Any) -> None:
        while (response := await call.read()) is not grpc.aio.EOF:
            self._answered(response.ID, response.TTL)
        raise LinkLost("etcd ended the stream of renewals")

    def _answered(self, lease: int, ttl_s: int) -> None:
        waiting = self._waiting.get(lease)
        if not waiting:
            return
        _resolve(waiting.popleft(), ttl_s)
        self._pending -= 1
        if not waiting:
            del self._waiting[lease]

    def _ask_again(self) -> None:
        """What the last stream left open, if somebody still waits for it."""
        still = {
            lease: deque(answer for answer in waiting if not answer.done()) for lease, waiting in self._waiting.items()
        }
        self._waiting = {lease: waiting for lease, waiting in still.items() if waiting}
        self._outbox = deque(lease for lease, waiting in self._waiting.items() for _ in waiting)
        self._pending = len(self._outbox)
        self._asked.set()

    def _give_up(self) -> None:
        for waiting in self._waiting.values():
            for answer in waiting:
                _resolve(answer, None)
        self._waiting.clear()
        self._outbox.clear()
        self._pending = 0


def _resolve(answer: "asyncio.Future[int | None]", ttl_s: int | None) -> None:
    if not answer.done():
        answer.set_result(ttl_s)


async def _hang_up(call: Any) -> None:
    """Cancel a stream and wait until it has ended."""
    call.cancel()
    await call.code()


# ---- the watch


class Watch:
    """The watch stream of a link, and the proof that it is alive: silence is broken by asking for progress."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._call: Any = None
        self._telling: Telling
        self._watch_id = 0
        self._answers_in_order = False
        self._heard = asyncio.Event()
        self._suspected = asyncio.Event()

    async def __aenter__(self) -> "Watch":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._call is not None:
            await _hang_up(self._call)

    async def open(self, layout: Layout, told: Told) -> None:
        """Watch from `told` on. Raises LinkLost, BadCredentials or EpochChanged.

        From `told` itself, which is then left out, and not from the revision after it: etcd does not answer questions
        about the progress of a watch that begins in the future.
        """
        self._telling = Telling(layout, told)
        self._answers_in_order = await self._link.answers_in_order()
        self._call = self._link.open_watch()
        async with self._within(REQUEST_S):
            await self._call.write(layout.watch(told.revision))
            self._watch_id = (await self._read()).watch_id

    async def follow(self, tell: Callable[[Iterable[StoreEvent], Told], None]) -> None:
        """Hand over what etcd tells until the stream fails. Raises as `open` does."""
        while True:
            response = await self._read()
            self._heard.set()
            tell(self._events(response), self._telling.told)

    async def prove_alive(self) -> None:
        """Ask for progress after IDLE_S of silence, or at once when suspected. Raises LinkLost when no answer comes."""
        while True:
            if await self._is_quiet():
                async with self._within(SUSPECT_S if self._suspected.is_set() else PATIENCE_S):
                    await self._call.write(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))
                    await self._heard.wait()
            self._suspected.clear()

    def suspect(self) -> None:
        """Some other request on this link failed or did not come back."""
        self._suspected.set()

    async def _is_quiet(self) -> bool:
        """Wait for IDLE_S or for a suspicion. False when something was heard meanwhile, and nothing is suspected."""
        self._heard.clear()
        try:
            async with asyncio.timeout(IDLE_S):
                await self._suspected.wait()
        except TimeoutError:
            return not self._heard.is_set()
        self._heard.clear()
        return True

    async def _read(self) -> Any:
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._link.lost(error) from error
        if response is grpc.aio.EOF:
            raise LinkLost(f"{self._link.endpoint}: etcd ended the watch")
        if response.canceled:
            raise self._canceled(response)
        return response

    def _canceled(self, response: Any) -> Exception:
        if response.compact_revision:
            return EpochChanged()
        reason = f"{self._link.endpoint}: {response.cancel_reason or 'etcd cancelled the watch'}"
        return BadCredentials(reason) if "permission denied" in reason else LinkLost(reason)

    def _events(self, response: Any) -> list[StoreEvent]:
        if response.events or response.created:
            return [*self._telling.feed(response)]
        # An answer to a request carries no watch id, and in old versions of etcd may overtake events.
        is_in_order = response.watch_id == self._watch_id or self._answers_in_order
        return [self._telling.progress(response.header.revision if is_in_order else 0)]

    @contextlib.asynccontextmanager
    async def _within(self, limit_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError:
            raise LinkLost(f"{self._link.endpoint}: no answer for {limit_s:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise self._link.lost(error) from error
        except asyncio.InvalidStateError:
            raise LinkLost(f"{self._link.endpoint}: the watch has ended") from None
