"""CORE: how long to wait for what holds the records, by the shortest time to live in use."""

# What is taken for the shortest until a shorter one is seen.
USUAL_TTL_S = 15.0


class Pace:
    """Times in seconds. The shorter leases live, the sooner their owners have to learn that nobody answers.

    An owner renews every third of its time to live. A renewal that hangs is answered before a third of that has passed,
    so that the owner can try another server, and try again, before its lease ends. A silence that could cost an owner
    more than one of its renewals is noticed. A time to live that has been in use counts until the next full set.
    """

    def __init__(self) -> None:
        self._shortest_s = USUAL_TTL_S

    def begin(self) -> None:
        """A full set is about to be read."""
        self._shortest_s = USUAL_TTL_S

    def uses(self, ttl_s: float) -> None:
        """A lease with that time to live is in use."""
        if 0 < ttl_s < self._shortest_s:
            self._shortest_s = ttl_s

    @property
    def idle_s(self) -> float:
        """After so much silence, it is asked for a sign of life."""
        return _within(self._shortest_s / 8, 0.25, 2.0)

    @property
    def ill_s(self) -> float:
        """An answer that takes longer was a silence in which renewals may have been lost."""
        return _within(self._shortest_s / 8, 0.25, 2.0)

    @property
    def patience_s(self) -> float:
        """The answer to a question for a sign of life may take so long; then the outage begins."""
        return _within(self._shortest_s / 3, 0.6, 3.0)

    @property
    def suspect_s(self) -> float:
        """The same when something has just failed."""
        return _within(self._shortest_s / 4, 0.5, 1.5)


def hold_s(ttl_s: float) -> float:
    """After so much silence, the renewal of a lease with that time to live is answered: nobody can tell."""
    return _within(ttl_s / 9, 0.25, 1.5)


def most_s(ttl_s: float) -> float:
    """The same when others are answered, and this one waits for its turn."""
    return max(hold_s(ttl_s), ttl_s / 4)


def _within(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)
