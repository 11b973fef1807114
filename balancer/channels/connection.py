"""SHELL: what the connections of both kinds of channel share: the plain channels that calls go out on, and the counting
of attempts."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from balancer.numbers import FORGOTTEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.channels.health import Stream
    from balancer.channels.options import GrpcOptions
    from balancer.channels.tally import Tally
    from balancer.numbers import Counts
    from balancer.policies.base import Node

Ch = TypeVar("Ch")
"""A plain channel."""


class Overseer(Protocol):
    """Whom a connection tells."""

    counts: Counts | None

    def look_at_loads(self) -> None:
        """The pool should look at its loads. From any thread that ends calls."""

    def soon(self, function: Callable[[], object]) -> None:
        """Calls it in the loop. From any thread."""


@dataclass(frozen=True, slots=True)
class Way:
    """How an endpoint is connected to, and what it is to tell of itself then."""

    address: str
    firsts: GrpcOptions
    """Of connections for first attempts."""
    laters: GrpcOptions
    """Of connections for attempts that others went before: gRPC core, where its own retries are on, takes away the
    header that tells a server how many."""
    streams: tuple[Stream, ...]
    waits_for_health: bool
    """It counts as connecting until a stream of its own says otherwise (gRFC A17)."""


class BalancedConnection(Generic[Ch]):
    """The connection to one endpoint."""

    def __init__(self, owner: Overseer, node: Node, way: Way) -> None:
        self.node = node
        self.closed = False
        self._owner = owner
        self._way = way
        self._lock = threading.RLock()
        self._retries: Ch | None = None
        self.channel = self._dial(way.firsts)
        """For first attempts."""

    @property
    def retries(self) -> Ch:
        """For attempts that others went before; made when it is first needed."""
        with self._lock:
            if self._retries is None:
                self._retries = self._dial(self._way.laters)
            if self.closed:
                self._shut(self._retries)
            return self._retries

    def _shut_calls(self) -> None:
        """Cancels the calls under way. No other will begin."""
        with self._lock:
            self.closed = True
        self._shut(self.channel)
        if self._retries is not None:
            self._shut(self._retries)

    def _dial(self, options: GrpcOptions) -> Ch:
        raise NotImplementedError

    def _shut(self, channel: Ch) -> None:
        """Closes it; idempotent."""
        raise NotImplementedError

    # balancer.channels.tally.Counted

    def left(self) -> None:
        raise NotImplementedError

    def alarm(self) -> None:
        self._owner.look_at_loads()

    def forgotten(self) -> None:
        """A call that was under way here ended, as nobody held it any more."""
        if self._owner.counts is not None:
            self._owner.counts.ended(FORGOTTEN, nan)

    def stray(self, tally: Tally) -> None:
        load = tally.node.load

        def out() -> None:
            load.abandoned()
            self.left()

        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it all that would be counted
            self._owner.soon(out)
