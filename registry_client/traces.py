"""SHELL: a call to the registry as spans of OpenTelemetry: one for the call, and below it one for each try."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from registry_api.tracing import Tracing, names_of
from registry_client.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from google.protobuf.message import Message
    from opentelemetry.trace import Span

OK, UNKNOWN, CANCELLED = "OK", "UNKNOWN", "CANCELLED"


class CallSpans:
    """Of one call, as a block: what leaves it tells how the call ended."""

    def __init__(self, tracing: Tracing, path: str, span: Span) -> None:
        self._tracing = tracing
        self._path = path
        self._span = span
        self._tries = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._tracing.end(self._span, code_of(error))

    @contextmanager
    def attempt(self, address: str) -> Iterator[Sequence[tuple[str, str]]]:
        """One try, at that address, as a block; gives the metadata by which the registry knows of it."""
        tracing = self._tracing
        about = {**names_of(self._path), "server.address": address, "previous-rpc-attempts": self._tries}
        self._tries += 1
        span = tracing.begin(f"attempt {self._path}", "CLIENT", tracing.below(self._span), about)
        if span is None:
            yield ()
            return
        error: BaseException | None = None
        try:
            with tracing.current(span):
                yield tracing.headers_for(span)
        except BaseException as raised:
            error = raised
            raise
        finally:
            tracing.end(span, code_of(error))


def spans_of(tracing: Tracing, request: Message) -> CallSpans | None:
    """For the call of the one method that takes such a request; None where nothing is traced."""
    if not tracing.is_on:
        return None
    path = _path(request)
    span = tracing.begin(path, "INTERNAL", None, names_of(path))
    return None if span is None else CallSpans(tracing, path, span)


def _path(request: Message) -> str:
    kind = request.DESCRIPTOR
    for service in kind.file.services_by_name.values():
        for method in service.methods:
            if method.input_type is kind:
                return f"{service.full_name}/{method.name}"
    return kind.full_name


def code_of(error: BaseException | None) -> str:
    """gRPC's code for how a call ended, by its name."""
    if error is None:
        return OK
    if isinstance(error, RegistryError):
        return error.code.name if error.code is not None else UNKNOWN
    return UNKNOWN if isinstance(error, Exception) else CANCELLED
