"""What channels and balancers tell of themselves in a Prometheus registry of the program's own."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import balancer.metrics
import registry_client.metrics
from balancer import (
    Endpoint,
    Failed,
    LoadBalancer,
    NoEndpointError,
    OutlierOptions,
    PoolOptions,
    StaticResolver,
    blocking_channel,
)
from balancer.channels.options import ChannelOptions
from tests.support.interop_backend import SERVICE
from tests.support.interop_fleet import Caller, endpoints, fleet
from tests.support.servers import ROOT, ServerProcess
from tests.support.waiting import eventually_async

BOTH = pytest.mark.parametrize("kind", ["aio", "sync"])
RETRYING = {
    "maxAttempts": 3,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
HEDGING = {"maxAttempts": 2, "hedgingDelay": "0.01s", "nonFatalStatusCodes": ["UNAVAILABLE"]}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    with fleet(tmp_path_factory.mktemp("backends"), 2) as started:
        yield started


class Metrics(CollectorRegistry):
    """A registry, and what is in it by name and the values of its labels but for that of `of`."""

    def __init__(self, of: str = "static") -> None:
        super().__init__()
        self.of = of

    def expose(self, thing: Any, **options: Any) -> None:
        balancer.metrics.expose(thing, registry=self, **options)

    def all(self) -> dict[tuple[str, ...], float]:
        text = generate_latest(self).decode()
        samples = [it for family in text_string_to_metric_families(text) for it in family.samples]
        return {
            (it.name, *(value for name, value in sorted(it.labels.items()) if name != "channel")): it.value
            for it in samples
            if it.labels["channel"] == self.of
        }

    def names(self) -> set[str]:
        return {it.labels["channel"] for family in self.collect() for it in family.samples}

    def get(self, *name: str) -> float:
        return self.all().get((f"balancer_{name[0]}", *name[1:]), 0.0)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def caller(kind: str, servers: list[ServerProcess], policy: dict[str, Any] | None = None, **options: Any) -> Caller:
    method = {"name": [{"service": SERVICE}], **(policy or {})}
    given = [("grpc.service_config", json.dumps({"methodConfig": [method]}))]
    return Caller(kind, StaticResolver(endpoints(servers)), options=given, **options)


@BOTH
async def test_calls_of_every_kind_are_counted_by_how_they_end(
    kind: str, servers: list[ServerProcess], metrics: Metrics
) -> None:
    async with caller(kind, servers) as channel:
        metrics.expose(channel.channel)
        await channel.ready()
        for _ in range(3):
            await channel.call()
        await channel.future({})
        await channel.stream({"responses": 2})
        await channel.collect([{}, {}])
        await channel.chat([{}, {}])
        for method in (channel.call, channel.stream, channel.future):
            with pytest.raises(grpc.RpcError):
                await method({"fail": ["NOT_FOUND"]})
        with pytest.raises(grpc.RpcError):
            await channel.call({"sleep_s": 5}, timeout=0.1)
        await eventually_async(lambda: metrics.get("calls_total", "OK") == 7, what="all are counted")
        await eventually_async(lambda: metrics.get("calls_total", "NOT_FOUND") == 3, what="all are counted")
        assert metrics.get("calls_total", "DEADLINE_EXCEEDED") == 1
        assert metrics.get("picks_total", "endpoint") == 11
        assert metrics.get("attempts_in_flight") == 0
        assert metrics.get("call_seconds_count") == 7, "of streams it would say nothing"
        assert metrics.get("call_seconds_bucket", "0.05") <= 6
        assert metrics.get("call_seconds_sum") >= 0.1
        assert metrics.get("endpoints", "ready") == metrics.get("connections") == 2
        assert metrics.get("view_age_seconds") == 0


@BOTH
async def test_a_stream_that_is_dropped_is_a_call_that_was_cancelled(
    kind: str, servers: list[ServerProcess], metrics: Metrics
) -> None:
    async with caller(kind, servers) as channel:
        metrics.expose(channel.channel)
        await channel.ready()
        stream = channel.channel.unary_stream(f"/{SERVICE}/Stream", None, None)(b'{"sleep_s": 30}')
        await eventually_async(lambda: metrics.get("attempts_in_flight") == 1, what="it is under way")
        del stream
        await eventually_async(lambda: gc.collect() >= 0 and metrics.get("calls_total", "CANCELLED") == 1)
        assert metrics.get("attempts_in_flight") == 0


@BOTH
async def test_a_stream_that_is_cancelled_and_then_dropped_is_counted_once(
    kind: str, servers: list[ServerProcess], metrics: Metrics
) -> None:
    """Also one that was the first, and waited for an endpoint."""
    async with caller(kind, servers) as channel:
        metrics.expose(channel.channel)
        stream = channel.channel.unary_stream(f"/{SERVICE}/Stream", None, None)(b'{"sleep_s": 30}')
        await eventually_async(lambda: metrics.get("attempts_in_flight") == 1, what="it is under way")
        stream.cancel()
        del stream
        await eventually_async(lambda: gc.collect() >= 0 and metrics.get("attempts_in_flight") == 0)
        await channel.call()
        await eventually_async(lambda: metrics.get("calls_total", "OK") == 1)
        assert metrics.get("calls_total", "CANCELLED") == 1


async def test_a_stream_that_cannot_be_decoded_is_counted_once(servers: list[ServerProcess], metrics: Metrics) -> None:
    """In threads; its attempt ends long after it."""

    def fails(_: bytes) -> object:
        raise ValueError("it cannot be decoded")

    async with caller("sync", servers) as channel:
        metrics.expose(channel.channel)
        await channel.ready()
        stream = channel.channel.unary_stream(f"/{SERVICE}/Stream", None, fails)(b'{"responses": 2}')
        with pytest.raises(grpc.RpcError):
            await asyncio.to_thread(list, stream)
        del stream
        gc.collect()
        await channel.call()
        await eventually_async(lambda: metrics.get("calls_total", "OK") == 1)
        assert metrics.get("attempts_in_flight") == 0
        assert (metrics.get("calls_total", "INTERNAL"), metrics.get("calls_total", "CANCELLED")) == (1, 0)


@BOTH
@pytest.mark.parametrize(("why", "policy"), [("retry", RETRYING), ("hedge", HEDGING)])
async def test_further_attempts_are_counted_by_why_they_are_made(
    kind: str, why: str, policy: dict[str, Any], servers: list[ServerProcess], metrics: Metrics
) -> None:
    named = {"retryPolicy" if why == "retry" else "hedgingPolicy": policy}
    async with caller(kind, servers, named) as channel:
        metrics.expose(channel.channel)
        await channel.ready()
        await channel.call({"fail": ["UNAVAILABLE"]})
        assert metrics.get("retries_total", why) == 1
        assert metrics.get("picks_total", "endpoint") == 2
        await eventually_async(lambda: metrics.get("calls_total", "OK") == 1)
        assert metrics.get("calls_total", "UNAVAILABLE") == 0, "that was an attempt"


@BOTH
async def test_ejections_are_counted(kind: str, servers: list[ServerProcess], metrics: Metrics) -> None:
    options = ChannelOptions(pool=PoolOptions(outlier=OutlierOptions(consecutive_failures=2, max_ejection_percent=50)))
    async with caller(kind, servers, balancing=options) as channel:
        metrics.expose(channel.channel)
        await channel.ready()
        while not metrics.get("ejections_total"):
            with pytest.raises(grpc.RpcError):
                await channel.call({"fail": ["UNAVAILABLE"]})
        assert metrics.get("ejected") == metrics.get("ejections_total") == 1


@BOTH
async def test_who_finds_nobody(kind: str, metrics: Metrics) -> None:
    """And the connection that fails, and how long nobody knows better."""
    resolver = StaticResolver([Endpoint("127.0.0.1:1")])
    channel = Caller(kind, resolver)
    async with channel:
        metrics.expose(channel.channel)
        with pytest.raises(grpc.RpcError):
            await channel.call({}, timeout=20)
        assert metrics.get("calls_total", "UNAVAILABLE") == 1
        assert metrics.get("picks_total", "wait") >= 1
        assert metrics.get("connection_failures_total") >= 1
        assert metrics.get("endpoints", "transient failure") == 1
        resolver.push(Failed("nobody can tell"))
        await eventually_async(lambda: metrics.get("view_age_seconds") > 0)
        resolver.replace([])
        await eventually_async(lambda: metrics.get("view_age_seconds") == 0)
        with pytest.raises(grpc.RpcError):
            await channel.call({}, timeout=20)
        assert metrics.get("picks_total", "fail") >= 1


def test_a_balancer_alone(metrics: Metrics) -> None:
    metrics.of = "balancer"
    lb = LoadBalancer("round_robin", options=PoolOptions(outlier=OutlierOptions(consecutive_failures=1)))
    metrics.expose(lb)
    players = (Endpoint("10.0.0.5:1"), Endpoint("10.0.0.6:1"))
    for number in range(4):
        endpoint = lb.select(players)
        with lb.request(endpoint) as request:
            assert metrics.get("attempts_in_flight") == 1
            if number == 3:
                request.mark_failed()
    lb.select(players)
    with pytest.raises(NoEndpointError):
        lb.select(())
    assert metrics.get("picks_total", "endpoint") == 5
    assert metrics.get("picks_total", "fail") == 1
    assert metrics.get("calls_total", "OK") == 3
    assert metrics.get("calls_total", "UNKNOWN") == 1
    assert metrics.get("ejections_total") == 1
    assert metrics.get("connections") == 0


# ---- whose they are, and for how long


async def test_several_channels_have_names_of_their_own(metrics: Metrics) -> None:
    """Also two of the same service; and the same one asked for twice is one."""
    one, other, third = (blocking_channel("static://127.0.0.1:1") for _ in range(3))
    for channel in (one, other, one, third):
        metrics.expose(channel)
    assert metrics.names() == {"static", "static-2", "static-3"}
    metrics.expose(third, name="chat")
    metrics.expose(third, name="chat")
    assert metrics.names() == {"static", "static-2", "chat"}
    for channel in (one, other, third):
        channel.close()


def test_one_channel_in_two_registries(metrics: Metrics) -> None:
    another = Metrics()
    with blocking_channel("static://127.0.0.1:1") as channel:
        metrics.expose(channel)
        another.expose(channel)
        assert metrics.names() == another.names() == {"static"}


def test_what_is_closed_or_gone_is_not_told_of() -> None:
    """Nothing here keeps it, and its name is free again."""
    metrics = Metrics()
    closed, dropped, lb = (blocking_channel("static://127.0.0.1:1") for _ in range(2)), None, LoadBalancer()
    first, second = closed
    for thing in (first, second, lb):
        metrics.expose(thing)
    first.close()
    assert metrics.names() == {"static-2", "balancer"}
    del second, lb, dropped, closed, thing
    gc.collect()
    assert metrics.names() == set()
    with blocking_channel("static://127.0.0.1:1") as channel:
        metrics.expose(channel)
        assert metrics.names() == {"static"}


def test_what_is_none_is_refused(metrics: Metrics) -> None:
    with grpc.insecure_channel("127.0.0.1:1") as plain:
        for thing in (plain, "player", None, 1, []):
            with pytest.raises(TypeError, match="neither a channel of the balancer nor a LoadBalancer"):
                metrics.expose(thing)
    assert metrics.names() == set()


def test_a_registry_in_which_somebody_else_has_one_of_the_names(metrics: Metrics) -> None:
    theirs = Counter("balancer_calls", "theirs", registry=metrics)
    with blocking_channel("static://127.0.0.1:1") as channel:
        for _ in range(2):
            with pytest.raises(ValueError, match="balancer_calls"):
                metrics.expose(channel)
        metrics.unregister(theirs)
        metrics.expose(channel)
        assert metrics.names() == {"static"}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_process_tells_of_its_own_channels_alone(tmp_path: Path) -> None:
    program = """
        import os
        from prometheus_client import CollectorRegistry
        import balancer, balancer.metrics

        registry = CollectorRegistry()
        def names():
            return sorted({it.labels["channel"] for family in registry.collect() for it in family.samples})

        theirs = balancer.LoadBalancer()
        balancer.metrics.expose(theirs, registry=registry)
        if not os.fork():
            mine = balancer.LoadBalancer()
            balancer.metrics.expose(mine, registry=registry)
            print("child", names(), flush=True)
            os._exit(0)
        os.wait()
        print("parent", names(), flush=True)
    """
    out = subprocess.check_output([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, text=True, timeout=60)
    assert out.splitlines() == ["child ['balancer']", "parent ['balancer']"]


def test_without_prometheus_client_the_balancer_works_and_metrics_say_what_is_missing() -> None:
    program = """
        import sys
        sys.modules["prometheus_client"] = None
        import balancer, registry_client
        assert balancer.LoadBalancer().select(["10.0.0.5:1"]) == "10.0.0.5:1"
        for name in ("balancer.metrics", "registry_client.metrics"):
            try:
                __import__(name)
            except ImportError as error:
                assert "metrics need the package prometheus-client" in str(error), error
            else:
                raise AssertionError(name)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, check=True, timeout=60, env=os.environ)


