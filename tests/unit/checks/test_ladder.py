"""The ladder of health: every state with every sign, and what holds whatever a check finds."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_checks.ladder import (
    LADDER,
    LATE_S,
    ORDER,
    Limits,
    Rung,
    Sign,
    Standing,
    is_worse,
    looked,
    settle,
    unseen,
    worst,
)

LIMITS = st.builds(
    Limits,
    failures=st.integers(1, 5),
    successes=st.integers(1, 5),
    critical_after_s=st.sampled_from([0.0, 1.0, 7.0]),
    deregister_after_s=st.sampled_from([0.0, 1.0, 7.0]),
)
LOOKS = st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 1.0, 3.0])), max_size=60)


def climb(limits: Limits, found: str, step_s: float = 1.0, start: Rung = Rung.UNKNOWN) -> list[Rung]:
    """Where it stands after each look: `+` passed, `-` failed."""
    standing, rungs = Standing(start, 0.0), []
    for number, sign in enumerate(found, 1):
        standing = settle(looked(standing, sign == "+"), limits, number * step_s)
        rungs.append(standing.rung)
    return rungs


@pytest.mark.parametrize(
    ("found", "ends"),
    [
        ("+", Rung.UNKNOWN),
        ("++", Rung.HEALTHY),
        ("--", Rung.UNKNOWN),
        ("---", Rung.UNHEALTHY),
        ("++--+--+--", Rung.HEALTHY),
        ("++---", Rung.UNHEALTHY),
        ("++---+-+-", Rung.UNHEALTHY),
        ("++---++", Rung.HEALTHY),
    ],
)
def test_what_follows_from_what_is_found(found: str, ends: Rung) -> None:
    assert climb(Limits(), found)[-1] is ends


def test_what_lasts_gets_worse_and_leaves() -> None:
    limits = Limits(failures=1, critical_after_s=2, deregister_after_s=3)
    assert climb(limits, "-" * 6) == [*[Rung.UNHEALTHY] * 2, *[Rung.CRITICAL] * 3, Rung.REMOVED]
    assert climb(limits, "---++") == [*[Rung.UNHEALTHY] * 2, *[Rung.CRITICAL] * 2, Rung.HEALTHY]


def test_without_critical_what_is_unhealthy_for_long_leaves() -> None:
    assert climb(Limits(failures=1, deregister_after_s=2), "---") == [*[Rung.UNHEALTHY] * 2, Rung.REMOVED]
    assert climb(Limits(failures=1, deregister_after_s=0), "-" * 9)[-1] is Rung.UNHEALTHY
    assert climb(Limits(failures=1, critical_after_s=1), "-" * 9)[-1] is Rung.CRITICAL


def test_the_time_in_which_nobody_looked_makes_nothing_worse() -> None:
    """Whoever looks stood still: nobody can tell how it was meanwhile."""
    limits = Limits(failures=1, successes=2, critical_after_s=30, deregister_after_s=30)
    ill = Standing(Rung.UNHEALTHY, 0.0, failures=1)
    woken = looked(unseen(ill, 600.0, 1.0, 600.0), passed=True)
    assert settle(woken, limits, 600.0).rung is Rung.UNHEALTHY
    assert settle(looked(woken, passed=True), limits, 601.0).rung is Rung.HEALTHY
    assert settle(woken, limits, 600.0 + 29.0).rung is Rung.CRITICAL, "what it stood there before counts"


def test_a_look_that_comes_a_little_late_changes_nothing_and_none_reaches_beyond_now() -> None:
    ill = Standing(Rung.UNHEALTHY, 0.0)
    assert unseen(ill, 1.0 + LATE_S, 1.0, 2.0) is ill
    assert unseen(ill._replace(since=600.0), 600.0, 1.0, 600.0).since == 600.0, "it moved there in the meantime"


def test_table_is_whole() -> None:
    """From every rung but the last there is a way up and a way down, and none from the last."""
    assert {rung for rung, _ in LADDER} == set(Rung) - {Rung.REMOVED}
    for rung, sign in itertools.product(Rung, Sign):
        after = LADDER.get((rung, sign))
        if after is not None:
            assert is_worse(after, rung) == (sign is not Sign.PASSES)
    assert {after for (_, sign), after in LADDER.items() if sign is Sign.PASSES} == {Rung.HEALTHY}


@given(LIMITS, LOOKS)
def test_every_step_is_one_of_the_table(limits: Limits, looks: list[tuple[bool, float]]) -> None:
    standing, now, row = Standing(Rung.UNKNOWN, 0.0), 0.0, [True, 0]
    for passed, pause_s in looks:
        now += pause_s
        row = [passed, row[1] + 1] if row[0] == passed else [passed, 1]
        before, standing = standing, settle(looked(standing, passed), limits, now)
        if standing.rung is before.rung:
            assert standing.since == before.since
            continue
        if standing.rung is Rung.HEALTHY:
            assert passed
            assert row[1] >= limits.successes
        if before.rung in (Rung.UNKNOWN, Rung.HEALTHY) and is_worse(standing.rung, before.rung):
            assert not passed
            assert row[1] >= limits.failures
        if standing.rung is Rung.REMOVED:
            assert limits.deregister_after_s
        if standing.rung is Rung.CRITICAL:
            assert limits.critical_after_s
            assert now - before.since >= limits.critical_after_s
        assert before.rung is not Rung.REMOVED


@given(LIMITS, LOOKS)
def test_who_passes_for_long_is_well(limits: Limits, looks: list[tuple[bool, float]]) -> None:
    found = "".join("+" if passed else "-" for passed, _ in looks)
    rungs = climb(limits, found + "+" * 5)
    assert rungs[-1] is Rung.HEALTHY or Rung.REMOVED in rungs


@given(st.lists(st.sampled_from(Rung), min_size=1))
def test_the_worst_counts(rungs: list[Rung]) -> None:
    assert ORDER.index(worst(rungs)) == max(map(ORDER.index, rungs))
    assert worst([]) is Rung.UNKNOWN
