"""Metrics of channels and balancers, for a Prometheus registry of the program's own.

    import balancer.metrics

    balancer.metrics.expose(channel)                      # in prometheus_client.REGISTRY
    balancer.metrics.expose(load_balancer, name="chat", registry=my_registry)

docs/metrics.md says what there is. All is read when it is asked for, and nobody here holds what is exposed: what
is closed or gone is not told of any more.
"""

from __future__ import annotations

import logging
import os
import re
import weakref
from itertools import accumulate, count
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, runtime_checkable

from balancer.numbers import BOUNDS_S, ENDPOINT

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    raise ImportError(f"metrics need the package prometheus-client: {error}", name=error.name) from None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from balancer.numbers import Numbers

log = logging.getLogger(__name__)

T = TypeVar("T")

# What is behind the name of one of several that have the same.
_NUMBERED = re.compile(r"-[0-9]+")


@runtime_checkable
class Countable(Protocol):
    """What has numbers to tell."""

    def count(self) -> None:
        """Count from now on."""

    def numbers(self) -> Numbers:
        """What was counted. May be called in any thread."""


def expose(thing: object, *, name: str = "", registry: CollectorRegistry = REGISTRY) -> None:
    """Tell of a channel (`blocking_channel`, `aio_channel`, `registry_client.channel`), or of a `LoadBalancer`.

    `registry`: where. `name`: the value of the label `channel`; by default that of the service or the host, with a
    number behind it where there are several. Once more with another name is another name, and no second channel. Raises
    TypeError for what is neither, and for a name or a registry that is none; ValueError for a registry in which
    somebody else has one of the metrics.
    """
    countable = getattr(thing, "engine", thing)
    if isinstance(thing, type) or not isinstance(countable, Countable):
        raise TypeError(f"neither a channel of the balancer nor a LoadBalancer: {type(thing).__name__}")
    if not isinstance(name, str):
        raise TypeError(f"name: must be a string, is {name!r}")
    named: object = name or getattr(countable, "name", "")  # a resolver of somebody's own may have anything there
    NUMBERS.put(countable, named if named and isinstance(named, str) else "balancer", registry)
    countable.count()


class Exposed(Generic[T]):
    """What is told of by one collector in each registry, whoever asks for it. From any thread."""

    def __init__(self, families: Callable[[Iterable[tuple[str, T]]], Iterable[Metric]]) -> None:
        self.families = families
        self._collectors: weakref.WeakKeyDictionary[CollectorRegistry, _Collector[T]] = weakref.WeakKeyDictionary()

    def put(self, thing: T, name: str, registry: CollectorRegistry) -> None:
        """Tell of it by that name. Raises TypeError for what is no registry, and ValueError for one in which somebody
        else has one of the metrics."""
        if isinstance(registry, type) or not callable(getattr(registry, "register", None)):
            raise TypeError(f"registry: must be a CollectorRegistry of prometheus_client, is {registry!r}")
        fresh = _Collector(self.families)
        collector = self._collectors.setdefault(registry, fresh)
        self._register(collector, registry, is_new=collector is fresh)
        # What cannot be written would cost the program all of its metrics.
        collector.put(thing, name.encode(errors="replace").decode())

    def _register(self, collector: _Collector[T], registry: CollectorRegistry, *, is_new: bool) -> None:
        """Also one that somebody has taken out, as tests do between each other."""
        try:
            registry.register(collector)
        except ValueError:  # the registry has it, or somebody else's of the same name
            if is_new:
                self._collectors.pop(registry, None)
                raise


