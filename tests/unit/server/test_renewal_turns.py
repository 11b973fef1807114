"""CORE: renewals take turns. Each lease is asked once however many wait, and nobody waits for one
greedy caller."""

from collections import Counter
from collections.abc import Iterable
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.stores.turns import RenewalTurns

MOST = 4


def turns(*wants: tuple[str, Iterable[int]], most: int = MOST) -> RenewalTurns[str, int]:
    made: RenewalTurns[str, int] = RenewalTurns(most)
    for caller, leases in wants:
        made.want(caller, leases)
    return made


def asked(from_: RenewalTurns[str, int], now: float = 0.0) -> list[int]:
    """All that may be asked now."""
    found = []
    while (lease := from_.next(now)) is not None:
        found.append(lease)
    return found


def test_one_lease_is_asked_once_however_many_wait() -> None:
    all_ = turns(("a", [1, 2]), ("b", [2, 1]), ("c", [1]))
    assert sorted(asked(all_)) == [1, 2]
    assert sorted(all_.answered(1)[1]) == ["a", "b", "c"]
    assert sorted(all_.answered(2)[1]) == ["a", "b"]
    assert asked(all_) == []


def test_who_comes_when_it_is_on_its_way_waits_for_the_next_time() -> None:
    all_ = turns(("a", [1]))
    assert asked(all_, now=5.0) == [1]
    all_.want("b", [1])
    all_.want("c", [1])
    assert asked(all_) == []
    assert all_.answered(1) == (5.0, ["a"])
    assert asked(all_, now=6.0) == [1]
    at, callers = all_.answered(1)
    assert (at, sorted(callers)) == (6.0, ["b", "c"])


def test_nobody_waits_for_a_greedy_caller() -> None:
    all_ = turns(("greedy", range(1000, 2000)), ("greedier", range(2000, 9000)))
    assert len(asked(all_)) == MOST
    all_.want("modest", [7])
    answers = 0
    while 7 not in asked(all_):
        all_.answered(next(iter(all_._asked)))
        answers += 1
    assert answers <= MOST + 2


def test_no_more_than_so_many_are_on_their_way() -> None:
    all_ = turns(("a", range(100)))
    assert len(asked(all_)) == all_.asked == MOST
    all_.answered(0)
    assert asked(all_) == [4]


def test_what_nobody_waits_for_is_not_asked() -> None:
    all_ = turns(("a", range(10)), ("b", [5]))
    all_.drop("a")
    assert asked(all_) == [5]
    assert len(all_) == 0
    all_.drop("b")
    assert all_.answered(5) == (0.0, ["b"])
    assert asked(all_) == []


def test_an_answer_that_was_not_asked_for_goes_to_nobody() -> None:
    assert turns().answered(77)[1] == []


def test_what_is_lost_is_asked_again_first_and_once() -> None:
    all_ = turns(("a", [1, 2, 3]), ("b", [1]), most=2)
    assert asked(all_, now=1.0) == [1, 2]
    all_.drop("b")
    all_.again()
    assert all_.asked == 0
    assert asked(all_, now=2.0) == [2, 1]
    assert all_.answered(1)[1] == ["a"]
    assert all_.answered(2)[1] == ["a"]
    assert asked(all_) == [3]


def test_what_had_no_turn_in_time_comes_first_the_next_time() -> None:
    all_ = turns(("a", [1, 2, 3, 4]), most=2)
    assert asked(all_) == [1, 2]
    all_.drop("a", is_late=True)
    all_.answered(1)
    all_.answered(2)
    all_.want("a again", [1, 2, 3, 4])
    assert asked(all_) == [3, 4]
    all_.answered(3)
    all_.answered(4)
    assert asked(all_) == [1, 2]
    all_.drop("a again")
    all_.want("a once more", [1, 2, 3, 4])
    assert asked(all_) == [], "both are on their way still"
    all_.answered(1)
    all_.answered(2)
    assert asked(all_) == [1, 2], "nothing is late any more"


def test_what_is_owed_counts_whether_anybody_waits_or_not() -> None:
    all_ = turns(("a", [1, 2]))
    assert all_.unanswered_since is None
    asked(all_, now=3.0)
    all_.drop("a")
    assert all_.unanswered_since == 3.0
    all_.again()
    assert all_.unanswered_since == 3.0
    all_.forgive()
    assert all_.unanswered_since is None


def test_an_answer_ends_what_is_owed() -> None:
    all_ = turns(("a", [1]))
    asked(all_, now=3.0)
    assert all_.answered(1)[0] == 3.0
    assert all_.unanswered_since is None


class World:
    """Callers and an etcd around the turns, and what must hold of them at any time."""

    def __init__(self) -> None:
        self.turns: RenewalTurns[int] = RenewalTurns(MOST)
        self.callers = count()
        self.wants: dict[int, set[int]] = {}
        self.on_way: Counter[int] = Counter()

    def want(self, leases: int) -> None:
        """A new caller wants the leases whose bits are set."""
        caller, wanted = next(self.callers), {lease for lease in range(8) if leases >> lease & 1}
        self.wants[caller] = wanted
        self.turns.want(caller, sorted(wanted))

    def drop(self, number: int) -> None:
        for caller in sorted(self.wants)[number % (len(self.wants) or 1) :][:1]:
            del self.wants[caller]
            self.turns.drop(caller)

    def ask(self, _: int) -> None:
        lease = self.turns.next(0.0)
        if lease is not None:
            self.on_way[lease] += 1
            assert self.on_way[lease] == 1, "it is on its way once"
            assert any(lease in wanted for wanted in self.wants.values()), "somebody waits for it"

    def answer(self, number: int) -> None:
        on_way = sorted(+self.on_way)
        for lease in on_way[number % (len(on_way) or 1) :][:1]:
            self.on_way[lease] -= 1
            for caller in self.turns.answered(lease)[1]:
                self.wants.get(caller, set()).discard(lease)

    def lose(self, _: int) -> None:
        self.on_way.clear()
        self.turns.again()


@given(st.lists(st.tuples(st.sampled_from(["want", "drop", "ask", "ask", "answer", "lose"]), st.integers(1, 255))))
def test_everybody_is_answered_in_the_end_and_each_lease_is_on_its_way_once(steps: list[tuple[str, int]]) -> None:
    world = World()
    for step, value in steps:
        getattr(world, step)(value)
    for _ in range(100 + 10 * len(steps)):
        world.ask(0)
        world.answer(0)
    assert not any(world.wants.values()), "nobody is forgotten"
    for caller in list(world.wants):
        world.turns.drop(caller)
    assert (world.turns.asked, world.turns._waiting, world.turns._wants) == (0, {}, {}), "and nothing is left"


@pytest.mark.parametrize("callers", [10_000])
def test_a_turn_costs_the_same_however_many_wait(callers: int) -> None:
    all_: RenewalTurns[int] = RenewalTurns(MOST)
    for caller in range(callers):
        all_.want(caller, [caller])
    for lease in range(callers):
        assert all_.next(0.0) == lease
        assert all_.answered(lease)[1] == [lease]
