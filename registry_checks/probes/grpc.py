"""SHELL: asks grpc.health.v1 of an instance, over a connection that is kept from look to look.

Every look is a Check: who hangs says nothing by Watch either, so that silence there proves nothing. What Watch adds,
where the instance offers it, is what was said between two looks: who was SERVING and then said otherwise, however
shortly, fails the next look.
"""

import asyncio
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.probes.base import Failed, Target
from registry_checks.probes.reach import Reach

_Status = health_pb2.HealthCheckResponse.ServingStatus
SERVING = "SERVING"
MAX_ANSWER_BYTES = 64 * 1024
# Of one Watch, the next begins with a look: nobody talks for ever, and who stops waits for us no longer than that.
MAX_WORDS = 16
WATCH_S = 60.0
# How much longer than a look gRPC tries to connect: a look that is over says so itself.
LONGER_MS = 1_000
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    # A look that fails must not be the reason that the next one does.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class GrpcProbe:
    """Calls Check of the instance. The address is resolved by us, so that a name cannot lead elsewhere meanwhile.
    `timeout_ms` is what a look may take, of which connecting may take all: an instance may be far away, or busy."""

    def __init__(self, target: Target, check: pb.HealthCheck.Grpc, reach: Reach, timeout_ms: int) -> None:
        self._target = target
        self._check = check
        self._port = check.port or target.port
        self._reach = reach
        self._connecting_ms = timeout_ms + LONGER_MS
        self._address = ""
        self._channel: grpc.aio.Channel | None = None
        self._request = health_pb2.HealthCheckRequest(service=check.service)
        self._between = _BetweenLooks(self._request)
        self._times_closed = 0

    async def look(self) -> str:
        """See Probe."""
        times_closed = self._times_closed
        try:
            return await self._look()
        finally:
            if self._times_closed != times_closed:  # meanwhile: what was opened since then is nobody's
                await self._let_go()

    async def aclose(self) -> None:
        """See Probe."""
        self._times_closed += 1
        await self._let_go()

    async def _look(self) -> str:
        channel = await self._connected()
        if channel.get_state() is not grpc.ChannelConnectivity.READY:
            # The other side lets this connection go: it may be waiting for the end of every call on it.
            await self._between.stop()
        try:
            said = await self._said(channel)
        except BaseException:
            await self._between.give_up()
            raise
        if said != SERVING:
            await self._between.stop()
            raise Failed(said)
        said_before = self._between.take()
        self._between.listen(channel)
        if said_before:
            raise Failed(f"{said_before} between two looks")
        return said

    async def _said(self, channel: grpc.aio.Channel) -> str:
        try:
            return _name_of(await health_pb2_grpc.HealthStub(channel).Check(self._request))
        except grpc.aio.AioRpcError as error:
            raise Failed(f"{error.code().name}: {error.details()}") from None

    async def _let_go(self) -> None:
        await self._between.stop()
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _connected(self) -> grpc.aio.Channel:
        [address, *_] = await self._reach.addresses(self._target.host)
        if self._channel is None or address != self._address:
            await self._let_go()
            self._address = address
            self._channel = await self._open(f"ipv6:[{address}]" if ":" in address else f"ipv4:{address}")
        return self._channel

    async def _open(self, host: str) -> grpc.aio.Channel:
        name = self._check.authority or self._target.host
        options: list[tuple[str, int | str]] = [*OPTIONS, ("grpc.default_authority", name)]
        options.append(("grpc.min_reconnect_backoff_ms", self._connecting_ms))
        if not self._check.tls:
            return grpc.aio.insecure_channel(f"{host}:{self._port}", options=options)
        ca = await asyncio.to_thread(Path(self._reach.ca).read_bytes) if self._reach.ca else None
        options.append(("grpc.ssl_target_name_override", name))
        return grpc.aio.secure_channel(f"{host}:{self._port}", grpc.ssl_channel_credentials(ca), options=options)


class _BetweenLooks:
    """What an instance says by Watch between two looks: one call at the most, begun by a look that passes."""

    def __init__(self, request: health_pb2.HealthCheckRequest) -> None:
        self._request = request
        self._task: asyncio.Task[None] | None = None
        self._is_offered = True
        self._said = ""

    def listen(self, channel: grpc.aio.Channel) -> None:
        """From now on, where Watch is offered and is not listened to already."""
        if self._is_offered and not self._listens():
            self._task = asyncio.create_task(self._listen(channel), name="check-watch")

    def _listens(self) -> bool:
        return self._task is not None and not self._task.done()

    def take(self) -> str:
        """What it said since this was asked last, if that was anything but SERVING."""
        said, self._said = self._said, ""
        return said

    async def stop(self) -> None:
        """Listen no more, and forget what was said."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._said = ""

    async def give_up(self) -> None:
        """Nothing is said to a Check. If that is so beside a Watch, that was the last: it may be why, where an instance
        takes few calls at a time."""
        self._is_offered = self._is_offered and not self._listens()
        await self.stop()

    async def _listen(self, channel: grpc.aio.Channel) -> None:
        """Until it says anything but SERVING: then all is known. The first word counts only if it is that, since there
        are those who say more of a service by Check than by Watch."""
        call = health_pb2_grpc.HealthStub(channel).Watch(self._request, timeout=WATCH_S)
        words = 0
        try:
            async for answer in call:
                words += 1
                said = _name_of(answer)
                if said != SERVING:
                    self._said = said if words > 1 else ""
                if said != SERVING or words == MAX_WORDS:
                    return
        except grpc.aio.AioRpcError as error:
            self._is_offered = error.code() is not grpc.StatusCode.UNIMPLEMENTED
        except Exception:  # it says what is no answer at all
            self._is_offered = False
        finally:
            call.cancel()


def _name_of(answer: health_pb2.HealthCheckResponse) -> str:
    return str(_Status.Name(answer.status)) if answer.status in _Status.values() else "?"
