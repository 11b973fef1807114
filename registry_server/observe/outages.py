"""What is said of a store that is ill: one line a cause, however often it comes and goes."""

from collections.abc import Callable

# What was said less than so many seconds ago is not said again; how often it was left out is said with the next line.
EVERY_S = 10.0
# An outage that was not said at once, because there had just been one, is said when it has lasted so long.
LASTS_S = 3.0
# A standstill of this process is worth a line from here on.
STOOD_STILL_S = 1.0


class OutageLog:
    """Writes with `say(text)`. All times are of one monotonic clock, in seconds."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said_at: dict[str, float] = {}
        self._left_out: dict[str, int] = {}
        self._pending: tuple[float, str] | None = None
        self._has_said_away = False

    def away(self, reason: str, now: float) -> None:
        """The store cannot be reached."""
        self._has_said_away = self._rarely("away", f"the store is away: {reason}", now)
        self._pending = None if self._has_said_away else (now, reason)

    def look(self, now: float) -> None:
        """To be called every now and then."""
        if self._pending is not None and now - self._pending[0] >= LASTS_S:
            (_, reason), self._pending = self._pending, None
            self._has_said_away = True
            self._tell("away", f"the store is away: {reason}", now)

    def back(self, after_s: float, now: float, touched: int = 0) -> None:
        """The store is reached again; its view had not been confirmed for so long, and so many calls of it failed."""
        self._pending = None
        if self._has_said_away:
            self._has_said_away = False
            calls = f"{touched} call{'' if touched == 1 else 's'} failed or were held meanwhile"
            stays = "what ran out stays until its owner had time"
            self._say(f"the store is back after {after_s:.1f} s; {calls}, and {stays}")
            self._said_at["away"] = now

    def ill(self, reason: str, now: float) -> None:
        """The store is reached but was ill."""
        self._rarely("ill", f"the store was ill: {reason}", now)

    def stood_still(self, for_s: float, now: float) -> None:
        """This process did not run."""
        if for_s >= STOOD_STILL_S:
            self._rarely("stood still", f"this process stood still for {for_s:.1f} s", now)

    # ---- within

    def _rarely(self, kind: str, text: str, now: float) -> bool:
        said_at = self._said_at.get(kind)
        if said_at is not None and now - said_at < EVERY_S:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        self._tell(kind, text, now)
        return True

    def _tell(self, kind: str, text: str, now: float) -> None:
        left_out = self._left_out.pop(kind, 0)
        self._say(f"{text} ({left_out} more like this before)" if left_out else text)
        self._said_at[kind] = now
