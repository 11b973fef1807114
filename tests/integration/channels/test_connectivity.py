"""States, closing, TLS, and what a channel leaves behind."""

import asyncio
import gc
import threading
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from balancer import (
    ConnectivityState,
    Endpoint,
    PoolOptions,
    StaticResolver,
    aio_channel,
    blocking_channel,
    hash_key,
)
from balancer.channels.options import ChannelOptions
from tests.support.interop import interop_server
from tests.support.interop_fleet import Caller, endpoints, fleet
from tests.support.interop_messages import Empty, SimpleRequest, TestStub
from tests.support.waiting import eventually, eventually_async

BOTH = pytest.mark.parametrize("kind", ["aio", "sync"])
State = grpc.ChannelConnectivity
NOBODY = "static://127.0.0.1:1"


async def test_aio_states(tmp_path: Path) -> None:
    with fleet(tmp_path, 1) as servers:
        resolver = StaticResolver([])
        async with aio_channel(resolver) as channel:
            assert channel.get_state() is State.IDLE
            assert channel.get_state(try_to_connect=True) in (State.IDLE, State.CONNECTING)
            while (state := channel.get_state()) is not State.TRANSIENT_FAILURE:
                await channel.wait_for_state_change(state)
            resolver.replace(endpoints(servers))
            await asyncio.wait_for(channel.channel_ready(), 20)
            servers[0].kill()
            await asyncio.wait_for(channel.wait_for_state_change(State.READY), 20)
        assert channel.get_state() is State.SHUTDOWN
        with pytest.raises(grpc.aio.UsageError, match=r"Channel is closed\."):
            await channel.wait_for_state_change(State.READY)


def test_sync_states(tmp_path: Path) -> None:
    with fleet(tmp_path, 1) as servers, blocking_channel(StaticResolver(endpoints(servers))) as channel:
        seen: list[State] = []
        channel.subscribe(seen.append)
        eventually(lambda: seen == [State.IDLE])
        channel.subscribe(seen.append, try_to_connect=True)
        grpc.channel_ready_future(channel).result(20)
        eventually(lambda: seen.count(State.READY) == 2)
        channel.unsubscribe(seen.append)
        servers[0].kill()
        eventually(lambda: seen[-1] is not State.READY)


async def test_aio_calls_on_a_closed_channel() -> None:
    channel = aio_channel(NOBODY)
    stub = TestStub(channel)
    waiting = [stub.EmptyCall(Empty(), wait_for_ready=True), stub.FullDuplexCall(wait_for_ready=True)]
    await channel.close()
    await channel.close()
    for call in waiting:
        assert await call.code() is grpc.StatusCode.CANCELLED
    for method in (stub.EmptyCall, stub.StreamingOutputCall):
        with pytest.raises(grpc.aio.UsageError, match=r"Channel is closed\."):
            method(Empty())


def test_sync_calls_on_a_closed_channel() -> None:
    channel = blocking_channel(NOBODY)
    stub = TestStub(channel)
    waiting = stub.EmptyCall.future(Empty(), wait_for_ready=True)
    blocked: list[Any] = []

    def block() -> None:
        try:
            stub.EmptyCall(Empty(), wait_for_ready=True)
        except grpc.RpcError as error:
            blocked.append(error)

    thread = threading.Thread(target=block)
    thread.start()
    channel.close()
    channel.close()
    thread.join(10)
    assert waiting.code() is grpc.StatusCode.CANCELLED
    assert not blocked or blocked[0].code() is grpc.StatusCode.CANCELLED
    with pytest.raises(ValueError, match="Cannot invoke RPC on closed channel!"):
        stub.EmptyCall(Empty())


@BOTH
async def test_close_cancels_calls_under_way(kind: str, tmp_path: Path) -> None:
    with fleet(tmp_path, 1) as servers:
        caller = Caller(kind, StaticResolver(endpoints(servers)))
        await caller.ready()
        slow = asyncio.create_task(caller.call({"sleep_s": 60}))
        await eventually_async(lambda: caller.nodes()[0].in_flight == 1)
        await caller.close()
        if kind == "aio":
            await asyncio.wait({slow})
            assert slow.cancelled()
        else:
            with pytest.raises(grpc.RpcError) as raised:
                await slow
            assert raised.value.code() is grpc.StatusCode.CANCELLED


async def test_grace_lets_calls_end(tmp_path: Path) -> None:
    with fleet(tmp_path, 1) as servers:
        caller = Caller("aio", StaticResolver(endpoints(servers)))
        await caller.ready()
        slow = asyncio.create_task(caller.call({"sleep_s": 0.5}))
        await eventually_async(lambda: caller.nodes()[0].in_flight == 1)
        await caller.channel.close(10)
        assert (await slow)["id"] == servers[0].port


