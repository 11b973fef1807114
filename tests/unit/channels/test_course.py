"""The course of a call beside a naive model: all states and all inputs, without gRPC."""

from __future__ import annotations

import enum
from math import inf
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from balancer.calls.course import Ask, Begin, Course, End, Rest, Step
from balancer.calls.outcome import Outcome, Verdict, verdict_of
from balancer.calls.plan import PLAIN, Plan
from balancer.calls.retry import PUSHBACK_TRAILER, Hedging, HedgingPolicy, Retrying, RetryPolicy, Throttle
from balancer.endpoints import Endpoint
from balancer.load import Load, LoadBook
from balancer.policies.base import Node
from balancer.pool.picker import Fail, Open, Pick, Wait

UNAVAILABLE, NOT_FOUND = 14, 5
NODES = [Node(Endpoint(f"h{number}:1"), Load(LoadBook())) for number in range(3)]
MOST, DELAY_S, PAUSE_S = 3, 2.0, 1.0


PICKS: list[Pick] = [*NODES, *NODES, *NODES, Wait(), Open(()), Fail("gone"), Fail("why", NODES[0])]
OUTCOMES = st.builds(
    Outcome,
    verdict=st.sampled_from([*Verdict, Verdict.REFUSED, Verdict.AGAINST, Verdict.AGAINST, Verdict.FAILED]),
    code=st.sampled_from([UNAVAILABLE, UNAVAILABLE, NOT_FOUND]),
    trailers=st.sampled_from([(), (), (), ((PUSHBACK_TRAILER, "-1"),), ((PUSHBACK_TRAILER, "500"),)]),
    committed=st.sampled_from([False, False, True]),
    connected=st.booleans(),
)


DEADLINES = st.sampled_from([inf, inf, 5.0, 50.0])


