"""SHELL: how commands end: when they are done, or in order when a signal comes, and at once at the second one."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

_T = TypeVar("_T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signalled(Exception):
    """A signal ended the command before it was done. `exit_code` is what a shell makes of that."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.strsignal(signum))
        self.exit_code = 128 + signum


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run `main` in an event loop of its own. The first SIGINT or SIGTERM cancels it, so that it leaves in order.

    Raises Signalled when that ended it without a result. A second signal kills the process.
    """
    return asyncio.run(_until_signal(main))


async def _until_signal(main: Coroutine[Any, Any, _T]) -> _T:
    loop = asyncio.get_running_loop()
    task = loop.create_task(main)
    came: list[int] = []

    def on_signal(signum: int) -> None:
        came.append(signum)
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        task.cancel()

    # Elsewhere nobody hears signals, and one that is ignored (by `nohup`, say) stays so.
    in_main = threading.current_thread() is threading.main_thread()
    heard = [each for each in _SIGNALS if in_main and signal.getsignal(each) is not signal.SIG_IGN]
    for each in heard:
        loop.add_signal_handler(each, on_signal, each)
    try:
        return await task
    except asyncio.CancelledError:
        if came:
            raise Signalled(came[0]) from None
        raise
    finally:
        for each in heard if not came else ():
            loop.remove_signal_handler(each)
