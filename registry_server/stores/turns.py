"""CORE: whose lease is renewed next, where many are renewed through one narrow door."""

import math
from collections import deque
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)
L = TypeVar("L", bound=Hashable)

MAX_LATE = 100_000


class RenewalTurns(Generic[C, L]):
    """Leases that callers want renewed, one after the other through one narrow door.

    Fair: callers have turns, one lease a turn, so who wants one lease waits for as many others as there are callers and
    not for all that they want. Frugal: a lease is asked for once at a time, however many wait for it; who comes when it
    is on its way waits for the next time, for the answer could be older than his question. Bounded: so many are on
    their way at the most. What nobody waits for any more is not asked.

    All times are of one monotonic clock, in seconds.
    """

    def __init__(self, most_asked: int) -> None:
        self._most_asked = most_asked
        # What each caller wants and has not been asked for; and the callers that may have something to ask, by turns.
        self._wants: dict[C, deque[L]] = {}
        self._turns: deque[C] = deque()
        self._in_turn: set[C] = set()
        # Who waits for the next asking of a lease, and what is on its way, the oldest first.
        self._waiting: dict[L, dict[C, None]] = {}
        self._asked: dict[L, tuple[float, list[C]]] = {}
        self._lost_since: float | None = None
        # What had not had its turn when its caller's time was over: it comes first the next time.
        self._late: dict[L, None] = {}

    def __len__(self) -> int:
        """How many leases somebody waits for, without those on their way."""
        return len(self._waiting)

    def __contains__(self, lease: object) -> bool:
        """Whether somebody waits for this lease, or it is on its way."""
        return lease in self._waiting or lease in self._asked

    @property
    def asked(self) -> int:
        """How many renewals are on their way."""
        return len(self._asked)

    @property
    def unanswered_since(self) -> float | None:
        """When the oldest was asked that has not been answered, whether anybody still waits for it or not."""
        if self._lost_since is not None:
            return self._lost_since
        return next((at for at, _ in self._asked.values()), None)

    def want(self, caller: C, leases: Iterable[L]) -> None:
        """A new caller wants these leases renewed, each of which it names once."""
        if self._late:
            leases = sorted(leases, key=lambda lease: lease not in self._late)
        wants = self._wants[caller] = deque(leases)
        for lease in wants:
            self._waiting.setdefault(lease, {})[caller] = None
        self._line_up(caller)

    def drop(self, caller: C, *, is_late: bool = False) -> None:
        """The caller waits no more. `is_late`: because its time was over, and it will want the same again."""
        left = self._wants.pop(caller, ())
        if is_late and len(self._late) < MAX_LATE:
            self._late.update(dict.fromkeys(left))
        for lease in left:
            waiting = self._waiting.get(lease)
            if waiting is not None:
                waiting.pop(caller, None)
                if not waiting:
                    del self._waiting[lease]

    def next(self, now: float) -> L | None:
        """The lease to ask for now, which is on its way from here on; None if there is none, or too many are."""
        while self._turns and len(self._asked) < self._most_asked:
            caller = self._turns.popleft()
            self._in_turn.discard(caller)
            lease = self._first_of(caller)
            if lease is not None:
                self._asked[lease] = (now, list(self._waiting.pop(lease)))
                self._line_up(caller)
                return lease
        return None

    def answered(self, lease: L) -> tuple[float, list[C]]:
        """It was answered: since when it was asked, and who waits for the answer. Nobody, if it was not asked."""
        self._late.pop(lease, None)
        nobody: list[C] = []
        at, callers = self._asked.pop(lease, (math.inf, nobody))
        for caller in self._waiting.get(lease, ()):
            self._line_up(caller)
        return at, callers

    def again(self) -> None:
        """What was on its way is lost; what somebody still waits for is asked first of what he wants."""
        self._lost_since = self.unanswered_since
        lost, self._asked = self._asked, {}
        for lease, (_, callers) in lost.items():
            for caller in callers:
                if caller in self._wants:
                    self._waiting.setdefault(lease, {})[caller] = None
                    self._wants[caller].appendleft(lease)
                    self._line_up(caller)

    def forgive(self) -> None:
        """It was noted that answers are lost; they count no more."""
        self._lost_since = None

    # ---- within

    def _line_up(self, caller: C) -> None:
        if caller not in self._in_turn and self._wants.get(caller):
            self._in_turn.add(caller)
            self._turns.append(caller)

    def _first_of(self, caller: C) -> L | None:
        """The first lease that it waits for and that is not on its way. What others have asked for is struck out."""
        wants = self._wants.get(caller, deque[L]())
        for _ in range(len(wants)):
            lease = wants.popleft()
            if caller not in self._waiting.get(lease, ()):
                continue
            if lease not in self._asked:
                return lease
            wants.append(lease)
        return None
