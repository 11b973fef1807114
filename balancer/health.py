"""SHELL: what back ends say of themselves while they are connected, each on a stream of its own.

- Health (gRFC A17): a `grpc.health.v1` Watch. A back end without the service counts as healthy.
- Load (gRFC A51): `xds.service.orca.v3` reports, from which weights follow. A back end without the service
keeps its weight.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from balancer import orca

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_HEALTH_PATH = "/grpc.health.v1.Health/Watch"
_BACKOFF_S = 1.0
_BACKOFF_CAP_S = 60.0


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream to keep up on a connection, and what to do with what comes."""

    path: str
    request: bytes
    tell: Callable[[bytes], None]
    absent: Callable[[], None]
    """Called when the back end has no such service; then there is no other try."""

    def begin(self, channel: Any) -> Any:
        return channel.unary_stream(self.path)(self.request)


def health_stream(service: str, tell: Callable[[bool], None]) -> Stream:
    """Tells whether `service` is serving, now and at every change."""

    def on_response(message: bytes) -> None:
        tell(HealthCheckResponse.FromString(message).status == HealthCheckResponse.SERVING)

    def absent() -> None:
        log.warning("a back end has no health service and counts as healthy")
        tell(True)

    return Stream(_HEALTH_PATH, HealthCheckRequest(service=service).SerializeToString(), on_response, absent)


def load_stream(interval_s: float, tell: Callable[[float], None]) -> Stream:
    """Tells the weight that each load report stands for."""

    def on_response(message: bytes) -> None:
        weight = orca.reported_weight(message)
        if weight is not None:
            tell(weight)

    return Stream(orca.PATH, orca.request(interval_s), on_response, lambda: None)


def _backoff_s(failures: int) -> float:
    """After a stream that said something: at once. Then doubling, no longer than a minute."""
    return 0.0 if failures == 0 else min(_BACKOFF_CAP_S, _BACKOFF_S * 2.0 ** min(failures - 1, 10))


async def keep_up(stream: Stream, channel: grpc.aio.Channel) -> None:
    """Keeps the stream up, again and again; ends only when the back end has no such service."""
    failures = 0
    while True:
        try:
            async for message in stream.begin(channel):
                failures = -1
                stream.tell(message)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                stream.absent()
                return
        failures += 1
        await asyncio.sleep(_backoff_s(failures))


class StreamThread:
    """The same on a channel for threads, in a thread of its own."""

    def __init__(self, stream: Stream, channel: grpc.Channel) -> None:
        self._stream = stream
        self._channel = channel
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, name="balancer-stream", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the stream and the thread, and waits for it. Nothing is told after that."""
        with self._lock:
            self._stopping.set()
            if self._call is not None:
                self._call.cancel()
        self._thread.join()

    def _run(self) -> None:
        failures = 0
        while not self._stopping.wait(_backoff_s(failures)):
            try:
                for message in self._begin():
                    failures = -1
                    self._stream.tell(message)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    self._stream.absent()
                    return
            failures += 1

    def _begin(self) -> Any:
        with self._lock:
            if not self._stopping.is_set():
                self._call = self._stream.begin(self._channel)
            return self._call if not self._stopping.is_set() else ()
