"""SHELL: one call over its attempts, whichever kind of channel it is on: does what its `Course` says, step by step."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from balancer.calls.course import Ask, Course, End, Rest
from balancer.calls.outcome import Verdict
from balancer.calls.retry import marked
from balancer.channels.traces import UNKNOWN
from balancer.numbers import HEDGE, RETRY, UNSEEN
from balancer.policies.base import PickInfo

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from balancer.calls.course import Begin, Step
    from balancer.calls.outcome import Outcome
    from balancer.calls.plan import Plan
    from balancer.channels.traces import CallSpans, Tracing
    from balancer.channels.types import Arguments
    from balancer.numbers import Counts
    from balancer.policies.base import Node
    from balancer.pool.picker import Pick


class Leg(Protocol):
    """One attempt."""

    node: Node
    started: float

    @property
    def is_out(self) -> bool:
        """It has ended."""


class Picking(Protocol):
    """The engine, as far as a journey needs it."""

    rng: Random
    counts: Counts | None
    tracing: Tracing

    def excuses(self, began: float, now: float) -> bool: ...

    def pick(self, info: PickInfo) -> Pick: ...

    def keyed(self, info: PickInfo, metadata: Iterable[tuple[str, str | bytes]]) -> PickInfo: ...


L = TypeVar("L", bound=Leg)
C = TypeVar("C")
C.__doc__ = "The connection to an endpoint."


class Journey(Generic[L, C]):
    """What calls of both kinds of channel share. The time of its begin, `_began`, is what its deadline counts from."""

    over = False
    attempt: L | None = None
    """The attempt under way or, once the call is over, the one it ended as; None while there is none."""
    _plan: Plan
    _engine: Picking
    _arguments: Arguments
    _info: PickInfo
    _began = 0.0
    _course: Course | None = None
    """Made when there is no endpoint, or when the first attempt did not go well: most calls never have one."""
    _attempts: dict[int, L] | None = None
    """All attempts, once there is a course."""
    _spans: CallSpans | None = None
    """Where calls are traced."""

    def trace(self, spans: CallSpans | None) -> None:
        """To be told of by these, if by any."""
        if spans is not None:
            self._spans = spans
            spans.serve(self)

    def refused(self) -> None:
        """Beginning it raised: it makes no sense, and its caller has no call."""
        self.over = True
        if self._spans is not None:
            self._spans.over(UNKNOWN)

    @property
    def _deadline(self) -> float | None:
        timeout = self._arguments[0]
        return None if timeout is None else self._began + timeout

    def _plot(self, first: L | None = None) -> Course:
        """A course is called for: from the start, or after a first attempt, which has ended."""
        waits = self._plan.waits(self._arguments[3])
        engine, deadline = self._engine, self._deadline
        if first is None:
            self._attempts = {}
            self._course = Course(self._plan, engine.rng, deadline, wait_for_ready=waits)
        else:
            self._attempts = {0: first}
            self._course = Course.going_on(self._plan, engine.rng, deadline, first.node, wait_for_ready=waits)
        return self._course

    def _follow(self, step: Step) -> None:
        """Does what the course says, until there is nothing to do by now."""
        course = self._course
        assert course is not None  # noqa: S101 - it is whose step this is
        while not isinstance(step, End):
            if isinstance(step, Rest):
                self._rest(step)
                return
            step = self._ask(course) if isinstance(step, Ask) else self._begin(course, step)
        self._end(step)

    def _ask(self, course: Course) -> Step:
        info = self._info = self._engine.keyed(self._info, self._arguments[1] or ())
        if course.tried:
            info = PickInfo(info.key, course.tried, info.method, info.metadata)
        return course.picked(self._engine.pick(info), time.monotonic())

    def _begin(self, course: Course, step: Begin) -> Step:
        now = time.monotonic()
        connection: C | None = step.node.connection
        if connection is None:
            return course.not_begun(step.number, now)
        again = step.previous > 0
        attempt = self._set_out(step.node, connection, self._due(step, now), now, step.number, again=again)
        if attempt is None:
            return course.not_begun(step.number, now)
        assert self._attempts is not None  # noqa: S101 - there is a course
        self._attempts[step.number] = attempt
        if step.number and self._engine.counts is not None:
            self._engine.counts.again(self._why_again(step))
        self._started(attempt)
        return course.begun(now)

    def _why_again(self, step: Begin) -> str:
        """One that nobody saw is made up for; a policy asks for the others."""
        if not step.previous:
            return UNSEEN
        return RETRY if self._plan.hedging is None else HEDGE

    def _due(self, step: Begin, now: float) -> Arguments:
        """What is left of the time, and how many attempts the server is told of."""
        timeout, metadata, credentials, waits, compression = self._arguments
        if self._deadline is not None:
            timeout = max(0.0, self._deadline - now)
        if step.previous:
            metadata = marked(tuple(metadata or ()), step.previous)
        return timeout, metadata, credentials, waits, compression

    def _judged(self, outcome: Outcome, attempt: L, now: float) -> Outcome:
        """What is not to be held against the endpoint, since this process stood still, is marked so."""
        if outcome.verdict is Verdict.AGAINST and self._engine.excuses(attempt.started, now):
            return replace(outcome, verdict=Verdict.EXCUSED)
        return outcome

    # What each kind of channel does in its own way

    def _set_out(
        self, node: Node, connection: C, arguments: Arguments, now: float, number: int, *, again: bool
    ) -> L | None:
        """Begins an attempt; None when the connection has been closed since it was picked. `again`: the server is told
        of others that went before."""
        raise NotImplementedError

    def _started(self, attempt: L) -> None:
        """An attempt is under way: whoever waits for one is told, and the call of its end."""
        raise NotImplementedError

    def _rest(self, step: Rest) -> None:
        """Has the course told when something happens."""
        raise NotImplementedError

    def _end(self, step: End) -> None:
        """The call is over."""
        raise NotImplementedError
