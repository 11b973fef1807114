"""SHELL: the nodes of a ZooKeeper, by kazoo, which has threads of its own: here is the bridge to the event loop.

A session is used until its connection is lost, once. What was asked for then fails, and a new one is opened.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar, cast

from kazoo import exceptions
from kazoo.client import KazooClient, KazooState
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.retry import KazooRetry
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, READ_ACL_UNSAFE

from registry_server.stores.base import StoreAway, StoreError
from registry_server.stores.urls import TLS
from registry_server.stores.zookeeper.url import ZooKeeperURL

T = TypeVar("T")

# How long a session lives at ZooKeeper without its client, and how long it may take to have one, in seconds.
SESSION_S = 6.0
CONNECT_S = 3.0
# How long a session that ends is waited for, in seconds. Where nobody answers, it takes kazoo longer.
CLOSE_S = 0.5
# kazoo is told of each request by a byte in a pipe: with too many of them, its caller would have to wait.
IN_FLIGHT = 64

_RETRY_S, _RETRY_MAX_S = 0.05, 0.5


class NoSuchNode(StoreError):
    """There is no node of that path. Nothing was changed."""


class NodeExists(StoreError):
    """There is a node of that path already. Nothing was changed."""


class NotEmpty(StoreError):
    """There are nodes below that one. Nothing was changed."""


class Denied(StoreError):
    """ZooKeeper does not let this user do that. Nothing was changed."""


class Kept(NamedTuple):
    """What is in a node, and how often that was written."""

    data: bytes
    version: int


class _Promise(Protocol):
    """kazoo's IAsyncResult."""

    def rawlink(self, callback: "Callable[[_Promise], None]") -> None: ...
    def get(self) -> object: ...


class _Stat(Protocol):
    version: int


class Multi(Protocol):
    """kazoo's TransactionRequest, as far as it is needed."""

    def create(self, path: str, value: bytes = ..., *, ephemeral: bool = ...) -> None: ...
    def delete(self, path: str) -> None: ...
    def set_data(self, path: str, value: bytes, version: int = ...) -> None: ...
    def check(self, path: str, version: int) -> None: ...
    def commit_async(self) -> _Promise: ...


class Znodes:
    """One session. Everything raises StoreAway when the connection is lost, or cannot be had."""

    def __init__(
        self, url: ZooKeeperURL, turn: int, session_s: float = SESSION_S, *, everybody_reads: bool = False
    ) -> None:
        """The host that comes first is another one at each turn. What a user makes nobody else may change, nor read
        unless everybody does. Raises OSError when a file of the URL cannot be read."""
        self._sockets = _Sockets(url.tls)
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._state: asyncio.Future[None] = self._loop.create_future()  # done when it is connected
        self.lost: asyncio.Future[None] = self._loop.create_future()  # done when it is so no more
        self._client = _client(url, turn, session_s, self._sockets)
        if url.login:
            self._client.default_acl = [*CREATOR_ALL_ACL, *(READ_ACL_UNSAFE if everybody_reads else ())]
        self._client.add_listener(self._on_state)
        self._hosts = ", ".join(url.endpoints)

    async def open(self) -> None:
        """Connect."""
        self._client.start_async()
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._state
        except TimeoutError:
            why = f" ({self._sockets.trouble})" if self._sockets.trouble else ""
            raise StoreAway(f"no ZooKeeper answers within {CONNECT_S:g} s: {self._hosts}{why}") from None

    async def aclose(self, *, stays: bool = False) -> None:
        """End the session, in a thread, as kazoo waits for an answer; where none comes, or if it `stays`, the session
        is left behind and ends by itself, with its ephemeral nodes."""
        if stays:
            self._sockets.cut()
        ended = self._loop.create_future()
        threading.Thread(target=self._end, args=(ended,), name="zookeeper-close", daemon=True).start()
        await asyncio.wait([ended], timeout=CLOSE_S)
        if not ended.done():
            self._sockets.cut()
            await asyncio.wait([ended], timeout=CLOSE_S)

    def _end(self, ended: asyncio.Future[None]) -> None:
        for end in (self._client.stop, self._client.close):
            with contextlib.suppress(Exception):  # it was lost, or never connected: what it holds goes all the same
                end()
        self._in_loop(_done, ended)

    # ---- what kazoo's threads say

    def _on_state(self, state: str) -> None:
        self._in_loop(_done, self._state if state == KazooState.CONNECTED else self.lost)

    def _in_loop(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call, *arguments)

    async def _answer(self, ask: Callable[[], _Promise]) -> object:
        """What comes of a request. Raises StoreError."""
        async with self._room:
            if self.lost.done():
                raise StoreAway("the connection to ZooKeeper is lost")
            answered: asyncio.Future[None] = self._loop.create_future()
            promise = ask()
            promise.rawlink(lambda _: self._in_loop(_done, answered))
            await answered
        try:
            return promise.get()
        except exceptions.KazooException as error:
            raise _meant(error) from None

    # ---- nodes

    async def get(self, path: str, changed: Callable[[], None] | None = None) -> Kept:
        """What is in a node; `changed` is called once, when it changes or leaves. Raises NoSuchNode."""
        watch = self._watch(changed)
        data, stat = cast("tuple[bytes, _Stat]", await self._answer(lambda: self._client.get_async(path, watch)))
        return Kept(data, stat.version)

    async def exists(self, path: str, changed: Callable[[], None] | None = None) -> bool:
        """Whether there is such a node; `changed` is called once, when it is made or changes or leaves."""
        watch = self._watch(changed)
        return await self._answer(lambda: self._client.exists_async(path, watch)) is not None

    async def children(self, path: str, changed: Callable[[], None] | None = None) -> list[str]:
        """The names below a node; `changed` is called once, when there are others. Raises NoSuchNode."""
        watch = self._watch(changed)
        return cast("list[str]", await self._answer(lambda: self._client.get_children_async(path, watch)))

    def _watch(self, changed: Callable[[], None] | None) -> Callable[[object], None] | None:
        return None if changed is None else lambda _: self._in_loop(changed)

    async def sync(self, path: str) -> None:
        """What is read from now on is no older than what was answered before, by whichever server."""
        await self._answer(lambda: self._client.sync_async(path))

    async def create(self, path: str, data: bytes = b"", *, ephemeral: bool = False) -> None:
        """Make a node; an ephemeral one leaves with this session. Raises NodeExists, or NoSuchNode (above it)."""
        await self._answer(lambda: self._client.create_async(path, data, ephemeral=ephemeral))

    async def set(self, path: str, data: bytes) -> None:
        """Write a node. Raises NoSuchNode."""
        await self._answer(lambda: self._client.set_async(path, data))

    async def delete(self, path: str) -> None:
        """Remove a node. Raises NoSuchNode, or NotEmpty."""
        await self._answer(lambda: self._client.delete_async(path))

    async def ensure(self, path: str, *, is_open: bool = False) -> None:
        """Make a node and those above it, as far as they are not there; open ones are everybody's."""
        acl = OPEN_ACL_UNSAFE if is_open else None
        await self._answer(lambda: self._client.ensure_path_async(path, acl))

    async def commit(self, fill: Callable[[Multi], None]) -> None:
        """All that `fill` puts into a transaction, or nothing. Raises what its first part that fails does."""
        transaction = self._client.transaction()
        fill(transaction)
        outcomes = cast("list[object]", await self._answer(transaction.commit_async))
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        not_done = (exceptions.RolledBackError, exceptions.RuntimeInconsistency)
        if errors:
            raise _meant(next((error for error in errors if not isinstance(error, not_done)), errors[0]))


