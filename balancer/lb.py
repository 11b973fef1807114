"""A load balancer to use alone, without channels: choose an endpoint, say how the call went.

balancer = LoadBalancer("least_connections")
endpoint = balancer.select([Endpoint("10.0.0.5:8001", weight=3), Endpoint("10.0.0.6:8001")])
with balancer.request(endpoint) as request:
    if not call(endpoint.address).ok:
        request.mark_failed()
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import repeat
from random import Random
from threading import Lock
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from balancer.endpoints import Endpoint, Resolved
from balancer.policies import policy as policy_of
from balancer.policies.base import ANY, Node, PickInfo
from balancer.pool import Fail, Pool, PoolOptions, PoolStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from types import TracebackType

    from balancer.policies.base import Policy

Given = TypeVar("Given")
"""An `Endpoint`, an address, or anything with an `address` and perhaps `weight` and `id`, its own or its
`instance`'s."""

ALONE = PoolOptions(idle_timeout_s=None, shuffle=False)


class NoEndpointError(LookupError):
    """There is nothing to select from: no endpoints, or only such with weight 0."""


class LoadBalancer:
    """Selects among the endpoints it is given at each call, and remembers what became of the calls. Thread-safe.

    `policy` is a name, with options if need be (`"least_connections?choices=full"`), or an object of your own. Raises
    ValueError for an unknown name, listing the known ones.
    """

    def __init__(
        self,
        policy: str | Policy = "weighted_round_robin",
        *,
        options: PoolOptions = ALONE,
        rng: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        rng = rng or Random()  # noqa: S311 - spreads load, guards nothing
        self._pool = Pool(policy_of(policy), options=replace(options, connections=False), rng=rng, now=clock())
        self._owner = Lock()
        self._given: tuple[Any, ...] | None = None  # nothing yet
        # What was given in place of endpoints, by what it was taken for.
        self._stand_ins: dict[Endpoint, Any] = {}
        self._picker = self._pool.picker
        self._due: float | None = None

    def select(
        self, endpoints: Iterable[Given], key: str | bytes | int | None = None, exclude: Collection[Given] = ()
    ) -> Given:
        """The endpoint for a call, one of the given objects. The same tuple again costs the same at any size.

        `key` is what consistent_hash and ip_hash go by; `exclude` are endpoints this call has failed on.
        Raises NoEndpointError when there is none, TypeError for another kind of key.
        """
        now = self._clock()
        if endpoints is not self._given or (self._due is not None and now >= self._due):
            self._look(tuple(endpoints), now)
        info = ANY if key is None and not exclude else PickInfo(_text(key), self._nodes(exclude) if exclude else ())
        picked = self._picker.pick(info, now)
        if isinstance(picked, Node):
            endpoint = picked.endpoint
            return cast("Given", self._stand_ins.get(endpoint, endpoint) if self._stand_ins else endpoint)
        raise NoEndpointError(picked.reason if isinstance(picked, Fail) else "no endpoint")

    def request(self, endpoint: object) -> Request:
        """Counts one call to `endpoint`: `with` or `async with`. An exception marks it failed."""
        taken = as_endpoint(endpoint)
        return Request(self._pool.node(taken) or self._pool.stranger(taken), self._clock, self._hurry)

    def stats(self) -> PoolStatistics:
        """Calls, failures, in flight, latency and ejection of each endpoint, and why the last pick fell as it did."""
        with self._owner:
            return self._pool.statistics(self._clock())

    def _look(self, given: tuple[Any, ...], now: float) -> None:
        """Takes over what is new. Equal elements are found by identity, at C speed."""
        due = self._due is not None and now >= self._due
        if not due and given == self._given:
            return
        with self._owner:
            if due:
                self._pool.tick(now)
            endpoints = given if all(map(isinstance, given, repeat(Endpoint))) else tuple(map(as_endpoint, given))
            self._pool.apply(Resolved(endpoints), now)
            self._stand_ins = dict(zip(endpoints, given, strict=True)) if endpoints is not given else {}
            self._picker = self._pool.picker
            self._due = self._pool.next_tick(now)
            self._given = given

    def _hurry(self) -> None:
        """An endpoint failed too often in a row: look at the next select."""
        self._due = self._clock()

    def _nodes(self, endpoints: Collection[object]) -> frozenset[Node]:
        nodes = map(self._pool.node, map(as_endpoint, endpoints))
        return frozenset(node for node in nodes if node is not None)


def as_endpoint(given: object) -> Endpoint:
    """What the balancer takes `given` for. Raises TypeError for what has no address."""
    if isinstance(given, Endpoint):
        return given
    if isinstance(given, str):
        return Endpoint(given)
    address = getattr(given, "address", None)
    if not isinstance(address, str):
        raise TypeError(f"not an endpoint: {given!r}")
    process = getattr(given, "instance", given)
    return Endpoint(address, weight=getattr(process, "weight", 1), id=getattr(process, "id", ""))


def _text(key: str | bytes | int | None) -> str | bytes | None:
    if isinstance(key, int):
        return str(key)
    if key is None or isinstance(key, str | bytes):
        return key
    raise TypeError(f"key: must be str or bytes, is {key!r}")


class Request:
    """One call, from entering to leaving. Leaving by an exception, unless it is a cancellation, counts as a failure."""

    __slots__ = ("_clock", "_failed", "_hurry", "_node", "_started")

    def __init__(self, node: Node, clock: Callable[[], float], hurry: Callable[[], None]) -> None:
        self._node = node
        self._clock = clock
        self._hurry = hurry
        self._failed = False
        self._started = 0.0

    @property
    def endpoint(self) -> Endpoint:
        return self._node.endpoint

    def mark_failed(self) -> None:
        """The call speaks against the endpoint, although no exception says so."""
        self._failed = True

    def __enter__(self) -> Self:
        self._started = self._clock()
        self._node.load.started(self._started)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            self._node.load.abandoned()
            return
        now = self._clock()
        if self._node.load.finished(now, now - self._started, ok=error is None and not self._failed):
            self._hurry()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
