"""A coroutine of which the first step is done at once, and the rest by a task."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from registry_server.transport.http2.steps import DONE, Rest, first_step


async def test_what_has_nothing_to_wait_for_is_done_at_the_first_step() -> None:
    done = []

    async def work() -> None:
        done.append(True)

    assert first_step(work()) is DONE
    assert done == [True]


async def test_what_goes_wrong_at_the_first_step_is_raised_there_and_giving_itself_up_is_an_end() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    async def gives_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ZeroDivisionError):
        first_step(fails())
    assert first_step(gives_up()) is DONE


async def test_the_rest_waits_as_often_as_it_likes() -> None:
    done: list[str] = []
    gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        await asyncio.sleep(0)
        done.append("turn")
        done.append(await gate)
        async with asyncio.timeout(None):
            await asyncio.sleep(0)
        done.append("end")

    task = _task(work())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert done == ["turn"]
    gate.set_result("gate")
    await task
    assert done == ["turn", "gate", "end"]


async def test_what_goes_wrong_later_is_that_of_the_task() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await _task(work())


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_who_cancels_the_task_cancels_what_waits(turns: int) -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    task = _task(work())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


def _task(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    waits_for = first_step(work)
    assert waits_for is not DONE
    return asyncio.create_task(Rest(work, waits_for))
