"""CORE of the etcd store: which commits go together."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from registry_server.records import Cause, Commit, Delete, Key, Kind, Put
from registry_server.stores.etcd.sharing import MAX_BYTES, MAX_TOGETHER, Lots
from registry_server.stores.names import path_of

KEYS = st.builds(
    Key, st.just("n"), st.just("s"), st.sampled_from(["a", "a/", "a.", "b", "c%", "ö"]), st.just(Kind.INSTANCE)
)
PUTS = st.builds(Put, KEYS, st.sampled_from([b"", b"x" * (MAX_BYTES // 3), b"x" * MAX_BYTES]), st.just("1"), st.just(0))
ALONE = st.one_of(
    st.builds(lambda put: Commit((put,)), PUTS),
    st.builds(lambda key, cause: Commit((), (Delete(key, 1),), cause), KEYS, st.sampled_from(Cause)),
)
SEVERAL = st.builds(
    lambda puts, key: Commit(tuple(puts), (Delete(key, 1),)), st.lists(PUTS, min_size=1, max_size=3), KEYS
)


@dataclass(frozen=True)
class Waiting:
    number: int
    commit: Commit


def lots_of(commits: list[Commit]) -> list[list[Waiting]]:
    line: Lots[Waiting] = Lots()
    for waiting in map(Waiting, range(len(commits)), commits):
        line.add(waiting)
    lots = []
    while lot := line.take():
        lots.append(lot)
    assert len(line) == 0
    return lots


@given(st.lists(st.one_of(ALONE, SEVERAL), max_size=30))
def test_everything_goes_once_and_nobody_is_overtaken_by_a_later_lot(commits: list[Commit]) -> None:
    lots = [sorted(waiting.number for waiting in lot) for lot in lots_of(commits)]
    assert [number for lot in lots for number in lot] == list(range(len(commits)))


@given(st.lists(st.one_of(ALONE, SEVERAL), max_size=30))
def test_what_goes_together_gets_along(commits: list[Commit]) -> None:
    for lot in lots_of(commits):
        items = [[*waiting.commit.puts, *waiting.commit.deletes] for waiting in lot]
        keys = [item.key for some in items for item in some]
        assert len(lot) == 1 or all(len(some) == 1 for some in items)
        assert len(lot) == 1 or keys == sorted(set(keys), key=path_of)
        assert len({waiting.commit.cause for waiting in lot if waiting.commit.deletes}) <= 1
        assert len(lot) == 1 or sum(len(put.value) for waiting in lot for put in waiting.commit.puts) <= MAX_BYTES


def test_so_many_go_together_and_no_more() -> None:
    commits = [Commit((Put(Key("n", "s", str(number)), b"", "1", 0),)) for number in range(2 * MAX_TOGETHER + 1)]
    assert [len(lot) for lot in lots_of(commits)] == [MAX_TOGETHER, MAX_TOGETHER, 1]
