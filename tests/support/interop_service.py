"""grpc.testing.TestService as methods of a table, as far as a table has such methods."""

from collections import deque
from typing import Any

from registry_server.errors import RequestError
from registry_server.hub import Sink
from registry_server.rpc.table import Caller, Service, Session, Unary
from tests.support.interop_messages import (
    Empty,
    Payload,
    SimpleRequest,
    SimpleResponse,
    StreamingInputCallRequest,
    StreamingOutputCallRequest,
    StreamingOutputCallResponse,
)
from tests.support.waiting import eventually_async

SERVER_ID = "the only one"


class AsAsked(RequestError):
    """The status that a request asks for: its code is always 2, UNKNOWN."""


def service() -> Service:
    """What grpc-go's interop client calls. One answer to many requests (StreamingInputCall) is none of a table's kinds:
    it is there to be cancelled."""
    return Service(
        "grpc.testing.TestService",
        {
            "EmptyCall": Unary(Empty, _empty),
            "UnaryCall": Unary(SimpleRequest, _unary),
            "StreamingInputCall": Session(StreamingInputCallRequest, _Silent),
            "StreamingOutputCall": Session(StreamingOutputCallRequest, _Payloads),
            "FullDuplexCall": Session(StreamingOutputCallRequest, _Payloads),
        },
    )


async def _empty(request: Any, caller: Caller) -> bytes:
    return b""


async def _unary(request: Any, caller: Caller) -> bytes:
    _check(request)
    answer = SimpleResponse(payload=_payload(request.response_size))
    if request.fill_server_id:
        answer.server_id = SERVER_ID
    return answer.SerializeToString()  # type: ignore[no-any-return]


class _Payloads:
    """A stream that is sent as many messages of as many bytes as it asks for."""

    def __init__(self, caller: Caller, sink: Sink) -> None:
        self._sink = sink
        self._due: deque[int] = deque()
        self._is_writing = self._is_over = False

    async def received(self, request: Any) -> None:
        _check(request)
        self._due.extend(asked.size for asked in request.response_parameters)
        self._go_on()
        await eventually_async(lambda: self._is_over or not self._due)

    def free(self) -> None:
        self._is_writing = False
        self._go_on()

    def leave(self) -> None:
        self._is_over = True

    def _go_on(self) -> None:
        if self._due and not self._is_writing and not self._is_over:
            self._is_writing = True
            answer = StreamingOutputCallResponse(payload=_payload(self._due.popleft()))
            self._sink.send([answer.SerializeToString()])


class _Silent:
    """A stream that is told nothing."""

    def __init__(self, caller: Caller, sink: Sink) -> None:
        pass

    async def received(self, request: Any) -> None:
        pass

    def free(self) -> None:
        pass

    def leave(self) -> None:
        pass


def _check(request: Any) -> None:
    if request.response_status.code:
        raise AsAsked(request.response_status.message)


def _payload(size: int) -> Any:
    return Payload(body=bytes(size))
