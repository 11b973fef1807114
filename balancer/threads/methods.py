"""The multi-callables: what all calls of one method have in common, and how a call of each kind begins.

A future or a stream is a `Call`. A blocking call is the plain channel's own, and goes on as a `Call` when its first
attempt was not the last.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import grpc

from balancer.calls.outcome import Verdict
from balancer.calls.plan import PLAIN
from balancer.channels.kinds import Kind
from balancer.channels.method import BalancedMethod
from balancer.channels.tally import Tally
from balancer.channels.traces import OK, UNKNOWN
from balancer.numbers import SUCCEEDED
from balancer.policies.base import Node
from balancer.pulse import SLIP_S
from balancer.threads.call import Call
from balancer.threads.native import NativeMethod
from balancer.threads.requests import Source
from balancer.threads.workers import check_interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from balancer.channels.kinds import Signature
    from balancer.channels.traces import CallSpans
    from balancer.channels.types import Arguments, Metadata
    from balancer.policies.base import PickInfo
    from balancer.threads.connection import Connection
    from balancer.threads.engine import ThreadsEngine
    from balancer.threads.native import NativeError


def _lasting(arguments: Arguments) -> Arguments:
    """With metadata that can be looked at again: by who hashes it, and by another attempt. grpcio takes an iterator."""
    metadata = arguments[1]
    if metadata is None or isinstance(metadata, tuple | list):
        return arguments
    return (arguments[0], tuple(metadata), *arguments[2:])


class Method(BalancedMethod[NativeMethod]):
    """One method of a service on a channel for threads."""

    engine: ThreadsEngine

    def __init__(self, engine: ThreadsEngine, signature: Signature) -> None:
        super().__init__(engine, signature)
        self.is_unary = signature.kind is Kind.UNARY_UNARY
        """The time a call takes says something about the endpoint."""
        self.streams_responses = signature.kind.streams_responses
        self.is_future_of_a_stream = signature.kind is Kind.STREAM_UNARY

    @property
    def _serializer(self) -> Callable[..., object] | None:
        return self._encoded if self._signature.kind.streams_requests else self._signature.serializer

    def source(self, request: object) -> Source | None:
        """Where the requests of a stream of them come from. Raises TypeError for what is no iterator."""
        if not self._signature.kind.streams_requests:
            return None
        return Source(iter(cast("Iterator[object]", request)), self.replay_limit)

    def begin(self, request: object, arguments: Arguments) -> Call:
        """Begins a call that does not block."""
        check_interpreter()
        arguments = _lasting(self.planned(arguments))
        info = self.engine.info_of(self.path, arguments[1] or ())
        call = Call(self, request, self.source(request), arguments, info)
        if self.engine.tracing.is_on:
            call.trace(self.engine.tracing.begin(self.path, arguments[1]))
        now = time.monotonic()
        connection, seen = self._ready(info, now)
        if connection is None:
            call.begin_without(now, seen)
        else:
            call.begin_on(connection, now)
        return call

    def blocking(self, with_call: bool, request: object, arguments: Arguments) -> object:
        """The response, and the call if that is asked for; raises the RpcError that the call ends with."""
        return _answer(self.begin(request, arguments), with_call)

    def _ready(self, info: PickInfo, now: float) -> tuple[Connection | None, int | None]:
        """A connection for the first attempt; or None, and the generation of the picker that offered one that is not
        ready any more. Raises ValueError when the channel is closed."""
        engine = self.engine
        if self.plan.hedging is not None:
            engine.check_open()
            return None, None
        seen = engine.generation
        pick = engine.picker.pick(info, now)
        connection: Connection | None = pick.connection if isinstance(pick, Node) else None
        if connection is not None and engine.resting and not engine.stir(connection):
            return None, seen
        return connection, None


def _traced(
    spans: CallSpans, connection: Connection, begin: Callable[..., object], request: object, arguments: Arguments
) -> object:
    def call(given: Arguments) -> object:
        timeout, metadata, credentials, _, compression = given
        return begin(request, timeout, metadata, credentials, None, compression)

    response = spans.blocking(connection.node, arguments, call)
    spans.over(OK)
    return response


def _answer(call: Call, with_call: bool) -> object:
    response = call.response()
    return (response, call) if with_call else response


class _UnaryResponse(Method):
    def __call__(
        self,
        request: object,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> object:
        return self.blocking(False, request, (timeout, metadata, credentials, wait_for_ready, compression))

    def with_call(
        self,
        request: object,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> object:
        return self.blocking(True, request, (timeout, metadata, credentials, wait_for_ready, compression))

    def future(
        self,
        request: object,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Call:
        return self.begin(request, (timeout, metadata, credentials, wait_for_ready, compression))


class _StreamResponse(Method):
    def __call__(
        self,
        request: object,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> object:
        return self.begin(request, (timeout, metadata, credentials, wait_for_ready, compression)).as_seen


class UnaryUnaryMethod(_UnaryResponse, grpc.UnaryUnaryMultiCallable):  # type: ignore[misc, type-arg]
    """One request, one response."""

    def blocking(self, with_call: bool, request: object, arguments: Arguments) -> object:
        # The first attempt is made here, in the caller's thread, by the plain channel's own blocking call: at a third
        # of what a `Call` costs, which is made when that was not the last.
        arguments = _lasting(self.planned(arguments))
        timeout, metadata, credentials, _, compression = arguments
        info = self.engine.info_of(self.path, metadata or ())
        started = time.monotonic()
        connection, seen = self._ready(info, started)
        spans = self.engine.tracing.begin(self.path, metadata) if self.engine.tracing.is_on else None
        if connection is None:
            check_interpreter()
            call = Call(self, request, None, arguments, info)
            call.trace(spans)
            call.begin_without(started, seen)
            return _answer(call, with_call)
        native = self._firsts.get(connection) or self._made(connection, False)
        begin = native.with_call if with_call else native
        connection.node.load.started(started)
        try:
            if spans is None:
                response = begin(request, timeout, metadata, credentials, None, compression)
            else:
                response = _traced(spans, connection, begin, request, arguments)
        except grpc.RpcError as error:
            failed = cast("NativeError", error)
        except BaseException as error:
            if spans is not None:
                spans.over(UNKNOWN)
            Tally.begun(connection.node, connection, started).out(Verdict.OURS, started)
            if isinstance(error, ValueError) and connection.closed:
                return super().blocking(with_call, request, arguments)
            raise
        else:
            self._succeeded(connection, started)
            return response
        call = Call(self, request, None, arguments, info)
        call.trace(spans)
        call.go_on_from(failed, connection, started)
        return _answer(call, with_call)

    def _succeeded(self, connection: Connection, started: float) -> None:
        ended = time.monotonic()
        took_s = rtt_s = ended - started
        if rtt_s > SLIP_S:
            rtt_s = self.engine.pulse.latency_s(started, ended)
        if connection.node.load.finished(ended, rtt_s):
            connection.alarm()
        if connection.draining:
            connection.left()
        if self.engine.counts is not None:
            self.engine.counts.ended(SUCCEEDED, took_s)
        if self.plan is not PLAIN:
            self.plan.succeeded()


class StreamUnaryMethod(_UnaryResponse, grpc.StreamUnaryMultiCallable):  # type: ignore[misc, type-arg]
    """A stream of requests, one response."""


class UnaryStreamMethod(_StreamResponse, grpc.UnaryStreamMultiCallable):  # type: ignore[misc, type-arg]
    """One request, a stream of responses."""


class StreamStreamMethod(_StreamResponse, grpc.StreamStreamMultiCallable):  # type: ignore[misc, type-arg]
    """A stream of requests, a stream of responses."""


METHODS: dict[Kind, type[Method]] = {
    Kind.UNARY_UNARY: UnaryUnaryMethod,
    Kind.UNARY_STREAM: UnaryStreamMethod,
    Kind.STREAM_UNARY: StreamUnaryMethod,
    Kind.STREAM_STREAM: StreamStreamMethod,
}
