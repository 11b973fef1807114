"""SHELL: several pieces of work that end together."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def together(*work: Coroutine[Any, Any, None], least: type[Exception]) -> None:
    """Run all of it until one part fails, and raise its error. No part is left when this ends.

    An error of the kind `least` is often only what another one left behind: it is raised if there is no other.

    Not a TaskGroup, because one that is cancelled while a part of it fails tells of the failure alone, and because up
    to Python 3.12 it may leave its task looking cancelled. Here cancellation always wins.
    """
    tasks = [asyncio.create_task(part) for part in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    raise next((error for error in errors if not isinstance(error, least)), errors[0])
