"""Connections of a server of a test are over when the test says so, also those that nobody has begun to serve."""

import asyncio
import contextlib
import gc

from tests.support.taken import Taken


async def for_ever(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()
    await asyncio.Event().wait()


async def test_at_whatever_step_it_ends_no_connection_is_left() -> None:
    """What is left would be a ResourceWarning, and that a failure, when it is collected."""
    for steps in range(8):
        taken = Taken(for_ever)
        async with await asyncio.start_server(taken, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for _ in range(steps):
                await asyncio.sleep(0)
            server.close()
            await taken.end()
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 20) == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        del reader, writer, taken
    gc.collect()
