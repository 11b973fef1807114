"""A load balancer to use alone, without channels: choose an endpoint, say how the call went.

balancer = LoadBalancer("least_connections")
endpoint = balancer.select([Endpoint("10.0.0.5:8001", weight=3), Endpoint("10.0.0.6:8001")])
with balancer.request(endpoint) as request:
    if not call(endpoint.address).ok:
        request.mark_failed()
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import repeat
from random import Random
from threading import RLock
from types import MappingProxyType
from typing import TYPE_CHECKING, Self, TypeVar, cast

from balancer.accounts import Accounts
from balancer.endpoints import Endpoint, Resolved
from balancer.likeness import as_endpoint
from balancer.numbers import BROKEN, FAIL, SUCCEEDED, Numbers, Totals
from balancer.policies import policy as policy_of
from balancer.policies.base import ANY, Node, PickInfo
from balancer.pool.options import PoolOptions
from balancer.pool.picker import Fail
from balancer.pool.pool import Pool
from balancer.pool.roster import key_of
from balancer.pool.statistics import NodeStatistics, PoolStatistics, node_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType

    from balancer.accounts import Account
    from balancer.policies import AnyPolicy
    from balancer.pool.roster import Key
    from balancer.pool.verdicts import Why

Given = TypeVar("Given")
"""An `Endpoint`, an address, or an object with an `address`, as `balancer.likeness` says."""

SETS = 16
"""How many sets of endpoints, given by turns, keep turns and ejections of their own."""
ALONE = PoolOptions(idle_timeout_s=None, shuffle=False)


class NoEndpointError(LookupError):
    """There is nothing to select from: no endpoints, or only such with weight 0."""


class LoadBalancer:
    """Selects among the endpoints it is given at each call, and remembers what became of the calls. Thread-safe.

    Several sets may be given by turns, such as those of two services: each goes on where it was, and an endpoint's
    calls count in all that it is in.

    `policy` is a name, with options if need be (`"least_connections?choices=2"`), or an object of your own. Raises
    ValueError for an unknown name, listing the known ones.
    """

    def __init__(
        self,
        policy: AnyPolicy = "weighted_round_robin",
        *,
        options: PoolOptions = ALONE,
        rng: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._rng = rng or Random()  # noqa: S311 - spreads load, guards nothing
        self._policy = policy_of(policy)
        self._options = replace(options, connections=False)
        self._lock = RLock()  # a policy may ask for what it is part of
        self._is_counting = False
        self._picks = self._lacks = self._ejections = 0
        self._accounts = Accounts(options.load)
        # By what is in them; the last one is the one last used.
        self._sets: OrderedDict[frozenset[Endpoint], _Set] = OrderedDict()
        # What the sets were before they became what they are.
        self._left: OrderedDict[frozenset[Endpoint], None] = OrderedDict()
        self._current = _Set(self._new_pool(clock()))

    def select(
        self, endpoints: Iterable[Given], key: str | bytes | int | None = None, exclude: Collection[Given] = ()
    ) -> Given:
        """The endpoint for a call, one of the given objects. The same tuple again costs the same at any size.

        `key` is what consistent_hash and ip_hash go by; `exclude` are endpoints this call has failed on.
        Raises NoEndpointError when there is none, TypeError for another kind of key.
        """
        now = self._clock()
        current = self._current
        if endpoints is not current.given or (current.due is not None and now >= current.due):
            current = self._look(tuple(endpoints), now)
        info = ANY if key is None and not exclude else PickInfo(_text(key), current.nodes(exclude) if exclude else ())
        picked = current.picker.pick(info, now)
        if isinstance(picked, Node):
            if self._is_counting:  # without a lock, which would cost as much as the pick
                self._picks += 1
            endpoint = picked.endpoint
            return cast("Given", current.stand_ins.get(endpoint, endpoint) if current.stand_ins else endpoint)
        self._lacks += 1
        raise NoEndpointError(picked.reason if isinstance(picked, Fail) else "no endpoint")

    @property
    def _owner(self) -> AbstractContextManager[object]:
        """Who changes the sets holds it; as the interpreter ends nobody waits for what a thread that is gone held."""
        return nullcontext() if sys.is_finalizing() else self._lock

    def choose_by(self, policy: AnyPolicy) -> None:
        """Another policy selects from now on; what is known of the endpoints stays. Raises as making one does."""
        chosen = policy_of(policy)
        with self._owner:
            now = self._clock()
            self._policy = chosen
            for known in {id(it): it for it in (self._current, *self._sets.values())}.values():
                self._change(known, partial(known.pool.choose_by, chosen, now), now)

    def request(self, endpoint: object) -> Request:
        """Counts one call to `endpoint`: `with` or `async with`. An exception marks it failed."""
        taken = as_endpoint(endpoint)
        key = key_of(taken)
        account = self._accounts.get(key)
        if account is None:
            with self._owner:
                account = self._accounts.open(key, taken, [known.pool for known in self._sets.values()])
        return Request(taken, account, self._clock, self._hurry)

    def stats(self) -> PoolStatistics:
        """Calls, failures, in flight, latency and ejection of each endpoint, and why the last pick fell as it did.

        The endpoints are those of the sets selected from lately, and any with calls in flight; `state`, `members`,
        `usable` and `panic` are of the set last selected from.
        """
        with self._owner:
            now = self._clock()
            sets = list(reversed(self._sets.values())) or [self._current]
            told = [known.pool.statistics(now) for known in sets]
            last_pick = next((one.last_pick for one in told if one.last_pick), "")
            return replace(told[0], nodes=self._node_statistics(sets, now), last_pick=last_pick)

    def why(self) -> Why:
        """Why each endpoint of the set last selected from is selected or not."""
        with self._owner:
            return self._current.pool.why(self._clock())

    def numbers(self) -> Numbers:
        """What there is to count of the set last selected from, and what was counted of all since `count`."""
        requests = self._accounts.numbers()
        calls = {SUCCEEDED: requests.finished - requests.failed, BROKEN: requests.failed}
        pool = self._current.pool.numbers()
        pool = replace(pool, attempts=self._picks, in_flight=requests.in_flight, ejections=self._ejections)
        return Numbers(Totals({FAIL: self._lacks}, calls), pool)

    def count(self) -> None:
        """Count what is selected from now on."""
        self._is_counting = True

    def _node_statistics(self, sets: Iterable[_Set], now: float) -> tuple[NodeStatistics, ...]:
        nodes: dict[Key, Node] = {}
        for known in sets:
            for node in filter(None, map(known.pool.node, known.endpoints)):
                nodes.setdefault(key_of(node.endpoint), node)
        for account in self._accounts:
            if account.own.in_flight:
                nodes.setdefault(key_of(account.endpoint), Node(account.endpoint, account.own))
        return tuple(self._told(key, node, now) for key, node in nodes.items())

    def _told(self, key: Key, node: Node, now: float) -> NodeStatistics:
        account = self._accounts.get(key)
        told = node_statistics(node, now)
        return replace(told, calls=account.own.calls, failures=account.own.failures) if account else told

    def _look(self, given: tuple[object, ...], now: float) -> _Set:
        """The set of what is given, brought up to date. Equal elements are found by identity, at C speed."""
        with self._owner:
            known = next((known for known in list(reversed(self._sets.values())) if known.is_of(given)), None)
            if known is None:
                known = self._take_over(given, now)
            self._sets.move_to_end(known.content)
            if known.due is not None and now >= known.due:
                self._change(known, lambda: known.pool.tick(now), now)
            self._current = known
            return known

    def _take_over(self, given: tuple[object, ...], now: float) -> _Set:
        as_they_are = all(map(isinstance, given, repeat(Endpoint)))
        endpoints = cast("tuple[Endpoint, ...]", given) if as_they_are else tuple(map(as_endpoint, given))
        content = frozenset(endpoints)
        before = self._sets.get(content) or self._predecessor(content, endpoints)
        pool = before.pool if before else self._new_pool(now)
        stand_ins = dict(zip(endpoints, given, strict=True)) if endpoints is not given else {}
        known = _Set(pool, given, endpoints, content, stand_ins)
        if before is not None:
            del self._sets[before.content]
            if before.content != content:
                _remember(self._left, before.content)
        self._change(known, lambda: pool.apply(Resolved(endpoints), now), now)
        self._left.pop(content, None)
        self._sets[content] = known
        self._drop_oldest()
        return known

    def _drop_oldest(self) -> None:
        if len(self._sets) > SETS:
            _, oldest = self._sets.popitem(last=False)
            self._accounts.follow(oldest.pool, (), tuple(oldest.pool.members))

    def _predecessor(self, content: frozenset[Endpoint], endpoints: tuple[Endpoint, ...]) -> _Set | None:
        """The set that became this one: it goes on with its turns, its ejections and its ring.

        None for what has nothing in common with any, and for what was there before: sets that are given by turns
        each have their own.
        """
        if content in self._left:
            return None
        sets = list(reversed(self._sets.values()))
        return next((known for known in sets if any(map(known.pool.node, endpoints))), None)

    def _change(self, known: _Set, change: Callable[[], object], now: float) -> None:
        pool, before, ejections = known.pool, set(known.pool.members), known.pool.ejections
        change()
        self._ejections += pool.ejections - ejections
        members = set(pool.members)
        self._accounts.follow(pool, members - before, before - members)
        known.picker, known.due = pool.picker, pool.next_tick(now)

    def _new_pool(self, now: float) -> Pool:
        return Pool(self._policy, options=self._options, rng=self._rng, now=now)

    def _hurry(self) -> None:
        """An endpoint failed too often in a row: look at the next select."""
        with self._owner:
            now = self._clock()
            for known in self._sets.values():
                known.due = now


class _Set:
    """One set of endpoints to select from. All but `due` and, with it, the picker stays."""

    __slots__ = ("content", "due", "endpoints", "given", "picker", "pool", "stand_ins")

    def __init__(
        self,
        pool: Pool,
        given: tuple[object, ...] | None = None,
        endpoints: tuple[Endpoint, ...] = (),
        content: frozenset[Endpoint] = frozenset(),
        stand_ins: Mapping[Endpoint, object] = MappingProxyType({}),
    ) -> None:
        self.pool = pool
        self.given = given
        """None before anything was."""
        self.endpoints = endpoints
        self.content = content
        self.stand_ins = stand_ins
        """What was given in place of endpoints, by what it was taken for."""
        self.picker = pool.picker
        self.due: float | None = None

    def is_of(self, given: tuple[object, ...]) -> bool:
        mine = self.given
        return mine is given or (mine is not None and len(mine) == len(given) and mine == given)

    def nodes(self, endpoints: Collection[object]) -> frozenset[Node]:
        nodes = map(self.pool.node, map(as_endpoint, endpoints))
        return frozenset(node for node in nodes if node is not None)


def _remember(contents: OrderedDict[frozenset[Endpoint], None], content: frozenset[Endpoint]) -> None:
    contents[content] = None
    if len(contents) > SETS:
        contents.popitem(last=False)


def _text(key: str | bytes | int | None) -> str | bytes | None:
    if isinstance(key, int):
        return str(key)
    if key is None or isinstance(key, str | bytes):
        return key
    raise TypeError(f"key: must be str or bytes, is {key!r}")


class Request:
    """One call, from entering to leaving. Leaving by an exception, unless it is a cancellation, counts as a failure."""

    __slots__ = ("_account", "_clock", "_endpoint", "_failed", "_hurry", "_started")

    def __init__(
        self, endpoint: Endpoint, account: Account, clock: Callable[[], float], hurry: Callable[[], None]
    ) -> None:
        self._endpoint = endpoint
        self._account = account
        self._clock = clock
        self._hurry = hurry
        self._failed = False
        self._started = 0.0

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def mark_failed(self) -> None:
        """The call speaks against the endpoint, although no exception says so."""
        self._failed = True

    def __enter__(self) -> Self:
        self._started = self._clock()
        self._account.started(self._started)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            self._account.abandoned()
            return
        now = self._clock()
        if self._account.finished(now, now - self._started, error is None and not self._failed):
            self._hurry()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
