"""`registry_client.testing` and the fixtures for pytest: what docs/testing.md promises."""

import asyncio
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import registry_client
from registry_client import HealthCheck, Instance, InvalidArgument, sync, testing
from tests.integration.client.conftest import ids, player, until
from tests.support.source import ROOT

TTL_S = 60.0
DOCUMENT = (ROOT / "docs/testing.md").read_text()


async def test_who_is_renewed_by_nobody_leaves_by_the_clock_alone() -> None:
    clock = testing.Clock()
    async with testing.registry(clock) as address, registry_client.connect(address) as registry:
        testing.register_once(address, player("a"), ttl=TTL_S)
        async with registry.watch("player") as watch:
            await until(watch, lambda view: ids(view) == ["a"])
            clock.advance(TTL_S - 5)
            assert [it.id for it in await registry.list("player")] == ["a"]
            clock.advance(6)
            view = await until(watch, lambda view: not ids(view))
    assert view.changes.removed[0].cause is registry_client.Cause.EXPIRED


async def test_who_is_alive_comes_back() -> None:
    """The registry's time went on and his did not, so it has forgotten him: that he is told with his next renewal."""
    clock = testing.Clock()
    async with testing.registry(clock) as address, registry_client.connect(address) as registry:
        watch = registry.watch("player")
        async with registry.register(player("a"), ttl=2) as registration, watch:
            registered_at = registration.instance.revision
            await until(watch, lambda view: ids(view) == ["a"])
            clock.advance(3)
            await until(watch, lambda view: not ids(view))
            view = await until(watch, lambda view: ids(view) == ["a"])
    assert view.instances[0].revision > registered_at


async def test_checks_look_as_often_as_the_clock_says() -> None:
    """Nobody listens at that port: three looks, and it is sick; with the first look a minute later it is gone."""
    clock = testing.Clock()
    sick = HealthCheck.tcp(port=1, interval=20, failures=3, deregister_after=60)
    async with testing.registry(clock) as address, registry_client.connect(address) as registry:
        testing.register_once(address, Instance("player", "127.0.0.1", 8001, "a", checks=[sick]), ttl=3600)
        async with registry.watch("player") as watch:
            await until(watch, lambda view: view.instances[0].health == "UNKNOWN")
            clock.advance(61)
            view = await until(watch, lambda view: view.instances[0].health == "UNHEALTHY")
            assert view.instances[0].check_results[0].failures >= 3
            clock.advance(81)
            await until(watch, lambda view: not ids(view))


async def test_an_owner_that_does_not_report_is_sick_by_the_clock() -> None:
    clock = testing.Clock()
    check = HealthCheck.ttl(interval=30, failures=1, successes=1)
    async with testing.registry(clock) as address, registry_client.connect(address) as registry:
        instance = Instance("player", "127.0.0.1", 8001, "a", checks=[check])
        async with registry.register(instance, ttl=3600, drain=0) as owner, registry.watch("player") as watch:
            await owner.update(health="HEALTHY")
            await until(watch, lambda view: bool(ids(view)) and view.instances[0].health == "HEALTHY")
            clock.advance(100)
            await until(watch, lambda view: view.instances[0].health == "UNHEALTHY")
            await owner.update(health="HEALTHY")
            await until(watch, lambda view: view.instances[0].health == "HEALTHY")


async def test_a_loop_that_stands_still_is_answered() -> None:
    """It runs in a thread of its own."""
    async with testing.registry() as address:
        with sync.connect(address) as registry:
            assert registry.list() == []


def test_without_asyncio() -> None:
    with testing.registry() as address, sync.connect(address) as registry:
        assert testing.register_once(address, player("a")).id == "a"
        assert [it.id for it in registry.list("player")] == ["a"]


async def test_two_are_two() -> None:
    async with testing.registry() as one, testing.registry() as two:
        testing.register_once(one, player("a"))
        async with registry_client.connect(two) as registry:
            assert await registry.list() == []


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        testing.Clock().advance(-1)
    with pytest.raises(InvalidArgument, match="ttl"):
        testing.register_once("127.0.0.1:1", player("a"), ttl=0)
    with pytest.raises(registry_client.RegistryUnavailable):
        testing.register_once("127.0.0.1:1", player("a"))


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with testing.registry() as address:
        assert testing.register_once(address, player("a")).id == "a"


def test_a_block_that_raises_leaves_no_thread() -> None:
    with pytest.raises(KeyError), testing.registry():
        raise KeyError


async def test_an_entering_that_is_cancelled_ends_by_itself() -> None:
    running = testing.registry()
    entering = asyncio.create_task(running.__aenter__())
    await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering


# ---- the plug-in


def run_pytest(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    """As a user runs it, with the plug-ins that are named and no others."""
    (directory / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", PLUGIN, "-p", "pytest_asyncio.plugin"]
    return subprocess.run(
        [
            *command,
            "--asyncio-mode=auto",
            "-o",
            "asyncio_default_fixture_loop_scope=function",
            "-W",
            "error",
            str(directory),
        ],
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


PLUGIN = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]["grpc_registry"]


def test_the_document_runs(tmp_path: Path) -> None:
    programs = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert len(programs) >= 2
    done = run_pytest(tmp_path, "\n\n".join(programs))
    assert done.returncode == 0, done.stdout
    assert f"{sum(text.count('def test_') for text in programs)} passed" in done.stdout


def test_an_environment_that_merely_has_it_imports_nothing(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path, "import sys\ndef test_it():\n    assert not {'grpc', 'registry_client'} & set(sys.modules)\n"
    )
    assert done.returncode == 0, done.stdout
