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
        self._answering: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["WebServer"]:
        """On a free port, while the block lasts."""
        server = await asyncio.start_server(self._take, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._over.set()
            server.close()
            await asyncio.gather(*self._answering, return_exceptions=True)
            await asyncio.sleep(0)  # the last connections are closed

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            await self._answer(writer)
        writer.transport.abort()

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
    """grpc.health.v1 of one name. `hangs` takes the question and says no more."""

    def __init__(self, name: str = "") -> None:
        self.status = SERVING
        self.hangs = False
        self.port = 0
        self.asked: Counter[str] = Counter()
        self._name = name

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        self.asked[request.service] += 1
        if self.hangs:
            await asyncio.Event().wait()
        if request.service != self._name:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=self.status)

    @contextlib.asynccontextmanager
    async def running(self, pair: tuple[bytes, bytes] | None = None) -> AsyncIterator["HealthServer"]:
        """On a free port, while the block lasts; over TLS with a key and its certificate."""
        server = grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(self, server)
        if pair is None:
            self.port = server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)
