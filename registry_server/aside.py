"""SHELL: work that may never come back, such as looking at a file on a disk that stands still."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


async def aside(work: Callable[[], Result]) -> Result:
    """What comes of it in a thread of its own, which holds up nobody, and no end of the process either."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Result] = loop.create_future()

    def tell(set_: Callable[[Any], None], value: object) -> None:
        def told() -> None:
            if not outcome.done():
                set_(value)

        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(told)

    def run() -> None:
        try:
            tell(outcome.set_result, work())
        except Exception as error:
            tell(outcome.set_exception, error)

    threading.Thread(target=run, name="registry-aside", daemon=True).start()
    return await outcome
