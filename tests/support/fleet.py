"""A fleet of simulated back ends on a virtual clock, for judging policies by what they do and not by how.

Calls arrive at random moments, wait for one of the back end's workers in order of arrival, are served and end.
Everything follows from the seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import sqrt
from random import Random

from balancer.endpoints import Endpoint, Resolved
from balancer.policies import policy
from balancer.policies.base import ConnectivityState, Node, PickInfo
from balancer.pool.options import PoolOptions
from balancer.pool.pool import Moves, Pool

ALONE = PoolOptions(connections=False, idle_timeout_s=None, shuffle=False)

POLICIES = (
    "pick_first",
    "round_robin",
    "random",
    "weighted_round_robin",
    "weighted_random",
    "least_connections",
    "least_connections?choices=2",
    "least_connections?choices=full",
    "consistent_hash",
    "consistent_hash?table=maglev",
    "consistent_hash?load_factor=1.25",
    "ip_hash",
    "response_time",
)
HASHING = tuple(name for name in POLICIES if "hash" in name)
SPREADING = tuple(name for name in POLICIES if name not in HASHING and name != "pick_first")
BY_WEIGHT = tuple(name for name in SPREADING if name not in ("round_robin", "random"))


def endpoints(number: int, **fields: object) -> tuple[Endpoint, ...]:
    """10.0.0.0:80, 10.0.0.1:80, …"""
    return tuple(
        Endpoint(f"10.{n // 65536}.{n // 256 % 256}.{n % 256}:80", **fields)  # type: ignore[arg-type]
        for n in range(number)
    )


def pool_of(name: str, given: tuple[Endpoint, ...], *, seed: int = 1, options: PoolOptions = ALONE) -> Pool:
    pool = Pool(policy(name), options=options, rng=Random(seed), now=0.0)
    pool.apply(Resolved(given), 0.0)
    return pool


def connect(pool: Pool, plan: Moves, now: float = 0.0) -> None:
    """Every connection that the pool asks for comes up at once."""
    for node in plan.open:
        for state in (ConnectivityState.CONNECTING, ConnectivityState.READY):
            connect(pool, pool.on_state(node, state, now), now)


def spread(bound_sigmas: float, calls: int, share: float) -> float:
    """How far a count may be from `calls * share` if every call is drawn independently: so many standard deviations."""
    return bound_sigmas * sqrt(calls * share * (1 - share))


def key_of(rng: Random) -> str:
    """The address of one of many players."""
    return f"172.{rng.randrange(16, 32)}.{rng.randrange(256)}.{rng.randrange(256)}"


@dataclass
class Backend:
    """How one endpoint serves."""

    service_s: float = 0.010
    failing: float = 0.0
    """The part of its calls that fail, at once."""
    workers: int = 4


@dataclass
class Fleet:
    """Runs calls through a pool. `backends` by address; those not named serve like `Backend()`."""

    pool: Pool
    seed: int = 1
    backends: dict[str, Backend] = field(default_factory=dict)
    now: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)
    """Started calls by address."""
    failed: int = 0
    latencies: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        self._busy: dict[str, list[float]] = {}
        self._ends: list[tuple[float, int, Node, float, bool]] = []
        self._order = count()

    def run(self, calls: int, *, rate: float, each: Callable[[int], None] = lambda _: None) -> None:
        """`calls` more calls at `rate` per second; `each` is told the number of the call before it is made."""
        for number in range(calls):
            self._advance(self.now + self.rng.expovariate(rate))
            each(number)
            self._call()

    def drain(self) -> None:
        """Lets all calls end."""
        while self._ends:
            self._advance(self._ends[0][0])

    def share(self, address: str) -> float:
        return self.calls[address] / self.calls.total()

    def percentile(self, part: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * part), len(ordered) - 1)]

    def _advance(self, until: float) -> None:
        while self._ends and self._ends[0][0] <= until:
            end, _, node, started, ok = heappop(self._ends)
            self.now = end
            self.latencies.append(end - started)
            node.load.finished(end, end - started, ok)
            self._tick()
        self.now = until
        self._tick()

    def _tick(self) -> None:
        due = self.pool.next_tick(self.now)
        if due is not None and due <= self.now:
            self.pool.tick(self.now)

    def _call(self) -> None:
        node = self.pool.picker.pick(PickInfo(key_of(self.rng)), self.now)
        assert isinstance(node, Node), node
        address = node.endpoint.address
        backend = self.backends.get(address, Backend())
        node.load.started(self.now)
        self.calls[address] += 1
        ok = self.rng.random() >= backend.failing
        self.failed += not ok
        end = self._served(address, backend) if ok else self.now + 0.0001
        heappush(self._ends, (end, next(self._order), node, self.now, ok))

    def _served(self, address: str, backend: Backend) -> float:
        """When a worker that takes the call now or later is done with it."""
        workers = self._busy.setdefault(address, [0.0] * backend.workers)
        free = max(heappop(workers), self.now)
        end = free + backend.service_s * self.rng.uniform(0.5, 1.5)
        heappush(workers, end)
        return end
