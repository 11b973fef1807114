"""Waiting for a condition, with a deadline: the one place of the tests that polls. A test itself never sleeps."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.01


def eventually(condition: Callable[[], T], *, timeout_s: float = 10.0, what: str = "") -> T:
    """The first true value of `condition`. Raises AssertionError, with the last value, after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        _check(deadline, timeout_s, what, value)
        time.sleep(POLL_S)
    return value


async def eventually_async(condition: Callable[[], T | Awaitable[T]], *, timeout_s: float = 10.0, what: str = "") -> T:
    """The same without blocking the loop; `condition` may be a plain function or a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while not (value := await _value(condition)):
        _check(deadline, timeout_s, what, value)
        await asyncio.sleep(POLL_S)
    return value


async def always_async(condition: Callable[[], bool | Awaitable[bool]], *, for_s: float, what: str = "") -> None:
    """Looks again and again for `for_s` seconds. Raises AssertionError as soon as the condition is not true."""
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        assert await _value(condition), f"not for all of {for_s:g} s: {what or 'the condition'}"
        await asyncio.sleep(POLL_S)


async def until(condition: Callable[[], Awaitable[bool]], *, timeout_s: float = 10.0, what: str = "") -> None:
    """The same for a question that has to be asked of somebody."""
    asked: Callable[[], bool | Awaitable[bool]] = condition
    await eventually_async(asked, timeout_s=timeout_s, what=what)


async def passed(seconds: float) -> None:
    """Lets so much time go by, for what must not happen meanwhile."""
    over_at = time.monotonic() + seconds
    await eventually_async(lambda: time.monotonic() >= over_at, timeout_s=seconds + 60)


async def _value(condition: Callable[[], T | Awaitable[T]]) -> T:
    value = condition()
    return await value if isinstance(value, Awaitable) else value


def _check(deadline: float, timeout_s: float, what: str, value: object) -> None:
    if time.monotonic() >= deadline:
        raise AssertionError(f"not within {timeout_s:g} s: {what or 'the condition'} (last value: {value!r})")