async def test_asked_while_much_is_done(servers: list[ServerProcess], metrics: Metrics) -> None:
    """From another thread, as Prometheus' own server does it, while calls end and the endpoints change."""
    resolver = StaticResolver(endpoints(servers))
    async with Caller("aio", resolver) as channel:
        metrics.expose(channel.channel)
        await channel.ready()

        async def call() -> None:
            for number in range(100):
                resolver.replace(endpoints(servers)[number % 2 :])
                await channel.call()

        def ask() -> None:
            for _ in range(100):
                generate_latest(metrics)

        await asyncio.gather(*(call() for _ in range(4)), *(asyncio.to_thread(ask) for _ in range(2)))
        assert metrics.get("calls_total", "OK") == 400


class Named(StaticResolver):
    """A resolver of somebody's own, which has a name for purposes of its own."""

    name = 7


def test_what_cannot_be_written_costs_no_metrics_of_the_program(metrics: Metrics) -> None:
    mine = Counter("mine", "…", ["channel"], registry=metrics).labels("static")
    mine.inc()
    balancer = LoadBalancer()
    metrics.expose(balancer, name='a\ud800\n"b\\')
    channel = blocking_channel(Named([Endpoint("127.0.0.1:1")]))
    metrics.expose(channel)
    assert metrics.all()[("mine_total",)] == 1
    assert metrics.names() == {"static", 'a?\n"b\\', "balancer"}
    channel.close()


