"""What gRPC says in one loop about another is left out of what a test sees; everything else is not."""

import asyncio

import pytest


class PollerCompletionQueue:
    """Named as that of gRPC."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def _handle_events(self) -> None:
        raise self._error

    def fail(self) -> None:
        raise self._error


async def logged(what: str, error: Exception, caplog: pytest.LogCaptureFixture) -> bool:
    caplog.clear()
    asyncio.get_running_loop().call_soon(getattr(PollerCompletionQueue(error), what))
    await asyncio.sleep(0)
    return "Exception in callback" in caplog.text


async def test_only_news_of_other_loops_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    closed = RuntimeError("Event loop is closed")
    assert not await logged("_handle_events", closed, caplog)
    assert not await logged("_handle_events", BlockingIOError(11, "Resource temporarily unavailable"), caplog)
    assert await logged("_handle_events", RuntimeError("anything else"), caplog)
    assert await logged("_handle_events", KeyError(), caplog)
    assert await logged("fail", closed, caplog)
