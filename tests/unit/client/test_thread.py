"""The loop in a thread of its own: what a user's code does there, and what the machine does not give."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from registry_client import ClientClosed, RegistryError
from registry_client.thread import Home, LoopThread
from tests.support.waiting import eventually


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


@pytest.fixture
def home() -> Iterator[Home]:
    """What a signal closes."""
    home = Home()

    def on_signal(_signum: int, _frame: FrameType | None) -> None:
        home.close(nothing)

    before = signal.signal(signal.SIGUSR1, on_signal)
    yield home
    signal.signal(signal.SIGUSR1, before)


async def nothing() -> None:
    pass


async def signalled() -> None:
    """The main thread, which waits for this, runs its handler before it goes on to wait."""
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_signal_handler_may_close_what_its_thread_is_closing(home: Home) -> None:
    """As a second Ctrl-C does while the first one drains: it may wait for nothing that its own thread holds."""
    home.open(nothing)
    home.close(signalled)
    assert not home.thread.is_open
    home.open(nothing)
    home.close(nothing)


def test_a_signal_handler_may_close_what_its_thread_is_opening(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    start = LoopThread.start

    def start_late(thread: LoopThread) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        start(thread)

    monkeypatch.setattr(LoopThread, "start", start_late)
    with pytest.raises(ClientClosed):
        home.open(nothing)
    monkeypatch.undo()
    home.open(nothing)
    home.close(nothing)


def test_what_interrupts_the_begin_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever that is: before the loop is there, say. What can be opened before can be opened then."""
    home, start = Home(), LoopThread.start

    def interrupted(thread: LoopThread) -> None:
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(LoopThread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        home.open(nothing)
    monkeypatch.undo()
    home.open(nothing)
    home.close(nothing)


def test_a_loop_that_is_closed_before_it_is_there_never_runs() -> None:
    thread = LoopThread()
    thread.close()
    thread.start()
    eventually(lambda: not thread._thread.is_alive())
    with pytest.raises(ClientClosed):
        thread.run(nothing())


def test_what_ends_in_the_thread_itself_waits_for_nothing() -> None:
    """The garbage collector ends what it finds in whichever thread it runs; a callback may close its own client."""
    home, ended = Home(), threading.Event()

    async def last() -> None:
        ended.set()

    async def close() -> None:
        home.close(last)

    home.open(nothing)
    home.thread.run(close())
    assert ended.wait(30)
    eventually(lambda: not home.thread._thread.is_alive())
    with pytest.raises(ClientClosed):
        home.thread.run(nothing())
