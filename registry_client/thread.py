"""SHELL: an event loop in a thread of its own, for the client for threads and its parts."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sys
import threading
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from registry_client.errors import ClientClosed, Misuse, RegistryError
from registry_client.place import check_grpc, check_process

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_P = ParamSpec("_P")
Inner = TypeVar("Inner")
Made = TypeVar("Made")


class LoopThread:
    """An event loop in a thread of its own, from `start` to `close`."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="registry-client", daemon=True)
        self._pid = os.getpid()
        self._lock = threading.Lock()  # of the three below
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: set[Future[Any]] = set()
        self._is_closing = False
        self._is_over = False
        self._failure: Exception | None = None  # why there is no loop

    @property
    def is_open(self) -> bool:
        """True from `start` to `close`, in the process that started it."""
        return self._loop is not None and not self._is_closing and self.is_here and not sys.is_finalizing()

    @property
    def is_here(self) -> bool:
        """False in a process that was forked since it was made."""
        return os.getpid() == self._pid

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
        self._ready.wait()
        if self._failure is not None:
            raise RegistryError(f"no event loop can be made: {self._failure}") from self._failure

    def _main(self) -> None:
        try:
            with asyncio.Runner() as runner:
                loop = self._loop = runner.get_loop()
                loop.call_soon(self._ready.set)
                self._run_until_over(loop)
        except Exception as error:  # of too many open files, say
            self._failure = error
        finally:
            self._loop = None
            self._ready.set()
            if self._failure is not None:
                self._give_up()

    def _give_up(self) -> None:
        """Who still waits would wait for ever: something has closed the descriptors of this process, say."""
        with self._lock:
            left = list(self._pending)
        for future in left:
            with contextlib.suppress(InvalidStateError):  # it was done, or cancelled
                future.set_exception(RegistryError(f"the client's event loop has ended: {self._failure}"))

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
            if threading.current_thread() is self._thread:
                raise Misuse("the client was used from within its own event loop, which would wait for itself for ever")
            with self._lock:
                if self._is_closing:
                    raise _closed()
                future = self._submit(work)
        except RegistryError:
            work.close()
            raise
        return self._wait(future)

    def _submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        self._pending.add(future)
        return future

    def _wait(self, future: Future[_T]) -> _T:
        try:
            return future.result()
        except CancelledError:
            raise _closed() from None
        except BaseException:
            future.cancel()
            raise
        finally:
            self._pending.discard(future)

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Run `last`, stop it, and wait until the thread has ended. Whoever still waits is told ClientClosed.

        At the end of the interpreter, when no thread runs any more, it does nothing.
        """
        if sys.is_finalizing():
            return
        with self._lock:
            if self._is_closing or self._loop is None:
                return
            self._is_closing, loop = True, self._loop
        try:
            if last is not None:
                self._wait(self._submit(last()))
        finally:
            self._is_over = True
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            for future in list(self._pending):
                future.cancel()


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
        self._changing = threading.Lock()  # of `thread`

    def open(self, first: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Start a thread, and run `first` there. Raises Misuse if there is one, or cannot be one."""
        check_grpc()
        _check_interpreter()
        if not self.thread.is_here:  # the one who holds the lock may not have come along
            self._changing = threading.Lock()
        with self._changing:
            if self.thread.is_open:
                raise Misuse("the client was entered already: make another by connect(…), or close this one first")
            thread = self.thread = LoopThread()
            thread.start()
        try:
            thread.run(first())
        except BaseException:
            thread.close()
            raise

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `last` there, and end the thread. Nothing, in a process that was forked meanwhile, and at the end of the
        interpreter, when a thread that is gone may hold the lock for ever."""
        if self.thread.is_here and not sys.is_finalizing():
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
