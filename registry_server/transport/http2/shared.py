"""SHELL: what the connections of one server share: a table, limits, and the end of every turn of the loop."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from registry_server.rpc.table import Method, Table
from registry_server.transport.complaints import Complaints
from registry_server.transport.http2.framing import Header, ended_at_once, framed_chunks, trailers
from registry_server.transport.limits import Limits
from registry_server.transport.status import RpcStatus
from registry_server.transport.streams import Streams

log = logging.getLogger(__name__)

# So much is read at a time, whatever has come: what many small frames in it bring about is done before others go on.
READ_BYTES = 16 * 1024
# Who holds most is looked for again when so large a part of the limit has come to what is held already.
LOOKS = 16


class Timed(Protocol):
    """A call that may have to end at a time of its own."""

    def watch_deadline(self) -> None:
        """Start a timer, unless it is over already."""


class Peer(Protocol):
    """A connection, as the others see it."""

    held: int

    @property
    def is_busy(self) -> bool:
        """Whether it has a call."""

    @property
    def idleness(self) -> int:
        """For how long it has had no call, in seconds."""

    def tick(self) -> None:
        """A second has passed."""

    def retire(self) -> None:
        """Close when the last call is over."""

    def end_calls(self) -> None:
        """End the calls there are, and close."""

    def abort(self) -> None:
        """Close without a word."""

    def close(self) -> None:
        """Say farewell and close."""

    def flush(self) -> None:
        """Write what there is to write."""

    def settle(self) -> None:
        """Tell the calls what was written."""

    def shed(self) -> None:
        """Give up the calls that hold most."""


class Shared:
    """One of these for each server."""

    def __init__(self, table: Table, streams: Streams, limits: Limits) -> None:
        self.methods: dict[bytes, Method] = {path.encode(): method for path, method in table.methods.items()}
        self.streams = streams
        self.limits = limits
        self.complaints = Complaints()
        self.loop = asyncio.get_running_loop()
        # Reading is one step from the loop's asking for room to our having taken what came: all can use the same.
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.connections: dict[Peer, None] = {}
        # Bytes of half messages, and of answers that nobody has read yet.
        self.held = self.unread = 0
        self._shed_beyond = limits.max_held_bytes
        self._touched: list[Peer] = []
        self._fresh: list[Timed] = []
        self._is_armed = False
        self._all_gone = asyncio.Event()
        self._told: tuple[Sequence[bytes], bytes, Sequence[bytes]] = ((), b"", ())

    def came(self, connection: Peer) -> None:
        """Know a connection. If there are too many, those go that have been without a call for longest."""
        self.connections[connection] = None
        if len(self.connections) > self.limits.max_connections:
            idle = [it for it in self.connections if not it.is_busy]
            idle.sort(key=lambda it: it.idleness, reverse=True)
            for it in idle[: 1 + len(idle) // 20] or [connection]:
                it.close()

    def gone(self, connection: Peer) -> None:
        """Forget a connection."""
        self.connections.pop(connection, None)
        if not self.connections:
            self._all_gone.set()

    async def wait_gone(self, timeout_s: float) -> None:
        """Wait until there is no connection, but no longer than that."""
        self._all_gone.clear()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._all_gone.wait()

    def complain(self, peer: str, what: str) -> None:
        """Say what is wrong with a client: of each kind once a minute, however many there are."""
        if self.complaints.is_news(what, self.loop.time()):
            log.warning("%s %s", peer, what)

    def touch(self, connection: Peer) -> None:
        """The connection has something to write, or to tell its calls: at the end of this turn."""
        self._touched.append(connection)
        if not self._is_armed:
            self._is_armed = True
            self.loop.call_soon(self._end_turn)

    def begun(self, call: Timed) -> None:
        """A call with a deadline has begun. Most are over at the end of the turn, and cost no timer."""
        self._fresh.append(call)

    def hold(self, change: int) -> None:
        """So many more bytes are held by half messages. If those are too many, who holds most is to give some up."""
        self.held += change
        limit = self.limits.max_held_bytes
        if self.held <= limit:
            self._shed_beyond = limit
        elif change > 0 and self.held > self._shed_beyond:
            max(self.connections, key=lambda connection: connection.held).shed()
            self._shed_beyond = max(limit, self.held + limit // LOOKS)  # there may have been nothing to give up

    def framed(self, chunks: Sequence[bytes], encoding: bytes) -> Sequence[bytes]:
        """A message as it is written, made once for all streams that are sent the same in a row."""
        last, last_encoding, made = self._told
        if last is chunks and last_encoding == encoding:
            return made
        made = framed_chunks(chunks, encoding)
        self._told = (chunks, encoding, made)
        return made

    def _end_turn(self) -> None:
        self._is_armed = False
        touched, self._touched = self._touched, []
        for connection in touched:
            _act(connection, connection.flush)
        for connection in touched:
            _act(connection, connection.settle)
        fresh, self._fresh = self._fresh, []
        for call in fresh:
            call.watch_deadline()


def _act(connection: Peer, act: Callable[[], None]) -> None:
    """What goes wrong at one connection is that one's end, and takes nothing from the others of this turn."""
    try:
        act()
    except Exception:
        log.exception("a connection is given up")
        connection.abort()


def trailers_of(status: RpcStatus) -> Sequence[Header]:
    """What ends a stream with that status."""
    return trailers(status.code, status.message, status.details)


def refusal(status: RpcStatus) -> Sequence[Header]:
    """The whole answer to a call that ends with that status at once."""
    return ended_at_once(status.code, status.message, status.details)


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The other end as gRPC writes it."""
    address = transport.get_extra_info("peername")
    if not isinstance(address, tuple):
        return "unix:"
    host, port = address[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def names_of(transport: asyncio.BaseTransport) -> tuple[str, ...]:
    """What the client's certificate says that it is, by DNS names and URIs: it was verified in the handshake."""
    certificate = transport.get_extra_info("peercert") or {}
    return tuple(name for kind, name in certificate.get("subjectAltName", ()) if kind in ("DNS", "URI"))
