"""SHELL: the calls of a channel as spans of OpenTelemetry: one for the call, and below it one for each attempt.

Nothing of OpenTelemetry is loaded here. Who set a provider has loaded it, and without one there are no spans: to find
that out costs a look into a table. What somebody's sampler, processor or exporter raises ends no call.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from types import ModuleType

    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import Span, Tracer

    from balancer.channels.types import Arguments, Metadata, Metadatum
    from balancer.policies.base import Node

log = logging.getLogger(__name__)

N = TypeVar("N")

OK, CANCELLED, UNKNOWN = 0, 1, 2
# Under these a context says that nothing in it is to be traced: the key of OpenTelemetry's API, which has the name of a
# private one but is what all instrumentation asks for, and the one of before.
_SUPPRESSED, _SUPPRESSED_BEFORE = "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation"
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
# What gRPC sends as metadata. It ends a call that has anything else.
_NAME, _VALUE = re.compile(r"[0-9a-z_.-]+"), re.compile(r"[ -~]*")


class Tracing:
    """What one channel tells of its calls. `code_of` gives the number of gRPC's code with which an attempt ended."""

    __slots__ = ("_complained", "_tracer", "api", "code_of", "textmap")

    api: ModuleType
    textmap: TextMapPropagator

    def __init__(self, code_of: Callable[[object], int]) -> None:
        self.code_of = code_of
        self._tracer: Tracer | None = None
        self._complained = False

    @property
    def is_on(self) -> bool:
        """Whether somebody has set a provider."""
        return self._tracer is not None or ("opentelemetry.trace" in sys.modules and self._find())

    def begin(self, path: str, metadata: Metadata | None) -> CallSpans | None:
        """For a call that begins: below the span that its metadata names, or else the current one. None where nothing
        is traced, or is not to be, or tracing does not work."""
        if not self.is_on:
            return None
        try:
            if _is_suppressed():
                return None
            context = self._named_in(metadata)
            return CallSpans(self, path, self.start(path, "INTERNAL", path, context), context)
        except Exception as error:
            self.complain(error)
            return None

    def start(self, name: str, kind: str, path: str, parent: Context | None) -> Span:
        """A span of a method's. Raises what whoever samples and processes them raises."""
        assert self._tracer is not None  # noqa: S101 - it is on
        service, _, method = path.strip("/").rpartition("/")
        about = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        span = self._tracer.start_span(name.strip("/"), parent, self.api.SpanKind[kind], about)
        is_one: bool = isinstance(span, self.api.Span)
        if not is_one:
            raise TypeError(f"the provider gives {type(span).__name__} for a span")
        return span

    def end(self, span: Span, code: int) -> None:
        """It is over."""
        try:
            if span.is_recording():
                span.set_attribute("rpc.grpc.status_code", code)
                if code != OK:
                    span.set_status(self.api.StatusCode.ERROR, _NAMES[code])
            span.end()
        except Exception as error:
            self.complain(error)

    def complain(self, error: Exception) -> None:
        """Once: what fails for one call fails for all of them."""
        if not self._complained:
            self._complained = True
            log.warning("tracing does not work: %r", error)

    def _named_in(self, metadata: Metadata | None) -> Context | None:
        given = {name: value for name, value in metadata or () if isinstance(value, str)}
        # Some propagators have capitals in their names, which metadata has not.
        named = {field: given[field.lower()] for field in self.textmap.fields if field.lower() in given}
        if not named:
            return None
        return self.textmap.extract({**given, **named}, sys.modules["opentelemetry.context"].get_current())

    def _find(self) -> bool:
        api = sys.modules["opentelemetry.trace"]
        if self._complained or not hasattr(api, "use_span"):  # another thread is about to load it
            return False
        try:
            provider = api.get_tracer_provider()
            if isinstance(provider, api.ProxyTracerProvider):
                return False
            from opentelemetry.propagate import get_global_textmap

            self.api, self.textmap = api, get_global_textmap()
            self._tracer = provider.get_tracer("balancer")
        except Exception as error:  # such as one that the environment names, and that is not there
            self.complain(error)
            return False
        return True


