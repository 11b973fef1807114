"""A client with more watches than a registry takes streams on a connection."""

import asyncio
import logging

import pytest

import registry_client
from tests.integration.client.conftest import WAIT_S
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async

MANY = 350


async def test_many_watches_of_one_client_are_all_answered_and_an_outage_is_a_handful_of_lines(
    server: RegistryServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with registry_client.connect(server.address, cache_dir=None) as registry:
        watches = [registry.watch(f"service-{number}") for number in range(MANY)]
        async with asyncio.timeout(60):
            await asyncio.gather(*(anext(watch) for watch in watches))
        with caplog.at_level(logging.INFO):
            server.kill()
            await eventually_async(lambda: all(_is_stale(watch) for watch in watches), timeout_s=WAIT_S)
            await eventually_async(lambda: _said(caplog), timeout_s=WAIT_S)
            await server.start_async()
            await eventually_async(lambda: not any(_is_stale(watch) for watch in watches), timeout_s=60)
        assert 1 <= len(_said(caplog)) <= 6, [it.getMessage() for it in _said(caplog)]


def _said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [it for it in caplog.records if it.name.startswith("registry_client")]


def _is_stale(watch: registry_client.Watch) -> bool:
    return watch.view is None or watch.view.stale_for is not None
