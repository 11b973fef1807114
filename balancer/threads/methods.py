"""The multi-callables: what all calls of one method have in common, and how a call of each kind begins.

A blocking call is a loop in the caller's own thread; a future or a stream is a `Call`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, cast

import grpc

from balancer.calls.course import Ask, Begin, Course, End
from balancer.calls.outcome import Outcome, Verdict
from balancer.calls.plan import PLAIN
from balancer.calls.retry import marked
from balancer.channels.kinds import Kind
from balancer.channels.tally import NO_SAMPLE, Tally
from balancer.policies.base import Node, PickInfo
from balancer.pool.picker import Wait
from balancer.threads.call import Call
from balancer.threads.native import CHANNEL_CLOSED, CODES, Ended, outcome_of
from balancer.threads.requests import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from balancer.calls.course import Step
    from balancer.calls.replay import Kept
    from balancer.channels.kinds import Signature
    from balancer.channels.types import Arguments, Metadata
    from balancer.threads.connection import Connection
    from balancer.threads.engine import ThreadsEngine
    from balancer.threads.native import NativeError, NativeMethod


class Method:
    """One method of a service on a balanced channel: what all of its calls have in common."""

    def __init__(self, engine: ThreadsEngine, signature: Signature) -> None:
        self.engine = engine
        self.plan = PLAIN
        self.path = signature.path
        self.is_unary = signature.kind is Kind.UNARY_UNARY
        """The time a call takes says something about the endpoint."""
        self.streams_responses = signature.kind.streams_responses
        self.is_future_of_a_stream = signature.kind is Kind.STREAM_UNARY
        self._signature = signature
        self._revision = -1
        self._replay_limit: int | None = None
        self._firsts: dict[Connection, NativeMethod] = {}
        """For first attempts; and those for attempts that others went before."""
        self._laters: dict[Connection, NativeMethod] = {}
        self._lock = threading.Lock()
        self._info_of = engine.info_of
        self._replan()

    def _replan(self) -> None:
        """Takes over what the service config says of this method."""
        self._revision = self.engine.revision
        self.plan = plan = self.engine.plan(self._signature)
        self._replay_limit = None if plan.retrying is None else self.engine.settings.replay_limit

    def at(self, connection: Connection, again: bool) -> NativeMethod:
        """This method's multi-callable on a connection. Kept here: a connection outlives many stubs."""
        natives = self._laters if again else self._firsts
        return natives.get(connection) or self._made(connection, again)

    def _made(self, connection: Connection, again: bool) -> NativeMethod:
        signature = self._signature
        channel = connection.retries if again else connection.channel
        make = cast("Callable[..., NativeMethod]", getattr(channel, signature.kind.value))
        serializer = self._encoded if signature.kind.streams_requests else signature.serializer
        with self._lock:
            natives = self._laters if again else self._firsts
            native = natives.get(connection)
            if native is None:
                native = make(
                    signature.path, serializer, signature.deserializer, _registered_method=signature.registered
                )
                for gone in [other for other in natives if other.closed]:
                    del natives[gone]
                natives[connection] = native
            return native

    def _encoded(self, kept: Kept) -> object:
        return kept.encoded(self._signature.serializer)

    def source(self, request: object) -> Source | None:
        """Where the requests of a stream of them come from. Raises TypeError for what is no iterator."""
        if not self._signature.kind.streams_requests:
            return None
        return Source(iter(cast("Iterator[object]", request)), self._replay_limit)

    def begin(self, request: object, arguments: Arguments) -> Call:
        """Begins a call that does not block."""
        engine = self.engine
        engine.check_open()
        if self._revision != engine.revision:
            self._replan()
        plan = self.plan
        timeout, metadata, credentials, wait_for_ready, compression = arguments
        if plan is not PLAIN:
            arguments = (plan.timeout(timeout), metadata, credentials, wait_for_ready, compression)
        info = self._info_of(self.path, metadata or ())
        call = Call(self, request, self.source(request), arguments, info)
        now = time.monotonic()
        if plan.hedging is None:
            seen = engine.generation
            pick = engine.picker.pick(info, now)
            connection: Connection | None = pick.subchannel if isinstance(pick, Node) else None
            if connection is not None:
                if engine.resting and not engine.stir(connection):
                    call.begin_without(now, seen)
                else:
                    call.begin_on(cast("Node", pick), connection, now)
                return call
        call.begin_without(now)
        return call

    # A call in the caller's thread, by any way it may have to take

    def blocking(self, with_call: bool, request: object, arguments: Arguments, seen: int | None = None) -> object:
        """The response, and the call if that is asked for; raises the RpcError that the call ends with. `seen` as in
        `Call.begin_without`."""
        self.engine.check_open()
        if self._revision != self.engine.revision:
            self._replan()
        plan = self.plan
        # Where several attempts race, and where headers may come long before the response (they end the retries).
        if plan.hedging is not None or (plan.retrying is not None and self._signature.kind.streams_requests):
            future = self.begin(request, arguments)
            if plan.hedging is None:
                future.see_headers()
            return (future.result(), future) if with_call else future.result()
        timeout = plan.timeout(arguments[0])
        deadline = None if timeout is None else time.monotonic() + timeout
        course = Course(plan, self.engine.rng, deadline, wait_for_ready=plan.waits(arguments[3]))
        info = self._info_of(self.path, arguments[1] or ())
        blocking = Blocking(self, course, deadline, info, arguments)
        if seen is not None:
            blocking.seen = seen
        step = course.woke(time.monotonic()) if seen is None else course.picked(Wait(), time.monotonic())
        return blocking.run(step, with_call, request)


