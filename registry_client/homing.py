"""CORE: when to go back to the registry that is preferred, after it was left for another one."""

from __future__ import annotations

STEADY_S = 4.0  # it has to have worked for so long
BEGUN_ANEW_S = 15.0  # the same, when it came back without its memory: its owners come back first
RELAPSE_S = 60.0  # who has to be left again so soon is given twice the time, and so on
MOST_S = 120.0
LOOK_S = 2.0  # from one look to the next, about


class Homing:
    """Told of looks at the addresses of one registry. Times are steady seconds, epochs those of its answers."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}  # the epoch of each address, when it was in use
        self._working: dict[str, tuple[str, float]] = {}  # the epoch of each that answers, and since when
        self._patience_s = STEADY_S
        self._back_at_s = float("-inf")

    def used(self, address: str, epoch: str) -> None:
        """It answers, and is the one in use."""
        self._known[address] = epoch

    def left(self, now: float) -> None:
        """None of its addresses is in use any more."""
        relapsed = now - self._back_at_s < RELAPSE_S
        self._patience_s = min(self._patience_s * 2, MOST_S) if relapsed else STEADY_S
        self._working.clear()

    def failed(self, address: str) -> None:
        """A look found it away, or out of touch with its store."""
        self._working.pop(address, None)

    def answered(self, address: str, epoch: str, now: float) -> bool:
        """A look was answered. Whether to go back there."""
        before, since_s = self._working.get(address, ("", now))
        if before != epoch:
            since_s = now
            self._working[address] = epoch, now
        has_begun_anew = epoch not in self._known.values()
        if now - since_s < max(self._patience_s, BEGUN_ANEW_S if has_begun_anew else 0.0):
            return False
        self._back_at_s = now
        return True
