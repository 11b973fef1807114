"""A TCP proxy that stands for the network between two processes: it can be cut, frozen, and made whole again."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from tests.support.etcd import HOST, free_port
from tests.support.taken import Taken

_CHUNK = 64 * 1024


class Proxy:
    """Passes bytes on to `target` (HOST:PORT) from an address of its own, by default at 127.0.0.1. Use it with
    `async with`.

    `cut` ends all connections and refuses new ones, as a route that is gone with resets does. `freeze` keeps all
    connections and passes nothing on, as a route that swallows packets does; new connections are taken and stay silent.
    `restore` passes on again what waits and what comes. `late_s`: for so long each new connection is silent.
    """

    def __init__(self, target: str, *, host: str = HOST, port: int = 0, late_s: float = 0.0) -> None:
        there, _, number = target.rpartition(":")
        self._target = there, int(number)
        self._host = host
        self._late_s = late_s
        self._there, self._back = asyncio.Event(), asyncio.Event()
        self._there.set()
        self._back.set()
        self._pipes = Taken(self._serve)
        self._server: asyncio.Server | None = None
        self._port = port or free_port()  # not one that the kernel gives away while the proxy is cut

    @property
    def address(self) -> str:
        """HOST:PORT to connect to; the same as long as the proxy lives."""
        return f"{self._host}:{self._port}"

    @property
    def port(self) -> int:
        """The port of that address."""
        return self._port

    async def cut(self) -> None:
        """End every connection and refuse new ones."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self.drop()

    def freeze(self, *, requests_only: bool = False) -> None:
        """Pass nothing on until `restore`, or nothing of what goes to the target."""
        self._there.clear()
        if not requests_only:
            self._back.clear()

    async def restore(self) -> None:
        """As at the beginning; what was cut has to connect anew."""
        self._there.set()
        self._back.set()
        if self._server is None:
            await self._open()

    async def drop(self) -> None:
        """End every connection, and take new ones."""
        await self._pipes.end()

    # ---- its life

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cut()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._pipes, self._host, self._port)

    # ---- passing on

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ExceptionGroup):
            await asyncio.sleep(self._late_s)
            await self._there.wait()
            out_reader, out_writer = await asyncio.open_connection(*self._target)
            try:
                async with asyncio.TaskGroup() as directions:
                    directions.create_task(self._pass(reader, out_writer, self._there))
                    directions.create_task(self._pass(out_reader, writer, self._back))
            finally:
                out_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event) -> None:
        while chunk := await reader.read(_CHUNK):
            await flows.wait()
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError  # one side has ended: so does the other