class Blocking:
    """Attempt after attempt in the caller's thread, until one is the last."""

    def __init__(
        self, method: Method, course: Course, deadline: float | None, info: PickInfo, arguments: Arguments
    ) -> None:
        self._method = method
        self._engine = method.engine
        self._course = course
        self._deadline = deadline
        self._info = info
        self._arguments = arguments
        self.seen = 0
        """The picker's generation when a pick was asked for."""
        self._errors: dict[int, NativeError] = {}

    def failed(self, number: int, error: NativeError, outcome: Outcome) -> Step:
        """An attempt ended, and was counted out."""
        self._errors[number] = error
        return self._course.ended(number, outcome, time.monotonic())

    def run(self, step: Step, with_call: bool, request: object, source: Source | None = None) -> object:
        """Goes on from there."""
        if source is None:
            source = self._method.source(request)
        while not isinstance(step, End):
            if isinstance(step, Ask):
                step = self._ask()
            elif isinstance(step, Begin):
                response, step = self._attempt(step, with_call, request, source)
                if response is not _NONE:
                    return response
            else:
                self._engine.wait(self.seen if step.picker else None, step.until)
                moved = step.picker and self.seen != self._engine.generation
                now = time.monotonic()
                step = self._course.new_picker(now) if moved else self._course.woke(now)
        if step.by is not None:
            raise cast("grpc.RpcError", self._errors[step.by])
        raise Ended(CODES[step.code], step.details or CHANNEL_CLOSED)

    def _ask(self) -> Step:
        info, tried = self._info, self._course.tried
        if tried:
            info = PickInfo(info.key, tried, info.method, info.metadata)
        self.seen = self._engine.generation
        if self._engine.closed:
            return self._course.cancelled()
        return self._course.picked(self._engine.pick(info), time.monotonic())

    def _attempt(self, step: Begin, with_call: bool, request: object, source: Source | None) -> tuple[object, Step]:
        timeout, metadata, credentials, _, compression = self._arguments
        course, node = self._course, step.node
        connection: Connection | None = node.subchannel
        now = time.monotonic()
        if connection is None:
            return _NONE, course.not_begun(step.number, now)
        if self._deadline is not None:
            timeout = max(0.0, self._deadline - now)
        if step.previous:
            metadata = marked(tuple(metadata or ()), step.previous)
        native = self._method.at(connection, step.previous > 0)
        call = native.with_call if with_call else native
        sent = request if source is None else source.reader()
        tally = Tally(node, connection, now)
        try:
            response = call(sent, timeout, metadata, credentials, None, compression)
        except grpc.RpcError as error:
            ended = cast("NativeError", error)
            outcome = outcome_of(ended, committed=source is not None and not source.again)
            self._out(tally, outcome.verdict)
            if outcome.verdict is Verdict.REFUSED:
                self._engine.connection_failed(node, ended.details() or "")
            return _NONE, self.failed(step.number, ended, outcome)
        except BaseException as error:
            tally.out(Verdict.OURS, now)
            if isinstance(error, ValueError) and connection.closed and not self._engine.closed:
                return _NONE, course.not_begun(step.number, now)
            raise
        self._out(tally, Verdict.OK)
        return response, course.ended(step.number, Outcome(Verdict.OK, 0), now)

    def _out(self, tally: Tally, verdict: Verdict) -> None:
        now = time.monotonic()
        tally.out(verdict, now, now - tally.started if self._method.is_unary else NO_SAMPLE)


