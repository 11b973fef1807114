"""SHELL: the commits of a link: those that wait together share a request to etcd, and so the way there and back."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from registry_server.records import Commit
from registry_server.stores.base import Conflict, NoSuchLease, Refused, StoreAway, StoreError, StoreFull
from registry_server.stores.etcd.sharing import Lots

MAX_WAITING = 10_000

Send = Callable[[Sequence[Commit]], Awaitable[Sequence[int | Conflict]]]
"""Sends commits in one request. Raises StoreError when that fails as a whole: then, or unless it is StoreAway, nothing
of it was written."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    commit: Commit
    outcome: asyncio.Future[int]

    def ends(self, outcome: int | StoreError) -> None:
        """Unless its writer has gone, tell him."""
        if self.outcome.done():
            return
        if isinstance(outcome, int):
            self.outcome.set_result(outcome)
        else:
            self.outcome.set_exception(outcome)


class Writes:
    """Who waits for a commit, and what carries it out.

    One request is on its way at a time. When there is none a commit goes at once, alone; under load those that came
    meanwhile go together. A writer who goes takes his commit with him, if it is not on its way.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lots: Lots[_Waiting] = Lots()
        self._some = asyncio.Event()
        self._is_over = False

    async def commit(self, commit: Commit) -> int:
        """See Store.commit; for a commit that changes something."""
        if self._is_over:
            raise StoreAway("the link to etcd was closed")
        if len(self._lots) >= MAX_WAITING:
            raise StoreAway("too many writes wait for etcd")
        waiting = _Waiting(commit, asyncio.get_running_loop().create_future())
        self._lots.add(waiting)
        self._some.set()
        return await waiting.outcome

    async def run(self) -> None:
        """Carry out what waits, until cancelled; then nobody waits any more."""
        try:
            while True:
                await self._some.wait()
                if lot := self._take():
                    await self._carry(lot)
                else:
                    self._some.clear()
        finally:
            self._is_over = True
            self._fail_waiting("the link to etcd was closed")

    async def _carry(self, lot: Sequence[_Waiting]) -> None:
        try:
            await self._carry_out(lot)
        except BaseException:
            _tell(lot, [StoreAway("the link to etcd was closed") for _ in lot])
            raise

    def _take(self) -> list[_Waiting]:
        while lot := self._lots.take():
            if wanted := [it for it in lot if not it.outcome.done()]:
                return wanted
        return []

    async def _carry_out(self, lot: Sequence[_Waiting]) -> None:
        try:
            outcomes = await self._send([it.commit for it in lot])
        except (Refused, NoSuchLease) as error:
            await self._carry_out_apart(lot, error)
        except StoreError as error:
            # Who has waited meanwhile is not kept waiting for as long again.
            kind = StoreFull if isinstance(error, StoreFull) else StoreAway
            _tell(lot, [kind(str(error)) for _ in lot])
            self._fail_waiting(str(error), kind)
        else:
            _tell(lot, outcomes)

    async def _carry_out_apart(self, lot: Sequence[_Waiting], error: StoreError) -> None:
        """One of them is at fault: it is found by halves."""
        if len(lot) == 1:
            _tell(lot, [error])
            return
        middle = len(lot) // 2
        await self._carry_out(lot[:middle])
        await self._carry_out(lot[middle:])

    def _fail_waiting(self, reason: str, kind: type[StoreAway] = StoreAway) -> None:
        for waiting in self._lots.take_all():
            waiting.ends(kind(reason))


def _tell(lot: Sequence[_Waiting], outcomes: Sequence[int | StoreError]) -> None:
    for waiting, outcome in zip(lot, outcomes, strict=True):
        waiting.ends(outcome)
