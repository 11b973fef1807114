"""SHELL: asks grpc.health.v1 of an instance, over a connection that is kept from look to look."""

import asyncio
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.probes.base import Failed, Target
from registry_checks.probes.reach import Reach

_Response = health_pb2.HealthCheckResponse
MAX_ANSWER_BYTES = 64 * 1024
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    # A look that fails must not be the reason that the next one does.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class GrpcProbe:
    """Calls Check of the instance. The address is resolved by us, so that a name cannot lead elsewhere meanwhile."""

    def __init__(self, target: Target, check: pb.HealthCheck.Grpc, reach: Reach) -> None:
        self._target = target
        self._check = check
        self._port = check.port or target.port
        self._reach = reach
        self._address = ""
        self._channel: grpc.aio.Channel | None = None

    async def look(self) -> str:
        """See Probe."""
        channel = await self._connected()
        request = health_pb2.HealthCheckRequest(service=self._check.service)
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request)
        except grpc.aio.AioRpcError as error:
            raise Failed(f"{error.code().name}: {error.details()}") from None
        status = (
            _Response.ServingStatus.Name(answer.status) if answer.status in _Response.ServingStatus.values() else "?"
        )
        if answer.status != _Response.SERVING:
            raise Failed(status)
        return str(status)

    async def aclose(self) -> None:
        """See Probe."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _connected(self) -> grpc.aio.Channel:
        [address, *_] = await self._reach.addresses(self._target.host)
        if self._channel is None or address != self._address:
            await self.aclose()
            self._address = address
            self._channel = await self._open(f"ipv6:[{address}]" if ":" in address else f"ipv4:{address}")
        return self._channel

    async def _open(self, host: str) -> grpc.aio.Channel:
        name = self._check.authority or self._target.host
        options: list[tuple[str, int | str]] = [*OPTIONS, ("grpc.default_authority", name)]
        if not self._check.tls:
            return grpc.aio.insecure_channel(f"{host}:{self._port}", options=options)
        ca = await asyncio.to_thread(Path(self._reach.ca).read_bytes) if self._reach.ca else None
        options.append(("grpc.ssl_target_name_override", name))
        return grpc.aio.secure_channel(f"{host}:{self._port}", grpc.ssl_channel_credentials(ca), options=options)
