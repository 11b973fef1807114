"""A balanced asyncio channel beside a plain one, on grpc-go's interop server: a caller sees the same."""

from collections.abc import Awaitable, Callable

import grpc
import pytest

from balancer import aio_channel
from tests.integration.channels.interop_aio import CASES, Seen, write_after_done_writing
from tests.support.interop_messages import TestStub

Case = Callable[[TestStub], Awaitable[Seen]]


class PassOn(grpc.aio.UnaryUnaryClientInterceptor):
    """A user's interceptor that changes nothing."""

    async def intercept_unary_unary(self, continuation, details, request):  # type: ignore[no-untyped-def]
        return await continuation(details, request)


class PassOnInput(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation, details, requests):  # type: ignore[no-untyped-def]
        return await continuation(details, requests)


class PassOnOutput(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation, details, request):  # type: ignore[no-untyped-def]
        return await continuation(details, request)


class PassOnDuplex(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation, details, requests):  # type: ignore[no-untyped-def]
        return await continuation(details, requests)


INTERCEPTORS = (PassOn(), PassOnInput(), PassOnOutput(), PassOnDuplex())


@pytest.mark.parametrize("ready", [False, True], ids=["first call", "ready"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_same_as_plain(case: Case, ready: bool, interop_port: int, interop_target: str) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{interop_port}") as plain, aio_channel(interop_target) as balanced:
        if ready:
            await plain.channel_ready()
            await balanced.channel_ready()
        expected = await case(TestStub(plain))
        assert expected
        assert await case(TestStub(balanced)) == expected


# Whether grpc.aio's own calls with interceptors notice a late write is a race.
INTERCEPTED_CASES = [case for case in CASES if case is not write_after_done_writing]


@pytest.mark.parametrize("case", INTERCEPTED_CASES, ids=lambda case: case.__name__)
async def test_same_with_interceptors(case: Case, interop_port: int, interop_target: str) -> None:
    plain = grpc.aio.insecure_channel(f"127.0.0.1:{interop_port}", interceptors=INTERCEPTORS)
    async with plain, aio_channel(interop_target, interceptors=INTERCEPTORS) as balanced:
        await plain.channel_ready()
        await balanced.channel_ready()
        expected = await case(TestStub(plain))
        assert expected
        assert await case(TestStub(balanced)) == expected