async def test_dropped_channels_are_collected(tmp_path: Path) -> None:
    with fleet(tmp_path, 1) as servers:
        target = f"static://{servers[0].address}"
        aio, sync = aio_channel(target), blocking_channel(target)
        await aio.unary_unary("/test.Backend/Call")(b"{}")
        await asyncio.to_thread(sync.unary_unary("/test.Backend/Call"), b"{}")
        dropped = [weakref.ref(aio), weakref.ref(sync)]
        del aio, sync

        def gone() -> bool:
            gc.collect()
            return all(channel() is None for channel in dropped)

        await eventually_async(gone)
        await eventually_async(lambda: asyncio.all_tasks() == {asyncio.current_task()}, what="its tasks end, too")


@BOTH
async def test_hash_key_sticks_to_an_endpoint(kind: str, tmp_path: Path) -> None:
    with fleet(tmp_path, 3) as servers:
        target = "static://" + ",".join(server.address for server in servers)
        async with Caller(kind, f"{target}?policy=consistent_hash&hash_header=x-player-id") as caller:
            owners = {}
            for player in map(str, range(12)):
                answers = [await caller.call(metadata=(("x-player-id", player),), timeout=10) for _ in range(3)]
                owners[player] = {answer["id"] for answer in answers}
            assert {len(ids) for ids in owners.values()} == {1}
            assert len(set.union(*owners.values())) > 1
            token = hash_key.set("7")
            try:
                assert {(await caller.call(timeout=10))["id"]} == owners["7"]
            finally:
                hash_key.reset(token)


@BOTH
async def test_weights(kind: str, tmp_path: Path) -> None:
    with fleet(tmp_path, 3) as servers:
        weighted = [Endpoint(server.address, weight=weight) for server, weight in zip(servers, (1, 1, 3), strict=True)]
        async with Caller(kind, StaticResolver(weighted), policy="weighted_round_robin") as caller:
            await caller.ready()
            spread = Counter([(await caller.call())["id"] for _ in range(50)])
            assert [spread[server.port] for server in servers] == [10, 10, 30]


@BOTH
async def test_idle_channel_closes_its_connections_and_wakes_up(kind: str, tmp_path: Path) -> None:
    options = ChannelOptions(pool=PoolOptions(idle_timeout_s=0.3))
    with fleet(tmp_path, 2) as servers:
        async with Caller(kind, StaticResolver(endpoints(servers)), balancing=options) as caller:
            await caller.call(timeout=10)

            def asleep() -> bool:
                statistics = caller.channel.stats()
                states = {node.state for node in statistics.nodes}
                return statistics.state is ConnectivityState.IDLE and states == {ConnectivityState.IDLE}

            for _ in range(2):
                await eventually_async(asleep)
                assert (await caller.call(timeout=10))["id"] in {server.port for server in servers}


@BOTH
async def test_subset_bounds_the_connections(kind: str, tmp_path: Path) -> None:
    options = ChannelOptions(pool=PoolOptions(subset_size=2))
    with fleet(tmp_path, 4) as servers:
        async with Caller(kind, StaticResolver(endpoints(servers)), balancing=options) as caller:
            await eventually_async(lambda: _reached(caller, 2))
            spread = {(await caller.call(timeout=10))["id"] for _ in range(40)}
            assert len(spread) == 2
            assert Counter(node.state.name for node in caller.nodes()) == {"READY": 2, "IDLE": 2}


async def _reached(caller: Caller, count: int) -> bool:
    await caller.call(timeout=10)
    return [node.state for node in caller.nodes()].count(ConnectivityState.READY) == count


@BOTH
async def test_tls_and_call_credentials(kind: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("players.example.org")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    roots = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    call_credentials = grpc.access_token_call_credentials("secret")
    with interop_server("-use_tls", "-tls_cert_file", str(cert), "-tls_key_file", str(key)) as port:
        options = [("grpc.ssl_target_name_override", "players.example.org")]
        target = f"static://127.0.0.1:{port}"
        async with Caller(kind, target, credentials=roots, options=options) as caller:
            call = TestStub(caller.channel).UnaryCall
            request = SimpleRequest(response_size=5)
            if kind == "aio":
                response = await call(request, credentials=call_credentials, timeout=10)
            else:
                response = await asyncio.to_thread(call, request, 10, None, call_credentials)
            assert len(response.payload.body) == 5
        async with Caller(kind, f"{target}?authority=wrong.example.org", credentials=roots) as caller:
            with pytest.raises(grpc.RpcError) as raised:
                await caller.call(timeout=10)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_wrong_interceptor_is_told() -> None:
    with pytest.raises(ValueError, match="Interceptor"):
        aio_channel(NOBODY, interceptors=[object()])  # type: ignore[list-item]
