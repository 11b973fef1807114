"""The check of one's own that docs/health.md shows."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.pages import blocks_of, text_of

Check = Callable[[str, int, Mapping[str, str]], Awaitable[str | None]]


@pytest.fixture
def check() -> Check:
    [block] = [it for it in blocks_of("health.md", text_of("docs/health.md")) if "async def redis" in it.text]
    assert block.language == "python"
    names: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), names)
    found: Check = names["redis"]
    return found


@asynccontextmanager
async def redis(databases: int) -> AsyncIterator[int]:
    """A port that knows of Redis's protocol what the check asks."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command, number = (await reader.readline()).decode().split()
        assert command == "SELECT"
        writer.write(b"+OK\r\n" if int(number) < databases else b"-ERR DB index is out of range\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_it_passes_and_fails_as_it_says(check: Check) -> None:
    async with redis(databases=1) as port:
        assert await check("127.0.0.1", port, {"db": "0"}) == "+OK"
        with pytest.raises(ValueError, match="out of range"):
            await check("127.0.0.1", port, {"db": "1"})
