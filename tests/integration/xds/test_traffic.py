"""What a traffic policy does to calls: of gRPC's own xDS client in this process, and of Envoy before a plain one."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import pytest

import registry_client
from registry_client import (
    FailurePercentage,
    Instance,
    OutlierDetection,
    RegistryClient,
    Retries,
    TrafficPolicy,
    xds,
)
from tests.conftest import ServerFactory
from tests.support.waiting import until
from tests.support.xds_clients import bootstrap, envoy

METHOD = "/registry.test.Backend/Who"
SERVICE = "player"
PROXIES = ("c-core", "envoy")


@dataclass
class BackEnd:
    """Says its name; fails, or waits, as the test says."""

    name: str
    fails: bool = False
    calls: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def who(self, _request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        self.calls += 1
        if self.fails:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as the test says")
        await self.gate.wait()
        return self.name.encode()


@dataclass
class Stage:
    """The back ends a and b, a channel to them, and the policy of their service."""

    registry: RegistryClient
    them: dict[str, BackEnd]
    channel: grpc.aio.Channel

    async def put(self, **fields: object) -> None:
        await self.registry.policy.put(TrafficPolicy(SERVICE, **fields))  # type: ignore[arg-type]

    async def call(self, timeout: float = 20.0, key: str = "") -> str:
        metadata = (("player-id", key),) if key else ()
        answer: bytes = await self.channel.unary_unary(METHOD)(b"", timeout=timeout, metadata=metadata)
        return answer.decode()

    async def calls(self, count: int, key: str = "") -> Counter[str]:
        """Who answered how often; "" stands for calls that failed."""
        found: Counter[str] = Counter()
        for _ in range(count):
            try:
                found[await self.call(key=key)] += 1
            except grpc.aio.AioRpcError:
                found[""] += 1
        return found


@pytest.fixture(params=PROXIES)
async def stage(request: pytest.FixtureRequest, server_factory: ServerFactory, tmp_path: Path) -> AsyncIterator[Stage]:
    server = await server_factory(name="registry").start_async()
    async with contextlib.AsyncExitStack() as stack:
        registry = await stack.enter_async_context(registry_client.connect(server.address, cache_dir=None))
        them = {name: await _started(name, registry, stack) for name in "ab"}
        if request.param == "envoy":
            (given := tmp_path / "envoy.json").write_text(bootstrap(server.address, "--envoy"))
            address = await stack.enter_async_context(envoy(given, tmp_path / "envoy.log"))
            options = (("grpc.default_authority", SERVICE),)
            channel = grpc.aio.insecure_channel(address, options=options)
        else:
            channel = xds.aio.channel(SERVICE, registry=server.address)
        async with channel:
            it = Stage(registry, them, channel)
            await until(_answers(it, {"a", "b"}), timeout_s=30.0)
            yield it
            for back_end in them.values():
                back_end.gate.set()


async def _started(name: str, registry: RegistryClient, stack: contextlib.AsyncExitStack) -> BackEnd:
    back_end = BackEnd(name)
    server = grpc.aio.server()
    handlers = {"Who": grpc.unary_unary_rpc_method_handler(back_end.who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("registry.test.Backend", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    await stack.enter_async_context(registry.register(Instance(SERVICE, "127.0.0.1", port, id=name), drain=0))
    return back_end


def _answers(stage: Stage, names: set[str], count: int = 20) -> Callable[[], object]:
    async def is_so() -> bool:
        return (await stage.calls(count)).keys() == names

    return is_so


async def test_retries(stage: Stage) -> None:
    stage.them["a"].fails = True
    assert (await stage.calls(10))[""] > 0
    await stage.put(retries=Retries(4, backoff=0.005))
    await until(_answers(stage, {"b"}), timeout_s=30.0)
    await stage.registry.policy.delete(SERVICE)

    async def fails_again() -> bool:
        return (await stage.calls(10))[""] > 0

    await until(fails_again, timeout_s=30.0)


async def test_a_call_too_many(stage: Stage) -> None:
    await stage.put(circuit_breaking=2)
    for back_end in stage.them.values():
        back_end.gate.clear()

    async def is_refused() -> bool:
        calls = [asyncio.ensure_future(stage.call()) for _ in range(6)]
        done, under_way = await asyncio.wait(calls, timeout=1.0)
        for back_end in stage.them.values():
            back_end.gate.set()
        await asyncio.wait(calls)
        for back_end in stage.them.values():
            back_end.gate.clear()
        errors = [it.exception() for it in done]
        assert all(isinstance(it, grpc.aio.AioRpcError) for it in errors)
        assert {it.code() for it in errors if isinstance(it, grpc.aio.AioRpcError)} <= {grpc.StatusCode.UNAVAILABLE}
        return (len(done), len(under_way)) == (4, 2)

    await until(is_refused, timeout_s=30.0)


async def test_hashing(stage: Stage) -> None:
    await stage.put(balancing="RING_HASH", hash_header="player-id")
    keys = [str(number) for number in range(12)]

    async def is_sticky() -> bool:
        homes = [await stage.calls(4, key) for key in keys]
        return all(len(home) == 1 for home in homes) and len({next(iter(home)) for home in homes}) == 2

    await until(is_sticky, timeout_s=30.0)


async def test_an_instance_that_fails_is_ejected(stage: Stage) -> None:
    rule = FailurePercentage(threshold=50, minimum_hosts=1, request_volume=3)
    detection = OutlierDetection(
        failure_percentage=rule, interval=0.5, base_ejection_time=600.0, max_ejection_percent=50
    )
    await stage.put(outlier_detection=detection)
    stage.them["a"].fails = True

    async def is_ejected() -> bool:
        asked = stage.them["a"].calls
        return (await stage.calls(20)).keys() == {"b"} and stage.them["a"].calls == asked

    await until(is_ejected, timeout_s=60.0)


async def test_a_call_ends_when_its_time_is_over(stage: Stage) -> None:
    """How soon is not looked at: on some machines C-core's timeouts of routes come early."""
    await stage.put(timeout=5.0)
    for back_end in stage.them.values():
        back_end.gate.clear()
    loop = asyncio.get_running_loop()

    async def ends_by_the_policy() -> bool:
        began = loop.time()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stage.call(timeout=9.0)
        return error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED and loop.time() - began < 8.0

    await until(ends_by_the_policy, timeout_s=60.0)
