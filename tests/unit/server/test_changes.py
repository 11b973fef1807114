"""The logs of services: what each log knows, and whose is forgotten when there is too much."""

from hypothesis import given
from hypothesis import strategies as st

from registry_server.changes import CUT_PART, Change, Log, Logs, Point, level, merged
from tests.support.core import key

STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=80)


def change(seq: int, revision: int) -> Change:
    return Change(seq, revision, key(), None, None)


def test_log_says_what_is_after_a_place_and_what_it_forgot() -> None:
    logs = Logs(50, 1000)
    log = logs.open(("default", "a"), Point(10, 100))
    for number in range(1, 201):
        logs.add(log, change(10 + number, 100 + number // 2))
    log.forget(len(log) - 50)
    assert log.floor == Point(160, 175)
    assert (log.latest.seq, log.latest.revision) == (210, 200)
    assert log.since(159) is None
    found = log.since(160)
    assert found is not None
    assert [it.seq for it in found] == list(range(161, 211))
    assert log.since(210) == log.since(999) == []
    assert log.first_after(174) is None
    assert log.first_after(175) == 162
    assert log.first_after(199) == 210


def test_log_is_cut_back_some_at_a_time() -> None:
    logs = Logs(1000, 10_000)
    log = logs.open(("default", "a"), Point(0, 0))
    lengths = set()
    for number in range(1, 5000):
        logs.add(log, change(number, number))
        lengths.add(len(log))
        if number > 1000:
            assert log.since(number - 1000) is not None
    assert max(lengths) == 1000 + 1000 // CUT_PART


@given(STEPS, st.integers(1, 6), st.integers(1, 10))
def test_history_beside_a_naive_one(steps: list[tuple[str, int]], limit: int, limit_in_all: int) -> None:
    """Each log holds the latest of its own; what is too much in all is taken from the longest, and from no other."""
    together = Logs(limit, limit_in_all)
    logs = {name: together.open(("default", name), Point(0, 0)) for name in "abc"}
    naive: dict[str, list[int]] = {name: [] for name in "abc"}
    for place, (name, drop) in enumerate(steps, 1):
        if drop == 3:
            together.drop(logs[name], Point(place, place))
            naive[name] = []
            continue
        emptied = together.add(logs[name], change(place, place))
        naive[name] = [*naive[name], place][-limit:]
        before = {one: len(its) for one, its in naive.items()}
        if sum(before.values()) > limit_in_all:
            shrunk = [one for one in "abc" if len(logs[one]) < before[one]]
            assert shrunk
            assert all(before[one] >= max(len(logs[other]) for other in "abc") for one in shrunk)
            naive |= {one: naive[one][-len(logs[one]) or place :] for one in shrunk}
            assert set(emptied) == {("default", one) for one in shrunk if not naive[one]}
            assert sum(map(len, naive.values())) > limit_in_all - len(naive)
        else:
            assert not emptied
        assert len(together) == sum(len(its) for its in naive.values()) <= limit_in_all
        for one, its in naive.items():
            found = logs[one].since(logs[one].floor.seq)
            assert found is not None
            assert [it.seq for it in found] == its


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(0, 400))
def test_level_cuts_no_more_than_it_must(lengths: list[int], total: int) -> None:
    found = level(sorted(lengths), total)
    assert sum(min(found, length) for length in lengths) <= total
    if max(lengths) > found:
        assert sum(min(found + 1, length) for length in lengths) > total


def test_all_are_cut_back_some_at_a_time_and_the_quiet_not_at_all() -> None:
    logs = Logs(10_000, 1600)
    quiet, *busy = (logs.open(("default", name), Point(0, 0)) for name in "abc")
    for number in range(1, 101):
        logs.add(quiet, change(number, number))
    most = 0
    for number in range(101, 10_000):
        logs.add(busy[number % 2], change(number, number))
        most = max(most, len(logs))
    assert most == 1600
    assert len(quiet) == 100
    assert len(logs) >= 1500 - 2
    logs.close(quiet)
    assert len(logs) == sum(map(len, busy))


def test_changes_of_several_logs_come_in_order_or_not_at_all() -> None:
    first, second = Log(Point(0, 0)), Log(Point(3, 3))
    logs = Logs(10, 10)
    for number in (1, 4, 6):
        logs.add(first, change(number, number))
    logs.add(second, change(5, 5))
    found = merged([second, first], 3)
    assert found is not None
    assert [it.seq for it in found] == [4, 5, 6]
    assert merged([second, first], 2) is None
    assert merged([], 2) == []
