"""SHELL: what back ends say of themselves while they are connected, each on a stream of its own.

- Health (gRFC A17): a `grpc.health.v1` Watch. A back end without the service counts as healthy.
- Load (gRFC A51): `xds.service.orca.v3` reports, from which weights follow. A back end without the service
keeps its weight.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from balancer import orca
from balancer.policies.base import ConnectivityState

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.channels.driver import Driver
    from balancer.channels.options import ChannelOptions
    from balancer.policies.base import Node

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
    broken: Callable[[], None]
    """Called when the stream failed, before the next try."""
    absent: Callable[[], None]
    """Called when the back end has no such service; then there is no other try."""


def streams_of(driver: Driver, node: Node, options: ChannelOptions) -> tuple[Stream, ...]:
    """What a back end is to tell of itself while it is connected."""

    def on_health(serving: bool) -> None:
        driver.report_health(node, serving=serving)
        driver.report(node, ConnectivityState.READY)

    streams = []
    if options.health_service is not None:
        streams.append(health_stream(options.health_service, on_health))
    if options.load_report_interval_s is not None:
        streams.append(load_stream(options.load_report_interval_s, lambda weight: driver.report_weight(node, weight)))
    return tuple(streams)


def health_stream(service: str, tell: Callable[[bool], None]) -> Stream:
    """Tells whether `service` is serving, now and at every change. Of a watch that breaks nothing good is to be thought
    until it speaks again (gRFC A17)."""

    def on_response(message: bytes) -> None:
        tell(HealthCheckResponse.FromString(message).status == HealthCheckResponse.SERVING)

    def broken() -> None:
        tell(False)

    def absent() -> None:
        log.warning("a back end has no health service and counts as healthy")
        tell(True)

    return Stream(_HEALTH_PATH, HealthCheckRequest(service=service).SerializeToString(), on_response, broken, absent)


def load_stream(interval_s: float, tell: Callable[[float], None]) -> Stream:
    """Tells the weight that each load report stands for."""

    def on_response(message: bytes) -> None:
        weight = orca.reported_weight(message)
        if weight is not None:
            tell(weight)

    return Stream(orca.PATH, orca.request(interval_s), on_response, _nothing, _nothing)


def _nothing() -> None:
    """What was said before stays."""


def _backoff_s(failures: int) -> float:
    """After a stream that said something: at once. Then doubling, no longer than a minute."""
    return 0.0 if failures == 0 else min(_BACKOFF_CAP_S, _BACKOFF_S * 2.0 ** min(failures - 1, 10))


async def keep_up(stream: Stream, channel: grpc.aio.Channel) -> None:
    """Keeps the stream up, again and again; ends only when the back end has no such service."""
    failures = 0
    while True:
        try:
            method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(stream.path)
            async for message in method(stream.request):
                failures = -1
                stream.tell(message)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                stream.absent()
                return
        except grpc.aio.UsageError:
            return  # the channel is closed
        except Exception:
            log.exception("what a back end told of itself could not be used")
        stream.broken()
        failures += 1
        await asyncio.sleep(_backoff_s(failures))
