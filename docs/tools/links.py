"""Links between files of the repository, as links between pages of the site. Pure."""

import re
from pathlib import PurePosixPath
from posixpath import normpath, relpath

PROTOS = PurePosixPath("protos/registry/v1")
REFERENCE = "reference"
# Files of the repository that are pages of the site, too.
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}

_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def relinked(text: str, page: str, repository: str) -> str:
    """The Markdown of a page (its path in the site) with its links leading to pages, and else into the `repository`."""
    parts = _FENCE.split(text)
    return "".join(part if number % 2 else _outside(part, page, repository) for number, part in enumerate(parts))


def _outside(text: str, page: str, repository: str) -> str:
    """Of a part that is no block of code."""
    source = source_of(page)

    def found(match: re.Match[str]) -> str:
        path = normpath(source.parent / match[1])
        to = page_of(path)
        target = f"{repository}/{path}" if to is None else relpath(to, PurePosixPath(page).parent)
        return f"]({target}{match[2] or ''})"

    return _LINK.sub(found, text)


def source_of(page: str) -> PurePosixPath:
    """The file of the repository that a page is made of; of one that is generated, where it would be."""
    return PurePosixPath(next((path for path, name in PAGES.items() if name == page), f"docs/{page}"))


def page_of(path: str) -> str | None:
    """The page that a file of the repository is; None if it is none."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    file = PurePosixPath(path)
    if file == PROTOS:
        return f"{REFERENCE}/registry.md"
    return f"{REFERENCE}/{file.stem}.md" if file.parent == PROTOS and file.suffix == ".proto" else None
