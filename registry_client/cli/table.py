"""CORE: rows and columns as lines of text. What people must be able to copy is never cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GAP = "  "
LEAST = 8
"""Cells that are left of a column that is cut."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `cut`: shortened where the terminal is too narrow, those with higher numbers first; 0 = never."""

    title: str
    cut: int = 0


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """The line of titles and a line for each row; columns without any content are left out.

    width: of the terminal, in cells; None for as much as it takes. Lines are longer than that where they would lose
    what is never cut. The cells must be plain text.
    """
    shown = [at for at, _ in enumerate(columns) if not rows or any(row[at] for row in rows)]
    table = [[columns[at].title for at in shown], *([row[at] for at in shown] for row in rows)]
    widths = [max(map(cell_len, cells)) for cells in zip(*table, strict=True)]
    if width is not None:
        widths = _narrowed(widths, [columns[at].cut for at in shown], width)
    return [_line(cells, widths) for cells in table]


def _narrowed(widths: list[int], cuts: Iterable[int], width: int) -> list[int]:
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    narrowed = list(widths)
    for _, at in sorted(((cut, at) for at, cut in enumerate(cuts) if cut), reverse=True):
        taken = max(0, min(excess, widths[at] - LEAST))
        narrowed[at] -= taken
        excess -= taken
    return narrowed


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(map(cell, cells, widths)).rstrip()


def cell(text: str, width: int) -> str:
    """A text in exactly so many cells."""
    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"