class Even(Random):
    """Backoffs without jitter."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class Kind(enum.Enum):
    PLAIN = "plain"
    RETRY = "retry"
    HEDGE = "hedge"


def plan_of(kind: Kind, throttle: Throttle | None) -> Plan:
    if kind is Kind.RETRY:
        return Plan(retrying=Retrying(RetryPolicy(MOST, PAUSE_S, 8.0, 2.0, frozenset({UNAVAILABLE})), throttle))
    if kind is Kind.HEDGE:
        return Plan(hedging=Hedging(HedgingPolicy(MOST, DELAY_S, frozenset({UNAVAILABLE})), throttle))
    return PLAIN


class Naive:
    """What the definitions say: A6 for what a server saw, transparent retries for what nobody saw, and nothing else.

    Each method gives the step that must follow: "ask", a Rest, or an End without its list of attempts to drop.
    """

    def __init__(self, kind: Kind, deadline: float, *, waits: bool, throttled: bool) -> None:
        self.kind, self.deadline, self.waits, self.throttled = kind, deadline, waits, throttled
        self.running: dict[int, Node] = {}
        self.begun = 0
        self.sent = 1  # attempts that count: one that takes the place of a refused one does not
        self.backoffs = 0
        self.tokens = 4.0
        self.looking = True  # for an endpoint for an attempt that is due
        self.due: float | None = None  # when the next attempt is
        self.refused: set[Node] = set()
        self.last: int | None = None
        self.over = False

    @property
    def may_send(self) -> bool:
        return self.sent < MOST and not (self.throttled and self.tokens <= 2.0)

    def end(self, by: int | None, code: int = 0) -> tuple[int | None, int]:
        self.over = True
        return by, code

    def rest(self, now: float) -> object:
        if self.kind is Kind.HEDGE:
            if self.may_send:
                self.due = now + DELAY_S if self.due is None else max(now, self.due)
            elif not self.running:
                return self.end(self.last, UNAVAILABLE)
            due = self.due if self.may_send and self.due is not None else inf
        else:
            due = inf if self.running or self.due is None else self.due
        until = due if self.running else min(due, self.deadline)
        return Rest(None if until == inf else until)

    def on(self, now: float) -> object:
        """What is to be done now."""
        if self.over:
            return Rest()
        if not self.running and now >= self.deadline:
            return self.end(None, 4)
        if self.due is not None and now >= self.due and not self.looking:
            if self.kind is Kind.RETRY:
                self.due, self.looking = None, True
            elif self.may_send:
                self.due, self.looking = now + DELAY_S, True
                self.sent += 1
        return "ask" if self.looking else self.rest(now)

    def picked(self, pick: object, now: float) -> object:
        node = pick if isinstance(pick, Node) else None
        told = isinstance(pick, Fail) and not (self.waits or self.running or self.last is not None)
        if told and pick.node not in self.refused:
            node = pick.node
        if node is not None and node not in self.refused and node not in self.running.values():
            self.running[self.begun] = node
            self.begun += 1
            self.looking = False
            return node
        if self.running:  # a hedge that has nowhere to go: those under way decide
            self.sent, self.looking = MOST, False
            return self.rest(now)
        if self.waits or isinstance(pick, Wait | Open):
            return Rest(None if self.deadline == inf else self.deadline, picker=True)
        return self.end(self.last, 0 if self.last is not None else UNAVAILABLE)

    def ended(self, number: int, outcome: Outcome, now: float) -> object:
        node = self.running.pop(number)
        verdict, asked = outcome.verdict, dict(outcome.trailers or ()).get(PUSHBACK_TRAILER)
        if verdict is Verdict.OK:
            self.tokens = min(4.0, self.tokens + 0.5)
        if verdict in (Verdict.OK, Verdict.OURS):
            return self.end(number)
        self.last = number
        if verdict is Verdict.REFUSED:
            if not outcome.connected or node in self.hesitant:
                self.refused.add(node)
            self.hesitant.add(node)
            self.looking = True
            if self.kind is Kind.HEDGE:
                self.due = now + DELAY_S
            return self.on(now)
        return self.end(number) if self.kind is Kind.PLAIN else self.failed(number, outcome, asked, now)

    def failed(self, number: int, outcome: Outcome, asked: str | None, now: float) -> object:
        if (outcome.code == UNAVAILABLE or asked == "-1") and outcome.verdict is not Verdict.EXCUSED:
            self.tokens = max(0.0, self.tokens - 1.0)
        if self.kind is Kind.RETRY:
            return self.retried(number, outcome, asked, now)
        if outcome.code != UNAVAILABLE:
            return self.end(number)
        if asked == "-1":
            self.sent = MOST
        else:
            self.due = -inf if asked is None else now + 0.5
        return self.on(now)

    def retried(self, number: int, outcome: Outcome, asked: str | None, now: float) -> object:
        if outcome.code != UNAVAILABLE or asked == "-1" or outcome.committed or not self.may_send:
            return self.end(number)
        self.sent += 1
        self.last = None
        self.backoffs = 0 if asked else self.backoffs + 1
        self.due = now + (0.5 if asked else min(PAUSE_S * 2.0 ** (self.backoffs - 1), 8.0))
        return self.on(now)

    hesitant: set[Node]


class CourseMachine(RuleBasedStateMachine):
    kind = Kind.PLAIN

    @initialize(deadline=DEADLINES, waits=st.booleans(), throttled=st.booleans())
    def initial(self, deadline: float, waits: bool, throttled: bool) -> None:
        self.start(deadline, waits, throttled)

    def start(self, deadline: float, waits: bool, throttled: bool) -> None:
        self.now = 0.0
        plan = plan_of(self.kind, Throttle(4.0, 0.5) if throttled else None)
        self.course = Course(plan, Even(), None if deadline == inf else deadline, wait_for_ready=waits)
        self.model = Naive(self.kind, deadline, waits=waits, throttled=throttled)
        self.model.hesitant = set()
        self.asked = False
        self.compare(self.course.woke(self.now), self.model.on(self.now))

    def compare(self, step: Step, expected: object) -> None:
        running = tuple(self.model.running)
        self.asked = step == Ask()
        if expected == "ask":
            assert step == Ask()
        elif isinstance(expected, Rest):
            assert step == expected
        elif isinstance(expected, Node):
            assert isinstance(step, Begin)
            assert step == Begin(expected, self.model.begun - 1, self.model.sent - 1)
            self.compare(self.course.begun(self.now), self.model.rest(self.now))
        else:
            assert isinstance(step, End)
            by, code = expected  # type: ignore[misc]
            assert step.by == by
            assert by is not None or step.code == code
            assert set(step.drop) == set(running)
            self.model.running.clear()

    @rule(data=st.data(), steps=st.integers(1, 6))
    def proceed(self, data: st.DataObject, steps: int) -> None:
        """What mostly happens: an endpoint is found, an attempt ends, the time comes that was waited for."""
        for _ in range(steps):
            if self.model.over:
                self.late_news(data)
                self.start(data.draw(DEADLINES), data.draw(st.booleans()), data.draw(st.booleans()))
            elif self.asked:
                pick = data.draw(st.sampled_from(PICKS))
                self.compare(self.course.picked(pick, self.now), self.model.picked(pick, self.now))
            elif self.model.running and data.draw(st.booleans()):
                number = data.draw(st.sampled_from(sorted(self.model.running)))
                outcome = data.draw(OUTCOMES)
                step = self.course.ended(number, outcome, self.now)
                self.compare(step, self.model.ended(number, outcome, self.now))
            else:
                self.time(data.draw(st.sampled_from([0.0, 0.5, PAUSE_S, DELAY_S])))

    @precondition(lambda self: self.model.running and not self.asked)
    @rule()
    def not_begun(self) -> None:
        """The connection was closed between the pick and the call; of the attempt that was begun last."""
        number = self.model.begun - 1
        if number in self.model.running:
            step = self.course.not_begun(number, self.now)
            del self.model.running[number]
            self.model.looking = True
            self.compare(step, self.model.on(self.now))

    @rule(passed=st.one_of(st.sampled_from([0.0, 0.5, PAUSE_S, DELAY_S]), st.floats(0.0, 20.0)))
    def time(self, passed: float) -> None:
        self.now += passed
        self.compare(self.course.woke(self.now), self.model.on(self.now))

    @rule()
    def another_picker(self) -> None:
        self.model.refused.clear()
        self.model.hesitant.clear()
        self.compare(self.course.new_picker(self.now), self.model.on(self.now))

    @precondition(lambda self: self.model.begun > 1)
    @rule()
    def cancel(self) -> None:
        if not self.model.over:
            self.compare(self.course.cancelled(), self.model.end(None, 1))

    def late_news(self, data: st.DataObject) -> None:
        """Nothing follows from anything once the call is over."""
        number, pick = data.draw(st.integers(0, 5)), data.draw(st.sampled_from(PICKS))
        assert self.course.ended(number, data.draw(OUTCOMES), self.now) == Rest()
        assert self.course.not_begun(number, self.now) == Rest()
        assert self.course.picked(pick, self.now) == Rest()
        assert self.course.cancelled() == Rest()

    @invariant()
    def no_more_than_allowed(self) -> None:
        running = list(self.model.running.values())
        assert len(running) <= (MOST if self.kind is Kind.HEDGE else 1)
        assert len(set(running)) == len(running), "two attempts at one endpoint at once"
        assert self.course.over == self.model.over


class RetryMachine(CourseMachine):
    kind = Kind.RETRY


class HedgeMachine(CourseMachine):
    kind = Kind.HEDGE


TestPlain = CourseMachine.TestCase
TestRetries = RetryMachine.TestCase
TestHedges = HedgeMachine.TestCase
TestPlain.settings = TestRetries.settings = TestHedges.settings = settings(
    max_examples=200, stateful_step_count=12, deadline=None
)


@pytest.mark.parametrize(
    ("code", "details", "made_here", "verdict"),
    [
        (0, "", False, Verdict.OK),
        (14, "failed to connect to all addresses; last error: UNKNOWN: …", False, Verdict.REFUSED),
        (14, "DNS resolution failed for nowhere.invalid:80: …", False, Verdict.REFUSED),
        (14, "Socket closed", False, Verdict.AGAINST),
        (13, "Exception deserializing response!", True, Verdict.OURS),
        (1, "Locally cancelled by application!", True, Verdict.OURS),
        (5, "no such player", False, Verdict.FAILED),
        (4, "Deadline Exceeded", False, Verdict.AGAINST),
    ],
)
def test_what_a_status_says(code: int, details: str, made_here: bool, verdict: Verdict) -> None:
    assert verdict_of(code, details, made_here=made_here) is verdict


def test_a_call_whose_first_attempt_failed_goes_on() -> None:
    """The fast path makes its course only then; `tried` keeps the next pick off that endpoint."""
    course = Course.going_on(plan_of(Kind.RETRY, None), Even(), None, NODES[0], wait_for_ready=False)
    assert course.tried == (NODES[0],)
    step = course.ended(0, Outcome(Verdict.AGAINST, UNAVAILABLE), 10.0)
    assert step == Rest(10.0 + PAUSE_S)
    assert course.woke(11.0) == Ask()
    assert course.picked(NODES[1], 11.0) == Begin(NODES[1], 1, 1)


def test_a_hedged_call_waits_for_the_pushback_of_its_only_attempt() -> None:
    course = Course(plan_of(Kind.HEDGE, None), Even(), None, wait_for_ready=False)
    course.woke(0.0)
    course.picked(NODES[0], 0.0)
    course.begun(0.0)
    step = course.ended(0, Outcome(Verdict.AGAINST, UNAVAILABLE, ((PUSHBACK_TRAILER, "200"),)), 1.0)
    assert step == Rest(1.2)
    assert course.woke(1.2) == Ask()
    assert course.picked(NODES[0], 1.2) == Begin(NODES[0], 1, 1), "nothing else is under way there"
