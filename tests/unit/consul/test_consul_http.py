"""Whoever answers in Consul's place: what he says is a reason to try again, told in words, and nothing else."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import pytest

from registry_server.stores.backend import Check
from registry_server.stores.base import StoreAway
from registry_server.stores.consul.backend import ConsulBackend
from registry_server.stores.consul.url import ConsulURL

OK = b"HTTP/1.1 200 OK\r\n"


def ok(body: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "hung up"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "does not answer as Consul"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "does not answer as Consul"),
        (b"HTTP/1.1 302 Found\r\nLocation: /ui\r\nContent-Length: 0\r\n\r\n", "answers with 302"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nboom", "cannot just now: 500 boom"),
        (OK + b"Content-Length: 99\r\n\r\n[]", "does not answer as Consul"),
        (OK + b"X-Consul-Index: " + b"9" * 5000 + b"\r\nContent-Length: 4\r\n\r\nnull", "does not answer as Consul"),
        (ok(b"<html>"), "no JSON"),
        (ok(b"[" * 100_000), "no JSON"),
        (ok(b"9" * 5_000), "no JSON"),
        (ok(b"null"), "does not answer as Consul"),
        (ok(b'{"Results": []}'), "does not answer as Consul"),
        (ok(b'["text"]'), "does not answer as Consul"),
        (ok(b'[{"Key": "k", "Value": 7, "ModifyIndex": 1}]'), "does not answer as Consul"),
        (ok(b'[{"Key": "k", "Value": "%", "ModifyIndex": null}]'), "does not answer as Consul"),
    ],
)
async def test_nonsense_is_an_outage(answer: bytes, says: str) -> None:
    async with answering(answer, answer) as backend, contextlib.aclosing(backend.watch()) as changes:
        with pytest.raises(StoreAway, match=says):
            await anext(changes)


@pytest.mark.parametrize("answer", [ok(b'{"Results": []}'), ok(b'{"Results": null}'), ok(b"{}"), ok(b"[]"), ok(b"7")])
async def test_nonsense_for_a_write_is_an_outage(answer: bytes) -> None:
    async with answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", answer) as backend:
        async with contextlib.aclosing(backend.watch()) as changes:
            await anext(changes)
            writing = asyncio.create_task(backend.transact([Check("a", 0)], {"a": b"1"}))
            with pytest.raises(StoreAway, match=r"does not answer as Consul|0 results"):
                await anext(changes)
        with pytest.raises(StoreAway):
            await writing


@contextlib.asynccontextmanager
async def answering(reading: bytes, writing: bytes) -> AsyncIterator[ConsulBackend]:
    """A backend whose Consul says one thing to those who read, and another to those who write."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if length := re.search(rb"content-length: (\d+)", head, re.IGNORECASE):
                    await reader.readexactly(int(length[1]))
                writer.write(writing if head.startswith(b"PUT") else reading)
                await writer.drain()
                if not reading or b"Content-Length: 99" in reading:
                    break
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        backend = ConsulBackend.of(ConsulURL.parse(f"consul://{host}:{port}"))
        yield backend
        await backend.aclose()
