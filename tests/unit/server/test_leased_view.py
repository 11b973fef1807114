"""CORE of Leased: how long a silence is, and what has to end."""

import pytest

from registry_server.records import Key, Progress, Record
from registry_server.stores.backend import Changed, Check, Everything, Item
from registry_server.stores.leased.layout import lease_id, lease_name, packed
from registry_server.stores.leased.silence import Silence
from registry_server.stores.leased.view import Ending, View
from registry_server.stores.names import path_of
from registry_server.stores.pace import Pace

# ---- silence


def test_there_is_no_silence_where_nothing_was_asked() -> None:
    assert Silence().owed_s(100) == 0
    assert not Silence().is_doubtful(100, 1)


def test_a_silence_begins_with_the_oldest_question() -> None:
    silence = Silence()
    first, second = silence.asked(100), silence.asked(101)
    assert silence.owed_s(103) == 3
    assert silence.answered(first, 104) == 4
    assert silence.owed_s(105) == 1
    assert silence.answered(second, 106) == 2
    assert silence.owed_s(110) == 0


def test_an_answer_to_another_ends_it() -> None:
    silence = Silence()
    silence.asked(100)
    assert silence.answered(silence.asked(103), 104) == 4
    assert silence.owed_s(105) == 1


def test_what_failed_is_a_silence_until_something_is_answered() -> None:
    silence = Silence()
    silence.failed(silence.asked(100))
    assert silence.is_doubtful(100, 10)
    assert silence.owed_s(105) == 5
    assert silence.answered(silence.asked(106), 107) == 7
    assert silence.owed_s(110) == 0
    assert not silence.is_doubtful(110, 10)


def test_what_is_owed_for_long_is_doubtful() -> None:
    silence = Silence()
    silence.asked(100)
    assert not silence.is_doubtful(101, 1)
    assert silence.is_doubtful(101.1, 1)


# ---- the view

KEYS = [Key("n", "s", f"{number}") for number in range(6)]
LEASES = [lease_id(10, f"{number}" * 32) for number in range(3)]


def lease(which: int, revision: int) -> Item:
    return Item(lease_name(LEASES[which]), b"", revision, 1)


def record(which: int, revision: int, under: int) -> Item:
    return Item(path_of(KEYS[which]), packed(LEASES[under], b"x"), revision, revision)


def told(*items: Item, deletes: tuple[str, ...] = (), now: float = 0.0, view: View | None = None) -> View:
    """A view that was told of a change."""
    view = view or View(Pace())
    list(view.take(Changed(max((item.revision for item in items), default=100), items, deletes), now))
    return view


def ended(view: View, now: float, most: int = 100, spared: tuple[str, ...] = ()) -> list[tuple[str | None, set[str]]]:
    """What has to end: the leases, and the ids of the records."""
    return [
        (ending.lease_id, {check.name.rpartition("/")[2] for check in ending.checks if "instances" in check.name})
        for ending in view.endings(now, most, spared)
    ]


def test_a_lease_ends_with_what_it_holds_as_it_was_told() -> None:
    view = told(lease(0, 5), record(0, 6, 0), record(1, 7, 0))
    assert view.endings(10, 100, ()) == []
    checks = (Check(lease_name(LEASES[0]), 5), Check(path_of(KEYS[0]), 6), Check(path_of(KEYS[1]), 7))
    assert view.endings(10.1, 100, ()) == [Ending(LEASES[0], checks)]
    assert view.endings(10.2, 100, ()) == []


def test_who_is_about_to_be_renewed_is_spared_and_looked_at_again() -> None:
    view = told(lease(0, 5), lease(1, 5))
    assert ended(view, 10.1, spared=(LEASES[0],)) == [(LEASES[1], set())]
    assert ended(view, 10.1) == [(LEASES[0], set())]


def test_no_more_than_so_many_names_end_together() -> None:
    view = told(lease(0, 5), lease(1, 5), lease(2, 5), *(record(number, 6, 0) for number in range(4)), record(4, 6, 1))
    sizes = []
    while endings := view.endings(10.1, 4, ()):
        sizes.append(sum(len(ending.checks) for ending in endings))
    assert max(sizes) <= 4
    assert sum(sizes) == 3 + 3 + 1  # one record of the first lease is left to be found without it


def test_what_a_lease_leaves_behind_ends_without_it() -> None:
    view = told(lease(0, 5), record(0, 6, 0), record(1, 6, 0))
    told(deletes=(lease_name(LEASES[0]), path_of(KEYS[0])), view=view)
    assert ended(view, 0) == [(None, {"1"})]
    assert ended(view, 0) == []


def test_what_did_not_end_is_looked_at_again_unless_it_changed() -> None:
    view = told(lease(0, 5), record(0, 6, 1), record(1, 6, 1), record(2, 6, 1))
    [ending] = view.endings(0, 100, ())
    told(record(0, 7, 0), view=view)
    told(deletes=(path_of(KEYS[1]),), view=view)
    view.put_back(ending)
    assert ended(view, 0) == [(None, {"2"})]


def test_what_was_taken_over_by_a_lease_that_lives_does_not_end() -> None:
    view = told(lease(0, 5), record(0, 6, 1))
    told(record(0, 7, 0), view=view)
    assert ended(view, 0) == []
    assert ended(view, 10.1) == [(LEASES[0], {"0"})]


def test_short_leases_are_seen_by_the_pace() -> None:
    pace = Pace()
    told(Item(lease_name(lease_id(2, "a" * 32)), b"", 5, 5), view=View(pace))
    assert pace.ill_s == 0.25


def test_a_change_of_nothing_that_counts_is_progress() -> None:
    assert list(View(Pace()).take(Changed(7, (Item("beat", b"", 7, 7),)), 0)) == [Progress(7)]


@pytest.mark.parametrize("under", [0, 1])
def test_all_that_there_is(under: int) -> None:
    view = View(Pace())
    assert view.load(Everything(9, (record(0, 6, under), lease(0, 5))), 0) == (
        Record(KEYS[0], b"x", LEASES[under], 6, 6),
    )
    assert ended(view, 0) == ([] if under == 0 else [(None, {"0"})])


def test_the_difference_to_all_that_there_is() -> None:
    view = told(lease(0, 5), lease(1, 5), record(0, 6, 0), record(1, 7, 0))
    now = Everything(
        9, (lease(0, 8), record(0, 6, 0), record(2, 9, 0), Item("left", b"", 4, 4), Item("epoch", b"", 9, 9))
    )
    change = view.difference(now)
    assert (change.revision, set(change.puts)) == (9, {lease(0, 8), record(2, 9, 0)})
    assert set(change.deletes) == {lease_name(LEASES[1]), path_of(KEYS[1])}
