"""Instances to be looked at: real servers that behave as they are told, well or badly."""

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.taken import Taken

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def answer(status: str = "200 OK", body: bytes = b"fine", length: int | None = None, headers: str = "") -> bytes:
    """An HTTP answer, which may lie about the length of its body."""
    told = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {told}\r\n{headers}\r\n".encode() + body


OK, SICK = answer(), answer("503 Service Unavailable", b"no database")


class WebServer:
    """Answers with the bytes of `says`, then hangs up. `hangs` takes the question and says no more; `resets` cuts the
    connection off; `drips` says a byte now and then, and `floods` talks without an end."""

    def __init__(self) -> None:
        self.says = OK
        self.mood = ""
        self.asked: list[bytes] = []
        self.port = 0
        self._over = asyncio.Event()
        self._answering = Taken(self._take)

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["WebServer"]:
        """On a free port, while the block lasts."""
        server = await asyncio.start_server(self._answering, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._over.set()
            server.close()
            await self._answering.end()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            await self._answer(writer)

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        match self.mood:
            case "hangs":
                await self._over.wait()
            case "resets":
                return
            case "drips" | "floods":
                writer.write(b"HTTP/1.1 200 OK\r\n")
                while not self._over.is_set() and not writer.transport.is_closing():
                    writer.write(b"X-Very-Long: " + b"x" * (1 if self.mood == "drips" else 4096) + b"\r\n")
                    await writer.drain()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._over.wait(), 0.02 if self.mood == "drips" else 0)
        writer.write(self.says)
        await writer.drain()
        writer.write_eof() if writer.can_write_eof() else None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), 0.01)


class HealthServer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """grpc.health.v1 of one name. `hangs` takes the question and says no more. With `watch`, Watch is offered: it says
    `first`, or how things are, and then all that `says` is told."""

    def __init__(self, name: str = "", *, watch: bool = False) -> None:
        self.status = SERVING
        self.first: int | None = None
        self.hangs = False
        self.port = 0
        self.asked: Counter[str] = Counter()
        self.watches = 0
        self.watchers: list[asyncio.Queue[int]] = []
        self._name = name
        self._offers_watch = watch

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        self.asked[request.service] += 1
        if self.hangs:
            await asyncio.Event().wait()
        if request.service != self._name:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=self.status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        self.watches += 1
        if not self._offers_watch:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no Watch here")
        news: asyncio.Queue[int] = asyncio.Queue(1000)
        news.put_nowait(self.status if self.first is None else self.first)
        self.watchers.append(news)
        try:
            while True:
                yield health_pb2.HealthCheckResponse(status=await news.get())
        finally:
            self.watchers.remove(news)

    def says(self, *statuses: int) -> None:
        """One after the other, to all who watch."""
        for news in self.watchers:
            for status in statuses:
                news.put_nowait(status)

    @contextlib.asynccontextmanager
    async def running(
        self, pair: tuple[bytes, bytes] | None = None, *, port: int = 0, most: int | None = None
    ) -> AsyncIterator["HealthServer"]:
        """On a free port, or beside another on its port, while the block lasts; over TLS with a key and its
        certificate. `most` calls at a time."""
        self.server = server = grpc.aio.server(maximum_concurrent_rpcs=most)
        health_pb2_grpc.add_HealthServicer_to_server(self, server)
        if pair is None:
            self.port = server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            self.port = server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair]))
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)
