"""SHELL: what a server counted, in Prometheus' words. Everything is read when it is asked for; nothing is kept twice.

Names begin with `registry_`; those of the process are the usual ones of Prometheus' clients.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from types import MappingProxyType

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from registry_server.admin.server import Route
from registry_server.metrics.counting import Counting
from registry_server.rpc.table import Caller, Needs

# What there is to take, of which versions.
_VERSIONS: Mapping[str, Sequence[str]] = MappingProxyType(
    {"application/openmetrics-text": ("", "0.0.1", "1.0.0"), "text/plain": ("", "0.0.4", "1.0.0")}
)
# How many times as long as it took to write all down, nobody does so again.
RESTS = 9.0


def metrics(counting: Counting) -> Route:
    """`/metrics`: for whom may read everything, since it tells how much there is of what."""
    registry = CollectorRegistry()
    for collector in (ServerCollector(counting), ProcessCollector(registry=None), PlatformCollector(registry=None)):
        registry.register(collector)
    GCCollector(registry=registry)
    texts = Texts(registry, time.monotonic)

    async def answer(request: web.Request, caller: Caller) -> web.Response:
        encode, content_type = _encoder(",".join(request.headers.getall("Accept", ())))
        return web.Response(body=await texts.newest(encode, content_type), headers={"Content-Type": content_type})

    return Route("/metrics", answer, Needs("read"))


class Texts:
    """What `registry` has, for all who ask while it is written: however many ask, it takes a tenth of the time."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._clock = clock
        self._turn = asyncio.Lock()
        self._made: dict[str, tuple[float, bytes]] = {}  # when it was begun, by its kind
        self._rests_until = 0.0

    async def newest(self, encode: Callable[[CollectorRegistry], bytes], kind: str) -> bytes:
        """As it is now, or a moment later."""
        asked_at = self._clock()
        async with self._turn:
            made_at, text = self._made.get(kind, (-math.inf, b""))
            if made_at >= asked_at:
                return text
            await asyncio.sleep(max(0.0, self._rests_until - self._clock()))
            began = self._clock()
            text = encode(self._registry)
            self._made[kind] = began, text
            ended = self._clock()
            self._rests_until = ended + RESTS * (ended - began)
            return text


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """How it is written for who takes that, in the first place; the usual way for who says nothing that makes sense."""
    wanted = max((it for it in map(_wanted, accept.split(",")) if it[0] > 0), key=itemgetter(0), default=(0.0, ""))
    try:
        return choose_encoder(wanted[1])
    except (TypeError, ValueError):
        return choose_encoder("")


def _wanted(said: str) -> tuple[float, str]:
    """How much somebody wants one of the kinds in his header Accept, 0 to 1, and which one; 0 for what there is not."""
    kind, *parts = (it.strip().lower() for it in said.split(";"))
    found = {name.strip(): it.strip() for name, _, it in (part.partition("=") for part in parts)}
    try:
        much = float(found.pop("q", "1"))
    except ValueError:
        much = 0.0
    if found.get("version", "") not in _VERSIONS.get(kind, ()):
        return 0.0, ""
    return much, ";".join([kind, *(f"{name}={it}" for name, it in found.items())])


