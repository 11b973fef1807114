"""What clients tell of themselves in a Prometheus registry of the program's own: for asyncio and for threads."""

import asyncio
import gc
import re
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import balancer.metrics
import registry_client
from registry_client import InvalidArgument, NotFound, RegistryClient, RegistryError, sync
from registry_client.bridge.metrics import CLIENTS
from tests.integration.client.conftest import player
from tests.integration.client.test_registering import nobody_there
from tests.support.servers import RegistryServer
from tests.support.source import ROOT
from tests.support.waiting import eventually, eventually_async

NAME = "ours"
DOCUMENT = ROOT / "docs" / "metrics.md"


class Metrics(CollectorRegistry):
    """A registry, and what is in it by name and labels, in the order of their names."""

    def expose(self, thing: Any, **options: Any) -> None:
        registry_client.metrics.expose(thing, registry=self, **options)

    def all(self) -> dict[tuple[str, ...], float]:
        text = generate_latest(self).decode()
        samples = [it for family in text_string_to_metric_families(text) for it in family.samples]
        return {(it.name, *(value for _, value in sorted(it.labels.items()))): it.value for it in samples}

    def get(self, name: str, *labels: str) -> float | None:
        """Of the one client that there is."""
        return self.all().get((f"registry_client_{name}", NAME, *labels))

    def names(self) -> set[str]:
        return {it.labels.get("client") or it.labels["channel"] for family in self.collect() for it in family.samples}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def told(registry: RegistryClient, metrics: Metrics) -> Metrics:
    """Of a client for asyncio, which is open."""
    metrics.expose(registry, name=NAME)
    return metrics


async def test_what_is_asked_and_registered(registry: RegistryClient, told: Metrics) -> None:
    async with registry.register(player("p1"), ttl=2), registry.watch("player") as watch:
        await anext(watch)
        with pytest.raises(RegistryError):
            await registry.get("player", "nobody")
        given_up = asyncio.create_task(registry.list("player"))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert told.get("up") == 1
        assert told.get("calls_total", "NOT_FOUND") == 1
        assert told.get("calls_total", "CANCELLED") == 1
        assert told.get("registrations", "registered") == told.get("leases") == 1
        assert told.get("watches", "player") == told.get("watch_streams_total") == 1
        assert told.get("view_age_seconds", "player") == 0
        assert told.get("connections") == 2
        await eventually_async(lambda: told.get("renewals_total", "renewed"), what="a renewal is counted")
    assert told.get("registrations", "registered") is None
    assert told.get("watches", "player") is None
    assert told.get("calls_total", "OK") == 3  # Register, and two of Deregister


async def test_for_threads(server: RegistryServer, metrics: Metrics) -> None:
    def use() -> None:
        with sync.connect(server.address) as registry:
            metrics.expose(registry, name=NAME)
            with registry.register(player("p1"), ttl=2), registry.watch("player") as watch:
                next(watch)
                assert metrics.get("registrations", "registered") == metrics.get("watches", "player") == 1
                eventually(lambda: metrics.get("renewals_total", "renewed"), what="a renewal is counted")
                players = registry.balancer("player")
                metrics.expose(players)
                with players.request():
                    assert metrics.all()["balancer_picks_total", "endpoint", "player"] == 1
            with registry.channel("player") as channel:
                metrics.expose(channel)
                assert metrics.names() == {NAME, "player", "player-2"}
        players = None
        gc.collect()
        assert metrics.names() == set()

    await asyncio.to_thread(use)


async def test_discoveries(registry: RegistryClient, told: Metrics) -> None:
    players = registry.discover("player")
    await players.instances()
    await players.instances()
    with pytest.raises(NotFound):
        await registry.balancer("player").get()
    ends = [told.get("discoveries_total", end) for end in ("hit", "miss", "error")]
    assert ends == [2, 1, 0]


async def test_a_registry_that_is_away(server: RegistryServer, registry: RegistryClient, told: Metrics) -> None:
    """What is known grows old, and whoever asks is counted by how that ends."""
    async with registry.watch("player") as watch, registry.register(player("p1"), ttl=2, drain=0):
        await anext(watch)
        server.kill()
        with pytest.raises(RegistryError):
            await registry.list("player", timeout=0.5)
        assert told.get("calls_total", "UNAVAILABLE") == 1
        assert (told.get("retries_total") or 0) >= 1
        await eventually_async(lambda: told.get("up") == 0, what="it is down")
        await eventually_async(lambda: (told.get("view_age_seconds", "player") or 0) > 0, what="the view is old")
        await server.start_async()
        await eventually_async(lambda: told.get("up") == 1, what="it is up again")
        await eventually_async(lambda: told.get("view_age_seconds", "player") == 0, what="the view is confirmed")


