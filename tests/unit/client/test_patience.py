"""A wait that its own process's standstill does not use up, and background tasks that nothing ends."""

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from registry_api.clocks import steady
from registry_client.pulse import within
from registry_client.tasks import Tasks
from tests.support.waiting import eventually_async

PATIENCE_S = 0.3


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    one.setblocking(False)
    with one, other:
        yield one, other


def stand_still(seconds: float) -> None:
    """What a busy loop does to all that shares its thread, and a stopped process to all in it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def test_what_came_during_a_standstill_is_read(pair: tuple[socket.socket, socket.socket]) -> None:
    loop = asyncio.get_running_loop()
    reading, writing = pair
    loop.call_later(0.1, lambda: (writing.send(b"answer"), stand_still(4 * PATIENCE_S)))
    assert await within(loop.sock_recv(reading, 10), PATIENCE_S) == b"answer"


async def test_a_standstill_counts_as_no_time(pair: tuple[socket.socket, socket.socket]) -> None:
    loop = asyncio.get_running_loop()
    reading, writing = pair
    loop.call_soon(stand_still, 4 * PATIENCE_S)
    loop.call_later(4.5 * PATIENCE_S, writing.send, b"answer")
    assert await within(loop.sock_recv(reading, 10), PATIENCE_S) == b"answer"


async def test_a_silence_ends_it(pair: tuple[socket.socket, socket.socket]) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError):
        await within(loop.sock_recv(pair[0], 10), PATIENCE_S)
    assert PATIENCE_S <= loop.time() - began < PATIENCE_S + 2


async def test_what_it_waits_for_may_fail_and_be_cancelled() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    cancelled = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(ZeroDivisionError):
        await within(fail(), PATIENCE_S)
    task = asyncio.create_task(within(wait(), 100))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


def test_the_clock_only_goes_on() -> None:
    times = [steady() for _ in range(1000)]
    assert times == sorted(times)


async def test_a_task_that_is_kept_is_begun_anew(caplog: pytest.LogCaptureFixture) -> None:
    tasks, begun = Tasks(), 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise ZeroDivisionError
        if begun == 2:
            return
        await asyncio.Event().wait()

    tasks.keep(work, "work")
    await eventually_async(lambda: begun == 3)
    await tasks.aclose()
    said = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 1
    assert said[0].exc_info
    assert "ZeroDivisionError" in said[0].getMessage()


def test_an_ending_loop_is_no_unexpected_end(caplog: pytest.LogCaptureFixture) -> None:
    """A program that ends without closing its client: asyncio.run cancels every task, and that is all."""

    async def main() -> None:
        Tasks().keep(asyncio.Event().wait, "work")  # type: ignore[arg-type]
        await asyncio.sleep(0)

    asyncio.run(main())
    assert not caplog.records


async def test_nothing_is_begun_after_the_end() -> None:
    tasks, begun = Tasks(), 0

    async def work() -> None:
        nonlocal begun
        begun += 1

    tasks.keep(work, "work")
    await eventually_async(lambda: begun == 1)
    await tasks.aclose()
    with pytest.raises(AssertionError, match="not within"):
        await eventually_async(lambda: begun > 1, timeout_s=1.5)
