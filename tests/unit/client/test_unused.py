"""A registration that is made and dropped does nothing, and says so."""

import gc
import logging
import subprocess
import sys
import warnings

import pytest

import registry_client
from registry_client import Instance, NeverRegistered, sync
from tests.support.servers import ROOT

NOBODY = "127.0.0.1:1"
PLAYER = Instance("player", "10.0.0.5", 8001)


async def test_what_is_never_entered_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with registry_client.connect(NOBODY) as registry:
        with pytest.warns(NeverRegistered, match=r"player at 10\.0\.0\.5:8001\) was never entered or awaited"):
            registry.register(PLAYER)  # its last reference is gone at once
    assert "player at 10.0.0.5:8001" in caplog.text


def test_threads_are_told_too() -> None:
    with sync.connect(NOBODY) as registry, pytest.warns(NeverRegistered, match="player at"):
        registry.register(PLAYER)


def test_it_is_a_warning_of_the_usual_kinds() -> None:
    assert issubclass(NeverRegistered, RuntimeWarning)
    assert issubclass(NeverRegistered, ResourceWarning)


def test_a_program_shows_it_without_being_asked() -> None:
    program = f"""
import asyncio, registry_client
async def main():
    async with registry_client.connect({NOBODY!r}) as registry:
        registry.register(registry_client.Instance("player", "10.0.0.5", 8001))
asyncio.run(main())
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=ROOT)
    assert done.returncode == 0
    assert "player at 10.0.0.5:8001" in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_what_was_used_or_ended_is_not_complained_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with registry_client.connect(NOBODY) as registry:
            await registry.register(PLAYER).aclose()
            with pytest.raises(registry_client.RegistryUnavailable):
                await registry.register(PLAYER, timeout=0.1)
        gc.collect()
    assert "never entered" not in caplog.text
