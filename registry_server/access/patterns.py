"""CORE: texts in which `*` stands for any characters. Fitting one takes a time that grows with the text and no faster,
whatever the pattern."""

from dataclasses import dataclass
from typing import Self

from registry_server.rights import EVERY


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern, in the pieces between its stars; a single piece has no star beside it."""

    head: str
    middle: tuple[str, ...] = ()
    tail: str | None = None

    @classmethod
    def of(cls, text: str) -> Self:
        """The pattern that is written so."""
        head, *rest = text.split(EVERY)
        return cls(head, tuple(rest[:-1]), rest[-1]) if rest else cls(head)

    def fits(self, text: str) -> bool:
        """Whether the text is one of those that are meant. `*` itself is a text that `*` alone fits."""
        if self.tail is None:
            return text == self.head
        end = len(text) - len(self.tail)
        if not (text.startswith(self.head) and text.endswith(self.tail)):
            return False
        at = len(self.head)
        for piece in self.middle:
            found = text.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return at <= end
