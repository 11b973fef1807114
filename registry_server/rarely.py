"""CORE: lines of the log that callers bring about as often as they like: so many a minute, and then how many more."""

from collections.abc import Callable

EVERY_S = 60.0


class Rarely:
    """`say` writes a line to the log, at most `most` a minute. Times are monotonic, in seconds."""

    def __init__(self, say: Callable[[str], None], most: int) -> None:
        self._say = say
        self._most = most
        self._since = 0.0
        self._said = 0
        self._unsaid = 0

    def tell(self, text: str, now: float) -> None:
        """Say it, unless enough was said. How many were not is said before the first one of another minute."""
        if not self._said or now - self._since >= EVERY_S:
            if self._unsaid:
                self._say(f"{self._unsaid} more such lines were left out")
            self._since, self._said, self._unsaid = now, 0, 0
        if self._said < self._most:
            self._said += 1
            self._say(text)
        else:
            self._unsaid += 1
