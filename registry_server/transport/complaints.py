"""CORE: what clients do wrong over and over, so that it fills no log: each kind of it is told once a minute."""

EVERY_S = 60.0
# More kinds than this are told of as one: what a client sends must not make more of them.
MAX_KINDS = 32


class Complaints:
    """When each kind was told last, and how often it came since."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}
        self.counts: dict[str, int] = {}  # how often each has come, in all

    def is_news(self, kind: str, now: float) -> bool:
        """Note that it came, at `now` (seconds); whether it is to be told."""
        if kind not in self.counts and len(self.counts) >= MAX_KINDS:
            kind = ""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if now - self._told.get(kind, now - EVERY_S) < EVERY_S:
            return False
        self._told[kind] = now
        return True