class ServerCollector(Collector):
    """What a server counted, as of when it is asked."""

    def __init__(self, counting: Counting) -> None:
        self._of = counting

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        yield from self._calls()
        yield from self._catalog()
        yield from self._fan_out()
        yield from self._store()
        yield from self._health()
        yield from self._limits()
        yield from self._audit()

    def _calls(self) -> Iterator[Metric]:
        calls = _counter("registry_calls", "Calls, and messages of KeepAlive, by how they ended", "method", "code")
        streams = _gauge("registry_streams", "Streams that are open", "method")
        times = HistogramMetricFamily("registry_call_seconds", "How long calls took", labels=["method"])
        for path, counted in self._of.calls.methods.items():
            name = path.removeprefix("/")
            for code, count in counted.codes.items():
                calls.add_metric([name, code], count)
            if counted.is_stream:
                streams.add_metric([name], counted.open)
            elif counted.times.total:
                times.add_metric([name], counted.times.buckets(), counted.times.sum_s)
        yield from (calls, streams, times)

    def _catalog(self) -> Iterator[Metric]:
        catalog = self._of.feed.catalog
        size = catalog.size
        yield _one("registry_instances", "Instances that are registered", size.instances)
        yield _one("registry_services", "Services that have instances", size.services)
        yield _one("registry_namespaces", "Namespaces that have instances", size.namespaces)
        yield _one("registry_leases", "Leases that hold instances", size.leases)
        yield _one("registry_revision", "The revision of the view", catalog.revision)
        changes = catalog.statistics().changes
        yield _total("registry_changes", "Changes of instances that the view took in", changes)
        waiting = len(self._of.feed.guard)
        yield _one("registry_removals_held", "Removals that wait since the store was ill", waiting)

    def _fan_out(self) -> Iterator[Metric]:
        hub = self._of.hub.statistics()
        yield _one("registry_watch_readers", "Streams that are told what changes", hub.readers)
        yield _one("registry_watch_questions", "Different questions that they ask", hub.topics)
        yield _one("registry_watch_readers_behind", "Streams that have not taken what they were sent", hub.behind)
        yield _total("registry_watch_rounds", "Rounds in which readers were told", hub.rounds)
        yield _total("registry_watch_steps", "Steps that were put together, for all whom they concern", hub.renders)
        yield _total("registry_watch_messages", "Messages that were sent to readers", hub.sends)
        yield _total("registry_watch_bytes", "Bytes of them", hub.sent_bytes)
        yield _total("registry_watch_round_seconds", "How long rounds took, all together", hub.busy_s)
        yield _one("registry_view_age_seconds", "For how long the store has not confirmed the view", self._age_s())

    def _age_s(self) -> float:
        return self._of.feed.stale_for_s or 0.0

    def _store(self) -> Iterator[Metric]:
        store = self._of.store
        calls = _counter("registry_store_calls", "Calls of the store, by how they ended", "call", "end")
        for (name, end), count in store.ends.items():
            calls.add_metric([name, end], count)
        yield calls
        times = HistogramMetricFamily(
            "registry_store_call_seconds", "How long calls of the store took", labels=["call"]
        )
        for name, took in store.times.items():
            times.add_metric([name], took.buckets(), took.sum_s)
        yield times
        yield _one("registry_store_up", "Whether the store confirms the view", int(self._of.feed.stale_for_s is None))
        yield _total("registry_store_held_renewals", "Renewals that the store could not be asked for", store.held)

    def _health(self) -> Iterator[Metric]:
        checks = self._of.prober.statistics()
        yield _one("registry_checks", "Health checks that this server looks at", checks.checks)
        yield _total("registry_check_looks", "Looks of health checks", checks.looks)
        yield _total("registry_check_failures", "Looks of health checks that failed", checks.failures)
        written = "What checks found, where that changed an instance"
        yield _total("registry_check_results_written", written, checks.written)
        yield _one("registry_checks_cut_off", "Whether this server takes itself for cut off", int(checks.is_cut_off))

    def _limits(self) -> Iterator[Metric]:
        gate = self._of.gate
        refused = _counter("registry_refused", "What was refused, by the limit that was reached", "limit")
        for limit, count in list(gate.refusals.counts.items()):
            refused.add_metric([limit], count)
        yield refused
        yield _one("registry_loop_lag_seconds", "How long work waits for its turn, on average", gate.overload.lag_s)
        yield _one("registry_overloaded", "Whether new work is refused", int(bool(gate.overload.reason)))

    def _audit(self) -> Iterator[Metric]:
        audit = self._of.audit
        lines = _counter("registry_audit_lines", "Lines of the audit log, by what became of them", "end")
        if audit is not None:
            lines.add_metric(["written"], audit.written)
            lines.add_metric(["lost"], audit.lost)
        yield lines


def _one(name: str, says: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, says, value=value)


def _total(name: str, says: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, says, value=value)


def _gauge(name: str, says: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, says, labels=labels)


def _counter(name: str, says: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, says, labels=labels)
