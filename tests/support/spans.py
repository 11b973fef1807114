"""What a process with OpenTelemetry's SDK is told: its spans, in memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Spans:
    """Those that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def __iter__(self) -> Iterator[ReadableSpan]:
        return iter(self._exporter.get_finished_spans())

    def clear(self) -> None:
        self._exporter.clear()

    def of(self, kind: str, part: str = "") -> list[ReadableSpan]:
        """Those of a kind (SERVER, CLIENT, INTERNAL) with that in their name, the first to end first."""
        return [it for it in self if it.kind.name == kind and part in it.name]

    def one(self, kind: str, part: str = "") -> ReadableSpan:
        [found] = self.of(kind, part)
        return found


@contextmanager
def recorded() -> Iterator[Spans]:
    """A provider for so long, of which nothing is left in this process."""
    with pytest.MonkeyPatch.context() as patch:
        spans = Spans()
        patch.setattr("opentelemetry.trace._TRACER_PROVIDER", spans.provider)
        yield spans
        spans.provider.shutdown()


def is_child(child: ReadableSpan, of: ReadableSpan) -> bool:
    """Whether a span is directly below another one, in the same trace."""
    assert child.context is not None
    assert of.context is not None
    parent = child.parent
    return parent is not None and (parent.trace_id, parent.span_id) == (of.context.trace_id, of.context.span_id)
