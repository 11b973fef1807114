"""SHELL: the port: listens, counts the seconds, and closes in order."""

import asyncio
import contextlib
import resource
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from registry_server.limits.refusals import Refusals
from registry_server.rpc.table import Service, Table
from registry_server.sockets import BACKLOG, SOCKET_MODE, Bound, bound
from registry_server.transport.http2.connection import Connection, configuration
from registry_server.transport.http2.handshake import Handshakes
from registry_server.transport.http2.shared import Peer, Shared, act
from registry_server.transport.limits import MAX_LIMIT, Limits
from registry_server.transport.streams import GRACE_S, Streams
from registry_server.transport.tls import Certificates

TICK_S = 1.0
# So many connections have their tick in a row, before others have their turn.
TICKS_AT_ONCE = 500
# Files that the server needs for other things than connections.
OTHER_FILES = 100
# Turns of the loop from the time a client is let in until there is a connection, and from its end until it is closed.
TURNS = 3
# How long farewells may take.
FAREWELL_S = 0.3
DEFAULT_LIMITS = Limits()


def services() -> tuple[Service, ...]:
    """What this transport can say of itself: nothing. Channelz tells of grpcio's core alone."""
    return ()


class Http2Server:
    """A port at which the methods of a table are answered: over TLS if there is a certificate, but for unix:PATH."""

    def __init__(
        self,
        table: Table,
        open_streams: Streams,
        limits: Limits = DEFAULT_LIMITS,
        tls: Certificates | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._streams = open_streams
        self._shared = Shared(table, open_streams, _that_can_be(limits), refusals)
        self._admit = partial(Connection, self._shared, configuration(limits))
        self._handshakes = None if tls is None else Handshakes(self._shared, lambda: tls.context, self._admit)
        self._bound: list[Bound] = []
        self._listening: list[asyncio.Server] = []
        self._ticking: asyncio.Task[None] | None = None

    async def start(self, *addresses: str, socket_mode: int = SOCKET_MODE) -> tuple[str, ...]:
        """Listen at each of them, HOST:PORT or unix:PATH; return them with their ports. Raises OSError."""
        try:
            for address in addresses:
                self._bound.append(bound(address, socket_mode))
            for it in self._bound:
                await self._listen(it)
        except BaseException:
            self._let_nobody_in()
            raise
        self._ticking = asyncio.create_task(self._tick())
        return tuple(it.address for it in self._bound)

    async def _listen(self, it: Bound) -> None:
        loop = asyncio.get_running_loop()
        for each in it.sockets:
            if it.file is not None:
                listening = await loop.create_unix_server(self._admit, sock=each, backlog=BACKLOG)
            else:
                make = self._admit if self._handshakes is None else self._handshakes.begin
                listening = await loop.create_server(make, sock=each, backlog=BACKLOG)
            self._listening.append(listening)

    async def _give_up_arriving(self) -> None:
        """Who is not in yet is sent away."""
        await _turns()
        if self._handshakes is not None:
            self._handshakes.give_up()
        await _turns()

    def _let_nobody_in(self) -> None:
        for it in self._bound:
            it.remove_file()
        for server in self._listening:
            server.close()
        for it in self._bound:
            it.close()

    async def stop(self) -> None:
        """Let nobody in any more, end the streams, spread over a moment, and close when the last call is over."""
        self._let_nobody_in()
        await self._give_up_arriving()
        await self._streams.stop()
        self._each(lambda it: it.retire())
        await self._shared.wait_gone(GRACE_S)
        self._each(lambda it: it.end_calls())
        await self._shared.wait_gone(FAREWELL_S)
        self._each(lambda it: it.abort())
        await self._shared.wait_gone(FAREWELL_S)
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking

    def _each(self, act: Callable[[Peer], None]) -> None:
        for connection in list(self._shared.connections):
            act(connection)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._handshakes is not None:
                self._handshakes.tick()
            for number, connection in enumerate(list(self._shared.connections), 1):
                act(connection, connection.tick)
                if number % TICKS_AT_ONCE == 0:
                    await asyncio.sleep(0)


async def _turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


def _that_can_be(limits: Limits) -> Limits:
    """No more connections than nine tenths of the files that the system lets this process have: who is let in has one
    before somebody else has gone."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(1, min(files - OTHER_FILES, files * 9 // 10)) if files != resource.RLIM_INFINITY else MAX_LIMIT
    return replace(limits, max_connections=min(limits.max_connections, most))
