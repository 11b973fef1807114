"""Numbers and times as people read them, and names that are like another one."""

import pytest

from registry_server.why.words import MAX_LINE, Likeness, clock, count, line, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (3.24, "3.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (250, "4 min 10 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86_399.9, "1 d"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_span_is_told_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_time_that_no_calendar_has_is_said_to_be_none() -> None:
    assert clock(0) == "1970-01-01T00:00:00Z"
    assert clock(1e20) == clock(-1e20) == "?"


def test_things_are_counted() -> None:
    assert (count(1, "client"), count(0, "client"), count(2, "client")) == ("1 client", "0 clients", "2 clients")


def test_what_others_wrote_is_one_line() -> None:
    assert line("ünïcode") == "ünïcode"
    assert line("a\nb\x1b[31m\u202e") == "a b [31m "
    assert len(line("x" * 5_000)) == len(line("\n" * 5_000)) == MAX_LINE + 1


def alike(name: str, *names: str) -> list[str]:
    likeness = Likeness(name)
    for it in names:
        likeness.look([(it, f"<{it}>")])
    return likeness.best()


@pytest.mark.parametrize(
    ("mistaken", "meant"),
    [
        ("plaeyr", "player"),
        ("Player", "player"),
        ("players", "player"),
        ("player", "player-service"),
        ("player_service", "player-service"),
        ("p3", "p1"),
    ],
)
def test_what_was_meant_is_found(mistaken: str, meant: str) -> None:
    assert alike(mistaken, "chat", meant, "inventory") == [f"<{meant}>"]


def test_the_likeliest_comes_first_and_few_are_told() -> None:
    found = alike("player", *(f"player-{number:03}" for number in range(20)), "playes", "chat")
    assert found[0] == "<playes>"
    assert len(found) == 5


def test_nothing_is_like_something_else() -> None:
    assert alike("player", "chat", "inventory", "x", "é", "a" * 128) == []
