"""gRPC's interop cases (grpc/doc/interop-test-descriptions.md) for channels of threads.

Each case returns what a caller can see. The test runs it on a plain channel and on a balanced one and compares.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from tests.integration.channels.interop_aio import (
    INITIAL,
    METADATA,
    REQUEST_SIZES,
    SIZES,
    SPECIAL,
    TIMED_OUT,
    TRAILING,
    Seen,
    inputs,
    outputs,
)
from tests.support.interop_messages import (
    EchoStatus,
    Empty,
    SimpleRequest,
    StreamingOutputCallRequest,
    TestStub,
    payload,
)

WAIT_S = 10.0


def ended(call: Any) -> Seen:
    """All that a call tells of how it ended."""
    return {
        "code": call.code(),
        "details": call.details(),
        "initial": [tuple(entry) for entry in call.initial_metadata() or () if entry[0] == INITIAL],
        "trailing": [tuple(entry) for entry in call.trailing_metadata() or () if entry[0] == TRAILING],
        "active": call.is_active(),
    }


def future_ended(future: Any) -> Seen:
    return {"done": future.done(), "running": future.running(), "cancelled": future.cancelled(), **ended(future)}


def failure(run: Callable[[], Any]) -> Seen:
    """What calling something raises: an RpcError is also a Call."""
    try:
        result = run()
    except grpc.RpcError as error:
        return {
            "raised": grpc.RpcError,
            "is call": isinstance(error, grpc.Call),
            "code": error.code(),
            "details": error.details(),
        }
    except (grpc.FutureCancelledError, grpc.FutureTimeoutError) as error:
        return {"raised": type(error)}
    return {"raised": None, "result": result}


def read_all(call: Any) -> list[int]:
    return [len(message.payload.body) for message in call]


def empty_unary(stub: TestStub) -> Seen:
    response, call = stub.EmptyCall.with_call(Empty())
    return {"plain": stub.EmptyCall(Empty()), "response": response, **ended(call)}


def large_unary(stub: TestStub) -> Seen:
    request = SimpleRequest(response_size=314159, payload=payload(271828))
    response, call = stub.UnaryCall.with_call(request)
    return {"size": len(response.payload.body), **ended(call)}


def unary_future(stub: TestStub) -> Seen:
    told = threading.Event()
    future = stub.UnaryCall.future(SimpleRequest(response_size=5))
    future.add_done_callback(lambda done: told.set() if done is future else None)
    response = future.result(WAIT_S)
    return {
        "response": response,
        "exception": future.exception(WAIT_S),
        "traceback": future.traceback(WAIT_S),
        "told": told.wait(WAIT_S),
        "cancel": future.cancel(),
        **future_ended(future),
    }


def client_streaming(stub: TestStub) -> Seen:
    response, call = stub.StreamingInputCall.with_call(iter(inputs()))
    plain = stub.StreamingInputCall(iter(inputs()))
    return {"sum": response.aggregated_payload_size, "plain": plain.aggregated_payload_size, **ended(call)}


def client_streaming_future(stub: TestStub) -> Seen:
    future = stub.StreamingInputCall.future(iter(inputs()))
    return {"sum": future.result(WAIT_S).aggregated_payload_size, **future_ended(future)}


def server_streaming(stub: TestStub) -> Seen:
    call = stub.StreamingOutputCall(outputs(*SIZES))
    return {"sizes": read_all(call), "again": list(call), "callback": call.add_callback(lambda: None), **ended(call)}


class Pipe:
    """Requests that a test writes one at a time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[Any] = []
        self._closed = False

    def write(self, item: Any) -> None:
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed)
            if not self._items:
                raise StopIteration
            return self._items.pop(0)


def ping_pong(stub: TestStub) -> Seen:
    pipe = Pipe()
    call = stub.FullDuplexCall(pipe)
    sizes = []
    for size, request_size in zip(SIZES, REQUEST_SIZES, strict=True):
        request = outputs(size)
        request.payload.CopyFrom(payload(request_size))
        pipe.write(request)
        sizes.append(len(next(call).payload.body))
    pipe.close()
    return {"sizes": sizes, "rest": list(call), **ended(call)}


def empty_stream(stub: TestStub) -> Seen:
    call = stub.FullDuplexCall(iter(()))
    return {"sizes": read_all(call), **ended(call)}


def cancel_after_begin(stub: TestStub) -> Seen:
    pipe = Pipe()
    future = stub.StreamingInputCall.future(pipe)
    cancelled = future.cancel()
    pipe.close()
    return {"cancel": cancelled, "result": failure(lambda: future.result(WAIT_S)), **future_ended(future)}


