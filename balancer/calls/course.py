"""CORE: one call over its attempts: what is to be done next, and when it is over.

A course is told what happened, and answers each time with the one thing to do:

    Ask      pick an endpoint, avoiding `course.tried`, and tell `picked`
    Begin    begin an attempt, then tell `begun`, or `not_begun` when the connection has just been closed
    Rest     wait, until `woke` is to be told, or the next picker (`new_picker`), or the end of an attempt (`ended`)
    End      the call is over: as this attempt ended, or with this status; drop the attempts that are left

    Ask ──> Begin ──> Rest ──ended──> End
     ^ └──────────────^ └──────────────┘ ^
     └── refused, retried, hedged, another picker; no endpoint, deadline, cancelled

The first attempt of a plain call needs no course: one is made when that attempt failed (`going_on`). Transparent
retries, retry policies, hedging (several attempts under way), wait-for-ready, the deadline and the throttle are here
and nowhere else. Times are seconds on the monotonic clock, codes the numbers of grpc.StatusCode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from balancer.calls.outcome import Verdict
from balancer.calls.retry import UNAVAILABLE
from balancer.policies.base import Node
from balancer.pool.picker import Fail

if TYPE_CHECKING:
    from random import Random

    from balancer.calls.outcome import Outcome
    from balancer.calls.plan import Plan
    from balancer.pool.picker import Pick

CANCELLED, DEADLINE_EXCEEDED = 1, 4
LATE = "Deadline Exceeded"
NOBODY = "no endpoint is ready"


@dataclass(frozen=True, slots=True)
class Ask:
    """Pick, and tell `picked`."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin attempt `number` on `node`; `previous` others went before, of which the server is told."""

    node: Node
    number: int
    previous: int


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do until something happens."""

    until: float | None = None
    """When to tell `woke`; None = never."""
    picker: bool = False
    """The next picker is to be told."""


@dataclass(frozen=True, slots=True)
class End:
    """The call is over."""

    by: int | None
    """As this attempt ended; None = with the status below."""
    drop: tuple[int, ...] = ()
    """Attempts that are still under way, and wanted no more."""
    code: int = 0
    details: str = ""


Step: TypeAlias = Ask | Begin | Rest | End


class Course:
    """One call. `deadline`: None = none."""

    __slots__ = (
        "_asking",
        "_begun",
        "_deadline",
        "_doubtful",
        "_hedges",
        "_last",
        "_number",
        "_over",
        "_refused",
        "_retries",
        "_rng",
        "_running",
        "_until",
        "_waits",
        "tried",
    )

    def __init__(self, plan: Plan, rng: Random, deadline: float | None, *, wait_for_ready: bool) -> None:
        self._rng = rng
        self._deadline = deadline
        self._waits = wait_for_ready
        self._retries = None if plan.retrying is None else plan.retrying.begin()
        self._hedges = None if plan.hedging is None else plan.hedging.begin()
        self._running: dict[int, Node] = {}
        self._number = 0
        self._asking = True
        """No endpoint has been found yet for an attempt that is due."""
        self._begun = False
        """An attempt has begun, so the next one is a further one."""
        self._until: float | None = None
        """Before this, a retry has to wait."""
        self._refused: set[Node] = set()
        """Nodes that had no connection although the picker offers them."""
        self._doubtful: set[Node] = set()
        """Nodes that had none, and had one again by the time that was known: asked once more."""
        self._last: int | None = None
        """The attempt whose failure is the call's when no other endpoint is left."""
        self._over = False
        self.tried: tuple[Node, ...] = ()
        """The next attempt goes elsewhere if it can."""

    @classmethod
    def going_on(cls, plan: Plan, rng: Random, deadline: float | None, node: Node, *, wait_for_ready: bool) -> Course:
        """The course of a call whose first attempt, number 0, is under way on `node` or has ended there."""
        course = cls(plan, rng, deadline, wait_for_ready=wait_for_ready)
        course.picked(node, float("-inf"))
        course.begun(float("-inf"))
        return course

    @property
    def over(self) -> bool:
        return self._over

    # What happened

    def woke(self, now: float) -> Step:
        """Time has passed: what is to be done now."""
        if self._over:
            return Rest()
        if not self._running and self._deadline is not None and now >= self._deadline:
            return self._end(None, DEADLINE_EXCEEDED, LATE)
        if self._until is not None and now >= self._until:
            self._until, self._asking = None, True
        if self._hedges is not None and self._begun and not self._asking and self._hedges.due(now):
            self._asking = True
        return Ask() if self._asking else self._rest(now)

    def picked(self, pick: Pick, now: float) -> Step:
        """The answer to `Ask`."""
        if self._over or not self._asking:
            return self._rest(now)
        if isinstance(pick, Node):
            if pick in self._refused or pick in self._running.values():
                return self._none(NOBODY, now)
            return self._begin(pick)
        if not isinstance(pick, Fail):
            return self._none(None, now)
        if pick.drop:
            return self._dropped(pick.reason, now)
        if pick.node is not None and self._may_ask_why(pick.node):
            return self._begin(pick.node)
        return self._none(pick.reason, now)

    def begun(self, now: float) -> Step:
        """The attempt is under way."""
        return self._rest(now)

    def not_begun(self, number: int, now: float) -> Step:
        """The connection was closed between the pick and the call: as if nothing had been picked."""
        node = self._running.pop(number, None)
        if node is None or self._over:
            return Rest()
        self.tried = self.tried[:-1]
        self._asking = True
        return self.woke(now)

    def ended(self, number: int, outcome: Outcome, now: float) -> Step:
        """An attempt ended."""
        node = self._running.pop(number, None)
        if node is None or self._over:
            return Rest()
        verdict = outcome.verdict
        if verdict is Verdict.OK:
            self._succeeded()
            return self._end(number)
        if verdict is Verdict.OURS:
            return self._end(number)
        self._last = number
        if verdict is Verdict.REFUSED:
            return self._elsewhere(node, outcome, now)
        return self._hedged(outcome, now) if self._hedges is not None else self._retried(outcome, now)

    def new_picker(self, now: float) -> Step:
        """Another picker: what the one before offered and was not there may be asked again."""
        self._refused.clear()
        self._doubtful.clear()
        return self.woke(now)

    def cancelled(self) -> Step:
        """The caller, or the channel's end, wants it no more."""
        if self._over:
            return Rest()
        return self._end(None, CANCELLED, "")

    # What follows from it

    def _begin(self, node: Node) -> Step:
        number, self._number = self._number, self._number + 1
        self._asking, self._begun = False, True
        self._running[number] = node
        self.tried = (*self.tried, node)
        if self._hedges is not None:
            return Begin(node, number, self._hedges.sent - 1)
        return Begin(node, number, 0 if self._retries is None else self._retries.previous)

    def _may_ask_why(self, node: Node) -> bool:
        """Whether an attempt at a node that is not connected is to tell why, in gRPC's own words: it fails at once."""
        return not (self._waits or self._running or self._last is not None or node in self._refused)

    def _succeeded(self) -> None:
        policy = self._retries if self._hedges is None else self._hedges
        if policy is not None:
            policy.succeeded()

    def _elsewhere(self, node: Node, outcome: Outcome, now: float) -> Step:
        """Nobody saw the attempt, so nothing is done twice: gRFC A6's transparent retry, no policy is asked."""
        if not outcome.connected or node in self._doubtful:
            self._refused.add(node)
        self._doubtful.add(node)
        self._asking = True
        if self._hedges is not None:
            self._hedges.replaced(now)
        return self.woke(now)

    def _retried(self, outcome: Outcome, now: float) -> Step:
        pause_s, excused = None, outcome.verdict is Verdict.EXCUSED
        if self._retries is not None:
            pause_s = self._retries.pause_after(
                outcome.code, outcome.trailers, self._rng, committed=outcome.committed, excused=excused
            )
        if pause_s is None:
            return self._end(self._last)
        self._last = None
        self._until = now + pause_s
        return self.woke(now)

    def _hedged(self, outcome: Outcome, now: float) -> Step:
        assert self._hedges is not None  # noqa: S101 - that is why it is this method
        self._hedges.failed(outcome.code, outcome.trailers, now, excused=outcome.verdict is Verdict.EXCUSED)
        if self._hedges.over:
            return self._end(self._last)
        return self.woke(now)

    def _none(self, reason: str | None, now: float) -> Step:
        """No endpoint for the attempt that is due. `reason`: and none in sight."""
        if self._running and self._hedges is not None:
            self._asking = False
            self._hedges.stop()  # those under way decide
            return self._rest(now)
        if self._waits or reason is None:
            return Rest(self._deadline, picker=True)
        if self._last is not None:
            return self._end(self._last)
        return self._end(None, UNAVAILABLE, reason)

    def _dropped(self, reason: str, now: float) -> Step:
        """One more attempt would be too much: what is under way decides, or else the call is over, even if it waits."""
        if self._running:
            return self._none(reason, now)
        return self._end(None, UNAVAILABLE, reason)

    def _rest(self, now: float) -> Step:
        if self._over:
            return Rest()
        if self._hedges is not None:
            return self._rest_of_hedges(self._hedges.pause_s(now), now)
        if self._running:
            return Rest()
        return Rest(self._first(self._until))

    def _rest_of_hedges(self, pause_s: float | None, now: float) -> Step:
        if self._running:
            return Rest(None if pause_s is None else now + pause_s)
        if pause_s is None:
            return self._end(self._last, UNAVAILABLE, NOBODY)
        return Rest(self._first(now + pause_s))

    def _first(self, when: float | None) -> float | None:
        """The earlier of that and the deadline."""
        times = [time for time in (when, self._deadline) if time is not None]
        return min(times, default=None)

    def _end(self, by: int | None, code: int = 0, details: str = "") -> End:
        self._over = True
        drop = tuple(self._running)
        self._running.clear()
        return End(by, drop, code, details)