class _Sockets(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no types
    """How kazoo makes connections: the latest one can be cut, and no other is made then.

    TLS is ours: kazoo trusts the system's authorities beside those of `ca`, and tells nobody what goes wrong.
    """

    def __init__(self, tls: TLS | None) -> None:
        super().__init__()
        self.trouble = ""  # why the latest one was not made
        self._tls = tls
        self._lock = threading.Lock()
        self._is_cut = False
        self._latest: socket.socket | None = None

    def create_connection(self, *args: object, **kwargs: object) -> socket.socket:
        """See kazoo's IHandler."""
        try:
            made = self._made(*args, **kwargs)
        except OSError as error:  # an SSLError is one
            self.trouble = error.strerror or str(error)
            raise
        self.trouble = ""
        with self._lock:
            self._latest = made
            if self._is_cut:
                made.close()
                raise OSError("no connections any more")
        return made

    def _made(self, *args: object, **kwargs: object) -> socket.socket:
        made = cast("socket.socket", super().create_connection(*args, **{**kwargs, "use_ssl": False}))
        if self._tls is None:
            return made
        try:
            return self._tls.context().wrap_socket(made, server_hostname=str(kwargs["hostname"]))
        except OSError:
            made.close()
            raise

    def cut(self) -> None:
        """Whatever is under way fails now, as with a network that is gone."""
        with self._lock:
            self._is_cut = True
            if self._latest is not None:
                with contextlib.suppress(OSError):  # it is closed
                    self._latest.shutdown(socket.SHUT_RDWR)


def _client(url: ZooKeeperURL, turn: int, session_s: float, handler: _Sockets) -> KazooClient:
    first = turn % len(url.endpoints)
    login = url.login
    if url.tls is not None:
        url.tls.context()  # what is wrong with its files is told at once
    # Each failure is told by who uses this; and requests are shown at its debug level, with passwords.
    logger = logging.getLogger(f"{__name__}.kazoo")
    logger.setLevel(logging.CRITICAL)
    return KazooClient(
        hosts=",".join((*url.endpoints[first:], *url.endpoints[:first])),
        timeout=session_s,
        handler=handler,
        randomize_hosts=False,
        connection_retry=KazooRetry(max_tries=-1, delay=_RETRY_S, max_delay=_RETRY_MAX_S),
        logger=logger,
        auth_data=[("digest", f"{login.user}:{login.read_password()}")] if login else None,
        use_ssl=url.tls is not None,
    )


def _meant(error: Exception) -> StoreError:
    """What an error of kazoo is for those who ask."""
    text = str(error) or type(error).__name__
    match error:
        case exceptions.NoNodeError():
            return NoSuchNode(text)
        case exceptions.NodeExistsError():
            return NodeExists(text)
        case exceptions.NotEmptyError():
            return NotEmpty(text)
        case exceptions.NoAuthError() | exceptions.AuthFailedError() | exceptions.InvalidACLError():
            return Denied(f"ZooKeeper does not allow it to this user ({type(error).__name__})")
    return StoreAway(f"ZooKeeper: {text}")


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
