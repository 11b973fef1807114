"""SHELL: what the connections of one server share: a table, limits, and the end of every turn of the loop."""

import asyncio
import contextlib
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from registry_server.errors import LimitExceeded
from registry_server.limits.refusals import Refusals
from registry_server.rarely import Rarely
from registry_server.rpc.table import Method, Table
from registry_server.transport.http2.crowd import TOLD, Crowd
from registry_server.transport.http2.framing import Header, ended_at_once, framed_chunks, trailers
from registry_server.transport.http2.pacing import Pacing
from registry_server.transport.limits import Limits
from registry_server.transport.names import names_in
from registry_server.transport.status import RpcStatus, status_of
from registry_server.transport.streams import Streams

log = logging.getLogger(__name__)

# So much is read at a time, whatever has come: what many small frames in it bring about is done before others go on.
# See `rest`, for a loop that would read on at once.
READ_BYTES = 16 * 1024
# Who holds most is looked for again when so large a part of the limit has come to what is held already.
LOOKS = 16
# So many clients may take their time to hang up, and so large a part of all that there may be.
LEAST_GOING, PART_GOING = 10, 20

# Where somebody was who is gone already: uvloop cannot tell. What he asked for is not to be taken for this machine's.
GONE = "ipv4:0.0.0.0:0"


# A turn of the loop that there was not.
NEVER = -1


class Timed(Protocol):
    """A call that may have to end at a time of its own."""

    def watch_deadline(self) -> None:
        """Start a timer, unless it is over already."""


class Peer(Protocol):
    """A connection, as the others see it."""

    held: int
    unread: int
    stuck_s: int

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

    def dismiss(self, limit: str) -> None:
        """Make room for others at once: end the calls there are, and close without waiting for the client."""

    def refuse(self, limit: str, why: str) -> None:
        """Answer every call with that limit, and close soon."""

    def flush(self) -> None:
        """Write what there is to write."""

    def settle(self) -> None:
        """Tell the calls what was written."""

    def shed(self) -> None:
        """Give up the calls that hold most."""

    def begin_next(self) -> bool:
        """Begin the next call that waits for its turn; whether another one waits behind it."""


