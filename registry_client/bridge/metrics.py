"""SHELL: what clients tell of themselves in Prometheus registries of the user's own."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

import balancer.metrics
from balancer.metrics import Exposed
from registry_client import checks
from registry_client.bridge.balanced import Balanced
from registry_client.client import RegistryClient, numbers
from registry_client.many import Registries
from registry_client.sync import Registries as BlockingRegistries
from registry_client.thread import Front

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from registry_client.counts import ClientNumbers, Followed

log = logging.getLogger(__name__)

READING = "reading"
"""Behind the name of several registries: what asks the first of them that works."""


def expose(thing: object, *, name: str = "", registry: CollectorRegistry = REGISTRY) -> None:
    """Tell of a client, a channel or a balancer in `registry`, for as long as it is open and somebody holds it.

    A client is one of `connect` or `connect_many`, here or in `registry_client.sync`; what is made with it is exposed
    by itself. `name`: the value of the label `client`, or of `channel`; by default the addresses of the registry, or
    the service. Raises InvalidArgument for what has nothing to tell.
    """
    name = checks.text("name", name)
    if isinstance(registry, type) or not callable(getattr(registry, "register", None)):
        raise checks.wrong_type("registry", "must be a CollectorRegistry of prometheus_client", registry)
    if isinstance(thing, Registries | BlockingRegistries):
        reader = thing.reader if isinstance(thing, Registries) else thing._inner  # noqa: SLF001 - as below
        members: dict[str, object] = {it: thing[it] for it in thing.names}
        for called, member in {**members, READING: reader}.items():
            expose(member, name=f"{name}-{called}" if name else called, registry=registry)
        return
    inner = thing._inner if isinstance(thing, Front) else thing  # noqa: SLF001 - it is what the front is of
    if isinstance(inner, RegistryClient):
        CLIENTS.put(inner, name or ",".join(inner.addresses) or "client", registry)
    elif isinstance(inner, Balanced):
        inner.exposed(partial(balancer.metrics.expose, name=name or inner.service, registry=registry))
    else:
        _expose_channel(inner, name, registry)


def _expose_channel(thing: object, name: str, registry: CollectorRegistry) -> None:
    try:
        balancer.metrics.expose(thing, name=name, registry=registry)
    except TypeError:
        wanted = "must be a client, a balancer, or a channel to a registered service"
        raise checks.wrong_type("thing", wanted, thing) from None


def _families(there: Iterable[tuple[str, RegistryClient]]) -> Iterator[Metric]:
    found = _Families()
    for name, client in there:
        try:
            told = numbers(client)
        except Exception:  # which would cost the program all of its metrics
            log.exception("nothing is told of %s", name)
            continue
        if told is not None:
            found.add(name, told)
    yield from found.all()


class _Families:
    """What is told of clients."""

    def __init__(self) -> None:
        self._up = _gauge("registry_client_up", "Whether the registry answers what it is asked")
        self._calls = _counter("registry_client_calls", "Calls of the registry, by how they ended", "code")
        self._retries = _counter("registry_client_retries", "Tries of calls beyond the first")
        self._connections = _gauge("registry_client_connections", "Connections to the registry")
        self._registrations = _gauge("registry_client_registrations", "What is kept registered, by its state", "state")
        self._leases = _gauge("registry_client_leases", "Leases that are renewed")
        self._renewals = _counter("registry_client_renewals", "Renewals of leases, by what was answered", "outcome")
        self._watches = _gauge("registry_client_watches", "Watches that are open", "service")
        self._streams = _counter("registry_client_watch_streams", "Streams that watches began")
        self._ages = _gauge("registry_client_view_age_seconds", "For how long nobody has confirmed a view", "service")
        self._discoveries = _counter("registry_client_discoveries", "Questions to discoveries and balancers", "end")

    def add(self, name: str, told: ClientNumbers) -> None:
        """One client."""
        counts = told.counts
        self._up.add_metric([name], told.is_up)
        for code, calls in dict(counts.calls).items():
            self._calls.add_metric([name, code], calls)
        self._retries.add_metric([name], counts.retries)
        self._connections.add_metric([name], told.connections)
        for state, registrations in told.registrations.items():
            self._registrations.add_metric([name, state], registrations)
        self._leases.add_metric([name], told.leases)
        for outcome, renewals in dict(counts.renewals).items():
            self._renewals.add_metric([name, outcome], renewals)
        self._streams.add_metric([name], counts.streams)
        for end, discoveries in (("hit", counts.hits), ("miss", counts.misses), ("error", counts.errors)):
            self._discoveries.add_metric([name, end], discoveries)
        self._add_watches(name, told.watches)

    def _add_watches(self, name: str, watches: Iterable[Followed]) -> None:
        """Of several that are of the same, the age of the oldest."""
        ages: dict[str, list[float]] = {}
        for watch in watches:
            ages.setdefault(watch.services, []).append(watch.age_s)
        for service, found in ages.items():
            self._watches.add_metric([name, service], len(found))
            self._ages.add_metric([name, service], max(found))

    def all(self) -> Iterator[Metric]:
        """All of them."""
        yield from (self._up, self._calls, self._retries, self._connections, self._registrations, self._leases)
        yield from (self._renewals, self._watches, self._streams, self._ages, self._discoveries)


def _counter(name: str, says: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, says, labels=["client", *labels])


def _gauge(name: str, says: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, says, labels=["client", *labels])


CLIENTS: Exposed[RegistryClient] = Exposed(_families)
