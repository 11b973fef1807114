"""The service config's hedging policy, across endpoints (gRFC A6)."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from balancer import StaticResolver
from tests.support.interop_backend import SERVICE
from tests.support.interop_fleet import Caller, encoded, endpoints, fleet
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually_async

BOTH = pytest.mark.parametrize("kind", ["aio", "sync"])
WHATS = pytest.mark.parametrize("what", ["call", "future"])


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    with fleet(tmp_path_factory.mktemp("backends"), 3) as started:
        yield started


def caller(kind: str, servers: list[ServerProcess], **policy: Any) -> Caller:
    hedging = {"maxAttempts": 3, "hedgingDelay": "0.1s", "nonFatalStatusCodes": ["UNAVAILABLE"], **policy}
    config = {"methodConfig": [{"name": [{"service": SERVICE}], "hedgingPolicy": hedging}]}
    return Caller(kind, StaticResolver(endpoints(servers)), options=[("grpc.service_config", json.dumps(config))])


@BOTH
@WHATS
async def test_slow_endpoint_is_overtaken(kind: str, what: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers) as channel:
        await channel.ready()
        slow = servers[0].port
        for _ in range(6):
            started = time.monotonic()
            answer = await getattr(channel, what)({"sleep_s": 20, "only": slow}, timeout=10)
            assert answer["id"] != slow
            assert time.monotonic() - started < 5
        nodes = channel.channel.stats().nodes
        await eventually_async(lambda: all(node.in_flight == 0 for node in channel.channel.stats().nodes))
        assert sum(node.failures for node in nodes) == 0, "an overtaken attempt does not speak against its endpoint"


@BOTH
@WHATS
async def test_non_fatal_failure_sends_the_next_at_once(kind: str, what: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, hedgingDelay="30s") as channel:
        await channel.ready()
        answer = await getattr(channel, what)({"fail": ["UNAVAILABLE", "UNAVAILABLE"]}, timeout=10)
        assert answer["attempt"] == 2


@BOTH
@WHATS
async def test_fatal_failure_is_final(kind: str, what: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, hedgingDelay="30s") as channel:
        await channel.ready()
        with pytest.raises(grpc.RpcError) as raised:
            await getattr(channel, what)({"fail": ["UNAVAILABLE", "NOT_FOUND"]}, timeout=10)
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


@BOTH
@WHATS
async def test_last_failure_is_the_call_s(kind: str, what: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, hedgingDelay="30s") as channel:
        await channel.ready()
        with pytest.raises(grpc.RpcError) as raised:
            await getattr(channel, what)({"fail": ["UNAVAILABLE"] * 5}, timeout=10)
        assert raised.value.details().startswith("attempt 2 at ")


@BOTH
@WHATS
async def test_pushback_may_forbid_more(kind: str, what: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, hedgingDelay="30s") as channel:
        await channel.ready()
        with pytest.raises(grpc.RpcError) as raised:
            await getattr(channel, what)({"fail": ["UNAVAILABLE"] * 5, "pushback_ms": -1}, timeout=10)
        assert raised.value.details().startswith("attempt 0 at ")


@BOTH
@WHATS
async def test_deadline_covers_all_attempts(kind: str, what: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers) as channel:
        await channel.ready()
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as raised:
            await getattr(channel, what)({"sleep_s": 20}, timeout=0.4)
        assert raised.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
        assert time.monotonic() - started < 5


@BOTH
async def test_cancel_after_a_failed_attempt(kind: str, servers: list[ServerProcess]) -> None:
    """One attempt has failed, the others are under way: the call as a whole is cancelled, and so are they."""
    async with caller(kind, servers, hedgingDelay="30s") as channel:
        await channel.ready()
        request = encoded({"fail": ["UNAVAILABLE"], "sleep_s": 60, "from_attempt": 1})
        method = channel.channel.unary_unary(f"/{SERVICE}/Call")
        call = method(request) if kind == "aio" else method.future(request)

        def second_is_under_way() -> bool:
            return sum(node.calls for node in channel.nodes()) == 1 == sum(node.in_flight for node in channel.nodes())

        await eventually_async(second_is_under_way)
        assert call.cancel()
        assert call.done()
        assert call.cancelled()
        await eventually_async(lambda: sum(node.in_flight for node in channel.nodes()) == 0)
        if kind == "aio":
            with pytest.raises(asyncio.CancelledError):
                await call
        else:
            with pytest.raises(grpc.FutureCancelledError):
                call.result(10)
