"""The history of services: what each log knows, and whose is forgotten when there is too much."""

from hypothesis import given
from hypothesis import strategies as st

from registry_server.history import SLACK_PART, Change, History, Log, Point, merged
from tests.support.core import key

STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=80)


def change(seq: int, revision: int) -> Change:
    return Change(seq, revision, key(), None, None)


def test_log_says_what_is_after_a_place_and_what_it_forgot() -> None:
    log = Log(Point(10, 100))
    for number in range(1, 201):
        log.append(change(10 + number, 100 + number // 2))
        if number > 50:
            log.forget_oldest()
    assert len(log) == 50
    assert log.floor == Point(160, 175)
    assert log.latest == Point(210, 200)
    assert log.since(159) is None
    found = log.since(160)
    assert found is not None
    assert [it.seq for it in found] == list(range(161, 211))
    assert log.since(210) == log.since(999) == []
    assert log.first_after(174) is None
    assert log.first_after(175) == 162
    assert log.first_after(199) == 210


def test_log_does_not_grow_by_what_it_forgot() -> None:
    log = Log(Point(0, 0))
    for number in range(1, 10_000):
        log.append(change(number, number))
        if number > 10:
            log.forget_oldest()
        assert len(log._changes) <= len(log) * (1 + 1 / SLACK_PART) + 1


@given(STEPS, st.integers(1, 6), st.integers(1, 10))
def test_history_beside_a_naive_one(steps: list[tuple[str, int]], limit: int, limit_in_all: int) -> None:
    """Each log holds the latest of its own; what is too much in all is taken from the longest, and from no other."""
    history, logs = History(limit, limit_in_all), {name: Log(Point(0, 0)) for name in "abc"}
    naive: dict[str, list[int]] = {name: [] for name in "abc"}
    for place, (name, drop) in enumerate(steps, 1):
        if drop == 3:
            history.drop(logs[name], Point(place, place))
            naive[name] = []
            continue
        emptied = history.add(logs[name], change(place, place))
        naive[name] = [*naive[name], place][-limit:]
        before = {one: len(its) for one, its in naive.items()}
        if sum(before.values()) > limit_in_all:
            (shrunk,) = [one for one in "abc" if len(logs[one]) == before[one] - 1]
            assert before[shrunk] == max(before.values())
            naive[shrunk] = naive[shrunk][1:]
            assert emptied is (None if naive[shrunk] else logs[shrunk])
        else:
            assert emptied is None
        assert len(history) == sum(len(its) for its in naive.values()) <= limit_in_all
        for one, its in naive.items():
            found = logs[one].since(logs[one].floor.seq)
            assert found is not None
            assert [it.seq for it in found] == its


def test_changes_of_several_logs_come_in_order_or_not_at_all() -> None:
    first, second = Log(Point(0, 0)), Log(Point(3, 3))
    for number in (1, 4, 6):
        first.append(change(number, number))
    second.append(change(5, 5))
    found = merged([second, first], 3)
    assert found is not None
    assert [it.seq for it in found] == [4, 5, 6]
    assert merged([second, first], 2) is None
    assert merged([], 2) == []