def cancel_after_first_response(stub: TestStub) -> Seen:
    pipe = Pipe()
    call = stub.FullDuplexCall(pipe)
    pipe.write(outputs(SIZES[0]))
    first = len(next(call).payload.body)
    cancelled = call.cancel()
    pipe.close()
    return {"first": first, "cancel": cancelled, "read": failure(lambda: next(call)), **ended(call)}


def cancel_from_another_thread(stub: TestStub) -> Seen:
    call = stub.StreamingOutputCall(outputs(1, interval_us=2_000_000))
    call.initial_metadata()
    threading.Timer(0.05, call.cancel).start()
    return {"read": failure(lambda: read_all(call)), **ended(call)}


def timed_out(run: Callable[[], Any]) -> Seen:
    started = time.monotonic()
    seen = failure(run)
    return {
        "raised": seen["raised"],
        "code": seen.get("code") in TIMED_OUT,
        "in time": 0.05 < time.monotonic() - started < 20,
    }


def timeout_on_sleeping_server(stub: TestStub) -> Seen:
    call = stub.StreamingOutputCall(outputs(1, interval_us=60_000_000), timeout=0.1)
    return {**timed_out(lambda: read_all(call)), "active": call.is_active(), "left": call.time_remaining()}


def blocking_timeout(stub: TestStub) -> Seen:
    pipe = Pipe()
    seen = timed_out(lambda: stub.StreamingInputCall(pipe, timeout=0.1))
    pipe.close()
    return seen


def future_timeout(stub: TestStub) -> Seen:
    """The time to wait for a future is not the call's deadline."""
    pipe = Pipe()
    future = stub.StreamingInputCall.future(pipe, timeout=WAIT_S)
    early = failure(lambda: future.result(0.05))
    pipe.close()
    return {"early": early, "late": future.result(WAIT_S).aggregated_payload_size}


def status_code_and_message(stub: TestStub) -> Seen:
    status = EchoStatus(code=2, message="test status message")
    duplex = stub.FullDuplexCall(iter([StreamingOutputCallRequest(response_status=status)]))
    future = stub.UnaryCall.future(SimpleRequest(response_status=status))
    return {
        "unary": failure(lambda: stub.UnaryCall(SimpleRequest(response_status=status))),
        "future": failure(lambda: future.result(WAIT_S)),
        "is its own error": future.exception(WAIT_S) is future,
        "duplex": failure(lambda: next(duplex)),
        "duplex again": failure(lambda: next(duplex)),
        "duplex end": ended(duplex),
    }


def special_status_message(stub: TestStub) -> Seen:
    status = EchoStatus(code=2, message=SPECIAL)
    return failure(lambda: stub.UnaryCall(SimpleRequest(response_status=status)))


def custom_metadata(stub: TestStub) -> Seen:
    _, unary = stub.UnaryCall.with_call(SimpleRequest(response_size=1), metadata=METADATA)
    pipe = Pipe()
    duplex = stub.FullDuplexCall(pipe, metadata=METADATA)
    pipe.write(outputs(1))
    early = dict(duplex.initial_metadata()).get(INITIAL)
    next(duplex)
    pipe.close()
    return {"early": early, "unary": ended(unary), "rest": list(duplex), "duplex": ended(duplex)}


def unimplemented_method(stub: TestStub) -> Seen:
    return failure(lambda: stub.UnimplementedCall(Empty()))


def unimplemented_service(stub: TestStub) -> Seen:
    return failure(lambda: stub.UnimplementedService(Empty()))


def compressed(stub: TestStub) -> Seen:
    """The server knows no gzip and says so: the request did go out compressed."""
    request = SimpleRequest(payload=payload(1000))
    return failure(lambda: stub.UnaryCall(request, compression=grpc.Compression.Gzip))


def broken_request_iterator(stub: TestStub) -> Seen:
    def requests() -> Iterator[Any]:
        yield inputs()[0]
        raise RuntimeError("the application's own mistake")

    return failure(lambda: stub.StreamingInputCall(requests()))


def wrong_request(stub: TestStub) -> Seen:
    return failure(lambda: stub.EmptyCall(object()))


def wrong_request_future(stub: TestStub) -> Seen:
    return failure(lambda: stub.EmptyCall.future(object()).result(WAIT_S))


CASES: list[Callable[[TestStub], Seen]] = [
    empty_unary,
    large_unary,
    unary_future,
    client_streaming,
    client_streaming_future,
    server_streaming,
    ping_pong,
    empty_stream,
    cancel_after_begin,
    cancel_after_first_response,
    cancel_from_another_thread,
    timeout_on_sleeping_server,
    blocking_timeout,
    future_timeout,
    status_code_and_message,
    special_status_message,
    custom_metadata,
    unimplemented_method,
    unimplemented_service,
    compressed,
    broken_request_iterator,
    wrong_request,
    wrong_request_future,
]