class CallSpans:
    """Of one call. It does not keep the call: one that nobody holds ends, and is told of when its attempt has.

    `context`: in which the call was made, if that is not the current one.
    """

    __slots__ = ("_call", "_context", "_is_over", "_lock", "_path", "_span", "_tracing", "_under_way")

    def __init__(self, tracing: Tracing, path: str, span: Span, context: Context | None) -> None:
        self._tracing = tracing
        self._path = path
        self._span = span
        self._context: Context = tracing.api.set_span_in_context(span, context)
        # The spans of attempts that have not ended, by the identity of their call objects, which are not kept, either.
        self._under_way: dict[int, Span] = {}
        self._call: Callable[[], object | None] = lambda: self
        self._is_over = False
        self._lock = threading.RLock()

    def serve(self, call: object) -> None:
        """Of that call, from now on."""
        self._call = weakref.ref(call)

    def attempt(self, number: int, node: Node, arguments: Arguments, begin: Callable[[Arguments], N]) -> N:
        """Begins an attempt with arguments by which its server knows of it. Raises what `begin` raises."""
        try:
            span, given = self._started(number, node, arguments)
        except Exception as error:
            self._tracing.complain(error)
            return begin(arguments)
        native = self._within(span, begin, given)
        tell = getattr(native, "add_done_callback", None)
        if tell is None:  # somebody put another thing in the call's place, of whose end nobody is told
            self._tracing.end(span, OK)
            self.over(OK)
        else:
            self._under_way[id(native)] = span
            tell(partial(self._ended, id(native)))
        return native

    def blocking(self, node: Node, arguments: Arguments, call: Callable[[Arguments], N]) -> N:
        """Makes a first attempt that is over when it returns, or raises the error that it ended with."""
        try:
            span, given = self._started(0, node, arguments)
        except Exception as error:
            self._tracing.complain(error)
            return call(arguments)
        response = self._within(span, call, given)
        self._tracing.end(span, OK)
        return response

    def _within(self, span: Span, begin: Callable[[Arguments], N], arguments: Arguments) -> N:
        try:
            with self._tracing.api.use_span(span, False, False, False):
                return begin(arguments)
        except BaseException as error:
            self._tracing.end(span, self._tracing.code_of(error) if isinstance(error, grpc.Call) else UNKNOWN)
            raise

    def ended(self, native: object) -> None:
        """An attempt has its status, of which nobody else may tell. More than once, from any thread."""
        self._ended(id(native), native)

    def over(self, code: int) -> None:
        """The call is over. More than once, from any thread."""
        with self._lock:
            was_over, self._is_over = self._is_over, True
        if not was_over:
            self._tracing.end(self._span, code)

    def _started(self, number: int, node: Node, arguments: Arguments) -> tuple[Span, Arguments]:
        tracing = self._tracing
        span = tracing.start(f"attempt {self._path.strip('/')}", "CLIENT", self._path, self._context)
        if span.is_recording():
            span.set_attribute("server.address", node.endpoint.address)
            span.set_attribute("previous-rpc-attempts", number)
        try:
            told = self._told_of(span)
        except Exception as error:
            tracing.complain(error)
            told = {}
        timeout, metadata, *more = arguments
        return span, (timeout, (*_without(metadata, told), *told.items()), *more)  # type: ignore[return-value]

    def _told_of(self, span: Span) -> dict[str, str]:
        """What tells a server of it, as far as it can be sent. Raises what a propagator raises."""
        carrier: dict[str, str] = {}
        self._tracing.textmap.inject(carrier, self._tracing.api.set_span_in_context(span, self._context))
        told = {name.lower(): value for name, value in carrier.items() if _is_sendable(name, value)}
        if len(told) < len(carrier):
            self._tracing.complain(ValueError(f"a propagator gives what is no metadata: {sorted(map(str, carrier))}"))
        return told

    def _ended(self, key: int, native: object) -> None:
        span = self._under_way.pop(key, None)
        if span is None:
            return
        code = self._tracing.code_of(native)
        self._tracing.end(span, code)
        if self._call() is None:
            self.over(code)


def _is_suppressed() -> bool:
    """Whether what is done now is not to be traced, as where spans are sent: they would be more with each of them."""
    context = sys.modules["opentelemetry.context"]
    key = getattr(context, _SUPPRESSED, _SUPPRESSED_BEFORE)
    return bool(context.get_value(key) or context.get_value(_SUPPRESSED_BEFORE))


def _is_sendable(name: object, value: object) -> bool:
    """Whether somebody's propagator gave what gRPC takes: of what ends in -bin it takes bytes, which are none."""
    if not isinstance(name, str) or not isinstance(value, str) or name.lower().endswith("-bin"):
        return False
    return _NAME.fullmatch(name.lower()) is not None and _VALUE.fullmatch(value) is not None


def _without(metadata: Metadata | None, names: Collection[str]) -> Iterable[Metadatum]:
    return [it for it in metadata or () if it[0] not in names]
