"""CORE: how many calls are begun in one turn of the loop, of all connections: as many as take no long time together."""

# They are to take so long, in seconds: who has something small to ask waits for no longer.
TURN_S = 0.010
LEAST, MOST = 4, 512
# What a call costs is taken for this at the beginning, and then is the average of about so many turns.
COST_S = 0.0005
TURNS = 8


class Pacing:
    """`room` is how many more calls may begin in this turn."""

    def __init__(self) -> None:
        self._cost_s = COST_S
        self.room = self._allowed = round(TURN_S / COST_S)

    def next_turn(self) -> None:
        """Another turn begins."""
        self.room = self._allowed

    def took(self, seconds: float, calls: int) -> None:
        """So many calls that were begun in a row took this thread so long."""
        self._cost_s += (seconds / calls - self._cost_s) * min(1.0, calls / LEAST) / TURNS
        self._allowed = max(LEAST, min(MOST, round(TURN_S / max(self._cost_s, TURN_S / MOST))))
