"""What became of the calls to each endpoint, whichever sets of endpoints it is in at the moment."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from threading import RLock
from typing import TYPE_CHECKING

from balancer.load import Load, LoadBook
from balancer.pool.roster import key_of
from balancer.pool.statistics import PoolNumbers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from balancer.endpoints import Endpoint
    from balancer.load import LoadOptions
    from balancer.policies.base import Node
    from balancer.pool.pool import Pool
    from balancer.pool.roster import Key

STRANGERS = 1024
"""Accounts kept beyond those of members; one with calls in flight is never dropped."""
_LOOKED_AT = 8


class Account:
    """The calls to one endpoint: one load of its own, and one in each pool the endpoint is a member of, kept alike."""

    __slots__ = ("_loads", "_lock", "endpoint", "own")

    def __init__(self, endpoint: Endpoint, own: Load) -> None:
        self.endpoint = endpoint
        self.own = own
        self._loads: dict[Pool, Load] = {}
        self._lock = RLock()

    @property
    def is_droppable(self) -> bool:
        """Nobody would miss it: not a member anywhere, no call in flight."""
        return not self._loads and not self.own.in_flight

    def started(self, now: float) -> None:
        with self._lock:
            self.own.started(now)
            for load in self._loads.values():
                load.started(now)

    def finished(self, now: float, rtt_s: float, ok: bool) -> bool:
        """True when a pool should look at its loads now."""
        with self._lock:
            self.own.finished(now, rtt_s, ok)
            # A list, as every one is to be told.
            alarms = [load.finished(now, rtt_s, ok) for load in self._loads.values()]
        return any(alarms)

    def abandoned(self) -> None:
        with self._lock:
            self.own.abandoned()
            for load in self._loads.values():
                load.abandoned()

    def join(self, pool: Pool, load: Load) -> None:
        """The endpoint became a member of `pool`, whose `load` goes on from what is known."""
        with self._lock:
            _take_over(load, self.own)
            self._loads[pool] = load

    def leave(self, pool: Pool) -> None:
        with self._lock:
            load = self._loads.pop(pool, None)
            if load is not None:
                _set_in_flight(load, 0)


def _take_over(load: Load, known: Load) -> None:
    """All that policies go by. The counts stay the pool's own: outlier detection judges what a pool has seen."""
    _set_in_flight(load, known.in_flight)
    load.error_rate, load.last_used = known.error_rate, known.last_used
    load.peak_s, load.stamp = known.peak_s, known.stamp
    load.consecutive_failures = known.consecutive_failures
    alarm_at = load.book.alarm_at
    if alarm_at is not None and load.consecutive_failures >= alarm_at:
        load.book.alarmed = True


def _set_in_flight(load: Load, calls: int) -> None:
    with load.book.lock:
        load.book.in_flight += calls - load.in_flight
        load.in_flight = calls


class Accounts:
    """The accounts of one balancer, by address and id. One owner changes them; anybody may look one up."""

    def __init__(self, options: LoadOptions) -> None:
        self._book = LoadBook(options)
        self._accounts: OrderedDict[Key, Account] = OrderedDict()

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def numbers(self) -> PoolNumbers:
        """Of all calls up to now."""
        book = self._book
        return PoolNumbers(attempts=book.started, finished=book.finished, failed=book.failed, in_flight=book.in_flight)

    def get(self, key: Key) -> Account | None:
        return self._accounts.get(key)

    def open(self, key: Key, endpoint: Endpoint, pools: Collection[Pool]) -> Account:
        """The account of an endpoint, a new one if need be."""
        account = self._accounts.get(key)
        if account is None:
            self._trim(sum(len(pool.members) for pool in pools))
            account = self._accounts[key] = Account(endpoint, Load(self._book))
            for pool in pools:
                node = pool.node(endpoint)
                if node is not None and node in pool.members:
                    account.join(pool, node.load)
        return account

    def follow(self, pool: Pool, joined: Iterable[Node], left: Iterable[Node]) -> None:
        """The members of a pool changed."""
        for _, account in self._known(left):
            account.leave(pool)
        for node, account in self._known(joined):
            account.join(pool, node.load)

    def _known(self, nodes: Iterable[Node]) -> Iterator[tuple[Node, Account]]:
        for node in nodes if self._accounts else ():
            account = self._accounts.get(key_of(node.endpoint))
            if account is not None:
                yield node, account

    def _trim(self, members: int) -> None:
        """Looks at the oldest few: those still needed go to the end, so that all come up in time."""
        if len(self._accounts) < STRANGERS + members:
            return
        for key, account in list(islice(self._accounts.items(), _LOOKED_AT)):
            if account.is_droppable:
                del self._accounts[key]
            else:
                self._accounts.move_to_end(key)
