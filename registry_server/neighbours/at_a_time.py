"""SHELL: much work, of which a bounded part is under way."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def some_at_a_time(work: Iterable[Coroutine[Any, Any, T]], most: int) -> list[T]:
    """Do all of it, at most so much at once; what came of it, in its order. `work` is taken from as it is begun, and
    what is begun is ended when one part fails."""
    numbered, results = enumerate(work), dict[int, T]()

    async def do() -> None:
        for number, part in numbered:
            results[number] = await part

    tasks = [asyncio.create_task(do()) for _ in range(most)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [results[number] for number in sorted(results)]