class Shared:
    """One of these for each server."""

    def __init__(self, table: Table, streams: Streams, limits: Limits, refusals: Refusals | None = None) -> None:
        self.methods: dict[bytes, Method] = {path.encode(): method for path, method in table.methods.items()}
        self.streams = streams
        self.limits = limits
        self._complaints = Rarely(partial(log.warning, "%s"))
        self.loop = asyncio.get_running_loop()
        # Reading is one step from the loop's asking for room to our having taken what came: all can use the same.
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.connections: dict[Peer, None] = {}
        # Those of them that are not about to go.
        self._crowd: Crowd[Peer] = Crowd(limits.max_connections, limits.max_connections_per_peer, streams.rng)
        self._going: dict[Peer, None] = {}
        self._refusals = refusals or Refusals(log.warning)
        self._number = 0
        # Bytes of half messages, and of answers that nobody has read yet.
        self.held = self.unread = 0
        self._shed_beyond = limits.max_held_bytes
        self.pacing = Pacing()
        self._began = 0.0
        self._waiting: OrderedDict[Peer, None] = OrderedDict()  # those with calls that wait for their turn
        self._touched: list[Peer] = []
        self._fresh: list[Timed] = []
        self._is_armed = False
        self.turn = 0  # of the loop, in which somebody had something to write
        self._all_gone = asyncio.Event()
        self._told: tuple[Sequence[bytes], bytes, Sequence[bytes]] = ((), b"", ())

    def came(self, connection: Peer, address: str) -> None:
        """Know a connection. If there are too many, one of them has to go: of all, or this one of its peer."""
        self.connections[connection] = None
        crowd = self._crowd
        crowd.add(connection, address)
        if crowd.exceeds(connection):
            limit, why = "max_connections_per_peer", f"one peer may have {crowd.limit_of(connection):,} connections"
            self._refusals.note(limit, why, address, self.loop.time())
            if crowd.exceeds(connection, TOLD):
                self._dismiss(connection, limit)
            else:
                connection.refuse(limit, why)
        for it in crowd.to_go(connection):
            why = f"there are {len(crowd.all):,} connections, and no more may be"
            self._refusals.note("max_connections", why, address, self.loop.time())
            self._dismiss(it, "max_connections")

    def _dismiss(self, connection: Peer, limit: str) -> None:
        self._crowd.remove(connection)
        act(connection, partial(connection.dismiss, limit))

    def next_number(self) -> int:
        """A number that no other connection has."""
        self._number += 1
        return self._number

    def going(self, connection: Peer) -> None:
        """A connection has said farewell, and waits for the client to hang up. It counts no more, but there are not
        many that may wait."""
        self._crowd.remove(connection)
        self._going[connection] = None
        if len(self._going) > LEAST_GOING + self.limits.max_connections // PART_GOING:
            act(first := next(iter(self._going)), first.abort)
            self._going.pop(first, None)

    def gone(self, connection: Peer) -> None:
        """Forget a connection."""
        self._crowd.remove(connection)
        self._waiting.pop(connection, None)
        self._going.pop(connection, None)
        self.connections.pop(connection, None)
        if not self.connections:
            self._all_gone.set()

    def count_unread(self, change: int) -> None:
        """So much more was written that no client has taken. If that is too much, who takes least has to go: for
        longest nothing, and of these who has most to take."""
        self.unread += change
        limit = self.limits.max_unread_bytes_in_all
        if change > 0 and self.unread > limit and self._crowd.all:
            slowest = max(self._crowd.all, key=lambda it: (it.stuck_s, it.unread))
            why = f"{limit:,} bytes of answers wait for clients that do not take them"
            self._refusals.note("max_unread_bytes_in_all", why, str(slowest), self.loop.time())
            self._dismiss(slowest, "max_unread_bytes_in_all")

    async def wait_gone(self, timeout_s: float) -> None:
        """Wait until there is no connection, but no longer than that."""
        self._all_gone.clear()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._all_gone.wait()

    def exceeded(self, limit: str, why: str, peer: str) -> RpcStatus:
        """What is told to who reached a limit, which is counted."""
        self._refusals.note(limit, why, peer, self.loop.time())
        return status_of(LimitExceeded(limit, why))

    def complain(self, peer: str, what: str) -> None:
        """Say what is wrong with a client: of each kind once a minute, however many there are."""
        self._complaints.tell(f"{peer} {what}", self.loop.time(), what)

    def touch(self, connection: Peer) -> None:
        """The connection has something to write, or to tell its calls: at the end of this turn."""
        self._touched.append(connection)
        self._arm()

    def wait_for_turn(self, connection: Peer) -> None:
        """The connection has a call that is to begin when it is its turn."""
        self._waiting[connection] = None
        self._arm()

    def _arm(self) -> None:
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
        self.turn += 1
        touched, self._touched = self._touched, []
        for connection in touched:
            act(connection, connection.flush)
        for connection in touched:
            act(connection, connection.settle)
        fresh, self._fresh = self._fresh, []
        for call in fresh:
            call.watch_deadline()
        self._begin_turn()

    def _begin_turn(self) -> None:
        """Begin calls that wait: one of each connection, and again, until that is enough for this turn."""
        waiting, pacing, loop = self._waiting, self.pacing, self.loop
        pacing.next_turn()
        if not waiting:
            return
        loop.call_soon(self._note_time)  # what is begun here runs between these two
        calls = pacing.room
        while waiting and pacing.room > 0:
            connection, _ = waiting.popitem(last=False)
            if connection.begin_next():
                waiting[connection] = None
        loop.call_soon(self._measure, calls - pacing.room)
        if waiting:
            self._arm()

    def _note_time(self) -> None:
        self._began = time.thread_time()

    def _measure(self, calls: int) -> None:
        if calls:
            self.pacing.took(time.thread_time() - self._began, calls)


class Abortable(Protocol):
    """What can be given up."""

    def abort(self) -> None:
        """Close without a word."""


def act(connection: Abortable, work: Callable[[], None]) -> None:
    """What goes wrong at one connection is that one's end, and takes nothing from the others of this turn."""
    try:
        work()
    except Exception:
        log.exception("a connection is given up")
        connection.abort()


def rest(transport: asyncio.Transport | None, count: int) -> None:
    """Of who has sent a whole piece, and may have sent more, the next is read in the next turn of the loop. By itself
    uvloop reads 32 of one client in a row, and what those bring about would hold up everybody."""
    if count == READ_BYTES and transport is not None and transport.is_reading() and not transport.is_closing():
        transport.pause_reading()
        asyncio.get_running_loop().call_soon(_read_on, transport)


def _read_on(transport: asyncio.Transport) -> None:
    if not transport.is_closing() and not transport.is_reading():
        transport.resume_reading()


def trailers_of(status: RpcStatus) -> Sequence[Header]:
    """What ends a stream with that status."""
    return trailers(status.code, status.message, status.details)


def refusal(status: RpcStatus) -> Sequence[Header]:
    """The whole answer to a call that ends with that status at once."""
    return ended_at_once(status.code, status.message, status.details)


def peer_of(transport: asyncio.BaseTransport, number: int = 0) -> str:
    """The other end as gRPC writes it; at a file it is the connection of that number."""
    address = transport.get_extra_info("peername")
    if not isinstance(address, tuple):
        own = transport.get_extra_info("socket")
        return GONE if own is not None and own.family != socket.AF_UNIX else f"unix:{number or ''}"
    host, port = address[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def names_of(transport: asyncio.BaseTransport) -> tuple[str, ...]:
    """What the client's certificate says that it is, by DNS names and URIs: it was verified in the handshake."""
    return names_in(transport.get_extra_info("peercert") or b"")
