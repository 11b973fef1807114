"""Tables: what people must be able to copy is whole at any width."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from registry_client.cli.table import LEAST, Column, lay_out

COLUMNS = (Column("ID"), Column("ADDRESS"), Column("ZONE", cut=1), Column("TAGS", cut=2))
ROW = ("2f1c9a50-7d6b-4c0e-9a53-0f4f7f1f2b11", "[2001:db8::1:2]:8001", "eu/eu-1/rack-4711", "game,ranked,season-9,beta")


def test_columns_without_content_are_left_out() -> None:
    rows = [("a", "h:1", "", "x"), ("b", "h:2", "", "")]
    assert lay_out(COLUMNS, rows) == ["ID  ADDRESS  TAGS", "a   h:1      x", "b   h:2"]


def test_without_rows_all_titles_are_there() -> None:
    assert lay_out(COLUMNS, []) == ["ID  ADDRESS  ZONE  TAGS"]


def test_without_a_width_nothing_is_cut() -> None:
    assert lay_out(COLUMNS, [ROW])[1].split() == list(ROW)


@pytest.mark.parametrize("width", [200, 110, 80, 60, 40, 20, 1])
def test_what_others_need_is_whole_at_any_width(width: int) -> None:
    [head, line] = lay_out(COLUMNS, [ROW], width)
    name, address, zone, tags = line.split()
    assert (name, address) == ROW[:2]
    assert head.split() == ["ID", "ADDRESS", "ZONE", "TAGS"]
    assert cell_len(line) <= max(width, len(name) + len(address) + 2 * LEAST + 6)
    assert (zone == ROW[2]) or tags.endswith("…"), "the last is cut first"


def test_what_is_cut_says_so() -> None:
    assert lay_out(COLUMNS, [ROW], 90)[1].endswith("eu/eu-1/rack-4711  game,ranke…")


CELLS = st.text(st.characters(min_codepoint=33, max_codepoint=0xFFFF, categories=["L", "N", "P"]), min_size=1)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), st.integers(1, 150) | st.none())
def test_columns_stand_below_their_titles(rows: list[tuple[str, str]], width: int | None) -> None:
    """Wide letters count as two cells."""
    head, *lines = lay_out(COLUMNS[:2], rows, width)
    second = head.index("ADDRESS")
    for line, (name, address) in zip(lines, rows, strict=True):
        assert line.startswith(name)
        assert line.endswith(f"  {address}")
        assert cell_len(line) - cell_len(address) == second
