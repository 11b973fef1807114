"""Back ends that are restarted, killed and stopped under constant calls."""

import asyncio
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest

from balancer import Endpoint, OutlierOptions, PoolOptions, StaticResolver
from balancer.channels.options import ChannelOptions
from tests.support.interop_backend import GRACE_S
from tests.support.interop_fleet import Caller, endpoints, fleet
from tests.support.waiting import eventually_async

CALLERS = 8
BOTH = pytest.mark.parametrize("kind", ["aio", "sync"])
TIMEOUT_S = 10.0


class Load:
    """Constant calls from several callers at once, counted by the back end that answered."""

    def __init__(self, caller: Caller, *, timeout_s: float = TIMEOUT_S) -> None:
        self.answers: Counter[int] = Counter()
        self.failures: list[tuple[float, grpc.RpcError]] = []
        self._caller = caller
        self._timeout_s = timeout_s
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._run()) for _ in range(CALLERS)]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _run(self) -> None:
        while not self._stopping:
            try:
                answer = await self._caller.call({"sleep_s": 0.002}, timeout=self._timeout_s)
            except grpc.RpcError as error:
                self.failures.append((time.monotonic(), error))
            else:
                self.answers[answer["id"]] += 1

    async def goes_on(self, calls: int = 100) -> None:
        """Waits until so many more calls were answered."""
        target = self.answers.total() + calls
        await eventually_async(lambda: self.answers.total() >= target, timeout_s=30, what="calls are answered")

    async def reaches(self, port: int) -> None:
        """Waits until the back end at `port` answers more calls than by now."""
        before = self.answers[port]
        await eventually_async(lambda: self.answers[port] > before, timeout_s=30, what=f"{port} is called")


@BOTH
async def test_rolling_restart_with_drain_fails_no_call(kind: str, tmp_path: Path) -> None:
    with fleet(tmp_path, 3) as servers:
        resolver = StaticResolver(endpoints(servers))
        async with Caller(kind, resolver) as caller, Load(caller) as load:
            await load.goes_on()
            for server in servers:
                others = [other for other in servers if other is not server]
                resolver.replace(endpoints(others))
                await load.goes_on(10 * CALLERS)  # the drain: what was under way there ends meanwhile
                assert await server.terminate_async() == 0
                await load.goes_on()
                await server.start_async()
                resolver.replace(endpoints(servers))
                await load.reaches(server.port)
        assert load.failures == []


# grpc.aio's server itself answers so to calls that reach it just as it begins to stop; a plain channel sees
# them as well.
SERVER_STOPS = {"CANCELLED", "Cancelling all calls"}


@BOTH
async def test_graceful_restart_without_deregistering_loses_no_call(kind: str, tmp_path: Path) -> None:
    """The server says GOAWAY and finishes what it has: the channel loses nothing, and refused calls go elsewhere."""
    with fleet(tmp_path, 3) as servers:
        async with (
            Caller(kind, StaticResolver(endpoints(servers))) as caller,
            Load(caller, timeout_s=GRACE_S + TIMEOUT_S) as load,  # the server is the one that gives up
        ):
            await load.goes_on()
            for server in servers:
                assert await server.terminate_async() == 0
                await load.goes_on()
                await server.start_async()
                await load.reaches(server.port)
        assert {error.details() for _, error in load.failures} <= SERVER_STOPS


@BOTH
async def test_endpoints_that_come_and_go_fail_no_call(kind: str, tmp_path: Path) -> None:
    """The set changes all the time, under calls: whatever was picked just before still gets through."""
    with fleet(tmp_path, 3) as servers:
        resolver = StaticResolver(endpoints(servers))
        async with Caller(kind, resolver) as caller, Load(caller) as load:
            for turn in range(60):
                out = servers[turn % 3]
                resolver.replace(endpoints([server for server in servers if server is not out]))
                await load.goes_on(5)
        assert load.failures == []


@BOTH
async def test_kill_fails_at_most_the_calls_in_flight(kind: str, tmp_path: Path) -> None:
    with fleet(tmp_path, 3) as servers:
        async with Caller(kind, StaticResolver(endpoints(servers))) as caller, Load(caller) as load:
            await load.goes_on()
            await asyncio.to_thread(servers[0].kill)
            await load.goes_on(300)
            killed = len(load.failures)
            await load.goes_on(300)
            assert len(load.failures) == killed
        assert killed <= CALLERS
        assert {error.code() for _, error in load.failures} <= {grpc.StatusCode.UNAVAILABLE}


