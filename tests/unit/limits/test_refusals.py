"""What was refused is counted, and said once a minute."""

from registry_server.limits.refusals import Refusals


def test_the_first_is_said_at_once_and_the_others_in_a_minute() -> None:
    said: list[str] = []
    refusals = Refusals(said.append)
    for number in range(1000):
        refusals.note("max_watches", "there are 3", f"ipv4:10.0.0.{number % 7}", 5.0 + number / 1000)
    assert said == ["refused 1: max_watches: there are 3; the latest is ipv4:10.0.0.0"]
    refusals.look(64.0)
    assert len(said) == 1
    refusals.look(65.1)
    assert said[1:] == ["refused 999: max_watches: there are 3; the latest is ipv4:10.0.0.5"]
    refusals.look(1000.0)
    assert len(said) == 2, "nothing happened since"
    assert refusals.counts == {"max_watches": 1000}


def test_each_limit_is_said_by_itself() -> None:
    said: list[str] = []
    refusals = Refusals(said.append)
    refusals.note("a", "x", "one", 0.0)
    refusals.note("b", "y", "two", 1.0)
    assert [line.split(": ")[1] for line in said] == ["a", "b"]


def test_what_a_caller_says_of_itself_does_not_fill_the_log() -> None:
    said: list[str] = []
    Refusals(said.append).note("a", "w" * 10_000, "x" * 10_000, 0.0)
    assert len(said[0]) < 400
