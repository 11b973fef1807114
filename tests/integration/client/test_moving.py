"""The name of a registry leads elsewhere: its clients are there before their leases run out."""

import asyncio

import pytest

import registry_client
from registry_client import State
from tests.integration.client.conftest import player
from tests.support.etcd import free_port
from tests.support.fake_registry import FakeRegistry, Store, serving, silent
from tests.support.names import name_server
from tests.support.waiting import eventually_async

TTL_S = 6


@pytest.mark.parametrize("old_one", ["is gone", "hangs"])
async def test_a_name_that_moves_is_followed(monkeypatch: pytest.MonkeyPatch, old_one: str) -> None:
    store, port = Store(), free_port()
    first, second = FakeRegistry(store=store), FakeRegistry(store=store)
    async with name_server("127.0.0.2") as names, serving(second, f"127.0.0.3:{port}"):
        monkeypatch.setattr(registry_client.client, "parse_addresses", lambda _: (names.target(port),))
        async with registry_client.connect("by name", cache_dir=None) as client:
            async with serving(first, f"127.0.0.2:{port}"):
                registration = await client.register(player("p1"), ttl=TTL_S, drain=0)
                names.address = "127.0.0.3"
                if old_one == "hangs":
                    await eventually_async(lambda: first.calls["renewal"] > 0)
                    first.spoil["renewal"] = silent
                    async with asyncio.timeout(TTL_S + 1):
                        await eventually_async(lambda: second.calls["renewal"] > 0)
            async with asyncio.timeout(TTL_S):
                await eventually_async(lambda: second.calls["renewal"] > 0)
            assert registration.state is State.REGISTERED
            assert registration.invisible_for is None
            await registration.aclose()
        assert names.asked >= 2
