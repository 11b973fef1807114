"""The service config's retry policies, across endpoints (gRFC A6)."""

import asyncio
import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from balancer import Resolved, StaticResolver, aio_channel
from tests.support.interop_backend import SERVICE
from tests.support.interop_fleet import Caller, encoded, endpoints, fleet
from tests.support.servers import ServerProcess

BOTH = pytest.mark.parametrize("kind", ["aio", "sync"])
WHATS = pytest.mark.parametrize("what", ["call", "future", "stream", "collect", "chat"])


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    with fleet(tmp_path_factory.mktemp("backends"), 3) as started:
        yield started


def config(**policy: Any) -> dict[str, Any]:
    retry = {
        "maxAttempts": 3,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
        **policy,
    }
    return {"methodConfig": [{"name": [{"service": SERVICE}], "retryPolicy": retry}]}


def caller(kind: str, servers: list[ServerProcess], service_config: dict[str, Any]) -> Caller:
    options = [("grpc.service_config", json.dumps(service_config))]
    return Caller(kind, StaticResolver(endpoints(servers)), options=options)


async def run(what: str, channel: Caller, plan: dict[str, Any], **options: Any) -> list[Any]:
    """A call of any kind; gives its responses."""
    if what in ("collect", "chat"):
        plans = [{**plan, "number": 0}, {"number": 1}, {"number": 2}]
        result = await getattr(channel, what)(plans, **options)
    else:
        result = await getattr(channel, what)(plan, **options)
    return result if isinstance(result, list) else [result]


@BOTH
@WHATS
async def test_retry_goes_to_another_endpoint(kind: str, what: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, config()) as channel:
        await channel.ready()
        for _ in range(6):
            responses = await run(what, channel, {"fail": ["UNAVAILABLE", "UNAVAILABLE"], "responses": 3})
            assert {response["attempt"] for response in responses} == {2}
        statistics = channel.channel.stats()
        failures = [node.failures for node in statistics.nodes]
        assert sum(failures) == 12
        assert max(failures) <= 6, "no call was tried twice at one endpoint"


@BOTH
@WHATS
async def test_everything_is_sent_again(kind: str, what: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, config()) as channel:
        responses = await run(what, channel, {"fail": ["UNAVAILABLE"], "responses": 3})
        numbers = {
            "call": [None],
            "future": [None],
            "stream": [0, 1, 2],
            "collect": [None],
            "chat": [0, 1, 2],
        }[what]
        assert [response.get("number") for response in responses] == numbers
        assert what != "collect" or responses[0]["numbers"] == [0, 1, 2]


@BOTH
@WHATS
async def test_attempts_are_limited(kind: str, what: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, config()) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            await run(what, channel, {"fail": ["UNAVAILABLE"] * 5})
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert raised.value.details().startswith("attempt 2 at ")


@BOTH
@WHATS
async def test_other_codes_are_final(kind: str, what: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, config()) as channel:
        # grpc.aio itself, on a plain channel too, tells of some streams that ended while it was writing a message by an
        # error of its own, and not the server's.
        for _ in range(10):
            with pytest.raises(grpc.RpcError) as raised:
                await run(what, channel, {"fail": ["UNAVAILABLE", "NOT_FOUND"]})
            if raised.value.details() != "Internal error from Core":
                break
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        assert raised.value.details().startswith("attempt 1 at ")


@BOTH
async def test_a_call_with_a_response_is_committed(kind: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, config()) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            await channel.stream({"responses": 2, "fail_late": "UNAVAILABLE"})
        assert raised.value.details() == "after the responses"


@BOTH
@pytest.mark.parametrize("what", ["stream", "collect", "chat"])
async def test_early_headers_commit_a_call(kind: str, what: str, servers: list[ServerProcess]) -> None:
    """Also empty ones, long before any message."""
    async with caller(kind, servers, config()) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            await run(what, channel, {"headers": [], "sleep_s": 0.3, "fail": ["UNAVAILABLE"]})
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert raised.value.details().startswith("attempt 0 at ")


