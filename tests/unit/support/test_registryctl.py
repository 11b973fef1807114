"""What tests compare of stderr leaves out that a command waits, and nothing else."""

from tests.support.registryctl import without_waiting

WAITS = "registryctl: no help from the registry: list services: h:1: no answer in time; trying on\n"
AGAIN = "registryctl: the registry answers again: h:1, after 1.2 s in which 3 tries failed\n"


def test_only_the_lines_about_waiting_are_left_out() -> None:
    said = "registryctl: no instance of player is registered\n"
    assert without_waiting(WAITS + said + AGAIN) == said
    for text in ("", said, f"{said}{said}", WAITS.removesuffix("\n"), WAITS.removeprefix("registryctl: ")):
        assert without_waiting(text) == text