async def test_a_view_that_never_was_is_as_old_as_the_question(metrics: Metrics) -> None:
    async with registry_client.connect(nobody_there(), cache_dir=None) as registry:
        metrics.expose(registry, name=NAME)
        async with registry.watch("player"):
            await eventually_async(lambda: (metrics.get("view_age_seconds", "player") or 0) > 0)


async def test_several_registries(server: RegistryServer, metrics: Metrics) -> None:
    both = registry_client.connect_many({"primary": server.address, "backup": "memory:"})
    async with both:
        metrics.expose(both, name="our")
        assert metrics.names() == {"our-primary", "our-backup", "our-reading"}
        async with both.watch("player") as watch:
            await anext(watch)
            assert metrics.all()["registry_client_view_age_seconds", "our-reading", "player"] == 0
        await both["primary"].list("player")
        assert metrics.all()["registry_client_calls_total", "our-primary", "OK"] == 1
    assert metrics.names() == set()


def test_several_registries_for_threads(server: RegistryServer, metrics: Metrics) -> None:
    with sync.connect_many({"primary": server.address, "backup": "memory:"}) as both:
        metrics.expose(both)
        both.list("player")
        assert metrics.names() == {"primary", "backup", "reading"}
        assert metrics.all()["registry_client_calls_total", "reading", "OK"] == 1


async def test_by_the_addresses_where_nobody_names_it(server: RegistryServer, metrics: Metrics) -> None:
    for _ in range(2):
        async with registry_client.connect(server.address) as registry:
            metrics.expose(registry)
            metrics.expose(registry)
            assert metrics.names() == {server.address}
        del registry
        gc.collect()


async def test_a_closed_client_may_be_entered_again(server: RegistryServer, metrics: Metrics) -> None:
    client = registry_client.connect(server.address)
    metrics.expose(client, name=NAME)
    for _ in range(2):
        assert metrics.names() == set()
        async with client:
            await client.list("player")
            assert metrics.get("calls_total", "OK") == 1


async def test_balancers_with_calls_by_name(registry: RegistryClient, server: RegistryServer, metrics: Metrics) -> None:
    """The registry itself is what is called."""
    host, _, port = server.address.rpartition(":")
    itself = registry_client.Instance(service="registry", host=host, port=int(port))
    async with registry.register(itself), registry.balancer("registry") as found:
        metrics.expose(found, name="itself")
        for _ in range(2):
            await found.call("/grpc.health.v1.Health/Check", b"")
        assert metrics.all()["balancer_calls_total", "itself-2", "OK"] == 2
        await found.aclose()
        await found.call("/grpc.health.v1.Health/Check", b"")
        assert metrics.all()["balancer_calls_total", "itself-2", "OK"] == 1


@pytest.mark.parametrize("make", [lambda: "player", lambda: None, object, lambda: registry_client.Backoff()])
def test_what_has_nothing_to_tell_is_refused(make: Callable[[], object], metrics: Metrics) -> None:
    with pytest.raises(InvalidArgument, match="must be a client, a balancer, or a channel"):
        metrics.expose(make())
    with pytest.raises(InvalidArgument, match="name"):
        metrics.expose(registry_client.connect("127.0.0.1:1"), name=b"bytes")
    assert metrics.names() == set()


async def test_every_metric_is_in_the_document_with_its_labels(registry: RegistryClient, told: Metrics) -> None:
    """None is there that is not told, and none is told that is not there."""
    told.expose(registry.balancer("player"))
    rows = re.findall(r"^\| `((?:registry_client|balancer)_[a-z_]+)` \| ([^|]*) \|", DOCUMENT.read_text(), re.MULTILINE)
    described = {name: re.findall("`([a-z]+)`", labels) for name, labels in rows}
    families = [*balancer.metrics.NUMBERS.families(()), *CLIENTS.families(())]
    assert described == {it.name: list(it._labelnames) for it in families}
    assert {it.name for it in told.collect()} == set(described)
