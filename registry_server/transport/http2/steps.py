"""SHELL: a coroutine that is carried out at once as far as it goes, and by a task from where it has to wait.

Most have nothing to wait for, and a task costs as much as what they do. (From Python 3.12 on tasks can do that
themselves, if they begin eagerly.)
"""

from asyncio import CancelledError
from collections.abc import Coroutine, Generator
from typing import Any, Final

# What a coroutine waits for that is over. No coroutine waits for it.
DONE: Final = object()


def first_step(work: Coroutine[Any, Any, None]) -> object:
    """Carry out a coroutine as far as it goes; gives what it waits for, for `Rest`, or DONE: also where it gave itself
    up, as a task would take it. Raises what else it raises.

    It runs in no task: it may wait, but not ask for its task, as `asyncio.timeout` does, before it has waited.
    """
    try:
        return work.send(None)
    except (StopIteration, CancelledError):
        return DONE


class Rest(Coroutine[Any, Any, None]):
    """What is left of a coroutine after its first step, for a task: who cancels that, cancels the coroutine."""

    __slots__ = ("_waits_for", "_work")

    def __init__(self, work: Coroutine[Any, Any, None], waits_for: object) -> None:
        self._work = work
        self._waits_for = waits_for

    def send(self, value: object) -> object:
        """See Coroutine. The first to ask hears what it waits for already."""
        if self._waits_for is DONE:
            return self._work.send(value)
        waits_for, self._waits_for = self._waits_for, DONE
        return waits_for

    def throw(self, *error: Any) -> object:
        """See Coroutine."""
        return self._work.throw(*error)

    def close(self) -> None:
        """See Coroutine."""
        self._work.close()

    def __await__(self) -> Generator[Any, Any, None]:
        """No other coroutine waits for it."""
        raise TypeError("it is for a task")
