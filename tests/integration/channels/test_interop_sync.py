"""A balanced channel for threads beside a plain one, on grpc-go's interop server: a caller sees the same."""

from collections.abc import Callable

import grpc
import pytest

from balancer import blocking_channel
from tests.integration.channels.interop_sync import CASES, Seen
from tests.support.interop_messages import TestStub

Case = Callable[[TestStub], Seen]
READY_S = 10.0


class PassOn(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """A user's interceptor that changes nothing."""

    def _pass(self, continuation, details, request):  # type: ignore[no-untyped-def]
        return continuation(details, request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _pass


@pytest.mark.parametrize("ready", [False, True], ids=["first call", "ready"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_same_as_plain(case: Case, ready: bool, interop_port: int, interop_target: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{interop_port}") as plain, blocking_channel(interop_target) as balanced:
        if ready:
            grpc.channel_ready_future(plain).result(READY_S)
            grpc.channel_ready_future(balanced).result(READY_S)
        expected = case(TestStub(plain))
        assert expected
        assert case(TestStub(balanced)) == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_same_with_interceptors(case: Case, interop_port: int, interop_target: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{interop_port}") as plain, blocking_channel(interop_target) as balanced:
        expected = case(TestStub(grpc.intercept_channel(plain, PassOn())))
        assert expected
        assert case(TestStub(grpc.intercept_channel(balanced, PassOn()))) == expected
