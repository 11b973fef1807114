"""A client with more watches than a registry takes streams on a connection, and what it says of an outage."""

import asyncio
import contextlib
import logging
import time

import pytest

import registry_client
from tests.integration.client.conftest import WAIT_S, player
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async, passed
from tests.support.waiting import until as until_async

MANY = 350


async def test_many_watches_of_one_client_are_all_answered_and_an_outage_is_a_handful_of_lines(
    server: RegistryServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        registry_client.connect(server.address, cache_dir=None) as registry,
        contextlib.AsyncExitStack() as stack,
    ):
        for number in range(50):
            await stack.enter_async_context(registry.register(player(f"p{number}", 8001 + number), ttl=5, drain=0))
        watches = [registry.watch(f"service-{number}") for number in range(MANY)]
        async with asyncio.timeout(60):
            await asyncio.gather(*(anext(watch) for watch in watches))
        with caplog.at_level(logging.INFO):
            server.kill()
            await eventually_async(lambda: all(_is_stale(watch) for watch in watches), timeout_s=WAIT_S)
            await passed(3.0)
            await server.start_async()
            await eventually_async(lambda: not any(_is_stale(watch) for watch in watches), timeout_s=60)

            async def are_back() -> bool:
                return len(await registry.list("player")) == 50

            await until_async(are_back, timeout_s=WAIT_S)
        lines = [it for it in caplog.records if it.name.startswith("registry_client")]
        assert 1 <= len(lines) <= 6, [it.getMessage() for it in lines]


@pytest.mark.parametrize("is_mute", [False, True])
async def test_a_watch_says_after_a_second_what_is_tried_and_why_it_fails(
    is_mute: bool, server: RegistryServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listens, or nobody answers who does."""
    server.pause() if is_mute else server.kill()
    why = ("no answer", "not answer", "timed out") if is_mute else ("refused",)
    async with registry_client.connect(server.address, cache_dir=None) as registry:
        began, watch = time.time(), registry.watch("player")

        def lines() -> list[str]:
            return [it.getMessage() for it in caplog.records if it.name.startswith("registry_client")]

        await eventually_async(lambda: lines() and watch.trouble)
        assert min(it.created for it in caplog.records) - began > 0.9, "it has had a second"
        for text in (*lines(), watch.trouble):
            assert server.address in text
            assert any(reason in text for reason in why)
        await passed(3.0)
        assert len(lines()) == 1
        if is_mute:
            server.resume()
        else:
            await server.start_async()
        async with asyncio.timeout(WAIT_S):
            assert (await anext(watch)).stale_for is None
        assert watch.trouble == ""


def _is_stale(watch: registry_client.Watch) -> bool:
    return watch.view is None or watch.view.stale_for is not None
