"""CORE: what stores keep of who left: why, and by whom, as text that is written beside the deletions.

The first line is the cause. Others say by whom, as JSON: of one path, when that follows behind a tab, or of all. Where
nobody is named there are none. What somebody else wrote there is nobody.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from registry_server.records import UNSAID, Author, Cause, Commit, Deleted, Key
from registry_server.stores.names import path_of

# In characters: of each part of an author.
MAX_PART = 1024


class Parting(NamedTuple):
    """Why the records of one revision left, and by whom: all of them, or each by its path."""

    cause: Cause
    author: Author = UNSAID
    authors: Mapping[str, Author] = {}

    @classmethod
    def read(cls, value: bytes) -> "Parting | None":
        """What is written there; None if that is no cause."""
        cause, *lines = value.decode(errors="replace").split("\n")
        try:
            found = cls(Cause(cause))
        except ValueError:
            return None
        said = [(path, author(by)) for by, _, path in (line.partition("\t") for line in lines)]
        return found._replace(author=next((it for path, it in said if not path), UNSAID), authors=dict(said))

    def of(self, key: Key) -> Deleted:
        """What is told of this one, that left."""
        by = self.authors.get(path_of(key), self.author) if self.authors else self.author
        return Deleted(key, self.cause, by)


NOBODY = Parting(Cause.EXPIRED)


def packed(commits: Sequence[Commit]) -> bytes:
    """What is written with commits that delete, for one cause: several of them one record each."""
    said = [it for it in commits if it.author != UNSAID]
    if len(commits) == 1:
        lines = [line(it.author) for it in said]
    else:
        lines = [f"{line(it.author)}\t{path_of(delete.key)}" for it in said for delete in it.deletes]
    return "\n".join((commits[0].cause.value, *lines)).encode()


def line(by: Author) -> str:
    """An author in one line, which has no tab in it."""
    return json.dumps({name: value[:MAX_PART] for name, value in by._asdict().items() if value})


def is_author(text: str) -> bool:
    """Whether a line is one of those."""
    return text.startswith("{")


def author(text: str) -> Author:
    """The author in a line; nobody if there is none."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return UNSAID
    if not isinstance(found, dict):
        return UNSAID
    return Author(*(_text(found.get(name)) for name in Author._fields))


def _text(value: object) -> str:
    """JSON can say halves of characters, which no message takes: a question mark each."""
    return value[:MAX_PART].encode(errors="replace").decode() if isinstance(value, str) else ""
