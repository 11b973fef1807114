"""The connections that a server in the loop of a test takes: when it is over, so is each of them, begun or not."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Taken:
    """What `asyncio.start_server` calls for each connection, which is cut off when `serve` has ended for it.

    A coroutine function in its place would be begun a step later: whoever ends all meanwhile would not know of it, and
    the socket would be open when the loop is closed.
    """

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._writers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._writers[task] = writer
        task.add_done_callback(self._cut)

    def _cut(self, task: asyncio.Task[None]) -> None:
        writer = self._writers.pop(task)  # which complains of a transport that lives when it goes
        writer.transport.abort()

    async def end(self) -> None:
        """All that there are, also those that were accepted a moment ago."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in (tasks := list(self._writers)):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
