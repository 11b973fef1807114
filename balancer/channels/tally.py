"""One attempt, as its endpoint sees it: counted in when it begins, and counted out once, whatever becomes of it."""

from __future__ import annotations

import weakref
from math import nan
from typing import TYPE_CHECKING, Protocol

from balancer.calls.outcome import Verdict

if TYPE_CHECKING:
    from balancer.policies.base import Node

NO_SAMPLE = nan
"""Latency of a streaming call: it lasts as long as the application likes, so it says nothing about the endpoint."""


class Counted(Protocol):
    """The connection that an attempt is on, and whom to tell of its end."""

    def left(self) -> None:
        """An attempt has ended."""

    def alarm(self) -> None:
        """The pool should look at its loads."""

    def stray(self, tally: Tally) -> None:
        """An attempt was forgotten rather than ended: to be counted out soon. Must not take a lock."""


class Tally:
    """Counts one attempt. All methods from the thread that owns the call, or under its lock."""

    __slots__ = ("_open", "connection", "node", "started")

    def __init__(self, node: Node, connection: Counted, now: float) -> None:
        self.take(node, connection, now)
        node.load.started(now)

    @classmethod
    def begun(cls, node: Node, connection: Counted, started: float) -> Tally:
        """Of an attempt that was counted in already."""
        tally = cls.__new__(cls)
        tally.take(node, connection, started)
        return tally

    def take(self, node: Node, connection: Counted, started: float) -> None:
        """Is of this attempt from now on."""
        self.node, self.connection, self.started, self._open = node, connection, started, True

    def out(self, verdict: Verdict, now: float, rtt_s: float = NO_SAMPLE) -> bool:
        """The attempt ended; False when it was counted out before."""
        if not self._open:
            return False
        self._open = False
        load = self.node.load
        if verdict is Verdict.OK:
            if load.finished(now, rtt_s):
                self.connection.alarm()
        elif verdict in (Verdict.REFUSED, Verdict.OURS, Verdict.EXCUSED):
            load.abandoned()
        elif load.finished(now, rtt_s, verdict is not Verdict.AGAINST):
            self.connection.alarm()
        self.connection.left()
        return True

    def lasts_as_long_as(self, thing: object) -> None:
        """Nothing will tell when the attempt ends: it is counted until this is gone."""
        self._open = False
        bare = Tally.begun(self.node, self.connection, self.started)  # which holds nothing of the attempt
        bare.hand_over()
        weakref.finalize(thing, self.connection.stray, bare).atexit = False

    def hand_over(self) -> None:
        """Somebody else counts it out."""
        self._open = False

    @property
    def is_out(self) -> bool:
        """The attempt has ended."""
        return not self._open

    def __del__(self) -> None:
        # In the middle of whatever the thread was doing: even of the very lock that counting takes.
        if self._open:
            self.connection.stray(self)
