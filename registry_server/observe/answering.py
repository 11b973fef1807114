"""SHELL: who is being answered, for the log; and the span of what is asked of the store meanwhile."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from registry_api.tracing import Tracing
    from registry_server.rpc.table import Caller

# Whom a task answers, and the name of that task, which no other has: what it sets going has this too, and is for others
# as well. (The task itself would be in a circle with its context.)
CALLER: ContextVar[tuple[Caller, str] | None] = ContextVar("caller", default=None)


def begin(caller: Caller) -> None:
    """The task that calls this answers that caller from now on."""
    try:
        CALLER.set((caller, asyncio.current_task().get_name()))  # type: ignore[union-attr]  # mostly there is one
    except (AttributeError, RuntimeError):  # no task, or one of another kind: it is not known for whom it works
        CALLER.set(None)


def who() -> Caller | None:
    """For whom it is that this is being done; None where it is for nobody in particular."""
    found = CALLER.get()
    if found is None:
        return None
    try:
        task = asyncio.current_task()
    except RuntimeError:  # in a thread without a loop
        return None
    caller, name = found
    return caller if getattr(task, "get_name", str)() == name else None


class Traced:
    """A call that has a span, until it is answered."""

    __slots__ = ("_tracing", "is_over", "span")

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self.span = span
        self.is_over = False
        self._tracing = tracing

    def begin_part(self, name: str) -> Span | None:
        """A span for a part of it, to be ended by `end_part`; None where it is not recorded."""
        if self.is_over or not self.span.is_recording():
            return None
        return self._tracing.begin(name, "INTERNAL", self._tracing.below(self.span))

    def end_part(self, part: Span, outcome: str, *, is_well: bool) -> None:
        """That part is over, and ended so."""
        self._tracing.end_part(part, outcome, is_well=is_well)


TRACED: ContextVar[Traced | None] = ContextVar("traced", default=None)
