"""SHELL: carries out what others wrote in a thread of its own: what blocks there, or goes on when it was told to end,
holds up nobody but its like."""

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Awaitable, Callable

from registry_checks.probes.base import Failed

Work = Callable[[], Awaitable[object]]
# So many are handed over and have not ended: then somebody blocks, and the rest is not even begun.
MOST = 1_000
END_S = 1.0


class Aside:
    """A loop in a thread, from the first piece of work until the last one who brought some has left, or forgot to."""

    def __init__(self) -> None:
        self._users: set[object] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._calls: set[_Call] = set()

    async def run(self, user: object, work: Work) -> object:
        """What becomes of it. Raises what it raises, and Failed for what nobody may raise, or when too much waits."""
        self._users.add(user)
        if len(self._calls) >= MOST:
            raise Failed(f"{MOST} checks of this kind are under way, and one of them keeps the others waiting")
        loop = self._started()
        call = _Call(work, asyncio.get_running_loop(), self._calls)
        self._calls.add(call)
        loop.call_soon_threadsafe(call.begin)
        try:
            return await call.outcome
        finally:
            call.is_over = True
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(call.end)

    async def leave(self, user: object) -> None:
        """Who brought work brings no more. The last one ends the thread; one that is blocked is left to itself."""
        self._users.discard(user)
        if self._users:
            return
        loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            _stop(loop)
            await asyncio.to_thread(thread.join, END_S)

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = loop = asyncio.new_event_loop()
            weakref.finalize(self, _stop, loop)
            self._thread = threading.Thread(target=_main, args=(loop,), name="registry-checks", daemon=True)
            self._thread.start()
        return self._loop


class _Call:
    """One piece of work: begun and ended in the thread, waited for in the loop `here`."""

    def __init__(self, work: Work, here: asyncio.AbstractEventLoop, calls: "set[_Call]") -> None:
        self.outcome: asyncio.Future[object] = here.create_future()
        self.is_over = False  # nobody waits any more
        self._work = work
        self._here = here
        self._calls = calls
        self._task: asyncio.Task[object] | None = None

    def begin(self) -> None:
        """In the thread."""
        if self.is_over:
            self._tell(None, None)
            return
        self._task = asyncio.get_running_loop().create_task(self._carry_out())
        self._task.add_done_callback(self._ended)

    def end(self) -> None:
        """In the thread."""
        if self._task is not None:
            self._task.cancel()

    async def _carry_out(self) -> object:
        try:
            return await self._work()
        except Exception:
            raise
        except BaseException as error:  # it would end the thread, or the server
            raise Failed(f"{type(error).__name__}: {error}") from None

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._task = None
        error = Failed("CancelledError") if task.cancelled() else task.exception()
        self._tell(None if error else task.result(), error)

    def _tell(self, result: object, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop that asked is closed
            self._here.call_soon_threadsafe(self._told, result, error)

    def _told(self, result: object, error: BaseException | None) -> None:
        self._calls.discard(self)
        if self.outcome.done():
            return
        if error is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(result)


def _main(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.stop)
