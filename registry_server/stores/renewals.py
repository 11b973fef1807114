"""SHELL: where renewals are asked for, shared fairly by all who want some; who carries them out asks what is next."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from registry_server.stores.turns import RenewalTurns

L = TypeVar("L", bound=Hashable)


class _Caller(Generic[L]):
    """Somebody who waits for some leases, and what he was answered: seconds to live, 0 for a lease that is gone.

    `done` says in the end whether all were answered. There is nothing until there has been silence for `silence_s`, and
    never later than at `last_at`.
    """

    __slots__ = ("_count", "answers", "began", "done", "last_at", "silence_s", "timer")

    def __init__(self, count: int, done: asyncio.Future[bool], began: float, silence_s: float, most_s: float) -> None:
        self._count = count
        self.answers: dict[L, float] = {}
        self.done = done
        self.began = began
        self.silence_s = silence_s
        self.last_at = began + most_s
        self.timer: asyncio.TimerHandle | None = None

    def answer(self, lease: L, ttl_s: float) -> None:
        self.answers[lease] = ttl_s
        if len(self.answers) == self._count:
            self.end(is_answered=True)

    def end(self, *, is_answered: bool) -> None:
        if not self.done.done():
            self.done.set_result(is_answered)


class Desk(Generic[L]):
    """`most_asked` renewals are on their way at the most.

    `on_answer` is called with the seconds that an answer took, before anybody gets it.
    """

    def __init__(self, most_asked: int, on_answer: Callable[[float], None] = lambda took_s: None) -> None:
        self.may_ask = asyncio.Event()
        self._on_answer = on_answer
        self._turns: RenewalTurns[_Caller[L], L] = RenewalTurns(most_asked)
        self._callers: set[_Caller[L]] = set()
        self._is_over = False
        self._loop = asyncio.get_running_loop()
        self._answered_at = 0.0

    def __contains__(self, lease: object) -> bool:
        """Whether somebody waits for this lease, or it is on its way."""
        return lease in self._turns

    # ---- who wants something renewed

    async def renew(self, leases: Sequence[L], silence_s: float, most_s: float) -> dict[L, float]:
        """Renew leases, each named once. What is answered in time is in the result: seconds to live, 0 for a lease that
        is gone. It is waited for until there has been silence for so long, and no longer than `most_s`."""
        if not leases or self._is_over:
            return {}
        caller: _Caller[L] = _Caller(len(leases), self._loop.create_future(), self._loop.time(), silence_s, most_s)
        self._turns.want(caller, leases)
        self._callers.add(caller)
        self.may_ask.set()
        self._look(caller)
        is_late = False
        try:
            is_late = not await caller.done
        finally:
            if caller.timer is not None:
                caller.timer.cancel()
            self._turns.drop(caller, is_late=is_late)
            self._callers.discard(caller)
        return caller.answers

    def _look(self, caller: _Caller[L]) -> None:
        """End his waiting if it is time, and look again when it may be. (By a timer alone: one renewal in a moment of
        its own costs half as much as by asyncio's timeouts.)"""
        deadline = min(max(self._answered_at, caller.began) + caller.silence_s, caller.last_at)
        if self._loop.time() >= deadline:
            caller.end(is_answered=False)
        else:
            caller.timer = self._loop.call_at(deadline, self._look, caller)

    @property
    def unanswered_s(self) -> float:
        """For how long an answer has been owed, in seconds, whether anybody still waits for it or not; 0 if none is."""
        since = self._turns.unanswered_since
        return 0.0 if since is None else self._loop.time() - since

    # ---- who carries it out

    @property
    def is_busy(self) -> bool:
        """Whether some are on their way."""
        return self._turns.asked > 0

    def next(self) -> L | None:
        """The lease to renew now, which is on its way from here on; None if there is none, or too many are."""
        return self._turns.next(self._loop.time())

    def answer(self, lease: L, ttl_s: float) -> None:
        """It was renewed, and has so many seconds to live; or, with 0, it is gone."""
        asked_at, callers = self._turns.answered(lease)
        self._answered_at = self._loop.time()
        self.may_ask.set()
        self._on_answer(self._answered_at - asked_at)
        for caller in callers:
            caller.answer(lease, ttl_s)

    def again(self) -> None:
        """What was on its way is lost; what somebody still waits for is next."""
        self._turns.again()
        self.may_ask.set()

    def forgive(self) -> None:
        """It was told that answers are lost; they count no more."""
        self._turns.forgive()

    def close(self) -> None:
        """Nothing is carried out any more; nobody waits."""
        self._is_over = True
        for caller in self._callers:
            caller.end(is_answered=True)
