"""CORE: what was refused, by the limit that was reached: counted for whoever looks, and said once a minute."""

from collections import Counter
from collections.abc import Callable, Mapping

EVERY_S = 60.0
# Of a limit's name or a caller's, so much is said.
SHOWN = 100


class Refusals:
    """`say` writes a line to the log. Times are monotonic, in seconds."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._counts: Counter[str] = Counter()
        self._said: dict[str, int] = {}
        self._said_at: dict[str, float] = {}
        self._latest: dict[str, str] = {}

    @property
    def counts(self) -> Mapping[str, int]:
        """How often each limit was reached since the server began."""
        return self._counts

    def note(self, limit: str, why: str, who: str, now: float) -> None:
        """Somebody was refused something."""
        self._counts[limit] += 1
        self._latest[limit] = f"{why[: 2 * SHOWN]}; the latest is {who[:SHOWN]}"
        self._look_at(limit, now)

    def look(self, now: float) -> None:
        """Say what is due. To be called every now and then."""
        for limit in [limit for limit, count in self._counts.items() if count > self._said.get(limit, 0)]:
            self._look_at(limit, now)

    def _look_at(self, limit: str, now: float) -> None:
        if now - self._said_at.get(limit, -EVERY_S) < EVERY_S:
            return
        count = self._counts[limit] - self._said.get(limit, 0)
        self._said[limit], self._said_at[limit] = self._counts[limit], now
        self._say(f"refused {count}: {limit}: {self._latest[limit]}")
