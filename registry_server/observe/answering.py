"""SHELL: which call is being answered, for what is logged and asked of the store meanwhile."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING

from registry_api.tracing import Ids, ids_in, ids_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from registry_api.tracing import Tracing
    from registry_server.rpc.table import Caller


class Answering:
    """One call, from when it comes until it is answered. `caller` knows who it is once somebody has found out; `span`
    is None where it is not traced."""

    __slots__ = ("_task", "_tracing", "caller", "is_over", "span")

    def __init__(self, caller: Caller, tracing: Tracing, span: Span | None) -> None:
        self.caller = caller
        self.span = span
        self.is_over = False
        self._tracing = tracing
        self._task = _task()

    @property
    def is_here(self) -> bool:
        """Whether what happens now happens for it: timers and tasks that it set going are for others, too."""
        return not self.is_over and self._task is _task()

    @property
    def ids(self) -> Ids | None:
        """Of its span; of its caller's, where this server makes none."""
        return ids_of(self.span) if self.span is not None else ids_in(self.caller.traceparent)

    def begin_part(self, name: str) -> Span | None:
        """A span for a part of it, to be ended by `end_part`; None where it is not traced."""
        span = self.span
        if span is None or self.is_over or not span.is_recording():
            return None
        return self._tracing.begin(name, "INTERNAL", self._tracing.below(span))

    def end_part(self, part: Span, outcome: str, *, is_well: bool) -> None:
        """That part is over, and ended so."""
        self._tracing.end_part(part, outcome, is_well=is_well)


CALL: ContextVar[Answering | None] = ContextVar("call", default=None)


def _task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # in a thread without a loop
        return None
