"""gRPC's interop cases (grpc/doc/interop-test-descriptions.md) for asyncio channels.

Each case returns what a caller can see. The test runs it on a plain channel and on a balanced one and compares.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from tests.support.interop_messages import (
    EchoStatus,
    Empty,
    Payload,
    ResponseParameters,
    SimpleRequest,
    StreamingInputCallRequest,
    StreamingOutputCallRequest,
    TestStub,
    payload,
)

Seen = dict[str, Any]
INITIAL = "x-grpc-test-echo-initial"
TRAILING = "x-grpc-test-echo-trailing-bin"
METADATA = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab"))
SIZES = (31415, 9, 2653, 58979)
REQUEST_SIZES = (27182, 8, 1828, 45904)
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


async def ended(call: Any) -> Seen:
    """All that a call tells of how it ended."""
    return {
        "code": await call.code(),
        "details": await call.details(),
        # None: grpc.aio says so of a call that was cancelled while an interceptor had it.
        "initial": [entry for entry in await call.initial_metadata() or () if entry[0] == INITIAL],
        "trailing": [entry for entry in await call.trailing_metadata() or () if entry[0] == TRAILING],
        "done": call.done(),
        "cancelled": call.cancelled(),
        "cancel": call.cancel(),
    }


async def failure(wait: Awaitable[Any]) -> Seen:
    """What awaiting something raises."""
    try:
        result = await wait
    except grpc.aio.AioRpcError as error:
        return {"raised": type(error), "code": error.code(), "details": error.details()}
    except asyncio.CancelledError:
        return {"raised": asyncio.CancelledError}
    except (asyncio.InvalidStateError, grpc.aio.UsageError) as error:
        return {"raised": type(error), "text": str(error)}
    return {"raised": None, "result": result}


async def stop_writing(call: Any) -> None:
    """With interceptors, grpc.aio keeps a task waiting for more to write although the call has ended."""
    with contextlib.suppress(asyncio.InvalidStateError):
        await call.done_writing()


async def read_all(call: Any) -> list[int]:
    return [len(message.payload.body) async for message in call]


async def empty_unary(stub: TestStub) -> Seen:
    call = stub.EmptyCall(Empty())
    return {"response": await call, **await ended(call)}


async def large_unary(stub: TestStub) -> Seen:
    call = stub.UnaryCall(SimpleRequest(response_size=314159, payload=payload(271828)))
    return {"size": len((await call).payload.body), **await ended(call)}


def inputs() -> list[Any]:
    return [StreamingInputCallRequest(payload=payload(size)) for size in REQUEST_SIZES]


async def input_iterator() -> AsyncIterator[Any]:
    for request in inputs():
        yield request


async def client_streaming(stub: TestStub) -> Seen:
    call = stub.StreamingInputCall(input_iterator())
    return {"sum": (await call).aggregated_payload_size, **await ended(call)}


async def client_streaming_plain_iterable(stub: TestStub) -> Seen:
    call = stub.StreamingInputCall(inputs())
    return {"sum": (await call).aggregated_payload_size, **await ended(call)}


async def client_streaming_written(stub: TestStub) -> Seen:
    call = stub.StreamingInputCall()
    for request in inputs():
        await call.write(request)
    await call.done_writing()
    return {"sum": (await call).aggregated_payload_size, **await ended(call)}


async def write_after_done_writing(stub: TestStub) -> Seen:
    call = stub.StreamingInputCall()
    await call.done_writing()
    return {"late": await failure(call.write(inputs()[0])), "sum": (await call).aggregated_payload_size}


def outputs(*sizes: int, interval_us: int = 0) -> Any:
    parameters = [ResponseParameters(size=size, interval_us=interval_us) for size in sizes]
    return StreamingOutputCallRequest(response_parameters=parameters)


async def server_streaming(stub: TestStub) -> Seen:
    call = stub.StreamingOutputCall(outputs(*SIZES))
    return {"sizes": await read_all(call), **await ended(call)}


async def server_streaming_read(stub: TestStub) -> Seen:
    call = stub.StreamingOutputCall(outputs(*SIZES))
    sizes = [len((await call.read()).payload.body) for _ in SIZES]
    end = await call.read()
    mixed = await failure(anext(aiter(call))) if not call.done() else {}
    return {"sizes": sizes, "end": end is grpc.aio.EOF, "mixed": mixed, **await ended(call)}


async def ping_pong(stub: TestStub) -> Seen:
    call = stub.FullDuplexCall()
    sizes = []
    for size, request_size in zip(SIZES, REQUEST_SIZES, strict=True):
        request = outputs(size)
        request.payload.CopyFrom(payload(request_size))
        await call.write(request)
        sizes.append(len((await call.read()).payload.body))
    await call.done_writing()
    return {"sizes": sizes, "end": await call.read() is grpc.aio.EOF, **await ended(call)}


async def empty_stream(stub: TestStub) -> Seen:
    call = stub.FullDuplexCall()
    await call.done_writing()
    return {"sizes": await read_all(call), **await ended(call)}


async def cancel_after_begin(stub: TestStub) -> Seen:
    call = stub.StreamingInputCall()
    before = {"cancel": call.cancel(), "done": call.done(), "cancelled": call.cancelled()}
    return {"before": before, "awaited": await failure(call), **await ended(call)}


async def cancel_unary(stub: TestStub) -> Seen:
    call = stub.UnaryCall(SimpleRequest(response_size=1))
    told: list[bool] = []
    call.add_done_callback(lambda ended_call: told.append(ended_call is call))
    return {"cancel": call.cancel(), "awaited": await failure(call), "told": told, **await ended(call)}


async def cancel_after_first_response(stub: TestStub) -> Seen:
    call = stub.FullDuplexCall()
    await call.write(outputs(SIZES[0]))
    first = len((await call.read()).payload.body)
    return {"first": first, "cancel": call.cancel(), "read": await failure(call.read()), **await ended(call)}


async def cancelled_task(stub: TestStub) -> Seen:
    """The task that awaits a call is cancelled: so is the call."""
    call = stub.StreamingOutputCall(outputs(1, interval_us=2_000_000))
    task = asyncio.create_task(read_all(call))
    await asyncio.sleep(0)
    await call.wait_for_connection()
    task.cancel()
    return {"task": await failure(task), **await ended(call)}


# The server has the deadline too. Whose timer fires first decides between these two, on any channel.
TIMED_OUT = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


async def timed_out(call: Any, wait: Awaitable[Any]) -> Seen:
    started = asyncio.get_running_loop().time()
    seen = await failure(wait)
    took_s = asyncio.get_running_loop().time() - started
    return {
        "raised": seen["raised"],
        "code": seen.get("code") in TIMED_OUT and await call.code() is seen["code"],
        "details": await call.details() == seen.get("details"),
        "in time": 0.05 < took_s < 20,
        "done": call.done(),
        "cancel": call.cancel(),
    }


async def timeout_on_sleeping_server(stub: TestStub) -> Seen:
    call = stub.StreamingOutputCall(outputs(1, interval_us=60_000_000), timeout=0.1)
    return await timed_out(call, read_all(call))


async def unary_timeout(stub: TestStub) -> Seen:
    call = stub.StreamingInputCall(timeout=0.1)
    seen = await timed_out(call, call)
    await stop_writing(call)
    return seen


async def time_remaining(stub: TestStub) -> Seen:
    call = stub.EmptyCall(Empty(), timeout=30)
    try:
        left_s = call.time_remaining()
    except NotImplementedError:  # grpc.aio's own calls with interceptors
        left_s = None
    await call
    return {"left": left_s is None or 29 < left_s <= 30, "known": left_s is not None}


async def deadline_already_past(stub: TestStub) -> Seen:
    call = stub.EmptyCall(Empty(), timeout=-1)
    return {"raised": (await failure(call))["raised"], "code": await call.code(), "done": call.done()}


async def status_code_and_message(stub: TestStub) -> Seen:
    status = EchoStatus(code=2, message="test status message")
    unary = stub.UnaryCall(SimpleRequest(response_status=status))
    duplex = stub.FullDuplexCall()
    await duplex.write(StreamingOutputCallRequest(response_status=status))
    seen = {
        "unary": await failure(unary),
        "unary end": await ended(unary),
        "duplex": await failure(duplex.read()),
        "duplex end": await ended(duplex),
    }
    await stop_writing(duplex)
    return seen


async def special_status_message(stub: TestStub) -> Seen:
    call = stub.UnaryCall(SimpleRequest(response_status=EchoStatus(code=2, message=SPECIAL)))
    return {"awaited": await failure(call), **await ended(call)}


async def custom_metadata(stub: TestStub) -> Seen:
    unary = stub.UnaryCall(SimpleRequest(response_size=1), metadata=METADATA)
    await unary
    duplex = stub.FullDuplexCall(metadata=grpc.aio.Metadata(*METADATA))
    await duplex.write(outputs(1))
    early = dict(iter(await duplex.initial_metadata()))
    await duplex.read()
    await duplex.done_writing()
    return {
        "early": early.get(INITIAL),
        "unary": await ended(unary),
        "rest": await duplex.read() is grpc.aio.EOF,
        "duplex": await ended(duplex),
    }


async def unimplemented_method(stub: TestStub) -> Seen:
    call = stub.UnimplementedCall(Empty())
    return {"awaited": await failure(call), **await ended(call)}


async def unimplemented_service(stub: TestStub) -> Seen:
    call = stub.UnimplementedService(Empty())
    return {"awaited": await failure(call), **await ended(call)}


async def compressed(stub: TestStub) -> Seen:
    """The server knows no gzip and says so: the request did go out compressed."""
    call = stub.UnaryCall(SimpleRequest(payload=payload(1000)), compression=grpc.Compression.Gzip)
    return {"awaited": await failure(call), **await ended(call)}


async def broken_request_iterator(stub: TestStub) -> Seen:
    async def requests() -> AsyncIterator[Any]:
        yield inputs()[0]
        raise RuntimeError("the application's own mistake")

    call = stub.StreamingInputCall(requests())
    return {"awaited": await failure(call), **await ended(call)}


async def wrong_request(stub: TestStub) -> Seen:
    """A request that cannot be serialized: gRPC logs it and sends an empty one."""
    call = stub.EmptyCall(object())
    return {"response": await call, **await ended(call)}


async def done_callbacks(stub: TestStub) -> Seen:
    told: list[tuple[str, bool]] = []
    call = stub.EmptyCall(Empty())
    call.add_done_callback(lambda ended_call: told.append(("before", ended_call.done())))
    await call
    call.add_done_callback(lambda ended_call: told.append(("after", ended_call is call)))
    return {"told": told}


async def payload_type(stub: TestStub) -> Seen:
    """The response is what the generated code's deserializer makes."""
    response = await stub.UnaryCall(SimpleRequest(response_size=3), wait_for_ready=True)
    return {"type": type(response), "payload": response.payload == Payload(body=bytes(3))}


CASES: list[Callable[[TestStub], Awaitable[Seen]]] = [
    empty_unary,
    large_unary,
    client_streaming,
    client_streaming_plain_iterable,
    client_streaming_written,
    write_after_done_writing,
    server_streaming,
    server_streaming_read,
    ping_pong,
    empty_stream,
    cancel_after_begin,
    cancel_unary,
    cancel_after_first_response,
    cancelled_task,
    timeout_on_sleeping_server,
    unary_timeout,
    time_remaining,
    deadline_already_past,
    status_code_and_message,
    special_status_message,
    custom_metadata,
    unimplemented_method,
    unimplemented_service,
    compressed,
    broken_request_iterator,
    wrong_request,
    done_callbacks,
    payload_type,
]