@BOTH
@WHATS
async def test_headers_with_something_in_them_commit_a_call(kind: str, what: str, servers: list[ServerProcess]) -> None:
    plan = {"headers": [["x", "y"]], "fail": ["UNAVAILABLE"]}
    async with caller(kind, servers, config()) as channel:
        for _ in range(10 if kind == "aio" else 1):
            # grpc.aio itself, on a plain channel too, shows empty headers where a loop that was held up finds them with
            # the status. Then nobody can tell, and the call is tried again. And of some streams that ended while it was
            # writing a message it tells by an error of its own.
            how = await how_it_failed(what, channel, plan)
            if how and how != "Internal error from Core":
                break
        assert how is not None
        assert how.startswith("attempt 0 at ")


async def how_it_failed(what: str, channel: Caller, plan: dict[str, Any]) -> str | None:
    try:
        await run(what, channel, plan)
    except grpc.RpcError as error:
        return str(error.details())
    return None


@BOTH
async def test_headers_are_those_of_the_attempt_that_answers(kind: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, config()) as channel:
        await channel.ready()
        method = channel.channel.unary_stream(f"/{SERVICE}/Stream")
        call = method(encoded({"fail": ["UNAVAILABLE"]}))
        if kind == "aio":
            assert await asyncio.wait_for(call.initial_metadata(), 10) is not None
            assert [json.loads(message)["attempt"] async for message in call] == [1]
        else:
            assert await asyncio.wait_for(asyncio.to_thread(call.initial_metadata), 10) is not None
            assert await asyncio.to_thread(lambda: [json.loads(message)["attempt"] for message in call]) == [1]


@BOTH
async def test_headers_that_were_shown_are_not_taken_back(kind: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, config()) as channel:
        await channel.ready()
        method = channel.channel.unary_stream(f"/{SERVICE}/Stream")
        call = method(encoded({"headers": [], "sleep_s": 2, "fail": ["UNAVAILABLE"]}))
        if kind == "aio":
            await call.initial_metadata()
            shown = time.monotonic()
            assert (await call.details()).startswith("attempt 0 at ")
        else:
            await asyncio.to_thread(call.initial_metadata)
            shown = time.monotonic()
            assert (await asyncio.to_thread(call.details)).startswith("attempt 0 at ")
        assert time.monotonic() - shown > 0.5, "headers are shown when they come, not when the call ends"


@BOTH
async def test_pushback_sets_the_pace(kind: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, config(initialBackoff="30s", maxBackoff="30s")) as channel:
        started = time.monotonic()
        answer = await channel.call({"fail": ["UNAVAILABLE"], "pushback_ms": 300})
        assert answer["attempt"] == 1
        assert 0.3 <= time.monotonic() - started < 5


@BOTH
@pytest.mark.parametrize("pushback", [-1, "soon"])
async def test_pushback_may_forbid(kind: str, pushback: object, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, config()) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            await channel.call({"fail": ["UNAVAILABLE"], "pushback_ms": pushback})
        assert raised.value.details().startswith("attempt 0 at ")


@BOTH
@WHATS
async def test_deadline_covers_all_attempts(kind: str, what: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, config(initialBackoff="30s", maxBackoff="30s")) as channel:
        await channel.ready()
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as raised:
            await run(what, channel, {"fail": ["UNAVAILABLE"] * 3}, timeout=0.3)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - started < 5


@BOTH
async def test_throttling_stops_retries(kind: str, servers: list[ServerProcess]) -> None:
    throttled = {**config(), "retryThrottling": {"maxTokens": 4, "tokenRatio": 0.5}}
    async with caller(kind, servers, throttled) as channel:
        attempts = []
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as raised:
                await channel.call({"fail": ["UNAVAILABLE"] * 5})
            attempts.append(raised.value.details().split()[1])
        # 4 tokens: the first failure leaves 3 and is retried, the second leaves 2, which is not more than half.
        assert attempts == ["1", "0", "0"]


@BOTH
async def test_cancel_ends_the_pause(kind: str, servers: list[ServerProcess]) -> None:
    async with caller(kind, servers, config(initialBackoff="30s", maxBackoff="30s")) as channel:
        await channel.ready()
        method = channel.channel.unary_unary(f"/{SERVICE}/Call")
        request = encoded({"fail": ["UNAVAILABLE"] * 3})
        if kind == "aio":
            call = method(request)
            done, _ = await asyncio.wait({asyncio.ensure_future(call.code())}, timeout=0.3)
            assert not done
            assert call.cancel()
            assert await call.code() is grpc.StatusCode.CANCELLED
            with pytest.raises(asyncio.CancelledError):
                await call
        else:
            future = method.future(request)
            with pytest.raises(grpc.FutureTimeoutError):
                await asyncio.to_thread(future.result, 0.3)
            assert future.cancel()
            with pytest.raises(grpc.FutureCancelledError):
                future.result(5)


