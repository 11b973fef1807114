"""CORE: lines of the log that others bring about as often as they like: of each kind so many a minute, and then how
many more there were."""

from collections.abc import Callable

EVERY_S = 60.0
# More kinds than this are told of as one: what a client sends must not make more of them.
MAX_KINDS = 32


class _Kind:
    __slots__ = ("said", "since", "unsaid")

    def __init__(self, now: float) -> None:
        self.since = now
        self.said = self.unsaid = 0


class Rarely:
    """`say` writes a line to the log: of each kind `most` a minute. Times are monotonic, in seconds."""

    def __init__(self, say: Callable[[str], None], most: int = 1) -> None:
        self._say = say
        self._most = most
        self._kinds: dict[str, _Kind] = {}

    def tell(self, text: str, now: float, kind: str = "") -> None:
        """Say it, unless enough of its kind was said. How many were not is said before the first one of another
        minute."""
        if kind not in self._kinds and len(self._kinds) >= MAX_KINDS:
            kind = ""
        it = self._kinds.setdefault(kind, _Kind(now))
        if now - it.since >= EVERY_S:
            if it.unsaid:
                self._say(f"{it.unsaid} more such lines were left out")
            it.since, it.said, it.unsaid = now, 0, 0
        if it.said < self._most:
            it.said += 1
            self._say(text)
        else:
            it.unsaid += 1
