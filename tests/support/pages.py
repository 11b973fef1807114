"""The pages of the documentation, and their fenced blocks: what is a program there, and what is shown."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.source import ROOT

_FENCE = re.compile(r"^( *)```(.*)$")
_DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Block:
    """A fenced block: the page by its path from the root, the line of its first fence, what follows the fence."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def only_defines(self) -> bool:
        """Of Python: to run it shows that it can be read, and no more."""
        body = ast.parse(self.text).body
        return all(isinstance(it, _DEFINES) for it in body)


def pages() -> list[str]:
    """The paths of all pages, from the root of the project."""
    return ["README.md", "CHANGELOG.md", *sorted(str(it.relative_to(ROOT)) for it in (ROOT / "docs").rglob("*.md"))]


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def blocks_of(page: str, text: str) -> Iterator[Block]:
    """Those of a page that has this text. Raises ValueError for a fence without an end."""
    begun: tuple[int, str, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if begun is None:
            if fence:
                begun, inside = (number, fence[1], fence[2].strip()), []
        elif fence and not fence[2].strip():
            at, indent, language = begun
            yield Block(page, at, language, "".join(f"{it.removeprefix(indent)}\n" for it in inside))
            begun = None
        else:
            inside.append(line)
    if begun is not None:
        raise ValueError(f"{page}:{begun[0]}: a block without an end")


def blocks(*languages: str) -> list[Block]:
    """All blocks of these languages, page by page; of every language without any."""
    every = (block for page in pages() for block in blocks_of(page, text_of(page)))
    return [block for block in every if not languages or block.language in languages]


def indented_code(text: str) -> list[int]:
    """Lines that Markdown takes for code because they are further in: of that nobody says what it is."""
    found: list[int] = []
    fenced, before, in_list = False, "", False
    for number, line in enumerate(text.splitlines(), 1):
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            in_list = bool(re.match(r" *([-*]|\d+\.) ", line)) or (in_list and (not line or line.startswith(" ")))
            if line.startswith("    ") and not before and not in_list:
                found.append(number)
        before = line
    return found