_NONE = object()
"""No response yet."""


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

    def __call__(
        self,
        request: object,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> object:
        # The same as `blocking` does, at a third of its cost, for the call that nearly every call is.
        engine = self.engine
        if self._revision != engine.revision:
            self._replan()
        if self.plan is not PLAIN:
            return self.blocking(False, request, (timeout, metadata, credentials, wait_for_ready, compression))
        info = self._info_of(self.path, metadata or ())
        started = time.monotonic()
        seen = engine.generation
        node = engine.picker.pick(info, started)
        connection: Connection | None = node.subchannel if isinstance(node, Node) else None
        if connection is None:
            return self.blocking(False, request, (timeout, metadata, credentials, wait_for_ready, compression))
        if engine.resting and not engine.stir(connection):
            return self.blocking(False, request, (timeout, metadata, credentials, wait_for_ready, compression), seen)
        call = self._firsts.get(connection) or self._made(connection, False)
        load = connection.node.load
        load.started(started)
        try:
            response = call(request, timeout, metadata, credentials, None, compression)
        except grpc.RpcError as error:
            arguments = (timeout, metadata, credentials, wait_for_ready, compression)
            return self._elsewhere(error, connection, started, info, request, arguments)
        except BaseException as error:
            load.abandoned()
            connection.left()
            if isinstance(error, ValueError) and connection.closed and not engine.closed:
                return self.blocking(False, request, (timeout, metadata, credentials, wait_for_ready, compression))
            raise
        ended = time.monotonic()
        if load.finished(ended, ended - started):
            connection.alarm()
        if connection.draining:
            connection.left()
        return response

    def _elsewhere(
        self,
        error: grpc.RpcError,
        connection: Connection,
        started: float,
        info: PickInfo,
        request: object,
        arguments: Arguments,
    ) -> object:
        """The only attempt failed: goes elsewhere if nobody can have seen it, and raises the error otherwise."""
        native, node, now = cast("NativeError", error), connection.node, time.monotonic()
        outcome = outcome_of(native, committed=False)
        tally = Tally.begun(node, connection, started)
        tally.out(outcome.verdict, now, now - started)
        if outcome.verdict is not Verdict.REFUSED:
            raise error
        self.engine.connection_failed(node, native.details() or "")
        deadline = None if arguments[0] is None else started + arguments[0]
        waits = self.plan.waits(arguments[3])
        course = Course.going_on(self.plan, self.engine.rng, deadline, node, wait_for_ready=waits)
        blocking = Blocking(self, course, deadline, info, arguments)
        return blocking.run(blocking.failed(0, native, outcome), False, request)


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
