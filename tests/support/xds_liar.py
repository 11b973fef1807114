"""A way to a registry that changes what xDS clients are told: what no registry of this kind says, clients reject."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from tests.support import xds_messages as xds
from tests.support.ads import ADS
from tests.support.xds_messages import EDS

_SOTW, _DELTA = f"{ADS}/StreamAggregatedResources", f"{ADS}/DeltaAggregatedResources"
Lie = Callable[[Any], None]
"""Changes endpoints, a ClusterLoadAssignment."""


def priority_gap(assignment: Any) -> None:
    """Nobody is of the first priority."""
    for locality in assignment.endpoints:
        locality.priority = 1


def weight_zero(assignment: Any) -> None:
    """What a registry shows as no endpoint at all."""
    for locality in assignment.endpoints:
        for it in locality.lb_endpoints:
            it.load_balancing_weight.value = 0


def no_address(assignment: Any) -> None:
    """Endpoints that are nowhere."""
    for locality in assignment.endpoints:
        for it in locality.lb_endpoints:
            it.endpoint.ClearField("address")


class Liar:
    """Passes on what clients and the registry say. While `lie` is set, endpoints are changed by it.

    `rejections`: what clients said of responses that they did not take; `lies`: how many of these they were told.
    """

    def __init__(self, registry: grpc.aio.Channel) -> None:
        self.lie: Lie | None = None
        self.lies = 0
        self.rejections: list[str] = []
        self._registry = registry

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        async def passed_on(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
            method: Any = self._registry.stream_stream(call.method)
            answers = method(self._heard(call.method, requests))
            try:
                async for message in answers:
                    yield self._told(call.method, message)
            finally:
                answers.cancel()

        return grpc.stream_stream_rpc_method_handler(passed_on)

    async def _heard(self, path: str, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        kind = {_SOTW: xds.DiscoveryRequest, _DELTA: xds.DeltaDiscoveryRequest}.get(path)
        async for message in requests:
            if kind is not None and (request := kind.FromString(message)).HasField("error_detail"):
                self.rejections.append(request.error_detail.message)
            yield message

    def _told(self, path: str, message: bytes) -> bytes:
        kind = {_SOTW: xds.DiscoveryResponse, _DELTA: xds.DeltaDiscoveryResponse}.get(path)
        if self.lie is None or kind is None:
            return message
        response = kind.FromString(message)
        if not response.type_url.endswith(EDS):
            return message
        self.lies += 1
        for it in response.resources:
            packed = it.resource if path == _DELTA else it
            assignment = xds.ClusterLoadAssignment.FromString(packed.value)
            self.lie(assignment)
            packed.value = assignment.SerializeToString()
        changed: bytes = response.SerializeToString()
        return changed


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, liar: Liar) -> None:
        self._liar = liar

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._liar.service(handler_call_details)


@asynccontextmanager
async def liar(registry: str) -> AsyncIterator[tuple[str, Liar]]:
    """One in front of a registry: its address and itself."""
    async with grpc.aio.insecure_channel(registry, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        it = Liar(channel)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_Handler(it),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}", it
        finally:
            await server.stop(None)
