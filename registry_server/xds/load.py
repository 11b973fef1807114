"""CORE: what clients report of their calls (LRS), added up by service."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from registry_api.registry.xds.v1 import ads_pb2 as ads
from registry_server.rights import Rights
from registry_server.xds.names import ServiceKey, read
from registry_server.xds.resources import Resources

# How often clients report: the more of them there are, the less often, so that so many reports come in a second.
MIN_INTERVAL_S, MAX_INTERVAL_S = 2.0, 60.0
REPORTS_PER_S = 500
# No client calls more services than that, no counter grows by more in a report of one place, and none beyond the last,
# which can be told to everybody.
MAX_SERVICES = 1_000
MAX_COUNT = 2**40
MAX_TOTAL = 2**63 - 1
# So many services, parts and places are looked at in one report.
MAX_STATS = 20_000


class Now(NamedTuple):
    """What one client said last of its calls to one service: how many were under way, and how many began in a second"""

    in_progress: int = 0
    per_second: float = 0.0


@dataclass(eq=False, slots=True)
class Load:
    """One service since the server began: calls begun, ended well, ended badly, given up; by client, the latest."""

    calls: int = 0
    successes: int = 0
    errors: int = 0
    dropped: int = 0
    reported_at: float = 0.0
    now: dict[object, Now] = field(default_factory=dict)


class LoadBook:
    """All reports. A client is whatever object stands for its stream."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._loads: dict[ServiceKey, Load] = {}
        self._reporters: dict[object, set[ServiceKey]] = {}

    def came(self, reporter: object) -> float:
        """A client is about to report; gives how often it is to, in seconds."""
        self._reporters[reporter] = set()
        return min(MAX_INTERVAL_S, max(MIN_INTERVAL_S, len(self._reporters) / REPORTS_PER_S))

    def left(self, reporter: object) -> None:
        """It reports no more."""
        for key in self._reporters.pop(reporter, ()):
            if (load := self._loads.get(key)) is not None:
                load.now.pop(reporter, None)

    def report(self, reporter: object, stats: Iterable[ads.ClusterStats], rights: Rights, at: float) -> None:
        """Take in one report. What is said of services that nobody knows, or that the client may not call, is nothing
        to us. Parts of a service, and the places of its instances, are added up."""
        found: dict[ServiceKey, Now] = {}
        left = MAX_STATS
        for it in stats:
            left -= 1 + len(it.upstream_locality_stats)
            if left < 0:
                break
            named = None if _is_idle(it) else read(it.cluster_name)
            if named is None or not self._resources.is_known(named.key) or not rights.may("read", *named.key):
                continue
            if named.key not in found and len(found) >= MAX_SERVICES:
                break
            found[named.key] = _sum(found.get(named.key, Now()), self._add(named.key, it, at))
        known = self._reporters.get(reporter)
        if known is None:
            return
        for key in known - found.keys():
            if (load := self._loads.get(key)) is not None:
                load.now[reporter] = Now()
        for key, now in found.items():
            if key in known or len(known) < MAX_SERVICES:  # so that all of it goes when the client does
                known.add(key)
                self._loads[key].now[reporter] = now

    def forget(self, key: ServiceKey) -> None:
        """Nobody knows that service any more."""
        self._loads.pop(key, None)

    def loads(self) -> Iterator[tuple[ServiceKey, Load]]:
        """All of them, in the order of namespace and name."""
        return iter(sorted(self._loads.items()))

    def _add(self, key: ServiceKey, it: ads.ClusterStats, at: float) -> Now:
        load = self._loads.setdefault(key, Load())
        load.reported_at = at
        load.dropped = _grown(load.dropped, it.total_dropped_requests)
        in_progress = issued = 0
        for locality in it.upstream_locality_stats:
            issued += min(locality.total_issued_requests, MAX_COUNT)
            load.successes = _grown(load.successes, locality.total_successful_requests)
            load.errors = _grown(load.errors, locality.total_error_requests)
            in_progress += min(locality.total_requests_in_progress, MAX_COUNT)
        load.calls = min(load.calls + issued, MAX_TOTAL)
        interval = it.load_report_interval.seconds + it.load_report_interval.nanos / 1e9
        return Now(in_progress, issued / interval if interval > 0 else 0.0)


def _is_idle(it: ads.ClusterStats) -> bool:
    """Envoy reports of all that it could call."""
    return not (it.upstream_locality_stats or it.total_dropped_requests)


def _grown(count: int, by: int) -> int:
    return min(count + min(by, MAX_COUNT), MAX_TOTAL)


def _sum(one: Now, other: Now) -> Now:
    return Now(one.in_progress + other.in_progress, one.per_second + other.per_second)
