"""SHELL: a table of methods whose calls are known while they are answered: to the log, and as OpenTelemetry's spans."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import DecodeError

from registry_api.registry.v1.registry_pb2 import ResponseHeader
from registry_api.tracing import API, Tracing, names_of
from registry_server.errors import RequestError
from registry_server.observe.answering import TRACED, Traced, begin
from registry_server.rpc.table import Attended, AttendedDialogue, Broadcast, Conversation, Session, Unary

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from opentelemetry.trace import Span

    from registry_server.rpc.table import Caller, Dialogue, Method, Outlet, Subscription, Table

    Answer = Callable[[Any, Caller], Coroutine[Any, Any, bytes]]

Begun = TypeVar("Begun")

OK, INTERNAL, CANCELLED = "OK", "INTERNAL", "CANCELLED"
# What is asked so often that it would be all there is to see: it is traced for callers who trace it.
PROBES = ("/grpc.health.v1.Health/Check",)
# How answers of registry.v1 begin: with a header, in so many bytes at most.
REGISTRY = "/registry.v1."
_HEADER, _MAX_HEADER = b"\x0a", 127

log = logging.getLogger(__name__)


class Traces:
    """Of one server. `code_of` gives the name of gRPC's code for an error."""

    def __init__(self, code_of: Callable[[RequestError], str]) -> None:
        self._code_of = code_of
        self._tracing = Tracing("registry_server")
        self._tells = log.isEnabledFor(logging.DEBUG)

    def traced(self, table: Table) -> Table:
        """The same methods; to be put around all else, so that nothing of a call is left out."""
        return table.changed(self._method)

    # ---- within

    def _method(self, path: str, method: Method) -> Method:
        match method:
            case Unary(call=call):
                return replace(method, call=self._answering(path, call, is_root=path not in PROBES))
            case Conversation(answer=answer):
                return replace(method, answer=self._answering(path, answer, is_root=False))
            case Broadcast():
                return replace(method, join=self._joining(path, method))
            case Session():
                return replace(method, open=self._opening(path, method))

    def _answering(self, path: str, answer: Answer, *, is_root: bool) -> Answer:
        tells, tracing, follow = self._tells, self._tracing, self._following(path, answer, is_root=is_root)

        def told(request: Any, caller: Caller) -> Coroutine[Any, Any, bytes]:
            begin(caller)
            if tells or (API in sys.modules and tracing.is_on):
                return follow(request, caller)
            return answer(request, caller)

        return told

    def _following(self, path: str, answer: Answer, *, is_root: bool) -> Answer:
        """The same for a call of which more is told."""

        async def follow(request: Any, caller: Caller) -> bytes:
            began = time.monotonic()
            span = self._begin(path, caller, is_root=is_root) if self._tracing.is_on else None
            traced = None if span is None else Traced(self._tracing, span)
            TRACED.set(traced)
            try:
                with nullcontext() if span is None else self._tracing.current(span):
                    answered = await answer(request, caller)
            except BaseException as error:
                self._ended(path, span, began, error)
                raise
            else:
                self._ended(path, span, began, None, answered)
            finally:
                if traced is not None:
                    traced.is_over = True
            return answered

        return follow

    def _begin(self, path: str, caller: Caller, *, is_root: bool) -> Span | None:
        """Below the caller's; without that, a trace begins here for a call that may be the root of one."""
        parent = self._tracing.told_of(caller.traceparent, caller.tracestate)
        if parent is None and not is_root:
            return None
        about = {**names_of(path), "client.address": caller.peer}
        return self._tracing.begin(path.lstrip("/"), "SERVER", parent or self._tracing.nothing(), about)

    def _ended(
        self, path: str, span: Span | None, began: float, error: BaseException | None, answered: bytes = b""
    ) -> None:
        code, revision = self._code(error), revision_in(answered) if path.startswith(REGISTRY) else 0
        if self._tells:
            more = {"revision": revision} if revision else {}
            log.debug("%s: %s after %.1f ms", path, code, 1000 * (time.monotonic() - began), extra=more)
        if span is not None:
            if revision and span.is_recording():
                span.set_attribute("registry.revision", revision)
            self._end(span, code, error)

    def _end(self, span: Span, code: str, error: BaseException | None) -> None:
        self._tracing.end(span, code, error if code == INTERNAL else None, is_served=True)

    def _code(self, error: BaseException | None) -> str:
        if error is None:
            return OK
        if isinstance(error, RequestError):
            return self._code_of(error)
        return INTERNAL if isinstance(error, Exception) else CANCELLED

    # ---- streams

    def _joining(self, path: str, method: Broadcast[Any]) -> Callable[[Any, Caller, Outlet], Subscription]:
        def joined(request: Any, caller: Caller, outlet: Outlet) -> Subscription:
            stream, span = self._begun(path, caller, lambda: method.join(request, caller, outlet))
            return stream if span is None else Attended(stream, partial(self._end, span, OK, None))

        return joined

    def _opening(self, path: str, method: Session[Any]) -> Callable[[Caller, Outlet], Dialogue[Any]]:
        def opened(caller: Caller, outlet: Outlet) -> Dialogue[Any]:
            dialogue, span = self._begun(path, caller, lambda: method.open(caller, outlet))
            return dialogue if span is None else AttendedDialogue(dialogue, partial(self._end, span, OK, None))

        return opened

    def _begun(self, path: str, caller: Caller, join: Callable[[], Begun]) -> tuple[Begun, Span | None]:
        """A stream that begins, which is traced if its caller's is: it may last for days."""
        span = self._begin(path, caller, is_root=False) if caller.traceparent and self._tracing.is_on else None
        try:
            return join(), span
        except BaseException as error:
            if span is not None:
                self._end(span, self._code(error), error)
            raise


def named(table: Table) -> Table:
    """The same methods, of whose callers is known by now who they are: while they are answered, that is told, too."""
    return table.changed(lambda _, method: _named(method))


def _named(method: Method) -> Method:
    match method:
        case Unary(call=call):
            return replace(method, call=_naming(call))
        case Conversation(answer=answer):
            return replace(method, answer=_naming(answer))
    return method


def _naming(answer: Answer) -> Answer:
    def named(request: Any, caller: Caller) -> Coroutine[Any, Any, bytes]:
        begin(caller)
        return answer(request, caller)

    return named


def revision_in(answer: bytes) -> int:
    """The revision in the header that an answer of registry.v1 begins with; 0 where it cannot be had at a glance."""
    if answer[:1] != _HEADER or len(answer) < answer[1] + 2 or answer[1] > _MAX_HEADER:
        return 0
    try:
        return ResponseHeader.FromString(answer[2 : answer[1] + 2]).revision
    except DecodeError:
        return 0
