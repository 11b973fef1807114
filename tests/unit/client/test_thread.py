"""The loop in a thread of its own: what a user's code does there, and what the machine does not give."""

import asyncio

import pytest

from registry_client import ClientClosed, RegistryError
from registry_client.thread import LoopThread


async def leave(error: BaseException) -> None:
    raise error


async def name() -> str:
    return "here"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_code_that_leaves_ends_itself_and_not_the_loop(error: BaseException) -> None:
    thread = LoopThread()
    thread.start()
    for _ in range(2):
        with pytest.raises(type(error)):
            thread.run(leave(error))
        assert thread.run(name()) == "here"
    thread.close()
    with pytest.raises(ClientClosed):
        thread.run(name())


def test_code_that_leaves_at_the_end_leaves_no_thread() -> None:
    thread = LoopThread()
    thread.start()
    with pytest.raises(SystemExit):
        thread.close(lambda: leave(SystemExit(3)))
    assert not thread.is_open


def test_no_loop_to_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with too many open files, say: nobody waits for what never begins."""

    def none() -> asyncio.AbstractEventLoop:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "new_event_loop", none)
    monkeypatch.setattr(asyncio.Runner, "get_loop", lambda _: none())
    thread = LoopThread()
    with pytest.raises(RegistryError, match=r"no event loop can be made: .*Too many open files"):
        thread.start()
    assert not thread.is_open
    thread.close()
