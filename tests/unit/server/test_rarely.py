"""Lines that callers bring about fill no log."""

from registry_server.rarely import EVERY_S, Rarely


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
