"""SHELL: whether a registry serves, by grpc.health.v1, as any other probe would ask it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc.aio

from registry_client.errors import RegistryError, RegistryUnavailable, from_rpc_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry_client.papers import Dialer

_CHECK = "/grpc.health.v1.Health/Check"
_DOING = "ask whether it serves"


async def is_serving(dialers: Mapping[str, Dialer], name: str, timeout_s: float) -> bool:
    """Whether any of these addresses says that the name is served; the empty name is the registry itself.

    Each is asked once, over a connection of its own, and has its share of the time. Raises RegistryError, if none says
    yes or no: RegistryUnavailable when none answers, NotFound for a name that is unknown.
    """
    failure: RegistryError = RegistryUnavailable(_DOING)
    answered = False
    for address, dialer in dialers.items():
        try:
            if await _asked(dialer, address, name, timeout_s / len(dialers)):
                return True
            answered = True
        except RegistryError as error:
            if isinstance(failure, RegistryUnavailable):  # one that answers knows more than one that does not
                failure = error
    if not answered:
        raise failure
    return False


async def _asked(dialer: Dialer, address: str, name: str, timeout_s: float) -> bool:
    from grpc_health.v1 import health_pb2  # most clients never ask

    request = health_pb2.HealthCheckRequest(service=name)
    async with dialer.channel(address, dialer.contents_now(address), ()) as channel:
        check = channel.unary_unary(
            _CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = await check(request, timeout=timeout_s, metadata=await dialer.metadata())
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, _DOING) from None
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
