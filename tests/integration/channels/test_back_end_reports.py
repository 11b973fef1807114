"""What back ends say of themselves: health (gRFC A17) and load (ORCA, gRFC A58)."""

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from balancer import ConnectivityState, PoolOptions, StaticResolver, blocking_channel
from balancer.channels.options import ChannelOptions
from tests.support.interop_backend import SERVICE
from tests.support.interop_fleet import Caller, endpoints, fleet
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually_async

BOTH = pytest.mark.parametrize("kind", ["aio", "sync"])
HEALTH = ChannelOptions(health_service=SERVICE)


async def set_health(server: ServerProcess, status: str) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        await channel.unary_unary(f"/{SERVICE}/SetHealth")(json.dumps([SERVICE, status]).encode())


async def spread(caller: Caller, calls: int = 30) -> Counter[int]:
    return Counter([(await caller.call(timeout=10))["id"] for _ in range(calls)])


@BOTH
async def test_only_serving_back_ends_are_used(kind: str, tmp_path: Path) -> None:
    with fleet(tmp_path, 3) as servers:
        for server in servers:
            await set_health(server, "SERVING")
        async with Caller(kind, StaticResolver(endpoints(servers)), balancing=HEALTH) as caller:
            await caller.ready()
            assert set(await spread(caller)) == {server.port for server in servers}
            await set_health(servers[0], "NOT_SERVING")
            others = {servers[1].port, servers[2].port}

            async def avoided() -> bool:
                return set(await spread(caller)) == others

            await eventually_async(avoided)
            await set_health(servers[0], "SERVING")
            await eventually_async(lambda: _calls(caller, servers[0]))
            assert await _comes_back(caller, servers[0])


async def _calls(caller: Caller, server: ServerProcess) -> bool:
    return (await caller.call(timeout=10))["id"] == server.port


async def _comes_back(caller: Caller, server: ServerProcess) -> bool:
    return server.port in await spread(caller)


@BOTH
async def test_nothing_serving_is_unavailable(kind: str, tmp_path: Path) -> None:
    with fleet(tmp_path, 2) as servers:
        for server in servers:
            await set_health(server, "NOT_SERVING")
        no_panic = replace(HEALTH, pool=PoolOptions(panic_threshold=0))
        async with Caller(kind, StaticResolver(endpoints(servers)), balancing=no_panic) as caller:
            with pytest.raises(grpc.RpcError) as raised:
                await caller.call(timeout=10)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            waiting = asyncio.create_task(caller.call(timeout=20, wait_for_ready=True))
            await set_health(servers[1], "SERVING")
            assert (await waiting)["id"] == servers[1].port


@BOTH
async def test_back_end_without_health_service_counts_as_healthy(kind: str, interop_port: int) -> None:
    target = f"static://127.0.0.1:{interop_port}?health_service=anything"
    async with Caller(kind, target) as caller:
        await caller.ready()
        assert caller.channel.get_state().name == "READY" if kind == "aio" else True


@BOTH
@pytest.mark.parametrize("source", ["option", "resolver"])
async def test_health_service_of_the_service_config(kind: str, source: str, tmp_path: Path) -> None:
    config = {"healthCheckConfig": {"serviceName": SERVICE}}
    with fleet(tmp_path, 2) as servers:
        await set_health(servers[0], "NOT_SERVING")
        await set_health(servers[1], "SERVING")
        options = [("grpc.service_config", json.dumps(config))] if source == "option" else []
        resolver = StaticResolver(endpoints(servers), service_config=config if source == "resolver" else None)
        async with Caller(kind, resolver, options=options) as caller:
            assert set(await spread(caller)) == {servers[1].port}


CPU, RPS = 1, 6


async def set_load(server: ServerProcess, load: dict[int, float]) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        await channel.unary_unary(f"/{SERVICE}/SetLoad")(json.dumps(load).encode())


@BOTH
async def test_weights_follow_the_load_reports(kind: str, tmp_path: Path) -> None:
    """As much work at a third of the utilization: three times the calls."""
    balancing = ChannelOptions(load_report_interval_s=0.1)
    with fleet(tmp_path, 2) as servers:
        first, second = servers
        await set_load(first, {RPS: 100, CPU: 0.2})
        resolver = StaticResolver(endpoints(servers))
        async with Caller(kind, resolver, policy="weighted_round_robin", balancing=balancing) as caller:
            await caller.ready()

            def weights() -> dict[str, float]:
                return {node.address: round(node.weight) for node in caller.nodes()}

            await eventually_async(lambda: weights() == {first.address: 500, second.address: 1})
            await set_load(second, {RPS: 100, CPU: 0.6})
            await eventually_async(lambda: weights() == {first.address: 500, second.address: 167})
            assert await spread(caller, 400) == pytest.approx({first.port: 300, second.port: 100}, abs=2)


@BOTH
async def test_a_back_end_whose_health_watch_breaks_is_avoided(kind: str, tmp_path: Path) -> None:
    """A17: of one that cannot be asked nothing good is to be thought."""
    with fleet(tmp_path, 3) as servers:
        for server in servers:
            await set_health(server, "SERVING")
        async with Caller(kind, StaticResolver(endpoints(servers)), balancing=HEALTH) as caller:
            await caller.ready()
            async with grpc.aio.insecure_channel(servers[0].address) as channel:
                await channel.unary_unary(f"/{SERVICE}/BreakHealth")(b"")
            others = {servers[1].port, servers[2].port}

            async def avoided() -> bool:
                return set(await spread(caller)) == others

            await eventually_async(avoided)


SERVER = """
import asyncio, grpc.aio
from grpc_health.v1 import health, health_pb2_grpc

async def main():
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    ports = [server.add_insecure_port("127.0.0.1:0") for _ in range(100)]
    await server.start()
    print(*ports, flush=True)
    await server.wait_for_termination()

asyncio.run(main())
"""


async def test_a_hundred_watched_back_ends_cost_no_threads_and_no_time() -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, stdout=pipe)
    try:
        assert process.stdout is not None
        ports = (await process.stdout.readline()).decode().split()
        threads = set(threading.enumerate())
        options = ChannelOptions(health_service="", load_report_interval_s=60)
        target = "static://" + ",".join(f"127.0.0.1:{port}" for port in ports)
        with blocking_channel(target, balancing=options) as channel:
            await asyncio.to_thread(grpc.channel_ready_future(channel).result, 30)

            def all_ready() -> bool:
                return all(node.state is ConnectivityState.READY for node in channel.stats().nodes)

            await eventually_async(all_ready, timeout_s=30)
            await eventually_async(lambda: channel.engine.resting, timeout_s=30)
            assert len(set(threading.enumerate()) - threads) <= 3
            assert await asyncio.to_thread(_is_at_rest)
    finally:
        process.kill()
        await process.wait()


def _is_at_rest() -> bool:
    """Whether no time goes by of its own doing: what takes some takes it each time."""
    return any(_cpu_of_threads(5.0) < 0.002 * 5.0 for _ in range(4))


def _cpu_of_threads(seconds: float) -> float:
    """Processor time of this process in so many seconds in which nobody calls."""
    before = time.process_time()
    threading.Event().wait(seconds)
    return time.process_time() - before
