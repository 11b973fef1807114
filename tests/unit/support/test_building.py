"""Programs that are built for tests: once, anew when they change, and a skip that says why when they cannot be."""

from pathlib import Path

import pytest

from tests.support import building
from tests.support.building import NotBuilt, Program, run


class Workshop:
    """A program made of one file, by the shell."""

    def __init__(self, folder: Path, tool: str = "sh", command: str = "cat") -> None:
        self.made = 0
        self.source = folder / "source"
        self.source.write_text("one")
        self.command = command
        self.program = Program("thing", tool, "https://example.org/tool", (self.source,), self.make)

    def make(self, home: Path) -> None:
        self.made += 1
        run(["sh", "-c", f"{self.command} {self.source} >{home}/thing"], home)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(building, "ROOT", tmp_path)
    monkeypatch.setattr(building, "CACHE", tmp_path / "cache")
    return tmp_path


def test_it_is_built_once(folder: Path) -> None:
    workshop = Workshop(folder)
    homes = {workshop.program.built() for _ in range(3)} | {workshop.program.needed()}
    assert [home.joinpath("thing").read_text() for home in homes] == ["one"]
    assert workshop.made == 1


def test_with_other_sources_it_is_another_one_and_the_old_one_is_gone(folder: Path) -> None:
    workshop = Workshop(folder)
    old = workshop.program.built()
    neighbour = folder / "cache" / "thing-else-0123456789ab"
    neighbour.mkdir()
    workshop.source.write_text("two")
    new = workshop.program.built()
    assert (new / "thing").read_text() == "two"
    assert not old.exists()
    assert neighbour.exists()


def test_without_its_tool_it_is_skipped_and_the_reason_says_where_to_get_it(folder: Path) -> None:
    workshop = Workshop(folder, tool="no-such-tool")
    with pytest.raises(pytest.skip.Exception, match=r"no thing: there is no `no-such-tool` .*https://example.org/tool"):
        workshop.program.needed()
    assert workshop.made == 0


def test_what_fails_is_told_and_leaves_nothing_that_counts_as_built(folder: Path) -> None:
    workshop = Workshop(folder, command="echo broken >&2; false")
    for _ in range(2):
        with pytest.raises(NotBuilt, match="`sh` could not build it: broken"):
            workshop.program.built()
    workshop.command = "cat"
    assert (workshop.program.built() / "thing").read_text() == "one"
    assert workshop.made == 3
