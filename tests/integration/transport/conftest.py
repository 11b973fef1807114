"""A server of the test service on each transport, and a gRPC channel to it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from tests.support.transports import NAME, TRANSPORTS, Everything, Transport, serving, value

TIMEOUT_S = 20.0
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))


@dataclass
class Stage:
    """A server, what it serves, and a channel that knows nothing of messages."""

    address: str
    server: Transport
    service: Everything
    channel: grpc.aio.Channel
    stopped: bool = False
    calls: list[Any] = field(default_factory=list)

    async def ask(self, method: str, text: str = "", **options: Any) -> bytes:
        """One unary call."""
        return await self.begin(method, value(text), **options)  # type: ignore[no-any-return]

    def begin(self, method: str, message: bytes, **options: Any) -> Any:
        """A unary call that is not waited for."""
        options.setdefault("timeout", TIMEOUT_S)
        call = self.channel.unary_unary(f"/{NAME}/{method}")(message, **options)
        self.calls.append(call)
        return call

    def listen(self, text: str = "", **options: Any) -> Any:
        """A stream of messages."""
        options.setdefault("timeout", TIMEOUT_S)
        return self.channel.unary_stream(f"/{NAME}/Listen")(value(text), **options)

    def talk(self, method: str, **options: Any) -> Any:
        """A stream of both."""
        options.setdefault("timeout", TIMEOUT_S)
        return self.channel.stream_stream(f"/{NAME}/{method}")(**options)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def stage(transport: str) -> AsyncIterator[Stage]:
    service = Everything()
    async with (
        serving(transport, service.service()) as (address, server),
        grpc.aio.insecure_channel(address, options=OPTIONS) as channel,
    ):
        yield Stage(address, server, service, channel)
        service.may_end.set()


async def failure(what: Awaitable[object] | Callable[[], Awaitable[object]]) -> grpc.aio.AioRpcError:
    """How a call ends that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as told:
        await (what() if callable(what) else what)
    return told.value
