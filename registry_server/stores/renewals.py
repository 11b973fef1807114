"""SHELL: where renewals are asked for, shared fairly by all who want some; who carries them out asks what is next."""

import asyncio
import contextlib
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from registry_server.stores.turns import RenewalTurns

L = TypeVar("L", bound=Hashable)


class _Caller(Generic[L]):
    """Somebody who waits for some leases, and what he was answered: seconds to live, 0 for a lease that is gone."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.answers: dict[L, float] = {}
        self.done = asyncio.Event()

    def answer(self, lease: L, ttl_s: float) -> None:
        self.answers[lease] = ttl_s
        if len(self.answers) == self._count:
            self.done.set()


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
        self._clock = asyncio.get_running_loop().time
        self._answered_at = 0.0

    def __contains__(self, lease: object) -> bool:
        """Whether somebody waits for this lease, or it is on its way."""
        return lease in self._turns

    # ---- who wants something renewed

    async def renew(self, leases: Sequence[L], silence_s: float, most_s: float) -> dict[L, float]:
        """Renew leases, each named once. What is answered in time is in the result: seconds to live, 0 for a lease that
        is gone. It is waited for until there has been silence for so long, and no longer than `most_s`."""
        caller: _Caller[L] = _Caller(len(leases))
        if not leases or self._is_over:
            return caller.answers
        self._turns.want(caller, leases)
        self._callers.add(caller)
        self.may_ask.set()
        is_late = False
        try:
            is_late = not await self._is_answered(caller, silence_s, most_s)
        finally:
            self._turns.drop(caller, is_late=is_late)
            self._callers.discard(caller)
        return caller.answers

    async def _is_answered(self, caller: _Caller[L], silence_s: float, most_s: float) -> bool:
        began = self._clock()
        while not caller.done.is_set():
            deadline = min(max(self._answered_at, began) + silence_s, began + most_s)
            if self._clock() >= deadline:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await caller.done.wait()
        return True

    @property
    def unanswered_s(self) -> float:
        """For how long an answer has been owed, in seconds, whether anybody still waits for it or not; 0 if none is."""
        since = self._turns.unanswered_since
        return 0.0 if since is None else self._clock() - since

    # ---- who carries it out

    def next(self) -> L | None:
        """The lease to renew now, which is on its way from here on; None if there is none, or too many are."""
        return self._turns.next(self._clock())

    def answer(self, lease: L, ttl_s: float) -> None:
        """It was renewed, and has so many seconds to live; or, with 0, it is gone."""
        asked_at, callers = self._turns.answered(lease)
        self._answered_at = self._clock()
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
            caller.done.set()
