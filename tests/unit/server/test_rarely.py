"""Lines that callers bring about fill no log."""

from registry_server.rarely import EVERY_S, MAX_KINDS, Rarely


def test_each_kind_has_its_own_minute_as_far_as_there_are_not_too_many() -> None:
    said: list[str] = []
    rarely = Rarely(said.append)
    for number in range(1000):
        rarely.tell(f"{number}", 5.0, kind=f"kind {number}")
    assert len(said) == MAX_KINDS + 1
    rarely.tell("0 again", 6.0, kind="kind 0")
    assert len(said) == MAX_KINDS + 1


def test_so_many_a_minute_and_then_how_many_more() -> None:
    said: list[str] = []
    rarely = Rarely(said.append, 2)
    for number in range(5):
        rarely.tell(f"{number} % {{}}", 1000.0 + number)
    assert said == ["0 % {}", "1 % {}"]
    rarely.tell("later", 1000.0 + EVERY_S)
    rarely.tell("and again", 1000.0 + EVERY_S)
    assert said[2:] == ["3 more such lines were left out", "later", "and again"]
    rarely.tell("much later", 1000.0 + 3 * EVERY_S)
    assert said[5:] == ["much later"]
