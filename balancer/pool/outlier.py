"""CORE: outlier detection: nodes that fail more than the others get no calls for a while.

gRFC A50 (success rate, failure percentage, ejection times, the cap on how many) and, from Envoy's outlier detection,
failures in a row, which need no interval to pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from random import Random

    from balancer.policies.base import Node


@dataclass(frozen=True, slots=True)
class SuccessRate:
    """Eject nodes whose success rate is so many standard deviations below the mean. Defaults are A50's."""

    stdev_factor: int = 1900
    """In thousandths."""
    enforcement_percent: int = 100
    minimum_hosts: int = 5
    request_volume: int = 100
    """Calls in the interval below which a node is not judged, nor counted."""


@dataclass(frozen=True, slots=True)
class FailurePercentage:
    """Eject nodes of whose calls more percent fail than that. Defaults are A50's."""

    threshold_percent: float = 85
    enforcement_percent: int = 100
    minimum_hosts: int = 5
    request_volume: int = 50


@dataclass(frozen=True, slots=True)
class OutlierOptions:
    """Raises ValueError, naming the field, for a time or percentage that makes no sense."""

    interval_s: float = 10.0
    base_ejection_s: float = 30.0
    """Times how often in a row the node was ejected: how long an ejection lasts."""
    max_ejection_s: float = 300.0
    max_ejection_percent: int = 10
    """No further ejection once so many are out; the first one is always allowed unless this is 0."""
    success_rate: SuccessRate | None = None
    failure_percentage: FailurePercentage | None = None
    consecutive_failures: int | None = 5

    def __post_init__(self) -> None:
        for name in ("interval_s", "base_ejection_s", "max_ejection_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0, is {getattr(self, name)}")
        if not 0 <= self.max_ejection_percent <= 100:
            raise ValueError(f"max_ejection_percent: must be 0 to 100, is {self.max_ejection_percent}")
        if self.consecutive_failures is not None and self.consecutive_failures < 1:
            raise ValueError(f"consecutive_failures: must be at least 1, is {self.consecutive_failures}")


@dataclass(slots=True)
class _Record:
    """What is remembered of a node between sweeps."""

    calls: int = 0
    failures: int = 0
    multiplier: int = 0


@dataclass(frozen=True, slots=True)
class _Sample:
    """A node's calls within the interval that ended."""

    node: Node
    calls: int
    failures: int


class Detector:
    """Decides who is ejected, and sets `Node.ejected_since`."""

    def __init__(self, options: OutlierOptions, now: float) -> None:
        self.options = options
        self._options = options
        self._next_sweep = now + options.interval_s
        self._records: dict[Node, _Record] = {}
        self._ejected: dict[Node, float] = {}

    @property
    def ejected(self) -> int:
        """How many nodes are out."""
        return len(self._ejected)

    def tick(self, nodes: Collection[Node], alarmed: bool, now: float, rng: Random) -> list[Node]:
        """The nodes whose ejection began or ended. `alarmed`: one of them failed too often in a row since the last
        tick."""
        touched = self._returned(now)
        if alarmed and self._options.consecutive_failures is not None:
            touched += self._eject(self._in_a_row(nodes), nodes, now)
        if now >= self._next_sweep:
            self._next_sweep = now + self._options.interval_s
            touched += self._sweep(nodes, now, rng)
        return touched

    def ends(self) -> Collection[tuple[Node, float]]:
        """Who is out, and until when."""
        return tuple(self._ejected.items())

    def next_tick(self) -> float:
        return min(self._next_sweep, *self._ejected.values()) if self._ejected else self._next_sweep

    def forget(self, node: Node) -> None:
        """The node is gone."""
        self._records.pop(node, None)
        self._ejected.pop(node, None)

    def _returned(self, now: float) -> list[Node]:
        due = [node for node, until in self._ejected.items() if now >= until]
        for node in due:
            del self._ejected[node]
            node.ejected_since = None
            node.load.consecutive_failures = 0
        return due

    def _in_a_row(self, nodes: Iterable[Node]) -> Iterator[Node]:
        limit = self._options.consecutive_failures or 0
        return (node for node in nodes if node.load.consecutive_failures >= limit)

    def _sweep(self, nodes: Collection[Node], now: float, rng: Random) -> list[Node]:
        samples = [self._sample(node) for node in nodes]
        outliers = [*self._by_success_rate(samples, rng), *self._by_failures(samples, rng)]
        ejected = self._eject(outliers, nodes, now)
        for node, record in self._records.items():
            if node.ejected_since is None and record.multiplier:
                record.multiplier -= 1
        return ejected

    def _sample(self, node: Node) -> _Sample:
        record = self._records.setdefault(node, _Record())
        calls, failures = node.load.calls, node.load.failures
        sample = _Sample(node, calls - record.calls, failures - record.failures)
        record.calls, record.failures = calls, failures
        return sample

    def _by_success_rate(self, samples: list[_Sample], rng: Random) -> Iterator[Node]:
        rule = self._options.success_rate
        if rule is None:
            return
        rates = {s.node: 1 - s.failures / s.calls for s in samples if s.calls >= max(rule.request_volume, 1)}
        if not rates or len(rates) < rule.minimum_hosts:
            return
        mean = sum(rates.values()) / len(rates)
        deviation = sqrt(sum((rate - mean) ** 2 for rate in rates.values()) / len(rates))
        least = mean - deviation * rule.stdev_factor / 1000
        for node, rate in rates.items():
            if rate < least and rng.random() * 100 < rule.enforcement_percent:
                yield node

    def _by_failures(self, samples: list[_Sample], rng: Random) -> Iterator[Node]:
        rule = self._options.failure_percentage
        if rule is None:
            return
        judged = [sample for sample in samples if sample.calls >= max(rule.request_volume, 1)]
        if len(judged) < rule.minimum_hosts:
            return
        for sample in judged:
            failed = 100 * sample.failures / sample.calls
            if failed > rule.threshold_percent and rng.random() * 100 < rule.enforcement_percent:
                yield sample.node

    def _eject(self, outliers: Iterable[Node], nodes: Collection[Node], now: float) -> list[Node]:
        ejected = []
        for node in outliers:
            if node.ejected_since is not None:
                continue
            if 100 * len(self._ejected) >= self._options.max_ejection_percent * len(nodes):
                break
            self._eject_one(node, now)
            ejected.append(node)
        return ejected

    def _eject_one(self, node: Node, now: float) -> None:
        options = self._options
        record = self._records.setdefault(node, _Record())
        record.multiplier += 1
        longest = max(options.base_ejection_s, options.max_ejection_s)
        node.ejected_since = now
        self._ejected[node] = now + min(options.base_ejection_s * record.multiplier, longest)