@BOTH
async def test_timeout_and_wait_for_ready_of_the_config(kind: str, servers: list[ServerProcess]) -> None:
    methods = [
        {"name": [{"service": SERVICE}], "timeout": "0.2s"},
        {"name": [{"service": SERVICE, "method": "Stream"}], "waitForReady": True, "timeout": "0.3s"},
    ]
    async with caller(kind, servers, {"methodConfig": methods}) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            await channel.call({"sleep_s": 5}, timeout=10)
        assert raised.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


async def test_resolver_gives_a_service_config(servers: list[ServerProcess]) -> None:
    resolver = StaticResolver(endpoints(servers), service_config=config())
    async with aio_channel(resolver) as channel:
        method = channel.unary_unary(f"/{SERVICE}/Call")
        await channel.channel_ready()
        answer = json.loads(await method(encoded({"fail": ["UNAVAILABLE"]})))
        assert answer["attempt"] == 1


PICK_FIRST = {"loadBalancingConfig": [{"pick_first": {}}]}


@BOTH
async def test_resolver_chooses_the_policy(kind: str, servers: list[ServerProcess]) -> None:
    resolver = StaticResolver(endpoints(servers), service_config=PICK_FIRST)
    async with Caller(kind, resolver) as channel:
        assert len({(await channel.call())["id"] for _ in range(9)}) == 1
        assert channel.channel.stats().policy == "pick_first"
        every = {"loadBalancingConfig": [{"round_robin": {}}]}
        resolver.push(Resolved(endpoints(servers), service_config=every))
        await channel.ready()
        assert len({(await channel.call())["id"] for _ in range(9)}) == 3


@BOTH
async def test_policy_given_by_name_stays(kind: str, servers: list[ServerProcess]) -> None:
    resolver = StaticResolver(endpoints(servers), service_config=PICK_FIRST)
    async with Caller(kind, resolver, policy="least_connections") as channel:
        await channel.call()
        assert channel.channel.stats().policy == "least_connections"


@BOTH
async def test_service_config_given_as_an_option_wins(kind: str, servers: list[ServerProcess]) -> None:
    resolver = StaticResolver(endpoints(servers), service_config={**PICK_FIRST, **config(maxAttempts=5)})
    async with Caller(kind, resolver, options=[("grpc.service_config", json.dumps(config()))]) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            await channel.call({"fail": ["UNAVAILABLE"] * 5})
        assert raised.value.details().startswith("attempt 2 at ")
        assert channel.channel.stats().policy == "round_robin"


async def test_wrong_service_config_is_told() -> None:
    with pytest.raises(ValueError, match=r"methodConfig\[0\].retryPolicy.maxAttempts"):
        aio_channel("static://127.0.0.1:1", options=[("grpc.service_config", json.dumps(config(maxAttempts=1)))])


NUMBERS = [b"%d" % number for number in range(20)]


async def _collect(requests: AsyncIterable[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Fails the first attempt after a few requests, in the middle of the others."""
    got = []
    again = dict(context.invocation_metadata() or ()).get("grpc-previous-rpc-attempts")
    async for request in requests:
        got.append(request)
        if again is None and len(got) == 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
    return b",".join(got)


@asynccontextmanager
async def collecting() -> AsyncIterator[str]:
    server = grpc.aio.server()
    handler = grpc.stream_unary_rpc_method_handler(_collect)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Collect": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"static://127.0.0.1:{port}"
    await server.stop(None)


@pytest.mark.parametrize("how", ["iterator", "write"])
async def test_an_upload_that_ends_early_is_tried_again(how: str) -> None:
    """Whether or not a message met the end: grpc.aio takes one that it cannot send for an error of its own."""
    options = [("grpc.service_config", json.dumps(config()))]
    async with collecting() as target, aio_channel(target, options=options) as channel:
        for _ in range(10):
            call: Any = channel.stream_unary(f"/{SERVICE}/Collect")(NUMBERS if how == "iterator" else None, timeout=10)
            for number in NUMBERS if how == "write" else ():
                await call.write(number)
            if how == "write":
                await call.done_writing()
            assert await call == b",".join(NUMBERS)
