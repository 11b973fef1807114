"""A server that has too little memory for what it does: renewals go on, who looks whether it lives is told so, and all
else is asked to come later."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.config import TRANSPORTS
from tests.support.attacks import Attacker
from tests.support.raw import RawClient, retry_info
from tests.support.servers import RegistryServer
from tests.support.waiting import until


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_renewals_go_on_where_all_else_is_refused(transport: str, tmp_path: Path) -> None:
    store, args = f"sqlite:{tmp_path / 'registry.db'}", ["--transport", transport]
    async with RegistryServer(tmp_path, store=store, args=args) as roomy, RawClient(roomy.address) as client:
        leases = [(await client.register(f"{number}", 1 + number, ttl_s=60.0)).lease_id for number in range(2)]
    (tmp_path / "limits.toml").write_text("[limits]\nmax_memory_mib = 1\n")
    args += ["--config", str(tmp_path / "limits.toml")]
    async with (
        RegistryServer(tmp_path, store=store, args=args, name="narrow") as narrow,
        RawClient(narrow.address) as client,
    ):
        await until(lambda: is_refused(client.list), what="reads to be refused")
        watch = client.stub.Watch(pb.WatchRequest())
        asks: list[Callable[[], Awaitable[Any]]] = [client.list, client.register, watch.read]
        for ask in asks:
            error = await refusal(ask)
            assert error.details() == "this server has little memory left; try again later"
            assert 1.0 <= retry_info(error) <= 3.0
        assert {it.state for it in await client.renew(*leases)} == {pb.Renewal.RENEWED}
        assert (await client.health.Check(health_pb2.HealthCheckRequest())).status
        assert (await client.deregister(lease_id=leases[1])).removed == 1
        assert narrow.log_text.count("overload") == 1


async def is_refused(ask: Callable[[], Awaitable[Any]]) -> bool:
    try:
        await ask()
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


async def refusal(ask: Callable[[], Awaitable[Any]]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asyncio.wait_for(ask(), 10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    return refused.value


async def test_whoever_waits_too_long_for_a_turn(tmp_path: Path) -> None:
    """A server that is kept busy, and takes five milliseconds for long: who renews goes on, and then others do."""
    (tmp_path / "limits.toml").write_text("[limits]\nmax_lag_ms = 5\n")
    async with RegistryServer(tmp_path, args=["--config", str(tmp_path / "limits.toml")]) as server:
        async with RawClient(server.address) as client:
            lease = (await client.register("one", ttl_s=30.0)).lease_id

            def watching() -> Awaitable[Any]:
                return client.stub.Watch(pb.WatchRequest()).read()

            with Attacker() as attacker:
                busy = asyncio.create_task(asyncio.to_thread(attacker.attack, "forgeries", server.address, 2.5))
                await until(lambda: is_refused(watching), what="streams to be refused")
                assert (await client.renew_one(lease)).state == pb.Renewal.RENEWED
                await busy
            await until(lambda: is_answered(watching), timeout_s=30.0, what="streams to be taken again")
        assert "this server has more to do than it can" in server.log_text


async def is_answered(ask: Callable[[], Awaitable[Any]]) -> bool:
    return not await is_refused(ask)
