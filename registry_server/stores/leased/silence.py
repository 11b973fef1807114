"""CORE: for how long the backend has not answered."""


class Silence:
    """What was asked of the backend and not answered yet. All times are of one monotonic clock, in seconds.

    An answer to anything ends a silence, whatever the answer is; that somebody could not be asked does not.
    """

    def __init__(self) -> None:
        self._asked: dict[int, float] = {}
        self._count = 0
        self._lost_since: float | None = None
        self._heard_at = float("-inf")

    def asked(self, now: float) -> int:
        """Something is asked; returns its number."""
        self._count += 1
        self._asked[self._count] = now
        return self._count

    def answered(self, number: int, now: float) -> float:
        """It was answered: for how long the backend had been silent, in seconds."""
        silence_s = self.owed_s(now)
        del self._asked[number]
        self._lost_since, self._heard_at = None, now
        return silence_s

    def failed(self, number: int) -> None:
        """It will not be answered; so the silence goes on."""
        at = self._asked.pop(number)
        self._lost_since = at if self._lost_since is None else min(at, self._lost_since)

    def owed_s(self, now: float) -> float:
        """For how long an answer has been owed and nothing else been heard, in seconds; 0 if none is owed."""
        oldest = next(iter(self._asked.values()), None)
        since = min((at for at in (oldest, self._lost_since) if at is not None), default=now)
        return now - max(since, self._heard_at)

    def is_doubtful(self, now: float, patience_s: float) -> bool:
        """Whether something failed and nothing was heard since, or an answer has been owed for longer than that."""
        return self._lost_since is not None or self.owed_s(now) > patience_s
