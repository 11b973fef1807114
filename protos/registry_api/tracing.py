"""SHELL: spans of OpenTelemetry for server and client, in a process that has it.

Nothing of OpenTelemetry is loaded here. Who set a provider has loaded it, and without one there are no spans: to find
that out costs a look into a table. What somebody's sampler, processor or exporter raises ends no call.
"""

from __future__ import annotations

import contextvars
import logging
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from types import ModuleType

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind, Tracer
    from opentelemetry.util.types import AttributeValue

log = logging.getLogger(__name__)

# What is loaded where somebody uses it.
API = "opentelemetry.trace"
_CONTEXT = "opentelemetry.context"
# Under these a context says that nothing in it is to be traced: the key of OpenTelemetry's API, which has the name of a
# private one but is what all instrumentation asks for, and the one of before.
_SUPPRESSED, _SUPPRESSED_BEFORE = "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation"

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
# What W3C has every platform take of it.
MAX_STATE = 512
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_MAX_PARENT = 512

# gRPC's codes, in their order.
CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
# Those that say that it is the server which failed.
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
_NO_ATTRIBUTES: Mapping[str, AttributeValue] = {}


class Ids(NamedTuple):
    """Which span of which trace, in hexadecimal digits."""

    trace_id: str
    span_id: str


def ids_in(traceparent: str) -> Ids | None:
    """What a header `traceparent` names; None where it is none (W3C Trace Context, section 3.2)."""
    found = _PARENT.fullmatch(traceparent) if 0 < len(traceparent) <= _MAX_PARENT else None
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    ids = Ids(found[2], found[3])
    return ids if ids.trace_id.strip("0") and ids.span_id.strip("0") else None


def ids_of(span: Span) -> Ids | None:
    """Of a span; None for one that is in no trace, or is somebody's own and does not tell."""
    try:
        context = span.get_span_context()
        return Ids(f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else None
    except Exception:
        return None


class Tracing:
    """The way of one part of this process, `scope` by name, to its tracer. `api` is OpenTelemetry's, once in use."""

    __slots__ = ("_complained", "_scope", "_tracer", "api")

    api: ModuleType

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._tracer: Tracer | None = None
        self._complained = False

    @property
    def is_on(self) -> bool:
        """Whether somebody has set a provider."""
        return self._tracer is not None or (API in sys.modules and self._find())

    def begin(
        self,
        name: str,
        kind: str,
        parent: Context | None = None,
        attributes: Mapping[str, AttributeValue] = _NO_ATTRIBUTES,
    ) -> Span | None:
        """A span of that kind (SERVER, CLIENT, INTERNAL) below `parent`, or what is current; to be ended by `end`.
        None if tracing is off or does not work, or is suppressed here."""
        if not self.is_on or self._tracer is None:
            return None
        try:
            if is_suppressed():
                return None
            what: SpanKind = self.api.SpanKind[kind]
            span = self._tracer.start_span(name, parent, what, attributes)
        except Exception as error:
            self._complain(error)
            return None
        is_one: bool = isinstance(span, self.api.Span)
        if not is_one:
            self._complain(TypeError(f"the provider gives {type(span).__name__} for a span"))
        return span if is_one else None

    def end(self, span: Span, code: str, error: BaseException | None = None, *, is_served: bool = False) -> None:
        """It is over, with gRPC's code of that name; of what was served, a fault of the caller's is no error. `error`:
        what nobody expected."""
        try:
            if span.is_recording():
                span.set_attribute("rpc.grpc.status_code", CODES.index(code))
                if code in _FAULTS or (code != "OK" and not is_served):
                    span.set_status(self.api.StatusCode.ERROR, code)
                if error is not None:
                    span.record_exception(error)
            span.end()
        except Exception as failure:
            self._complain(failure)

    def end_part(self, span: Span, outcome: str, *, is_well: bool) -> None:
        """A part of a call is over, and ended so."""
        try:
            span.set_attribute("registry.outcome", outcome)
            if not is_well:
                span.set_status(self.api.StatusCode.ERROR, outcome)
            span.end()
        except Exception as failure:
            self._complain(failure)

    def below(self, span: Span) -> Context:
        """The context in which a span is the current one."""
        context: Context = self.api.set_span_in_context(span)
        return context

    def current(self, span: Span) -> AbstractContextManager[Span]:
        """A block in which it is the current one: for whoever makes spans of his own there. It does not end by that."""
        block: AbstractContextManager[Span] = self.api.use_span(span, False, False, False)
        return block

    def nothing(self) -> Context:
        """The context of what begins a trace, whatever this process is at."""
        return self.below(self.api.INVALID_SPAN)

    def headers_for(self, span: Span) -> list[tuple[str, str]]:
        """What tells a server of a span (W3C)."""
        if (ids := ids_of(span)) is None:
            return []
        context = span.get_span_context()
        parent = (TRACEPARENT, f"00-{ids.trace_id}-{ids.span_id}-{int(context.trace_flags):02x}")
        state = context.trace_state.to_header() if context.trace_state else ""
        return [parent, (TRACESTATE, state)] if state else [parent]

    def told_of(self, traceparent: str, state: str) -> Context | None:
        """The context of a caller who sent these headers; None where they name no span."""
        if not self.is_on or (ids := ids_in(traceparent)) is None:
            return None
        try:
            known = self.api.TraceState.from_header([state]) if 0 < len(state) <= MAX_STATE else None
            flags = self.api.TraceFlags(int(traceparent[53:55], 16) & self.api.TraceFlags.SAMPLED)
            remote = self.api.SpanContext(int(ids.trace_id, 16), int(ids.span_id, 16), True, flags, known)
            return self.below(self.api.NonRecordingSpan(remote))
        except Exception as error:
            self._complain(error)
            return None

    def _find(self) -> bool:
        api = sys.modules[API]
        if self._complained or not hasattr(api, "use_span"):  # another thread is about to load it
            return False
        try:
            provider = api.get_tracer_provider()
            if isinstance(provider, api.ProxyTracerProvider):
                return False
            self.api, self._tracer = api, provider.get_tracer(self._scope)
        except Exception as error:  # such as one that the environment names, and that is not there
            self._complain(error)
            return False
        return True

    def _complain(self, error: Exception) -> None:
        """Once: what fails for one call fails for all of them."""
        if not self._complained:
            self._complained = True
            log.warning("tracing does not work: %r", error)


def apart() -> contextvars.Context:
    """This context, but that no span is current in it: for work that outlives whoever begins it."""
    here = contextvars.copy_context()
    if (api := sys.modules.get(API)) is not None and hasattr(api, "use_span"):
        here.run(_leave_spans, api)
    return here


def _leave_spans(api: ModuleType) -> None:
    if api.get_current_span() is not api.INVALID_SPAN:
        sys.modules[_CONTEXT].attach(api.set_span_in_context(api.INVALID_SPAN))


def is_suppressed() -> bool:
    """Whether what is done now is not to be traced, as where spans are sent: they would be more with each that is sent.
    Where something of OpenTelemetry is loaded."""
    context = sys.modules[_CONTEXT]
    key = getattr(context, _SUPPRESSED, _SUPPRESSED_BEFORE)
    return bool(context.get_value(key) or context.get_value(_SUPPRESSED_BEFORE))


def names_of(path: str) -> dict[str, AttributeValue]:
    """What every span says of a method `/package.Service/Name`."""
    service, _, method = path.lstrip("/").rpartition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