@BOTH
async def test_killed_back_end_comes_back(kind: str, tmp_path: Path) -> None:
    with fleet(tmp_path, 2) as servers:
        async with Caller(kind, StaticResolver(endpoints(servers))) as caller, Load(caller) as load:
            await load.goes_on()
            await asyncio.to_thread(servers[0].kill)
            await load.goes_on()
            await servers[0].start_async()
            await load.reaches(servers[0].port)


@BOTH
async def test_stopped_back_end_is_ejected(kind: str, tmp_path: Path) -> None:
    """A process that neither answers nor dies: its calls run into their deadlines until outlier detection ejects it."""
    outlier = OutlierOptions(consecutive_failures=3, base_ejection_s=60, max_ejection_percent=33)  # one of three
    options = ChannelOptions(pool=PoolOptions(outlier=outlier))
    with fleet(tmp_path, 3) as servers:
        async with (
            Caller(kind, StaticResolver(endpoints(servers)), balancing=options) as caller,
            Load(caller, timeout_s=1.5) as load,  # longer than a busy machine holds up those who do answer
        ):
            await load.goes_on()
            servers[0].pause()

            def ejected() -> list[str]:
                return [node.address for node in caller.channel.stats().nodes if node.ejected_since is not None]

            await eventually_async(ejected, timeout_s=60, what="the stopped back end is ejected")
            assert ejected() == [servers[0].address]
            await eventually_async(lambda: _in_flight(caller, servers[0].address) == 0)
            await load.goes_on(CALLERS)
            failed = len(load.failures)
            await load.goes_on(300)
            assert len(load.failures) == failed
            servers[0].resume()
        assert {error.code() for _, error in load.failures} <= {grpc.StatusCode.DEADLINE_EXCEEDED}


def _in_flight(caller: Caller, address: str) -> int:
    return next(node.in_flight for node in caller.channel.stats().nodes if node.address == address)


@BOTH
async def test_removed_endpoint_finishes_its_calls(kind: str, tmp_path: Path) -> None:
    with fleet(tmp_path, 2) as servers:
        first, second = servers
        resolver = StaticResolver([Endpoint(first.address)])
        async with Caller(kind, resolver) as caller:
            await caller.ready()
            slow = asyncio.create_task(caller.call({"sleep_s": 1.0}))
            await eventually_async(lambda: _in_flight(caller, first.address) == 1)
            resolver.replace([Endpoint(second.address)])
            await eventually_async(lambda: [node.address for node in caller.channel.stats().nodes] == [second.address])
            assert (await caller.call())["id"] == second.port
            assert (await slow)["id"] == first.port


@BOTH
async def test_nobody_there_is_unavailable_at_once(kind: str, tmp_path: Path) -> None:
    with fleet(tmp_path, 1) as servers:
        address = servers[0].address
        servers[0].kill()
        async with Caller(kind, StaticResolver([Endpoint(address)])) as caller:
            with pytest.raises(grpc.RpcError) as raised:
                await caller.call(timeout=TIMEOUT_S)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            assert raised.value.details().startswith("failed to connect to all addresses; last error: ")


@BOTH
async def test_wait_for_ready_waits_for_the_back_end(kind: str, tmp_path: Path) -> None:
    with fleet(tmp_path, 1) as servers:
        address = servers[0].address
        servers[0].kill()
        async with Caller(kind, StaticResolver([Endpoint(address)])) as caller:
            waiting = asyncio.create_task(caller.call(wait_for_ready=True, timeout=20))
            stream = asyncio.create_task(caller.stream({"responses": 2}, wait_for_ready=True, timeout=20))
            await eventually_async(lambda: _state(caller) == "TRANSIENT_FAILURE")
            assert not waiting.done()
            await servers[0].start_async()
            assert (await waiting)["id"] == servers[0].port
            assert len(await stream) == 2


@BOTH
@pytest.mark.parametrize("what", ["call", "future", "stream", "collect", "chat"])
async def test_deadline_runs_while_waiting(kind: str, what: str) -> None:
    """A resolver that knows nothing yet: every kind of call waits, and ends at its own deadline."""
    async with Caller(kind, Silent()) as caller:
        plan = {} if what in ("call", "future", "stream") else [{}]
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as raised:
            await getattr(caller, what)(plan, timeout=0.2)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0.15 < time.monotonic() - started < 5


class Silent(StaticResolver):
    async def run(self, push: object) -> None:
        await asyncio.get_running_loop().create_future()


def _state(caller: Caller) -> str:
    statistics = caller.channel.stats()
    return "" if statistics is None else statistics.state.name
