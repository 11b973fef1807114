"""CORE: what others wrote, as it may reach a terminal: in one line, in the order of reading, and nothing of it unseen.

Names, tags, metadata and the texts of errors come from strangers. A terminal obeys escape sequences, and people believe
what they see: so whatever moves a cursor, turns the order of letters, or has no width is written as its escape.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from typing import TYPE_CHECKING
from unicodedata import category

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Letters and marks that nobody sees (Unicode's Default_Ignorable_Code_Point, but for the formats, which cannot be
# printed anyway), and the blank of Braille.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Marks pile up on the letter before them, over the lines above and below. No writing needs more.
_MARKS = 3
_COMBINING = ("Mn", "Me")


def plain(text: str) -> str:
    r"""A text as one line that changes nothing but the cells it stands in: escapes, `\u202e`, `\n` are spelt out."""
    return text if _is_plain(text) else _spelt(text, _as_python)


def document(content: Mapping[str, object], *, indent: int | None = None, unicode: bool = True) -> str:
    """JSON of exactly this content, of which nothing does anything to a terminal.

    unicode: false writes all that is not ASCII as escapes, for an output that cannot carry it.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=not unicode)
    # Line feeds of the text are the ones between lines: those of the content are escaped by now.
    return "\n".join(line if _is_plain(line) else _spelt(line, _as_json) for line in text.split("\n"))


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _spelt(text: str, spell: Callable[[str], str]) -> str:
    spelt = "".join(letter if letter.isprintable() and not _UNSEEN.match(letter) else spell(letter) for letter in text)
    return spelt if spelt.isascii() else "".join(_without_heaps(spelt, spell))


def _without_heaps(text: str, spell: Callable[[str], str]) -> list[str]:
    """Marks stay where they have a letter to stand on, as many as a writing needs."""
    parts: list[str] = []
    for combining, letters in groupby(text, lambda letter: category(letter) in _COMBINING):
        run = "".join(letters)
        kept = _MARKS if parts or not combining else 0
        parts += [run[:kept], *map(spell, run[kept:])] if combining else [run]
    return parts


def _as_python(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _as_json(letter: str) -> str:
    return json.dumps(letter)[1:-1]