def test_what_fails_costs_no_metrics_of_the_program(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    class Mine(LoadBalancer):
        def numbers(self) -> Any:
            raise RuntimeError("it does not work")

    failing, works = Mine(), LoadBalancer()
    metrics.expose(failing, name="failing")
    metrics.expose(works, name="works")
    assert metrics.names() == {"works"}
    assert "nothing is told of failing" in caplog.text


@pytest.mark.parametrize(
    ("thing", "options", "field"),
    [
        (LoadBalancer(), {"registry": None}, "registry"),
        (LoadBalancer(), {"registry": CollectorRegistry}, "registry"),
        (LoadBalancer(), {"name": 5}, "name"),
        (LoadBalancer, {}, "(LoadBalancer|thing)"),
        (None, {}, "(LoadBalancer|thing)"),
    ],
)
def test_wrong_types_are_named(thing: Any, options: dict[str, Any], field: str) -> None:
    for expose in (balancer.metrics.expose, registry_client.metrics.expose):
        with pytest.raises(TypeError, match=rf"\b{field}\b"):
            expose(thing, **{"registry": CollectorRegistry(), **options})


def test_a_registry_that_was_cleared_takes_it_again(metrics: Metrics) -> None:
    balancer_ = LoadBalancer()
    metrics.expose(balancer_, name="one")
    for collector in set(metrics._names_to_collectors.values()):
        metrics.unregister(collector)
    assert metrics.names() == set()
    metrics.expose(balancer_, name="one")
    assert metrics.names() == {"one"}


def test_a_name_that_begins_like_the_one_before_is_another(metrics: Metrics) -> None:
    one = LoadBalancer()
    metrics.expose(one, name="player-eu")
    metrics.expose(one, name="player")
    assert metrics.names() == {"player"}