class _Collector(Collector, Generic[T]):
    """What is exposed in one registry, by name. It takes no lock: what is gone may be told of at any time."""

    def __init__(self, families: Callable[[Iterable[tuple[str, T]]], Iterable[Metric]]) -> None:
        self._families = families
        self._named: dict[str, tuple[weakref.ref[T], int]] = {}

    def put(self, thing: T, name: str) -> None:
        for known, there in list(self._there()):
            if there is thing:
                if known == name or _NUMBERED.fullmatch(known.removeprefix(name)):
                    return
                self._named.pop(known, None)
        entry = weakref.ref(thing, self._gone), os.getpid()
        names = (name if number == 1 else f"{name}-{number}" for number in count(1))
        next(it for it in names if self._named.setdefault(it, entry) is entry)

    def _gone(self, there: weakref.ref[T]) -> None:
        for name, entry in list(self._named.items()):
            if entry[0] is there:
                self._named.pop(name, None)

    def describe(self) -> Iterable[Metric]:
        """See Collector."""
        return self._families(())

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        return self._families(self._there())

    def _there(self) -> Iterator[tuple[str, T]]:
        """Those that live, in this process: what a forked one has of its parent's does nothing there."""
        here = os.getpid()
        for name, (there, process) in list(self._named.items()):
            thing = there() if process == here else None
            if thing is None or getattr(thing, "closed", False):
                self._named.pop(name, None)
            else:
                yield name, thing


def _families(there: Iterable[tuple[str, Countable]]) -> Iterator[Metric]:
    found = _Families()
    for name, thing in there:
        try:
            numbers = thing.numbers()
        except Exception:  # which would cost the program all of its metrics
            log.exception("nothing is told of %s", name)
        else:
            found.add(name, numbers)
    yield from found.all()


class _Families:
    """What is told of channels."""

    def __init__(self) -> None:
        self._picks = _counter("balancer_picks", "Answers to calls that need an endpoint", "answer")
        self._calls = _counter("balancer_calls", "Calls, by how they ended", "code")
        self._times = HistogramMetricFamily("balancer_call_seconds", "How long calls took", labels=["channel"])
        self._retries = _counter("balancer_retries", "Attempts of calls beyond the first", "why")
        self._in_flight = _gauge("balancer_attempts_in_flight", "Attempts that are under way")
        self._endpoints = _gauge("balancer_endpoints", "Endpoints in use, by the state of their connection", "state")
        self._connections = _gauge("balancer_connections", "Connections that are there, or are being made")
        self._failures = _counter("balancer_connection_failures", "Connections that failed, or could not be made")
        self._ejected = _gauge("balancer_ejected", "Endpoints that are ejected as outliers")
        self._ejections = _counter("balancer_ejections", "Ejections of endpoints")
        self._age = _gauge("balancer_view_age_seconds", "For how long nobody has confirmed the endpoints")

    def add(self, name: str, numbers: Numbers) -> None:
        """One channel."""
        counted, pool = numbers.totals, numbers.pool
        for answer, picks in {**counted.picks, ENDPOINT: pool.attempts}.items():
            self._picks.add_metric([name, answer], picks)
        for code, calls in counted.calls.items():
            self._calls.add_metric([name, code], calls)
        for why, attempts in counted.retries.items():
            self._retries.add_metric([name, why], attempts)
        for state, endpoints in pool.states.items():
            self._endpoints.add_metric([name, state.value], endpoints)
        so_far = zip((*map(str, BOUNDS_S), "+Inf"), accumulate(counted.steps), strict=True)
        self._times.add_metric([name], [(bound, float(calls)) for bound, calls in so_far], counted.sum_s)
        self._in_flight.add_metric([name], pool.in_flight)
        self._connections.add_metric([name], pool.connections)
        self._failures.add_metric([name], pool.connection_failures)
        self._ejected.add_metric([name], pool.ejected)
        self._ejections.add_metric([name], pool.ejections)
        self._age.add_metric([name], numbers.age_s)

    def all(self) -> Iterator[Metric]:
        """All of them."""
        yield from (self._picks, self._calls, self._times, self._retries, self._in_flight, self._endpoints)
        yield from (self._connections, self._failures, self._ejected, self._ejections, self._age)


def _counter(name: str, says: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, says, labels=["channel", *labels])


def _gauge(name: str, says: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, says, labels=["channel", *labels])


NUMBERS: Exposed[Countable] = Exposed(_families)
