"""/metrics of a server that is used: every number that is named is there, and right where it can be counted here."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import registry_client
from registry_client import Instance
from registry_server.config import Config
from registry_server.metrics.exposition import Texts
from registry_server.server import serve
from tests.support.access import granted, token
from tests.support.etcd import free_port
from tests.support.source import ROOT
from tests.support.waiting import eventually_async

HOST = "127.0.0.1"
DASHBOARD = ROOT / "deploy" / "grafana" / "grpc-registry.json"
DOCUMENT = ROOT / "docs" / "metrics.md"


class Running:
    def __init__(self, address: str, admin: str) -> None:
        self.address = address
        self.admin = admin

    async def text(self, **headers: str) -> str:
        async with ClientSession() as session, session.get(f"http://{self.admin}/metrics", headers=headers) as it:
            assert it.status == 200
            return await it.text()

    async def samples(self) -> dict[tuple[str, ...], float]:
        """By their names and their labels' values, in the order of the labels' names."""
        samples = [it for family in text_string_to_metric_families(await self.text()) for it in family.samples]
        return {(it.name, *(value for _, value in sorted(it.labels.items()))): it.value for it in samples}

    async def names(self) -> set[str]:
        return {name for name, *_ in await self.samples()}


@pytest.fixture
def admin() -> str:
    return f"{HOST}:{free_port()}"


@pytest.fixture
async def running(admin: str) -> AsyncIterator[Running]:
    async with serve(Config(listen=f"{HOST}:0", admin=admin)) as address:
        yield Running(address, admin)


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=1.0.0",
        "application/openmetrics-text; version=abc",
        "text/plain; version=; escaping=nonsense",
        "image/png;q=nan",
        ";;=,",
    ],
)
async def test_whatever_somebody_says_to_take(running: Running, accept: str, caplog: pytest.LogCaptureFixture) -> None:
    assert "registry_store_up 1.0" in await running.text(Accept=accept)
    assert not [it for it in caplog.records if it.levelname == "ERROR"]


@pytest.mark.parametrize(
    ("accept", "is_open"),
    [
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4", True),
        ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4", False),
        ("application/openmetrics-text;q=0, */*", False),
        ("application/openmetrics-text;version=99.0.0, text/plain;q=0.1", False),
        ("text/html;q=0.9, Application/OpenMetrics-Text; Q=0.2; version=1.0.0", True),
        ("text/plain;q=0, application/openmetrics-text;q=0.1", True),
        ("*/*", False),
    ],
)
async def test_who_prefers_a_form_gets_that(running: Running, accept: str, is_open: bool) -> None:
    assert (await running.text(Accept=accept)).endswith("# EOF\n") is is_open


async def test_what_is_done_is_counted(running: Running) -> None:
    player = Instance(service="player", host="10.0.0.5", port=1)
    async with (
        registry_client.connect(running.address) as registry,
        registry.register(player),
        registry.watch("player"),
    ):
        await eventually_async(lambda: _has(running, "registry_streams", "registry.v1.Registry/Watch"))
        with pytest.raises(registry_client.RegistryError):
            await registry.get("player", "nobody")
        found = await running.samples()
    assert found["registry_calls_total", "OK", "registry.v1.Registry/Register"] == 1
    assert found["registry_calls_total", "NOT_FOUND", "registry.v1.Registry/Get"] == 1
    assert found["registry_instances",] == found["registry_services",] == found["registry_leases",] == 1
    assert found["registry_watch_readers",] >= 1
    assert found["registry_watch_messages_total",] >= 1
    assert found["registry_watch_bytes_total",] > 0
    assert found["registry_call_seconds_count", "registry.v1.Registry/Register"] == 1
    assert found["registry_store_calls_total", "commit", "ok"] >= 1
    assert found["registry_store_up",] == 1
    assert found["process_resident_memory_bytes",] > 1e6


async def _has(running: Running, *name: str) -> bool:
    return (await running.samples()).get(name, 0) >= 1


async def test_what_is_refused_is_counted(admin: str) -> None:
    config = Config(listen=f"{HOST}:0", admin=admin, access=granted())
    async with serve(config) as address, ClientSession() as session:
        url = f"http://{admin}/metrics"
        assert (await session.get(url)).status == 401
        assert (await session.get(url, headers={"Authorization": f"Bearer {token('reader')}"})).status == 403
        async with registry_client.connect(address, token="rg_wrong") as registry:
            with pytest.raises(registry_client.RegistryError):
                await registry.list("player")
        answered = await session.get(url, headers={"Authorization": f"Bearer {token('root')}"})
        text = await answered.text()
    assert re.search(r'registry_calls_total\{code="UNAUTHENTICATED",method="registry.v1.Registry/List"\} 1', text)


async def test_openmetrics_for_who_asks_for_it(running: Running) -> None:
    text = await running.text(Accept="application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")


async def test_the_dashboard_asks_for_what_there_is(running: Running) -> None:
    async with registry_client.connect(running.address) as registry:
        await registry.list("player")
    names = await running.names()
    asked = set(_asked(json.loads(DASHBOARD.read_text())))
    assert asked
    assert asked - names - {f"registry_{it}_bucket" for it in ("call_seconds", "store_call_seconds")} <= UNTIL_THEY_ARE


def test_the_dashboard_asks_rightly_of_each_kind() -> None:
    """What only grows is asked how fast it does, what does not is shown as it is; several servers of several registries
    are told apart by what the legend names, or put together on purpose."""
    targets = [it for panel in json.loads(DASHBOARD.read_text())["panels"] for it in panel["targets"]]
    assert targets
    for expression, legend in ((it["expr"], it["legendFormat"]) for it in targets):
        for selected in re.finditer(r"(rate\()?\b((?:registry|process)_[a-z_]+)\{([^}]*)\}", expression):
            rate, name, labels = selected.groups()
            assert (rate is not None) == name.endswith(("_total", "_bucket")), expression
            assert labels.startswith('job=~"$job",instance=~"$instance"'), expression
        by = re.search(r"\bby \(([^)]*)\)", expression)
        put_together = expression.startswith(("sum(", "max("))
        kept = [] if put_together else by[1].split(", ") if by else ["instance"]
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) == {*kept} - {"le"}, expression


# What has samples only when it has happened.
UNTIL_THEY_ARE = {"registry_refused_total", "registry_store_calls_total"}


def _asked(part: Any) -> Any:
    if isinstance(part, dict):
        if isinstance(part.get("expr"), str):
            yield from re.findall(r"\b(?:registry|process)_[a-z_]+", part["expr"])
        for it in part.values():
            yield from _asked(it)
    elif isinstance(part, list):
        for it in part:
            yield from _asked(it)


@pytest.mark.parametrize(("file", "end", "other"), [("audit.log", "written", "lost"), ("/dev/full", "lost", "written")])
async def test_what_becomes_of_the_audit_log(admin: str, tmp_path: Path, file: str, end: str, other: str) -> None:
    config = Config(listen=f"{HOST}:0", admin=admin, audit_log=str(tmp_path / file))
    async with serve(config) as address, registry_client.connect(address) as registry:
        running, player = Running(address, admin), Instance(service="player", host="10.0.0.5", port=1)
        async with registry.register(player):
            await eventually_async(lambda: _has(running, "registry_audit_lines_total", end), what="it is counted")
        assert not await _has(running, "registry_audit_lines_total", other)


async def test_every_metric_is_in_the_document(running: Running) -> None:
    families = text_string_to_metric_families(await running.text())
    there = {it.name for it in families if it.name.startswith("registry_")}
    described = set(re.findall(r"^\| `(registry_[a-z_]+)`", DOCUMENT.read_text(), re.MULTILINE))
    assert {it for it in described if not it.startswith("registry_client_")} == there


async def test_many_who_ask_at_once_cost_what_a_few_do() -> None:
    """And each is told what is true after it asked."""
    now, written = 0.0, 0

    def encode(_: CollectorRegistry) -> bytes:
        nonlocal written
        written += 1
        return str(written).encode()

    texts = Texts(CollectorRegistry(), lambda: now)
    asked = [asyncio.create_task(texts.newest(encode, "text")) for _ in range(100)]
    assert {await it for it in asked} == {b"1"}
    now = 1.0
    assert await texts.newest(encode, "text") == b"2"
    assert await texts.newest(encode, "another kind") == b"3"


async def test_it_takes_a_tenth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def encode(_: CollectorRegistry) -> bytes:
        nonlocal now
        now += 0.5
        return b""

    monkeypatch.setattr(asyncio, "sleep", sleep)
    texts = Texts(CollectorRegistry(), lambda: now)
    for _ in range(10):
        await texts.newest(encode, "text")
        now += 1e-6
    assert now == pytest.approx(9 * 5.0 + 0.5, abs=1e-3)
