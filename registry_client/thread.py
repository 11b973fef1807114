"""SHELL: an event loop in a thread of its own, for the client for threads and its parts."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NoReturn, ParamSpec, Self, TypeVar

from registry_client.errors import ClientClosed, Misuse, RegistryError
from registry_client.place import check_grpc, check_process

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

log = logging.getLogger(__name__)

# So long at most the end of the thread is waited for, when all was done: a signal handler that closes a client may have
# interrupted the very thread that this one waits for.
_END_S = 10.0

_T = TypeVar("_T")
_P = ParamSpec("_P")
Inner = TypeVar("Inner")
Made = TypeVar("Made")


class Baton:
    """What one thread waits for, and others give, once for however often. No Event: an interrupt in the midst of one
    leaves it locked, and a signal handler that sets it waits for what its own thread holds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def give(self) -> None:
        """Waits for nothing."""
        with contextlib.suppress(RuntimeError):  # it was given, and not taken yet
            self._lock.release()

    def take(self) -> None:
        """Wait until it is given."""
        self._lock.acquire()


class LoopThread:
    """An event loop in a thread of its own, from `start` to `close`."""

    def __init__(self) -> None:
        self._ready = Baton()
        self._thread = threading.Thread(target=self._main, name="registry-client", daemon=True)
        self._pid = os.getpid()
        # Of the three below. Reentrant: a signal handler, or what the garbage collector ends, may close the client that
        # its own thread is just using.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: set[_Answer[Any]] = set()
        self._is_closing = False
        self._is_over = False
        self._failure: Exception | None = None  # why there is no loop
        self._leaving: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """True from `start` to `close`, in the process that started it."""
        return self._loop is not None and not self._is_closing and self.is_here and not sys.is_finalizing()

    @property
    def is_here(self) -> bool:
        """False in a process that was forked since it was made."""
        return os.getpid() == self._pid

    @property
    def is_mine(self) -> bool:
        """This is the thread."""
        return threading.current_thread() is self._thread

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop. Raises ClientClosed if there is none."""
        if self._loop is None:
            raise _closed()
        return self._loop

    def start(self) -> None:
        """Start it, and wait until it runs. Raises RegistryError when there is no loop to be had, Misuse at the end of
        the interpreter."""
        _check_interpreter()
        self._thread.start()
        self._ready.take()
        if self._failure is not None:
            raise RegistryError(f"no event loop can be made: {self._failure}") from self._failure

    def _main(self) -> None:
        try:
            with asyncio.Runner() as runner:
                loop = self._loop = runner.get_loop()
                loop.call_soon(self._ready.give)
                self._run_until_over(loop)
        except Exception as error:  # of too many open files, say
            self._failure = error
        finally:
            self._loop = None
            self._ready.give()
            if self._failure is not None:
                self._give_up(RegistryError(f"the client's event loop has ended: {self._failure}"))
            elif self._leaving is not None:
                self._give_up(_closed())

    def _give_up(self, why: RegistryError) -> None:
        """Who still waits would wait for ever: something has closed the descriptors of this process, say."""
        with self._lock:
            left = list(self._pending)
        for answer in left:
            answer.lose(why)

    def _run_until_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """A user's code may end its task by SystemExit, which with asyncio ends the loop of all others, too."""
        while not self._is_over:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                log.warning("%s in the thread of a client ends what raised it, and nothing else", type(error).__name__)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine there and wait for its result. An interrupt here cancels it there.

        Raises Misuse in a forked process, in its own thread, and at the end of the interpreter, ClientClosed when it
        was closed meanwhile.
        """
        try:
            check_process(self._pid, "the client")
            _check_interpreter()
            if self.is_mine:
                raise Misuse("the client was used from within its own event loop, which would wait for itself for ever")
            with self._lock:
                if self._is_closing:
                    raise _closed()
                answer = self._submit(work)
        except RegistryError:
            work.close()
            raise
        return self._wait(answer)

    def _submit(self, work: Coroutine[Any, Any, _T]) -> _Answer[_T]:
        answer = _Answer(work, self.loop)
        self._pending.add(answer)
        try:
            answer.begin_soon()
        except RuntimeError:  # closed meanwhile, by a signal handler
            self._pending.discard(answer)
            raise _closed() from None
        return answer

    def _wait(self, answer: _Answer[_T]) -> _T:
        is_given = False
        try:
            given = answer.wait()
            is_given = True
        finally:
            self._pending.discard(answer)
            if not is_given:
                answer.cancel_soon()
        return given()

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Run `last`, stop it, and wait until the thread has ended. Whoever still waits is told ClientClosed.

        In the thread itself, where the garbage collector may end what closes it, or a callback, it waits for nothing.
        At the end of the interpreter, when no thread runs any more, it does nothing.
        """
        if sys.is_finalizing():
            return
        loop: asyncio.AbstractEventLoop | None = None
        is_mine = self.is_mine
        try:
            with self._lock:
                if self._is_closing:
                    return
                self._is_closing = True
                if self._loop is None:  # not yet, or not any more
                    self._is_over = True
                loop = self._loop
            if loop is not None and is_mine:
                self._leaving = loop.create_task(self._leave(last), name="registry-close")
            elif loop is not None and last is not None:
                self._wait(self._submit(last()))
        finally:  # whatever interrupts
            if loop is not None and not is_mine:
                self._end(loop)

    async def _leave(self, last: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        try:
            if last is not None:
                await last()
        finally:
            self._is_over = True
            asyncio.get_running_loop().stop()

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_over = True
        loop.call_soon_threadsafe(loop.stop)
        try:
            self._thread.join(_END_S)
        finally:
            self._give_up(_closed())


class _Answer(Generic[_T]):
    """What becomes of a coroutine in the loop of another thread. As a Future of `concurrent.futures`, without its lock:
    an interrupt in the midst of waiting would leave that locked, and the loop would wait for ever."""

    def __init__(self, work: Coroutine[Any, Any, _T], loop: asyncio.AbstractEventLoop) -> None:
        self._work = work
        self._loop = loop
        self._task: asyncio.Task[_T] | None = None
        self._result: Callable[[], _T] | None = None
        self._lost: RegistryError | None = None
        self._given = Baton()

    def begin_soon(self) -> None:
        """Raises RuntimeError when the loop is closed."""
        self._loop.call_soon_threadsafe(self._begin)

    def wait(self) -> Callable[[], _T]:
        """What gives the result, or raises what the coroutine raised; ClientClosed if it was cancelled."""
        self._given.take()
        return self._result or self._raise

    def cancel_soon(self) -> None:
        """Nobody waits for it any more."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._cancel)

    def lose(self, why: RegistryError) -> None:
        """There will be no result, unless there is one already."""
        if self._task is None:
            self._work.close()
        self._lost = why
        self._given.give()

    def _raise(self) -> NoReturn:
        raise self._lost or _closed()

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(self._give)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _give(self, task: asyncio.Task[_T]) -> None:
        if task.cancelled():
            self.lose(_closed())
        else:
            task.exception()  # which somebody is told of, or nobody wants to know
            self._result = task.result
            self._given.give()


def _check_interpreter() -> None:
    """Raises Misuse once no other thread runs any more: whoever waited for one would wait for ever."""
    if sys.is_finalizing():
        raise Misuse("the interpreter is ending, and runs no threads any more: close the client before, or by atexit")


def _closed() -> ClientClosed:
    return ClientClosed("the client is not open: use `with registry_client.sync.connect(…) as registry`")


class Home:
    """Where a client for threads lives: in one thread after the other, as often as it is entered."""

    def __init__(self) -> None:
        self.thread = LoopThread()
        self._changing = threading.RLock()  # of `thread`; reentrant, as a signal handler may close what is being closed

    def open(self, first: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Start a thread, and run `first` there. Raises Misuse if there is one, or cannot be one."""
        check_grpc()
        _check_interpreter()
        if not self.thread.is_here:  # the one who holds the lock may not have come along
            self._changing = threading.RLock()
        with self._changing:
            if self.thread.is_open:
                raise Misuse("the client was entered already: make another by connect(…), or close this one first")
            thread = self.thread = LoopThread()
            try:
                thread.start()
            except BaseException:
                thread.close()
                raise
        try:
            thread.run(first())
        except BaseException:
            thread.close()
            raise

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `last` there, and end the thread. Nothing, in a process that was forked meanwhile, and at the end of the
        interpreter, when a thread that is gone may hold the lock for ever."""
        if not self.thread.is_here or sys.is_finalizing():
            return
        if self.thread.is_mine:  # who waits for this thread may hold the lock
            self.thread.close(last)
            return
        with self._changing:
            self.thread.close(last)


class Front(Generic[Inner]):
    """What stands for something of the asyncio client, `inner`, in all threads."""

    def __init__(self, home: Home, inner: Inner, thread: LoopThread | None = None) -> None:
        """`thread`: the one that it belongs to; by default whichever the client has at the time."""
        self._home = home
        self._inner = inner
        self._its_thread = thread

    @property
    def _thread(self) -> LoopThread:
        return self._its_thread or self._home.thread


class Part(Front[Inner]):
    """A front of what lives no longer than its client is open."""

    def __init__(self, home: Home, inner: Inner) -> None:
        super().__init__(home, inner, home.thread)

    def _close(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """End it, unless its client has, or is another process's."""
        if self._thread.is_open:
            self._thread.run(end())


class Closing(Part[Inner]):
    """One that a block ends."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it. May be called more than once."""
        raise NotImplementedError


def waits(
    method: Callable[Concatenate[Inner, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[Front[Inner], _P], _T]:
    """The same method for threads: it waits for the result."""

    @functools.wraps(method)
    def wait(self: Front[Inner], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._thread.run(method(self._inner, *args, **kwargs))

    return wait


def gives(
    method: Callable[Concatenate[Inner, _P], _T], front: Callable[[Home, _T], Made]
) -> Callable[Concatenate[Front[Inner], _P], Made]:
    """The same method for threads: it is called in the loop, and what it gives is put behind a front."""

    @functools.wraps(method)
    def give(self: Front[Inner], /, *args: _P.args, **kwargs: _P.kwargs) -> Made:
        async def make() -> _T:
            return method(self._inner, *args, **kwargs)

        return front(self._home, self._thread.run(make()))

    return give
